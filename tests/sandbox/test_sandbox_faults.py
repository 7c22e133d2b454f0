"""Each way to misbehave, over a real socket, with the bill beside it."""

import http.client
import json
import socket
import time

import pytest

from tests.sandbox.talk import KEY, PAGE, Client, png, raw, until


def rule(fault, **more):
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in more.items())
    return f'[solve]\nseconds = 0\n[[rule]]\nfault = "{fault}"\n{lines}'


def request_bytes(**fields):
    query = "&".join(
        f"{k}={v}" for k, v in {"key": KEY, "method": "turnstile", "sitekey": "a", "pageurl": PAGE, **fields}.items()
    )
    return f"GET /in.php?{query} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()


def created(sandbox):
    totals = sandbox.totals()
    assert totals["created"] == totals["charges"]
    return totals["created"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_http_errors_before_and_after_the_charge(sandbox, client, status):
    sandbox.set_scenario(rule(f"http_{status}"))
    assert client.get("/in.php", key=KEY).status_code == status
    assert created(sandbox) == 0

    sandbox.set_scenario(rule(f"http_{status}_after"))
    answer = client.get("/in.php", key=KEY, method="turnstile", sitekey="a", pageurl=PAGE)
    assert answer.status_code == status
    assert "<html>" in answer.text
    assert created(sandbox) == 1
    assert sandbox.totals()["answers_lost"] == 1


@pytest.mark.parametrize("after", [False, True])
def test_bodies_that_are_no_answer(sandbox, client, after):
    suffix = "_after" if after else ""
    seen = {}
    for name in ("html", "empty", "garbage", "big", "redirect"):
        sandbox.set_scenario(rule(name + suffix))
        seen[name] = client.get("/in.php", key=KEY, method="turnstile", sitekey=name, pageurl=PAGE)

    assert (seen["html"].status_code, seen["html"].text[:6]) == (200, "<html>")
    assert (seen["empty"].status_code, seen["empty"].content) == (200, b"")
    assert seen["garbage"].content == bytes(range(256))
    assert len(seen["big"].content) == 10 * 1024 * 1024
    assert (seen["redirect"].status_code, seen["redirect"].headers["Location"]) == (302, "http://192.0.2.1/")
    assert created(sandbox) == (5 if after else 0)


def test_the_redirect_goes_where_the_scenario_says(sandbox, client):
    sandbox.set_scenario(rule("redirect") + '[delivery]\nredirect_to = "http://127.0.0.1:1/x"\n')

    assert client.get("/in.php").headers["Location"] == "http://127.0.0.1:1/x"


def test_reset_before_and_after_the_charge(sandbox):
    sandbox.set_scenario(rule("reset"))
    with pytest.raises(ConnectionResetError):
        raw(sandbox, request_bytes())
    assert created(sandbox) == 0

    sandbox.set_scenario(rule("reset_after"))
    with pytest.raises(ConnectionResetError):
        raw(sandbox, request_bytes())
    assert created(sandbox) == 1


def test_close_says_nothing(sandbox):
    sandbox.set_scenario(rule("close_after"))

    assert raw(sandbox, request_bytes()) == b""
    assert created(sandbox) == 1


def test_hang_says_nothing_and_keeps_the_connection(sandbox):
    sandbox.set_scenario(rule("hang_after"))
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=0.3) as connection:
        connection.sendall(request_bytes())
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert created(sandbox) == 1


def test_truncated_json_and_a_body_cut_short(sandbox, client):
    sandbox.set_scenario(rule("truncated"))
    answer = client.get("/in.php", key=KEY, method="turnstile", sitekey="a", pageurl=PAGE, json=1)
    assert answer.text.startswith('{"status":1')
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.text)

    sandbox.set_scenario(rule("cut"))
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=30)
    connection.request("GET", f"/in.php?key={KEY}&method=turnstile&sitekey=a&pageurl={PAGE}")
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    connection.close()
    assert created(sandbox) == 2
    assert sandbox.totals()["answers_lost"] == 2


def seconds(call):
    start = time.monotonic()
    answer = call()
    return time.monotonic() - start, answer


def test_slow_headers_slow_body_and_delay_are_slow_and_true(sandbox, client):
    """Lower bounds only: the sandbox waits between two bytes, so a busy machine can but make it slower."""
    captcha_id = client.create()
    pace = "[delivery]\npace_s = 0.002\n"

    sandbox.set_scenario(rule("slow_headers") + pace)
    took, answer = seconds(lambda: raw(sandbox, request_bytes()))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body.startswith(b"OK|")
    assert took >= 0.002 * len(head)

    sandbox.set_scenario(rule("drip", op="poll") + pace)
    took, text = seconds(lambda: client.res("get", captcha_id))
    assert text.startswith("OK|0.")
    assert took >= 0.002 * (len(text) - 1)

    sandbox.set_scenario(rule("delay", delay_s=0.3))
    took, text = seconds(client.submit)
    assert text.startswith("OK|")
    assert took >= 0.3
    assert sandbox.totals()["answers_lost"] == 0


def test_error_codes_on_submit_and_on_poll(sandbox, client):
    captcha_id = client.create()
    sandbox.set_scenario(rule("ERROR_SERVER_ERROR", op="any", times=4))

    assert client.submit() == "ERROR_SERVER_ERROR"
    assert client.get("/in.php", json=1).json() == {"status": 0, "request": "ERROR_SERVER_ERROR"}
    assert client.res("get", captcha_id) == "ERROR_SERVER_ERROR"
    assert client.res("getbalance") == "ERROR_SERVER_ERROR"
    assert client.res("get", captcha_id).startswith("OK|")
    assert sandbox.totals()["faults"] == {"ERROR_SERVER_ERROR": 4}
    assert sandbox.totals()["faulted"] == 2

    sandbox.set_scenario(rule("ERROR_SERVER_ERROR_after"))
    assert client.submit() == "ERROR_SERVER_ERROR"
    assert created(sandbox) == 2


@pytest.mark.parametrize("op", ["poll", "report", "balance", "threads", "pingback"])
def test_each_kind_of_call_can_be_struck_alone(sandbox, client, op):
    captcha_id = client.create()
    sandbox.set_scenario(rule("http_502", op=op))
    struck = {
        "poll": client.get("/res.php", key=KEY, action="get2", id=captcha_id),
        "report": client.get("/res.php", key=KEY, action="reportgood", id=captcha_id),
        "balance": client.get("/res.php", key=KEY, action="getbalance"),
        "threads": client.get("/res.php", key=KEY, action="threadsinfo"),
        "pingback": client.get("/res.php", key=KEY, action="get_pingback"),
    }

    assert [name for name, answer in struck.items() if answer.status_code == 502] == [op]


def outcome(name, **more):
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in more.items())
    return f'[solve]\nseconds = 0\n[[rule]]\nmatch = {{sitekey = "odd-*"}}\noutcome = "{name}"\n{lines}'


def test_unsolvable_is_paid_back(sandbox, client):
    sandbox.set_scenario(outcome("ERROR_CAPTCHA_UNSOLVABLE"))
    odd, even = client.create("odd-1"), client.create("even-1")

    assert client.res("get", odd) == "ERROR_CAPTCHA_UNSOLVABLE"
    assert client.res("get", odd) == "ERROR_CAPTCHA_UNSOLVABLE"
    assert client.res("get", even).startswith("OK|")
    assert client.res("getbalance") == "999.999"
    totals = sandbox.totals()
    assert (totals["charges"], totals["refunds"], totals["failed"], totals["spent"]) == (2, 1, 1, 0.001)
    first, second = sandbox.captchas()
    assert (first["state"], first["refunded"], first["answered"]) == ("failed", True, False)
    assert (second["state"], second["refunded"], second["answered"]) == ("solved", False, True)


def test_unsolvable_late(sandbox, client):
    sandbox.set_scenario(outcome("ERROR_CAPTCHA_UNSOLVABLE", solve_s=0.4))
    captcha_id = client.create("odd-1")

    answers = []
    until(lambda: answers.append(client.res("get", captcha_id)) or answers[-1] != "CAPCHA_NOT_READY")
    assert answers[-1] == "ERROR_CAPTCHA_UNSOLVABLE"
    captcha = sandbox.captchas()[0]
    assert captcha["ready_at"] - captcha["created_at"] == pytest.approx(0.4, abs=0.002)
    assert captcha["not_ready"] == len(answers) - 1
    assert captcha["polls"] == len(answers)


def test_an_id_that_is_forgotten_stays_charged(sandbox, client):
    sandbox.set_scenario(outcome("forget"))

    assert client.res("get", client.create("odd-1")) == "ERROR_WRONG_CAPTCHA_ID"
    assert (sandbox.totals()["charges"], sandbox.totals()["refunds"]) == (1, 0)


def test_an_id_is_known_for_its_life_only(sandbox, client):
    captcha_id = client.create()
    assert client.res("get", captcha_id).startswith("OK|")

    sandbox.set_scenario("[switches]\nid_life_s = 0\n")
    assert client.res("get", captcha_id) == "ERROR_WRONG_CAPTCHA_ID"


def test_one_that_is_never_ready(sandbox, client):
    sandbox.set_scenario(outcome("never"))

    assert client.res("get", client.create("odd-1")) == "CAPCHA_NOT_READY"
    assert sandbox.totals()["in_flight"] == 1
    assert sandbox.captchas()[0]["ready_at"] is None


def test_a_token_that_is_expired_when_it_arrives(sandbox, client):
    sandbox.set_scenario(outcome("expired"))
    stale = client.res("get", client.create("odd-1"))[3:]
    fresh = client.res("get", client.create("even-1"))[3:]

    assert sandbox.verify(stale)["reason"] == "expired"
    assert sandbox.verify(fresh)["valid"] is True
    assert sandbox.verify(fresh)["reason"] == "used"
    assert sandbox.verify("nonsense")["reason"] == "unknown"


def test_a_rule_can_give_the_answer(sandbox, client):
    sandbox.set_scenario('[[rule]]\nmatch = {method = "post"}\nanswer = "No_matching_images"\nsolve_s = 0\n')
    answer = client.post("/in.php", data={"key": KEY, "method": "post"}, files={"file": ("a.png", png())})

    assert client.res("get", answer.text[3:]) == "OK|No_matching_images"


# Rules: which calls they strike.


def test_flaky_at_first_then_fine_for_each_sitekey(sandbox, client):
    sandbox.set_scenario(rule("ERROR_SERVER_ERROR", times=1, per="sitekey") + 'match = {sitekey = "flaky-*"}\n')

    assert client.submit("flaky-1") == "ERROR_SERVER_ERROR"
    assert client.submit("flaky-2") == "ERROR_SERVER_ERROR"
    assert client.submit("steady").startswith("OK|")
    assert client.submit("flaky-1").startswith("OK|")
    assert client.submit("flaky-2").startswith("OK|")


def test_the_nth_call(sandbox, client):
    sandbox.set_scenario(rule("ERROR_SERVER_ERROR", skip=2, times=1))

    assert ["ERROR" in client.submit() for _ in range(5)] == [False, False, True, False, False]


def test_polls_are_matched_by_the_fields_of_their_captcha(sandbox, client):
    sandbox.set_scenario(rule("http_502", op="poll", per="id", times=1) + f'match = {{pageurl = "{PAGE}"}}\n')
    captcha_id, other = client.create(), client.create(pageurl="https://example.org/")

    polls = [client.get("/res.php", key=KEY, action="get", id=captcha_id).status_code for _ in range(3)]
    assert polls == [502, 200, 200]
    assert client.get("/res.php", key=KEY, action="get", id=other).status_code == 200


def test_googlekey_is_matched_as_sitekey(sandbox, client):
    sandbox.set_scenario(rule("ERROR_SERVER_ERROR") + 'match = {sitekey = "6L*"}\n')

    assert client.submit(method="userrecaptcha", googlekey="6Labc", sitekey=None) == "ERROR_SERVER_ERROR"


def test_an_outage_begins_and_ends(sandbox, client):
    sandbox.set_scenario('[solve]\nseconds = 0\n[[outage]]\nfrom_s = 1000\nfault = "http_500"\n')
    assert client.submit().startswith("OK|")

    sandbox.set_scenario("[solve]\nseconds = 0\n[[outage]]\nfor_s = 1000\n")
    assert client.get("/in.php").status_code == 503
    assert client.get("/res.php").status_code == 200, "a call without an action is of no kind"
    assert client.get("/res.php", action="get").status_code == 503

    sandbox.set_scenario("[solve]\nseconds = 0\n[[outage]]\nfor_s = 0.3\n")
    until(lambda: client.submit().startswith("OK|"))


# Chance.

CHANCE = """
[solve]
seconds = [1, 100]
[faults.submit]
http_502 = 0.2
ERROR_SERVER_ERROR_after = 0.2
[outcomes]
forget = 0.3
"""


def play(sandbox, sitekeys, seed):
    """What happens to each of these, with the seed."""
    sandbox.set_scenario(f"seed = {seed}\n{CHANCE}")
    sandbox.reset()
    client = Client(sandbox)
    answers = {key: client.submit(key)[:5] for key in sitekeys}
    client.session.close()
    fates = {each["sitekey"]: (each["solve_s"], each["outcome"]) for each in sandbox.captchas()}
    return {key: (answers[key], fates.get(key)) for key in sitekeys}


def test_the_same_seed_plays_the_same_game_in_any_order(sandbox):
    keys = [f"key-{n}" for n in range(100)]
    game = play(sandbox, keys, 1)

    assert play(sandbox, keys[::-1], 1) == game
    assert play(sandbox, keys, 2) != game
    answers = [answer for answer, _ in game.values()]
    assert {answer for answer in answers if not answer.startswith("OK|")} == {"<html", "ERROR"}
    assert 5 < answers.count("<html") < 40
    assert 5 < answers.count("ERROR") < 40
    fates = [fate for _, fate in game.values() if fate]
    assert 5 < sum(outcome == "forget" for _, outcome in fates) < 50
    assert all(1 <= solve_s <= 100 for solve_s, _ in fates)
    assert len({solve_s for solve_s, _ in fates}) == len(fates)
