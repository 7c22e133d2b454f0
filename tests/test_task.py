"""Tasks as users write them: what is taken, what is refused and with which words, and that nothing else is raised."""

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captchad.model.errors import TaskError
from captchad.model.states import Priority
from captchad.model.task import (
    MAX_DEPTH,
    check_host,
    compact,
    fingerprint,
    form_fields,
    load_json,
    normal_host,
    parse_task,
)

PAGE = "https://example.com/login"


def task(**more):
    return {"sitekey": "k", "pageurl": PAGE, **more}


def refused(value) -> TaskError:
    with pytest.raises(TaskError) as caught:
        parse_task(value)
    return caught.value


# --- parse_task


def test_a_full_task():
    made = parse_task(
        {
            "id": "order-17",
            "method": "userrecaptcha",
            "sitekey": "6Le",
            "pageurl": "https://Example.COM:8443/login?a=b#c",
            "priority": "high",
            "params": {"invisible": 1, "enterprise": True, "v": False, "min_score": 0.3, "data-s": "x", "d[blob]": ""},
            "deadline_s": 180,
            "submitted_at": "2026-11-21T23:10:04Z",
            "dedupe_key": "ä",
            "tags": {"customer": "a", "n": 1, "b": True, "empty": ""},
        }
    )

    assert (made.id, made.method, made.sitekey, made.host) == ("order-17", "userrecaptcha", "6Le", "example.com")
    assert (made.priority, made.deadline_s, made.submitted_at) == (Priority.HIGH, 180.0, 1795302604.0)
    assert made.params == {
        "invisible": "1",
        "enterprise": "1",
        "v": "0",
        "min_score": "0.3",
        "data-s": "x",
        "d[blob]": "",
    }
    assert made.tags == {"customer": "a", "n": "1", "b": "true", "empty": ""}
    assert made.dedupe_key == "ä"


def test_the_least_task():
    made = parse_task({"googlekey": "k", "pageurl": PAGE})

    assert (made.id, made.method, made.sitekey, made.priority) == (None, "userrecaptcha", "k", Priority.NORMAL)
    assert (made.params, made.tags, made.deadline_s, made.submitted_at, made.dedupe_key) == ({}, {}, None, None, None)


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_only_an_object_is_a_task(value):
    assert "a task is an object" in str(refused(value))


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"prioritty": "low"}, "prioritty"),
        ({"id": ""}, "id"),
        ({"id": "-x"}, "id"),
        ({"id": "a/b"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"id": "é"}, "id"),
        ({"id": "x" * 129}, "id"),
        ({"id": 17}, "id"),
        ({"id": None}, "id"),
        ({"method": "a b"}, "method"),
        ({"method": ["x"]}, "method"),
        ({"sitekey": 1}, "sitekey"),
        ({"sitekey": "a\x00"}, "sitekey"),
        ({"sitekey": "\ud800"}, "sitekey"),
        ({"sitekey": "\x85"}, "sitekey"),
        ({"sitekey": "x" * 4097}, "sitekey"),
        ({"googlekey": "other"}, "googlekey"),
        ({"priority": "urgent"}, "priority"),
        ({"priority": 1}, "priority"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": -1}, "deadline_s"),
        ({"deadline_s": True}, "deadline_s"),
        ({"deadline_s": "180"}, "deadline_s"),
        ({"deadline_s": 10**400}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"deadline_s": 1e9}, "deadline_s"),
        ({"submitted_at": "yesterday"}, "submitted_at"),
        ({"submitted_at": "2026-11-21T23:10:04"}, "submitted_at"),
        ({"submitted_at": "0001-01-01T00:00:00+23:59"}, "submitted_at"),
        ({"submitted_at": -1}, "submitted_at"),
        ({"submitted_at": 1e300}, "submitted_at"),
        ({"submitted_at": False}, "submitted_at"),
        ({"dedupe_key": ""}, "dedupe_key"),
        ({"params": []}, "params"),
        ({"params": {"a": None}}, "params.a"),
        ({"params": {"a": {}}}, "params.a"),
        ({"params": {"a": [1]}}, "params.a"),
        ({"params": {"a": float("inf")}}, "params.a"),
        ({"params": {"a": 2**64}}, "params.a"),
        ({"params": {"a": "\x1b"}}, "params.a"),
        ({"params": {"a": "\udc80"}}, "params.a"),
        ({"params": {"a": "x" * 1_500_001}}, "params.a"),
        ({"params": {"a b": 1}}, "params.a b"),
        ({"params": {"": 1}}, "params."),
        ({"params": {str(n): 1 for n in range(257)}}, "params"),
        ({"params": {"googlekey": "k"}}, "params.googlekey"),
        ({"tags": "x"}, "tags"),
        ({"tags": {"a": None}}, "tags.a"),
        ({"tags": {"a": []}}, "tags.a"),
        ({"tags": {"a": "\n"}}, "tags.a"),
        ({"tags": {"\n": "a"}}, "tags.\\n"),
        ({"tags": {str(n): 1 for n in range(65)}}, "tags"),
        ({1: 2}, ""),
        ({"params": {1: 2}}, "params"),
        ({"tags": {1: 2}}, "tags"),
    ],
)
def test_what_is_refused_names_its_key(more, key):
    assert refused(task() | more).key == key


@pytest.mark.parametrize(
    "name", ["key", "json", "method", "pingback", "soft_id", "pageurl", "PageURL", "KEY", "id", "tags"]
)
def test_params_cannot_say_what_is_said_elsewhere(name):
    assert refused(task(params={name: "x"})).key == f"params.{name}"


@pytest.mark.parametrize(
    ("key", "hint"),
    [("prioritty", "did you mean 'priority'?"), ("Sitekey", "did you mean 'sitekey'?"), ("q" * 1000, "")],
)
def test_the_hint_names_the_nearest_key(key, hint):
    assert refused(task() | {key: 1}).hint == hint


def test_a_message_is_short_and_printable():
    error = refused(task() | {"\x1b[31m" + "x" * 100_000: 1})

    assert str(error).isprintable()
    assert error.key.isprintable()
    assert len(str(error)) < 200


def test_a_parameter_may_have_line_ends():
    assert parse_task(task(params={"body": "QUJD\r\nREVG\n"})).params == {"body": "QUJD\r\nREVG\n"}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "ftp://example.com/",
        "javascript:alert(1)",
        "http:example.com",
        "http:///x",
        "http://:80/",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://example.com\\@evil.test/",
        "http://example.com /",
        " http://example.com/",
        "http://exa%6dple.com/",
        "http://example.com:99999/",
        "http://example.com:8O/",
        "http://[::1/",
        "http://[::1]evil.test/",
        "http://[fe80::1%25eth0]/",
        "http://a..b/",
        "http://.example.com/",
        f"http://{'a' * 64}.com/",
        f"http://{'a.' * 200}com/",
        "http://faß.de/",
        "http://\u2100.com/",
        "http://a\u00adb\u0300\ufffe.com/",
        "http://example.com/\n",
        "http://example.com/" + "x" * 9000,
    ],
)
def test_bad_addresses(url):
    assert refused(task(pageurl=url)).key == "pageurl"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("HTTP://EXAMPLE.com.", "example.com"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://例え。テスト/", "xn--r8jz45g.xn--zckzah"),
        ("http://[2001:DB8:0:0::1]:80/", "2001:db8::1"),
        ("http://127.0.0.1:8080", "127.0.0.1"),
        ("http://a_b.example.com:/", "a_b.example.com"),
        ("http://example.com?x=@evil.test", "example.com"),
    ],
)
def test_hosts_are_made_equal(url, host):
    assert parse_task(task(pageurl=url)).host == host


@pytest.mark.parametrize("key", ["pageurl", "sitekey"])
def test_a_recaptcha_needs_page_and_key(key):
    value = task()
    del value[key]

    assert refused(value).key == key


def test_an_image_needs_neither():
    assert parse_task({"method": "base64", "params": {"body": "QUJD"}}).host == "-"


def test_a_method_of_tomorrow_passes():
    made = parse_task({"method": "quantum_captcha", "params": {"x": "1"}})

    assert form_fields(made) == {"method": "quantum_captcha", "x": "1"}


# --- check_host


@pytest.mark.parametrize(
    ("url", "allowed", "fits"),
    [
        (PAGE, ["example.com"], True),
        (PAGE, ["EXAMPLE.com."], True),
        (PAGE, ["*"], True),
        (PAGE, [], False),
        (PAGE, ["*.example.com"], False),
        (PAGE, ["-"], False),
        ("https://a.b.example.com", ["*.example.com"], True),
        ("https://evilexample.com", ["*.example.com"], False),
        ("https://example.com.evil.test", ["example.com", "*.example.com"], False),
        ("https://xn--bcher-kva.example", ["bücher.example"], True),
    ],
)
def test_allowed_hosts(url, allowed, fits):
    made = parse_task(task(pageurl=url))

    if fits:
        check_host(made, allowed)
    else:
        with pytest.raises(TaskError) as caught:
            check_host(made, allowed)
        assert caught.value.key == "pageurl"


@pytest.mark.parametrize(
    ("more", "allowed", "fits"),
    [
        ({}, ["-"], True),
        ({}, ["*"], False),
        ({"pageurl": PAGE}, ["*"], False),
        ({"pageurl": PAGE}, ["-"], False),
        ({"pageurl": PAGE}, ["-", "example.com"], True),
    ],
)
def test_a_method_without_a_page_needs_the_dash(more, allowed, fits):
    made = parse_task({"method": "base64", **more})

    if fits:
        check_host(made, allowed)
    else:
        with pytest.raises(TaskError):
            check_host(made, allowed)


# --- form_fields


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("userrecaptcha", "googlekey"),
        ("turnstile", "sitekey"),
        ("funcaptcha", "publickey"),
        ("geetest", "gt"),
        ("new", "sitekey"),
    ],
)
def test_the_site_key_goes_under_the_methods_name(method, name):
    fields = form_fields(parse_task(task(method=method, params={"a": 1})))

    assert fields == {"method": method, name: "k", "pageurl": PAGE, "a": "1"}


def test_the_site_key_under_its_own_name_in_params():
    value = {"method": "geetest", "pageurl": PAGE, "params": {"gt": "g", "challenge": "c"}}

    assert form_fields(parse_task(value))["gt"] == "g"
    assert refused(value | {"sitekey": "k"}).key == "params.gt"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "write a task"),
        ("{'a': 1}", "double quotes"),
        ('{"a": 1,}', "none behind the last"),
        ("[1,, 2]", "comma"),
        ('{"a": "x\ny"}', "line end"),
        ('{"a": "\\q"}', "backslash"),
        ("{} {}", "array"),
        ('{"a" 1}', "colons"),
    ],
)
def test_broken_json_comes_with_a_hint(text, word):
    with pytest.raises(TaskError) as caught:
        load_json(text.encode())

    assert word in caught.value.hint


# --- fingerprint, compact


def test_the_fingerprint_is_of_the_content():
    one = fingerprint({"a": 1, "b": {"c": 2, "d": 3}, "submitted_at": 5, "id": "x"})

    assert one == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert one != fingerprint({"a": 1, "b": {"c": 2, "d": 4}})
    assert len(one) == 32
    assert set(one) <= set(string.hexdigits.lower())


def test_compact_keeps_one_line_as_it_came():
    raw = b' {"a": 1.50,  "b": "\xc3\xa4\\n"}\n'

    assert compact(load_json(raw), raw) == raw.strip()


@pytest.mark.parametrize("raw", [b'{\n "a": "\xc3\xa4"\n}', b'{"a":\t"\\ud800"}', b'{"a":\r1}'])
def test_compact_makes_one_line(raw):
    made = compact(load_json(raw), raw)

    assert not any(byte < 0x20 for byte in made)
    assert load_json(made) == load_json(raw)


# --- load_json


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"", (1, 1)),
        (b"\xef\xbb\xbf{}", (1, 1)),
        (b'{\n"\xc3\xa4\xff"}', (2, 3)),
        (b"{\n\n  x}", (3, 3)),
        (b"[1, NaN]", (1, 5)),
        (b'["NaN", -Infinity]', (1, 9)),
        (b"[1e999]", (1, 2)),
        (b"[\n9223372036854775808]", (2, 1)),
        (b"[" + b"9" * 5000 + b"]", (1, 2)),
        (b"[" * 33 + b"]" * 33, (1, 33)),
        (b'{"a":' * 100_000, (1, 5 * 32 + 1)),
        (b"[1] [2]", (1, 5)),
        (b'"\n"', (1, 2)),
    ],
)
def test_bad_json_is_placed(data, place):
    with pytest.raises(TaskError) as caught:
        load_json(data)

    assert (caught.value.line, caught.value.column) == place


def test_a_doubled_key_is_named():
    with pytest.raises(TaskError) as caught:
        load_json(b'{"a": 1, "b": {"x": 1, "x": 2}}')

    assert caught.value.key == "x"


@pytest.mark.parametrize(
    "data", [b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, b"[" + b"[]," * 1000 + b"[]]", b'["' + b"[" * 1000 + b'"]', b"-5"]
)
def test_good_json_passes(data):
    assert load_json(data) == json.loads(data)


# --- fuzz

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
KEYS = [
    "id", "method", "sitekey", "googlekey", "pageurl", "priority", "params", "deadline_s",
    "submitted_at", "dedupe_key", "tags",
]  # fmt: skip
plausible = st.fixed_dictionaries(
    {"pageurl": st.sampled_from([PAGE]) | st.builds("http://{}/{}".format, st.text(), st.text())},
    optional={
        "sitekey": st.text(max_size=5),
        "params": st.dictionaries(st.text(string.ascii_letters, min_size=1, max_size=5), st.text() | json_values),
        "tags": st.dictionaries(st.text(max_size=5), st.text() | st.integers()),
        "deadline_s": st.floats() | st.integers(),
        "submitted_at": st.datetimes().map(str) | st.floats() | st.text(),
        "method": st.text(string.ascii_lowercase, max_size=5),
    },
)


def outcome(function, *arguments):
    """What it returns, or the TaskError that it raises; anything else goes through."""
    try:
        return function(*arguments)
    except TaskError as exc:
        return exc


@settings(max_examples=200)
@given(json_values | st.dictionaries(st.sampled_from(KEYS), json_values) | plausible)
def test_parse_task_raises_task_errors_only(value):
    made = outcome(parse_task, value)

    if isinstance(made, TaskError):
        assert str(made).isprintable()
        return
    for field in form_fields(made).values():
        field.encode("utf-8")
    assert len(fingerprint(value)) == 32
    assert made.host == "-" or normal_host(made.host) == made.host


json_like = st.text(alphabet='[]{}",:\\ \n0e-NaIu', max_size=60).map(str.encode)


@settings(max_examples=300)
@given(st.binary() | json_like | json_values.map(json.dumps).map(str.encode))
def test_load_json_raises_task_errors_only(data):
    value = outcome(load_json, data)

    if isinstance(value, TaskError):
        assert str(value).isprintable()
        assert value.line >= 1 or "twice" in str(value)
    else:
        assert load_json(compact(value, data)) == value


@given(st.text())
def test_normal_host_raises_value_errors_only(name):
    try:
        made = normal_host(name)
    except ValueError:
        return
    assert normal_host(made) == made
