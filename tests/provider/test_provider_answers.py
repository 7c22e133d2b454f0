"""What answers mean: every code, every shape, and bytes that are nothing at all."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.model.codes import CODES, OWN_CODES
from captchad.model.states import Category
from captchad.provider.answers import (
    MAX_CHARS,
    Failed,
    Pending,
    Refused,
    Solved,
    Submitted,
    Threads,
    Unparseable,
    parse_balance,
    parse_poll,
    parse_report,
    parse_submit,
    parse_threads,
    parse_unready,
)

PROVIDER_CODES = sorted(set(CODES) - OWN_CODES)
NOT_READY = {"CAPCHA_NOT_READY", "CAPTCHA_NOT_READY"}


def submit(body, status=200, content_type="text/html"):
    return parse_submit(status, content_type, body if isinstance(body, bytes) else json.dumps(body).encode())


def poll(body, status=200, content_type="text/html"):
    return parse_poll(status, content_type, body if isinstance(body, bytes) else json.dumps(body).encode())


def shapes(code):
    """A code in all the ways that providers write it."""
    return [
        code.encode(),
        f"\ufeff {code}\r\n".encode(),
        {"status": 0, "request": code},
        {"status": "0", "request": code, "error_text": "it failed"},
        {"request": code},
        {"status": 0, "error_text": code},
        json.dumps(code).encode(),
        json.dumps({"status": 0, "request": code}).encode("utf-16"),
    ]


@pytest.mark.parametrize("shape", range(8))
@pytest.mark.parametrize("code", PROVIDER_CODES)
def test_every_code(code, shape):
    body = shapes(code)[shape]
    if code in NOT_READY:
        assert isinstance(submit(body), Unparseable), "the task may exist"
        assert poll(body) == Pending()
        return
    refused, failed = submit(body), poll(body)
    assert isinstance(refused, Refused)
    assert isinstance(failed, Failed)
    assert (refused.code, refused.category) == (failed.code, failed.category) == (code, CODES[code].category)
    assert refused.text == ("it failed" if shape == 3 else "")


@pytest.mark.parametrize("code", sorted(OWN_CODES))
def test_a_provider_cannot_say_captchads_own_codes(code):
    for body in (code.encode(), {"status": 0, "request": code}):
        assert isinstance(submit(body), Unparseable)
        assert isinstance(poll(body), Unparseable)


def test_unknown_codes_blame_the_task():
    for body in (
        b"ERROR_NEVER_SEEN",
        {"status": 0, "request": "ERROR_NEVER_SEEN"},
        {"status": 0, "request": "NEVER_SEEN"},
    ):
        assert submit(body).category is Category.TASK
        assert poll(body).category is Category.TASK
    assert submit(b"ERROR: 1234") == Refused("ERROR: 1234", Category.TRANSIENT)
    assert isinstance(submit(b"NEVER_SEEN"), Unparseable), "bare words are only codes if they are known"


def test_words_behind_a_code():
    assert submit(b"ERROR_BAD_PARAMETERS: no pageurl") == Refused("ERROR_BAD_PARAMETERS", Category.TASK, "no pageurl")
    assert submit(b"ERROR_UPLOAD|" + b"x\x07\n" * 5000).text.startswith("x? x?")
    assert len(submit(b"ERROR_UPLOAD|" + b"x" * 5000).text) == 200


@pytest.mark.parametrize(
    "body",
    [
        b"OK|2122988149",
        b"\xef\xbb\xbfOK|2122988149\n",
        {"status": 1, "request": "2122988149"},
        {"status": 1, "request": 2122988149},
        {"status": "1", "request": " 2122988149 "},
        b'\n{"status":1,"request":2122988149}\n',
        json.dumps({"status": 1, "request": 2122988149}).encode("utf-16"),
    ],
)
def test_submitted(body):
    assert submit(body) == Submitted("2122988149")
    assert submit(body, status=500) == Submitted("2122988149"), "a paid id counts whatever the HTTP status"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"OK",
        b"OK|",
        b"OK|12a",
        b"OK|-12",
        b"OK|1.5",
        b"OK|" + b"1" * 65,
        "OK|\uff11\uff12".encode(),  # digits, but not ours
        b"2122988149",
        b"ok|2122988149",
        b'{"status":1,"request":"2122988149"',
        b'{"status":1,"request":"21229',
        b'{"status":1,"request":' + b"1" * 5000 + b"}",
        b'{"status":1}',
        b'{"status":1,"request":true}',
        b'{"status":1,"request":1.5}',
        b'{"status":1,"request":{"id":1}}',
        b'{"status":0,"request":"2122988149"}',
        b'{"request":"2122988149"}',
        b'{"status":2,"request":"2122988149"}',
        b'{"status":[],"request":"2122988149"}',
        b'{"status":1,"request":"ERROR_UPLOAD"}',
        b'{"status":1,"request":"2122988149"}{"status":1}',
        b"[1]",
        b"null",
        b"<html>OK|2122988149</html>",
        b"\xff\xfe\x00",
        b"\xc3\x28",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"OK|2122988149" + b" " * MAX_CHARS,
    ],
)
def test_a_submit_that_is_not_certain_is_unparseable(body):
    assert isinstance(submit(body), Unparseable)
    assert submit(body, status=502).code == "HTTP_5XX"
    assert isinstance(submit(body, status=408), Unparseable), "a gateway may have handed it on"


@pytest.mark.parametrize(
    ("status", "code", "category"),
    [
        (429, "HTTP_429", Category.TRANSIENT),
        (425, "HTTP_429", Category.TRANSIENT),
        (401, "HTTP_4XX", Category.PERMANENT),
        (404, "HTTP_4XX", Category.PERMANENT),
        (413, "HTTP_413", Category.TASK),
    ],
)
def test_http_statuses_that_refuse(status, code, category):
    assert submit(b"<html>", status=status) == Refused(code, category, f"http {status}")
    assert poll(b"<html>", status=status).code == code
    assert submit(b"ERROR_ZERO_BALANCE", status=status).code == "ERROR_ZERO_BALANCE"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 599])
def test_http_statuses_that_leave_it_open(status):
    assert submit(b"<html>", status=status) == Unparseable(f"http {status}: a web page", "HTTP_5XX")
    assert submit(b"ERROR_SERVER_ERROR", status=status) == Refused("ERROR_SERVER_ERROR", Category.TRANSIENT)
    assert poll(b"", status=status) == Unparseable(f"http {status}: empty", "HTTP_5XX")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_no_answer(status):
    for body in (b"OK|2122988149", b"ERROR_UPLOAD"):
        assert isinstance(submit(body, status=status), Unparseable)
        assert isinstance(poll(body, status=status), Unparseable)


GEETEST = {"challenge": "c", "validate": "v", "seccode": "s"}
GEETEST_4 = {"captcha_id": "1", "lot_number": "2", "pass_token": "3", "gen_time": "4", "captcha_output": "5"}


@pytest.mark.parametrize(
    ("body", "token", "answer", "extra"),
    [
        (b"OK|03AGdBq", "03AGdBq", None, {}),
        (b"OK|cf_clearance=a;user_agent=b", "cf_clearance=a;user_agent=b", None, {}),
        (b"OK|a|b", "a|b", None, {}),
        ({"status": 1, "request": "03AGdBq"}, "03AGdBq", None, {}),
        ({"status": "1", "request": "t", "useragent": "UA"}, "t", None, {"useragent": "UA"}),
        ({"status": 1, "result": "t", "user_agent": "UA"}, "t", None, {"user_agent": "UA"}),
        ({"status": 1, "request": None, "result": "t"}, "t", None, {"request": None}),
        ({"status": 1, "request": "t", "price": "0.00085", "cookies": {"a": "b"}}, "t", None,
         {"price": "0.00085", "cookies": {"a": "b"}}),
        ({"status": 1, "request": GEETEST}, '{"challenge":"c","validate":"v","seccode":"s"}', GEETEST, {}),
        ({"status": 1, "request": json.dumps(GEETEST)}, json.dumps(GEETEST), GEETEST, {}),
        (GEETEST, '{"challenge":"c","validate":"v","seccode":"s"}', GEETEST, {}),
        ({"status": 1, **GEETEST}, '{"challenge":"c","validate":"v","seccode":"s"}', GEETEST, {}),
        (GEETEST_4, json.dumps(GEETEST_4, separators=(",", ":")), GEETEST_4, {}),
        ({"cookies": {"cf_clearance": "x"}, "userAgent": "UA"}, '{"cookies":{"cf_clearance":"x"},"userAgent":"UA"}',
         {"cookies": {"cf_clearance": "x"}, "userAgent": "UA"}, {}),
        ({"status": 1, "request": [1, 4, 7]}, "[1,4,7]", [1, 4, 7], {}),
        ({"status": 1, "request": "[1,4,7]"}, "[1,4,7]", [1, 4, 7], {}),
        ({"status": 1, "request": 42}, "42", None, {}),
        ({"status": 1, "request": "{broken"}, "{broken", None, {}),
        ({"status": 1, "request": "ERROR_NEVER_SEEN"}, "ERROR_NEVER_SEEN", None, {}),
        ({"status": 1, "request": "POISON"}, "POISON", None, {}),
        ({"status": 1, "request": "No_matching_images"}, "No_matching_images", None, {}),
        ({"status": 0, "request": "No_matching_images"}, "No_matching_images", None, {}),
        (b"No_matching_images", "No_matching_images", None, {}),
        (b"OK|notpic", "notpic", None, {}),
        ("OK|ж".encode(), "ж", None, {}),
        ({"status": 1, "request": "\U0001f600"}, "\U0001f600", None, {}),
    ],
)  # fmt: skip
def test_solved(body, token, answer, extra):
    assert poll(body) == Solved(token, answer, extra)


def test_solved_is_not_printed():
    assert "03AG" not in repr(Solved("03AG", {"a": "03AG"}, {"b": "03AG"}))


def test_the_headers_charset_is_the_last_resort():
    assert poll("OK|ж".encode("windows-1251"), content_type='text/html; charset="Windows-1251"') == Solved("ж")
    assert isinstance(poll("OK|ж".encode("windows-1251")), Unparseable)
    assert isinstance(poll(b"OK|\xff", content_type="text/html; charset=punycode"), Unparseable)


@pytest.mark.parametrize("code", ["CAPCHA_NOT_READY", "CAPTCHA_NOT_READY", "ERROR_CAPTCHA_UNSOLVABLE"])
def test_a_code_with_status_1_is_still_a_code(code):
    for body in ({"status": 1, "request": code}, f"OK|{code}".encode()):
        assert poll(body) == (Pending() if code in NOT_READY else Failed(code, Category.TASK))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK|",
        b"2122988149",
        b"<html>",
        {"status": 1},
        {"status": 1, "request": ""},
        {"status": 1, "request": {}},
        {"status": 1, "request": True},
        {"request": "t"},
        {"request": ["t"]},
        {"status": 0, **GEETEST},
        {"status": 0, "request": "please wait"},
        b'{"status":1,"request":NaN}',
        b'{"status":1,"request":{"a":1e999}}',
        b'{"status":1,"request":"half \\ud800"}',
        b'{"status":1,"request":"cut',
        b'{"status":1,"request":' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"status":1,"request":"' + b"t" * MAX_CHARS + b'"}',
        b"OK|half \xed\xa0\x80",
    ],
)
def test_a_poll_that_is_not_certain_is_unparseable(body):
    assert isinstance(poll(body), Unparseable)


def test_extra_is_bounded():
    solved = poll({"status": 1, "request": "t", **{f"k{i}": i for i in range(1000)}})
    assert len(solved.extra) == 32


def test_balance():
    for body in (b"1.234", b'{"status":1,"request":"1.234"}', b'{"status":1,"request":1.234}'):
        assert parse_balance(200, "", body) == 1.234
    assert parse_balance(200, "", b"ERROR_WRONG_USER_KEY") == Failed("ERROR_WRONG_USER_KEY", Category.PERMANENT)
    for body in (b"", b"nan", b"lots", b'{"status":0,"request":"1.2"}', b"9" * 400, b'{"status":1,"request":[]}'):
        assert isinstance(parse_balance(200, "", body), Unparseable)


def test_report():
    for body in (b"OK_REPORT_RECORDED", b'{"status":1,"request":"OK_REPORT_RECORDED"}'):
        assert parse_report(200, "", body) is True
    assert parse_report(200, "", b"ERROR_DUPLICATE_REPORT") == Failed("ERROR_DUPLICATE_REPORT", Category.TASK)
    assert isinstance(parse_report(200, "", b"fine"), Unparseable)


def test_threads():
    for body in (
        {"threads": 10, "working_threads": 3},
        {"status": 1, "threads": 10, "working_threads": 3},
        {"threads": "10", "working_threads": " 3"},
    ):
        assert parse_threads(200, "", json.dumps(body).encode()) == Threads(10, 3)
    for refusal in (b"ERROR_WRONG_USER_KEY", b'{"status":0,"request":"ERROR_WRONG_USER_KEY"}'):
        assert parse_threads(200, "", refusal) == Failed("ERROR_WRONG_USER_KEY", Category.PERMANENT)
    for body in (
        b"",
        b"10",
        b'{"threads":10}',
        b'{"threads":-1,"working_threads":0}',
        b'{"threads":true,"working_threads":0}',
        b'{"threads":1.5,"working_threads":0}',
        b'{"threads":1234567890,"working_threads":0}',
    ):
        assert isinstance(parse_threads(200, "", body), Unparseable)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(PROVIDER_CODES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ANSWERS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("status", "request", "result", "error_text", "user_agent", "threads", "working_threads", *GEETEST), JSON
    ),
)
BODIES = (
    st.binary(max_size=64)
    | st.text(max_size=64).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.builds(
        lambda head, tail: head + tail, st.sampled_from([b"OK|", b"ERROR_", b"ERROR: ", b"{", b"\xff\xfe"]), st.binary()
    )
    | (ANSWERS | JSON).map(lambda value: json.dumps(value).encode())
)


@given(status=st.integers(100, 999), content_type=st.text(max_size=40), body=BODIES)
def test_no_bytes_make_it_raise(status, content_type, body):
    submitted = parse_submit(status, content_type, body)
    if isinstance(submitted, Submitted):
        assert submitted.cid.isascii()
        assert submitted.cid.isdigit()
        assert 1 <= len(submitted.cid) <= 64
    polled = parse_poll(status, content_type, body)
    if isinstance(polled, Solved):
        assert polled.token.strip()
        json.dumps([polled.token, polled.answer, dict(polled.extra)], allow_nan=False, ensure_ascii=False).encode()
    for outcome in (submitted, polled):
        if isinstance(outcome, Refused | Failed):
            assert outcome.code not in OWN_CODES or outcome.text == f"http {status}"
            assert len(outcome.code) <= 64
    parse_balance(status, content_type, body)
    parse_report(status, content_type, body)
    parse_threads(status, content_type, body)


@pytest.mark.parametrize(
    ("body", "token", "price"),
    [
        (b"OK|03AG|0.00085", "03AG", "0.00085"),
        (b"OK|a|b|0.00085", "a|b", "0.00085"),
        (b"OK|03AG", "03AG", None),
        (b"OK|03AG|free", "03AG|free", None),
        (b"OK|03AG|-1", "03AG|-1", None),
        (b'{"status":1,"request":"03AG","price":"0.00085"}', "03AG", "0.00085"),
        (b'{"status":1,"request":"x|5","price":0.00085}', "x|5", 0.00085),
    ],
)
def test_an_answer_with_its_price(body, token, price):
    solved = parse_poll(200, "text/html", body, priced=True)
    assert (solved.token, solved.extra.get("price")) == (token, price)


def test_an_answer_that_was_asked_for_without_price_keeps_all_its_text():
    assert poll(b"OK|2|5") == Solved("2|5")


@pytest.mark.parametrize(
    ("body", "unready"),
    [
        (b"6RZ4|CAPCHA_NOT_READY|abc", [False, True, False]),
        (b"CAPCHA_NOT_READY|CAPTCHA_NOT_READY|CAPCHA_NOT_READY\n", [True, True, True]),
        (b"OK|a|CAPCHA_NOT_READY|ERROR_WRONG_CAPTCHA_ID", [False, True, False]),
        (b'{"status":1,"request":"a|CAPCHA_NOT_READY|b"}', [False, True, False]),
        # An answer with the separator in it: nobody can tell which part belongs to whom.
        (b"a|b|CAPCHA_NOT_READY|CAPCHA_NOT_READY", None),
        (b"CAPCHA_NOT_READY", None),
        (b"ERROR_WRONG_USER_KEY", None),
        (b'{"status":1,"request":["a","b","c"]}', None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_which_of_many_are_not_ready(body, unready):
    assert parse_unready(200, "text/html", body, 3) == unready
    assert parse_unready(502, "text/html", body, 3) is None
