"""Cutting files into tasks: whatever the chunks, the same pieces as the JSON parser sees."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.model.errors import TaskError
from captchad.model.task import MAX_TASK_BYTES
from captchad.spool.pieces import IncompleteError, cut_document, cut_lines

sizes = st.integers(min_value=1, max_value=7)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def chunks(data: bytes, size: int):
    return (data[at : at + size] for at in range(0, len(data), size))


def document(data: bytes, size: int = 3):
    return [piece for piece in cut_document(chunks(data, size)) if piece is not None]


def lines(data: bytes, size: int = 3):
    return [piece for piece in cut_lines(chunks(data, size)) if piece is not None]


@given(st.lists(values, min_size=1), st.sampled_from([None, 0, 2]), st.booleans(), sizes)
def test_an_array_is_cut_into_its_elements(array, indent, ascii_only, size):
    data = json.dumps(array, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")

    pieces = document(data, size)

    assert [json.loads(piece.raw) for piece in pieces] == json.loads(data)
    assert [piece.number for piece in pieces] == list(range(1, len(array) + 1))
    text_lines = data.decode().split("\n")
    for piece in pieces:
        assert data[piece.start : piece.end] == piece.raw
        line = text_lines[piece.line - 1]
        assert line[piece.column - 1 :].encode().startswith(piece.raw.split(b"\n")[0])


@given(st.dictionaries(st.text(max_size=4), values, max_size=3), sizes)
def test_an_object_is_one_piece(value, size):
    data = b" \n" + json.dumps(value).encode() + b"\n "

    (piece,) = document(data, size)

    assert (json.loads(piece.raw), piece.number, piece.line, piece.column) == (value, 0, 2, 1)


@given(st.lists(values, min_size=1), st.data())
def test_every_beginning_of_an_array_is_incomplete(array, data):
    text = json.dumps(array).encode()
    cut = data.draw(st.integers(min_value=0, max_value=len(text) - 1))

    with pytest.raises(IncompleteError):
        document(text[:cut])


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("data", "message", "column"),
    [
        (b"[]", "it holds no task", 3),
        (b"[1,]", "a value is missing here", 4),
        (b"[,1]", "a value is missing here", 2),
        (b"[1,,2]", "a value is missing here", 4),
        (b"[{]", "] where } is due", 3),
        (b"[1}", "} where ] is due", 3),
        (b'{"a":[}', "} where ] is due", 7),
        (b"{} x", "something stands behind the end", 4),
        (b"[1]]", "something stands behind the end", 4),
        (b'"x"', "neither an object nor an array", 1),
        (b'["\xc3\xa4", }', "} where ] is due", 7),
    ],
)
def test_broken_brackets_are_placed(data, message, column, size):
    with pytest.raises(TaskError) as caught:
        document(data, size)

    assert (str(caught.value), caught.value.line, caught.value.column) == (message, 1, column)
    assert not isinstance(caught.value, IncompleteError)


@given(st.binary(), sizes)
def test_rubbish_raises_task_errors_only(data, size):
    try:
        pieces = document(data, size)
    except TaskError:
        return
    assert pieces


@given(st.lists(st.binary(max_size=6).filter(lambda line: b"\n" not in line)), sizes)
def test_lines(parts, size):
    data = b"\n".join(parts)

    pieces = lines(data, size)

    wanted = [(number, part.rstrip(b" \t\r")) for number, part in enumerate(parts, 1) if part.strip(b" \t\r")]
    assert [(piece.number, piece.raw) for piece in pieces] == wanted
    assert all(data[piece.start : piece.end] == piece.raw for piece in pieces)


def test_a_line_too_long_is_a_problem_of_its_own():
    data = b"1\n" + b"x" * (MAX_TASK_BYTES + 1) + b"\n3"

    first, long, last = lines(data, 65_536)

    assert (first.raw, last.raw, last.number) == (b"1", b"3", 3)
    assert long.problem is not None
    assert data[long.start : long.end] == b"x" * (MAX_TASK_BYTES + 1)


def test_an_element_too_long_is_refused():
    with pytest.raises(TaskError, match="more than"):
        document(b'[1, "' + b"x" * (MAX_TASK_BYTES + 100_000), 65_536)
