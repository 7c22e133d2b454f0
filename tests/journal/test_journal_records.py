"""Records as lines: what goes in comes out, jq reads it too, and no other bytes are taken for one."""

import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.journal.records import MAX_DEPTH, MAX_RECORD, BadLine, Line, Place, decode, draft, encode
from captchad.model.errors import RecordTooLarge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("p"), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.text().filter(lambda key: key not in ("c", "at", "k", "s", "p")), JSON, max_size=4)
PLACES = st.builds(Place, st.integers(0, 99_999_999), st.integers(0, 9_999_999_999))
PAYLOADS = st.none() | JSON.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


START = Place(1, 0)


def line_of(kind="add", fields=None, payload=None, at=START, synced=None):
    return encode(draft(kind, fields or {}, payload), at, synced)


@given(FIELDS, PAYLOADS, PLACES, st.none() | PLACES)
def test_what_goes_in_comes_out(fields, payload, at, synced):
    line = line_of("a.b-c_D9", fields, payload, at, synced)
    assert decode(line[:-1]) == Line(at, "a.b-c_D9", synced, fields, payload)


@given(FIELDS, PAYLOADS, PLACES)
def test_a_line_is_one_json_object_with_the_same_meaning(fields, payload, at):
    line = line_of("add", fields, payload, at)
    assert line.count(b"\n") == 1
    whole = json.loads(line)
    assert list(whole)[:3] == ["c", "at", "k"]
    assert whole.pop("at") == f"{at.segment:08d}:{at.offset:010d}"
    assert {key: value for key, value in whole.items() if key in fields} == fields
    assert ("p" in whole) == (payload is not None)


def test_a_nested_p_is_not_taken_for_the_payload():
    fields = {"extra": {"a": 1, "p": 2}, "text": ',"p":3}'}
    line = line_of("add", fields, b'{"q":1,"p":4}')
    assert decode(line[:-1]) == Line(Place(1, 0), "add", None, fields, b'{"q":1,"p":4}')
    assert json.loads(line)["extra"] == {"a": 1, "p": 2}


def test_the_form_is_the_one_in_the_manual():
    line = line_of("add", {"n": 7}, b'"x"', Place(3, 120), Place(3, 90))
    body = b'"at":"00000003:0000000120","k":"add","s":"00000003:0000000090","n":7,"p":"x"}'
    assert line == b'{"c":"%08x",%b\n' % (zlib.crc32(body, 0x63617074), body)


def test_the_examples_in_the_manual_are_good_lines():
    manual = Path(__file__).parents[2] / "docs" / "journal.md"
    examples = [line for line in manual.read_bytes().splitlines() if line.startswith(b'{"c":')]
    assert [type(decode(line)) for line in examples] == [Line, Line]


@given(st.binary())
def test_no_bytes_make_decode_raise(data):
    assert isinstance(decode(data), BadLine)


@given(st.data(), FIELDS, PAYLOADS)
def test_a_line_with_one_byte_changed_is_bad(data, fields, payload):
    line = bytearray(line_of("add", fields, payload)[:-1])
    index = data.draw(st.integers(0, len(line) - 1))
    line[index] ^= data.draw(st.integers(1, 255))
    assert isinstance(decode(bytes(line)), BadLine)


@given(st.binary(max_size=40))
def test_bytes_with_the_right_checksum_never_raise(data):
    body = b'"at":"00000001:0000000000","k":"add"' + data
    found = decode(b'{"c":"%08x",%b' % (zlib.crc32(body, 0x63617074), body))
    assert isinstance(found, Line | BadLine)


def test_a_forged_depth_is_a_bad_line():
    body = b'"at":"00000001:0000000000","k":"add","a":' + b"[" * 100_000 + b"}"
    assert isinstance(decode(b'{"c":"%08x",%b' % (zlib.crc32(body, 0x63617074), body)), BadLine)


def test_a_record_of_just_the_limit_is_taken():
    room = MAX_RECORD - len(encode(draft("add", {}, b"1"), Place(1, 0), Place(1, 0)))
    ready = draft("add", {}, b"1" * (room + 1))
    assert len(encode(ready, Place(1, 0), Place(1, 0))) == MAX_RECORD
    with pytest.raises(RecordTooLarge):
        draft("add", {}, b"1" * (room + 2))


def test_what_nests_too_deep_is_refused():
    value: list = []
    for _ in range(MAX_DEPTH - 2):
        value = [value]
    assert isinstance(decode(line_of("add", {"a": value})[:-1]), Line)
    for levels in (4, 100_000):
        deep = value
        for _ in range(levels):
            deep = [deep]
        with pytest.raises(RecordTooLarge):
            draft("add", {"a": deep})


def test_many_brackets_are_not_depth():
    assert isinstance(decode(line_of("add", {"a": [[]] * 500})[:-1]), Line)


@pytest.mark.parametrize("kind", ["", "a b", 'a"b', "ä", "a" * 33, "a\n"])
def test_a_kind_is_a_short_plain_word(kind):
    with pytest.raises(ValueError, match="not a kind"):
        draft(kind, {})


@pytest.mark.parametrize("name", ["c", "at", "k", "s", "p"])
def test_the_journals_own_names_are_refused(name):
    with pytest.raises(ValueError, match="reserved"):
        draft("add", {name: 1})


@pytest.mark.parametrize("payload", [b"", b"1\n", b"\n", b'"\0"'])
def test_a_payload_is_one_line(payload):
    with pytest.raises(ValueError, match="one line"):
        draft("add", {}, payload)


def test_what_is_no_json_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        draft("add", {"a": float("nan")})
    with pytest.raises(TypeError):
        draft("add", {"a": b"bytes"})
