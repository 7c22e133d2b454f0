"""Submits, polls, reports, threads, money: the protocol's answers and the switches where sources disagree."""

import base64
import json
from itertools import pairwise

import pytest

from tests.sandbox.talk import KEY, PAGE, png, until

IMAGE = base64.b64encode(png()).decode()
LONG = "[solve]\nseconds = 1000\n"


# What each method requires.


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("ERROR_WRONG_USER_KEY", {"key": "short"}),
        ("ERROR_WRONG_USER_KEY", {"key": None}),
        ("ERROR_KEY_DOES_NOT_EXIST", {"key": "x" * 32}),
        ("ERROR_BAD_PARAMETERS", {"method": None}),
        ("ERROR_BAD_PARAMETERS", {"sitekey": None}),
        ("ERROR_BAD_PARAMETERS", {"sitekey": None, "googlekey": "k"}),
        ("ERROR_PAGEURL", {"pageurl": None}),
        ("ERROR_PAGEURL", {"pageurl": "example.com"}),
        ("ERROR_PAGEURL", {"pageurl": "ftp://example.com/"}),
        ("ERROR_PAGEURL", {"pageurl": "http://[x"}),
        ("ERROR_GOOGLEKEY", {"method": "userrecaptcha"}),
        ("ERROR_WRONG_GOOGLEKEY", {"method": "userrecaptcha", "googlekey": "a b"}),
        ("ERROR_BAD_PARAMETERS", {"method": "userrecaptcha", "googlekey": "k", "version": "v3", "min_score": "high"}),
        ("ERROR_BAD_PARAMETERS", {"method": "cloudflare_challenge"}),
        ("ERROR_PROXY_FORMAT", {"proxy": "nonsense", "proxytype": "HTTP"}),
        ("ERROR_BAD_PARAMETERS", {"proxy": "u:p@192.0.2.1:8080", "proxytype": "FTP"}),
        ("ERROR_BAD_PARAMETERS", {"method": "geetest", "gt": "g"}),
        ("ERROR_BAD_PARAMETERS", {"method": "bls", "instructions": "i"}),
        ("ERROR_UPLOAD", {"method": "bls", "instructions": "i"} | {f"image_base64_{n}": "?" for n in range(1, 10)}),
        ("ERROR_UPLOAD", {"method": "base64"}),
        ("ERROR_UPLOAD", {"method": "base64", "body": "no base64!"}),
        ("ERROR_UPLOAD", {"method": "audio", "body": "no base64!", "lang": "en"}),
        ("ERROR_ZERO_CAPTCHA_FILESIZE", {"method": "base64", "body": IMAGE[:40]}),
        ("ERROR_IMAGE_TYPE_NOT_SUPPORTED", {"method": "base64", "body": base64.b64encode(b"x" * 200).decode()}),
        (
            "ERROR_IMAGE_DIMENSIONS_TOO_LARGE",
            {"method": "base64", "body": base64.b64encode(png(1001, 2)).decode()},
        ),
        ("ERROR_BAD_PARAMETERS", {"method": "base64", "body": IMAGE, "grid_size": "5x5", "instructions": "i"}),
        ("ERROR_BAD_PARAMETERS", {"method": "base64", "body": IMAGE, "grid_size": "3x3"}),
        ("ERROR_BAD_PARAMETERS", {"method": "base64", "body": IMAGE, "coordinatescaptcha": "1"}),
    ],
)
def test_a_submit_that_is_refused(client, code, fields):
    assert client.submit(**fields) == code
    totals = client.sandbox.totals()
    assert (totals["submits"], totals["refused"], totals["created"]) == (1, 1, 0)
    assert totals["bad_keys"] == ("key" in fields)


def test_too_big_and_wrongly_named_pictures(sandbox, client):
    sandbox.set_scenario(f"[switches]\nmax_image_bytes = {len(png()) - 1}\n")
    assert client.submit(method="base64", body=IMAGE) == "ERROR_TOO_BIG_CAPTCHA_FILESIZE"

    sandbox.set_scenario("")
    data = {"key": KEY, "method": "post"}
    answer = client.post("/in.php", data=data, files={"file": ("a.exe", png())})
    assert answer.text == "ERROR_WRONG_FILE_EXTENSION"
    sandbox.set_scenario("[switches]\ncheck_images = false\n")
    assert client.post("/in.php", data=data, files={"file": ("a.exe", b"x" * 100)}).text.startswith("OK|")


def test_pictures_that_are_taken(client):
    gif = b"GIF89a" + bytes([10, 0, 10, 0]) + bytes(100)
    jpeg = b"\xff\xd8\xff" + bytes(100)
    for data in (png(), gif, jpeg):
        client.create(method="base64", body="data:image/x;base64," + base64.b64encode(data).decode())
    # A client that forgets to encode its `+` sends spaces.
    client.create(method="base64", body=base64.b64encode(jpeg + b"\xfb" * 3).decode().replace("+", " "))


def test_unknown_methods_pass_unless_the_switch_says_otherwise(sandbox, client):
    fields = {"method": "brand_new", "widget": "w1"}
    assert len(client.res("get", client.create(**fields))) > 100
    assert sandbox.captchas()[0]["fields"]["widget"] == "w1"

    sandbox.set_scenario("[switches]\nunknown_methods = 'refuse'\n")
    assert client.submit(**fields) == "ERROR_NO_SUCH_METHOD"


def test_the_check_can_be_left_out(sandbox, client):
    sandbox.set_scenario("[switches]\ncheck_fields = false\n")

    assert client.submit(pageurl=None).startswith("OK|")


def test_methods_that_are_left_out(client):
    client.create(method=None, sitekey=None, pageurl=None, textcaptcha="2 + 2")
    client.create(method="post", sitekey=None, pageurl=None, textcaptcha="2 + 2")
    assert client.post("/in.php", data={"key": KEY}, files={"file": ("a.png", png())}).text.startswith("OK|")

    assert [each["method"] for each in client.sandbox.captchas()] == ["textcaptcha", "textcaptcha", "post"]


# Answers.


def solved(client, captcha_id, **more):
    return client.get("/res.php", key=KEY, action="get", id=captcha_id, json=1, **more).json()


@pytest.mark.parametrize(
    ("fields", "text", "kind"),
    [
        ({}, "OK|0.", str),
        ({"method": "userrecaptcha", "googlekey": "k"}, "OK|03AG", str),
        ({"method": "userrecaptcha", "googlekey": "k", "version": "v3", "min_score": "0.9"}, "OK|03AG", str),
        ({"method": "hcaptcha"}, "OK|P1_", str),
        ({"method": "geetest", "gt": "g", "challenge": "c"}, "OK|challenge:", dict),
        ({"method": "geetest", "gt": "g", "version": "4"}, 'OK|{"captcha_id":"g"', dict),
        ({"method": "geetest_v4", "captcha_id": "c"}, 'OK|{"captcha_id":"c"', dict),
        ({"method": "lemin", "captcha_id": "c"}, 'OK|{"answer":', dict),
        ({"method": "capy", "captchakey": "c"}, 'OK|{"captchakey":"c"', dict),
        ({"method": "amazon_waf", "iv": "i", "context": "c"}, 'OK|{"captcha_voucher":', dict),
        ({"method": "tencent", "app_id": "a"}, 'OK|{"appid":"a"', dict),
        ({"method": "base64", "body": IMAGE, "grid_size": "4x4", "instructions": "i"}, "OK|[", list),
        ({"method": "base64", "body": IMAGE, "recaptcha": "1", "textinstructions": "i"}, "OK|click:", str),
        ({"method": "base64", "body": IMAGE, "canvas": "1", "textinstructions": "i"}, "OK|canvas:", str),
        (
            {"method": "base64", "body": IMAGE, "coordinatescaptcha": "1", "textinstructions": "i"},
            "OK|coordinates:x=",
            list,
        ),
        ({"method": "bounding_box", "body": IMAGE, "textinstructions": "i"}, 'OK|[{"xMin":', list),
        ({"method": "bls", "instructions": "i"} | {f"image_base64_{n}": IMAGE for n in range(1, 10)}, "OK|[", list),
    ],
)
def test_answers_as_text_as_string_and_as_object(sandbox, client, fields, text, kind):
    captcha_id = client.create(**fields)
    assert client.res("get", captcha_id).startswith(text)
    as_string = solved(client, captcha_id)["request"]
    assert isinstance(as_string, str)

    sandbox.set_scenario("[switches]\nstructured = 'object'\n")
    as_object = solved(client, captcha_id)["request"]
    assert isinstance(as_object, kind)
    assert as_object == (as_string if kind is str else json.loads(as_string))


def test_words_and_angles(client):
    assert client.res("get", client.create(method="base64", body=IMAGE))[3:].isalpha()
    assert client.res("get", client.create(method="audio", body=IMAGE, lang="en"))[3:].isalpha()
    assert int(client.res("get", client.create(method="rotatecaptcha", body=IMAGE))[3:]) % 45 == 0


def test_each_captcha_has_its_own_answer_and_keeps_it(client):
    first, second = client.create(), client.create()

    assert client.res("get", first) == client.res("get", first) != client.res("get", second)


PROXY = {"proxy": "u:p@192.0.2.1:8080", "proxytype": "HTTP"}


def test_result_and_user_agent_for_enterprise_and_cloudflare(sandbox, client):
    enterprise = client.create(method="userrecaptcha", googlekey="k", enterprise=1)
    challenge = client.create(method="cloudflare_challenge", **PROXY)
    fox = client.create(method="captchafox", **PROXY)

    for captcha_id, key in ((enterprise, "result"), (challenge, "result"), (fox, "request")):
        answer = solved(client, captcha_id)
        assert set(answer) == {"status", key, "user_agent"}
    text = client.res("get", challenge)
    assert text == f"OK|cf_clearance={solved(client, challenge)['result']};user_agent={answer['user_agent']}"

    sandbox.set_scenario("[switches]\nresult_key = false\nstructured = 'object'\n")
    assert set(solved(client, enterprise)) == {"status", "request"}
    assert set(solved(client, challenge)["request"]) == {"cookies", "userAgent"}


def test_the_other_dialect(sandbox, client):
    sandbox.set_scenario("[solve]\nseconds = 0\n[switches]\ndialect = '2captcha'\nstructured = 'object'\n")
    geetest = solved(client, client.create(method="geetest", gt="g", challenge="c"))["request"]
    lemin = solved(client, client.create(method="lemin", captcha_id="c"))["request"]

    assert set(geetest) == {"geetest_challenge", "geetest_validate", "geetest_seccode"}
    assert set(lemin) == {"answer", "challenge_id"}
    assert set(solved(client, client.create())) == {"status", "request", "useragent"}


@pytest.mark.parametrize(
    ("switch", "kinds"),
    [('["userrecaptcha"]', (int, str)), ("[]", (str, str)), ('["*"]', (int, int))],
)
def test_ids_as_integers(sandbox, client, switch, kinds):
    sandbox.set_scenario(f"[switches]\ninteger_ids = {switch}\n")
    recaptcha = client.get("/in.php", key=KEY, method="userrecaptcha", googlekey="k", pageurl=PAGE, json=1).json()
    turnstile = client.get("/in.php", key=KEY, method="turnstile", sitekey="k", pageurl=PAGE, json=1).json()

    assert (type(recaptcha["request"]), type(turnstile["request"])) == kinds


def test_errors_in_plain_text_and_with_a_text(sandbox, client):
    sandbox.set_scenario("[switches]\nplain_errors = ['ERROR_UPLOAD']\nerror_text = true\n")

    assert client.get("/in.php", key=KEY, method="base64", json=1).text == "ERROR_UPLOAD"
    assert set(client.get("/in.php", key=KEY, json=1).json()) == {"status", "request", "error_text"}


def test_how_not_ready_is_spelled(sandbox, client):
    sandbox.set_scenario(LONG)
    captcha_id = client.create()
    assert client.res("get", captcha_id) == "CAPCHA_NOT_READY"
    assert solved(client, captcha_id) == {"status": 0, "request": "CAPCHA_NOT_READY"}

    sandbox.set_scenario("[switches]\nnot_ready = 'CAPTCHA_NOT_READY'\n")
    assert client.res("get", captcha_id) == "CAPTCHA_NOT_READY"
    captcha = sandbox.captchas()[0]
    assert (captcha["polls"], captcha["not_ready"], captcha["answered"]) == (3, 3, False)


# res.php.


@pytest.mark.parametrize(
    ("action", "captcha_id", "code"),
    [
        (None, "1", "ERROR_EMPTY_ACTION"),
        ("sing", "1", "ERROR_BAD_PARAMETERS"),
        ("get", None, "ERROR_WRONG_ID_FORMAT"),
        ("get", "12a", "ERROR_WRONG_ID_FORMAT"),
        ("get", "-1", "ERROR_WRONG_ID_FORMAT"),
        ("get", "9" * 30, "ERROR_WRONG_ID_FORMAT"),
        ("get", "1", "ERROR_WRONG_CAPTCHA_ID"),
        ("reportbad", "1", "ERROR_WRONG_CAPTCHA_ID"),
        ("reportgood", "x", "ERROR_WRONG_ID_FORMAT"),
    ],
)
def test_calls_that_make_no_sense(client, action, captcha_id, code):
    assert client.res(action, captcha_id) == code


def test_get2_gives_the_price(sandbox, client):
    sandbox.set_scenario(f"[solve]\nseconds = 0\n[[key]]\nkey = '{KEY}'\nprice = 0.00085\n")
    captcha_id = client.create()

    assert client.res("get2", captcha_id) == client.res("get", captcha_id) + "|0.00085"
    answer = client.get("/res.php", key=KEY, action="get2", id=captcha_id, json=1).json()
    assert answer["price"] == "0.00085"


def test_several_ids_at_once(sandbox, client):
    done = client.create()
    sandbox.set_scenario(LONG)
    waiting = client.create()

    answer = client.res("get", ids=f"{done},{waiting},1,x")
    token = client.res("get", done)[3:]
    assert answer == f"{token}|CAPCHA_NOT_READY|ERROR_WRONG_CAPTCHA_ID|ERROR_WRONG_ID_FORMAT"
    assert [each["polls"] for each in sandbox.captchas()] == [2, 1]


def test_a_report_is_taken_once_and_in_time(sandbox, client):
    good, bad, late, unsolved = client.create(), client.create(), client.create(), client.create(method="new")
    assert client.res("reportgood", good) == "OK_REPORT_RECORDED"
    assert client.get("/res.php", key=KEY, action="reportbad", id=bad, json=1).json() == {
        "status": 1,
        "request": "OK_REPORT_RECORDED",
    }
    assert client.res("reportbad", good) == "ERROR_DUPLICATE_REPORT"
    sandbox.set_scenario(LONG + "[switches]\nreport_life_s = 0\n")
    assert client.res("reportbad", late) == "ERROR_REPORT_NOT_RECORDED"
    unsolved = client.create()
    assert client.res("reportbad", unsolved) == "ERROR_REPORT_NOT_RECORDED"

    assert [each["reported"] for each in sandbox.captchas()] == ["good", "bad", "", "", ""]
    assert sandbox.totals()["reports"] == 2


def test_the_captcha_of_another_account_is_unknown(sandbox, client):
    other = "b" * 32
    sandbox.set_scenario(f"[solve]\nseconds = 0\n[[key]]\n[[key]]\nkey = '{other}'\n")

    assert client.res("get", client.create(), key=other) == "ERROR_WRONG_CAPTCHA_ID"


def test_threadsinfo_as_numbers_and_as_strings(sandbox, client):
    sandbox.set_scenario(LONG + "[[key]]\nthreads = 5\n")
    client.create()
    client.create()
    assert client.post("/res.php", data={"key": KEY, "action": "threadsinfo", "json": 1}).json() == {
        "status": 1,
        "threads": 5,
        "working_threads": 2,
    }

    sandbox.set_scenario("[switches]\nthreads_as = 'string'\n[[key]]\nthreads = 5\n")
    answer = client.get("/res.php", key=KEY, action="threadsinfo", json=1).json()
    assert (answer["threads"], answer["working_threads"]) == ("5", "2")


def test_the_addresses_for_pingbacks(client):
    assert client.res("get_pingback") == "OK|"
    assert client.res("add_pingback", addr="example.com/a") == "OK"
    assert client.res("add_pingback", addr="http://127.0.0.1:80/b") == "OK"
    assert client.res("add_pingback", addr="http://192.0.2.1/") == "ERROR_IP_ADDRES"
    assert client.res("add_pingback") == "ERROR_BAD_PARAMETERS"
    assert client.res("get_pingback") == "OK|example.com/a|http://127.0.0.1:80/b"
    assert client.res("del_pingback", addr="example.com/a") == "OK"
    assert client.res("del_pingback", addr="example.com/a") == "ERROR_BAD_PARAMETERS"
    assert client.res("get_pingback") == "OK|http://127.0.0.1:80/b"
    assert client.res("del_pingback", addr="all") == "OK"
    assert client.res("get_pingback") == "OK|"


# Threads and money.


def test_a_key_without_a_plan_does_not_exist(sandbox, client):
    sandbox.set_scenario("[[key]]\nthreads = 0\n")

    assert client.submit() == "ERROR_KEY_DOES_NOT_EXIST"
    assert client.res("getbalance") == "ERROR_KEY_DOES_NOT_EXIST"
    assert sandbox.totals()["bad_keys"] == 2


@pytest.mark.parametrize(
    ("mode", "code"), [("zero_balance", "ERROR_ZERO_BALANCE"), ("no_slot", "ERROR_NO_SLOT_AVAILABLE")]
)
def test_saturation_that_refuses(sandbox, client, mode, code):
    sandbox.set_scenario(f"[solve]\nseconds = 1000\n[switches]\nsaturation = '{mode}'\n[[key]]\nthreads = 2\n")

    assert [client.submit()[:3] for _ in range(2)] == ["OK|", "OK|"]
    assert client.submit() == code
    assert sandbox.totals()["working"] == 2


def test_a_thread_is_free_again_when_its_captcha_has_ended(sandbox, client):
    sandbox.set_scenario(
        "[solve]\nseconds = 0.2\n[switches]\nsaturation = 'no_slot'\n[[key]]\nthreads = 1\n"
        "[[rule]]\nmatch = {sitekey = 'bad'}\noutcome = 'ERROR_CAPTCHA_UNSOLVABLE'\n"
    )
    for sitekey in ("good", "bad", "good"):
        until(lambda sitekey=sitekey: client.submit(sitekey).startswith("OK|"))


def test_saturation_that_queues(sandbox, client):
    sandbox.set_scenario("[solve]\nseconds = 0.2\n[[key]]\nthreads = 1\n")
    for _ in range(4):
        client.create()

    captchas = until(lambda: (found := sandbox.captchas()) and found[-1]["state"] == "solved" and found)
    ready = [each["ready_at"] for each in captchas]
    assert all(later - earlier >= 0.199 for earlier, later in pairwise(ready)), ready


def test_more_threads_start_what_waits(sandbox, client):
    sandbox.set_scenario(LONG + "[[key]]\nthreads = 1\n")
    for _ in range(3):
        client.create()
    assert [each["state"] for each in sandbox.captchas()] == ["working", "waiting", "waiting"]

    sandbox.set_scenario("[[key]]\nthreads = 2\n")
    assert [each["state"] for each in sandbox.captchas()] == ["working", "working", "waiting"]
    assert sandbox.ledger()["accounts"][0]["waiting"] == 1


def test_an_account_runs_out_of_money(sandbox, client):
    sandbox.set_scenario("[solve]\nseconds = 0\n[[key]]\nbalance = 0.25\nprice = 0.1\n")

    assert [client.submit()[:3] for _ in range(3)] == ["OK|", "OK|", "ERR"]
    assert client.res("getbalance") == "0.05"
    assert client.submit() == "ERROR_ZERO_BALANCE"
    sandbox.set_scenario("[solve]\nseconds = 0\n[[key]]\nbalance = 0.35\nprice = 0.1\n")
    assert client.submit().startswith("OK|")


def test_the_same_task_twice_is_counted_as_a_duplicate(client):
    client.create("one")
    client.create("two")
    client.create("one")
    client.create("one", pageurl="https://example.org/")

    totals = client.sandbox.totals()
    assert (totals["created"], totals["charges"], totals["duplicates"]) == (4, 4, 1)


def test_the_ledger_has_no_key(client):
    client.create()

    assert KEY not in json.dumps(client.sandbox.ledger())


# solve.php.


def test_solve_waits_for_the_answer(sandbox, client):
    sandbox.set_scenario("[solve]\nseconds = 0.2\n[[key]]\nthreads = 1\n")
    client.create()
    answer = client.post("/solve.php", data={"key": KEY, "method": "base64", "body": IMAGE, "json": 1}).json()

    assert answer["status"] == 1
    assert answer["request"].isalpha()
    captcha = sandbox.captchas()[1]
    assert captcha["answered_at"] - captcha["created_at"] >= 0.2


def test_solve_that_fails(sandbox, client):
    sandbox.set_scenario("[outcomes]\nERROR_CAPTCHA_UNSOLVABLE = 1\n[solve]\nseconds = 0\n")
    data = {"key": KEY, "method": "base64", "body": IMAGE}
    assert client.post("/solve.php", data=data).text == "ERROR_CAPTCHA_UNSOLVABLE"

    sandbox.set_scenario("[outcomes]\nforget = 1\n[solve]\nseconds = 0\n")
    assert client.post("/solve.php", data=data).text == "ERROR_WRONG_CAPTCHA_ID"
    assert client.post("/solve.php", data=data | {"key": "x"}).text == "ERROR_WRONG_USER_KEY"
