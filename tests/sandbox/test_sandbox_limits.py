"""The provider's limits, with small numbers: when they bite, and that they let go."""

import time

import pytest

from captchad.provider.sandbox.limits import LimitBook
from captchad.provider.sandbox.scenario import Limits
from tests.sandbox.talk import KEY, raw, until


def limits(**numbers):
    lines = "".join(f"{name} = {value}\n" for name, value in numbers.items())
    return f"[solve]\nseconds = 1000\n[limits]\nenabled = true\n{lines}"


def test_they_are_off_unless_asked_for(client):
    assert all(client.submit(key="x") == "ERROR_WRONG_USER_KEY" for _ in range(10))
    assert all(client.submit().startswith("OK|") for _ in range(80))


def test_max_user_turn(sandbox, client):
    sandbox.set_scenario(limits(turn_calls=3, turn_window_s=1000, turn_ban_s=1000))
    assert [client.submit()[:3] for _ in range(4)] == ["OK|", "OK|", "OK|", "MAX"]
    assert client.submit() == "MAX_USER_TURN"
    assert client.res("getbalance") == "999.997", "only submits are banned"

    sandbox.set_scenario(limits(turn_calls=1, turn_window_s=1000, turn_ban_s=0.1))
    client.submit()
    assert "MAX" in client.submit()
    until(lambda: client.submit().startswith("OK|"))


@pytest.mark.parametrize(
    ("saturation", "table", "code"),
    [
        ("no_slot", {"no_slot_calls": 3}, "ERROR: 1001"),
        ("zero_balance", {"zero_balance_calls": 3}, "ERROR: 1002"),
        ("no_slot", {"refused_calls": 3}, "ERROR: 1003"),
    ],
)
def test_too_many_refusals(sandbox, client, saturation, table, code):
    plan = f"[[key]]\nthreads = 1\n[switches]\nsaturation = '{saturation}'\n"
    sandbox.set_scenario(limits(**table) + plan)
    client.create()

    assert [client.submit().startswith("ERROR_") for _ in range(3)] == [True] * 3
    assert client.submit() == code
    assert client.res("getbalance") == code
    assert sandbox.totals()["limited"] == 2


@pytest.mark.parametrize("code", ["ERROR: 1004", "IP_BANNED"])
def test_wrong_keys_ban_the_address(sandbox, client, code):
    sandbox.set_scenario(limits(bad_key_calls=3, bad_key_code=f"'{code}'"))

    assert [client.submit(key="x" * 32) for _ in range(3)] == ["ERROR_KEY_DOES_NOT_EXIST"] * 3
    assert client.submit() == code
    assert client.get("/res.php", key=KEY, action="getbalance", json=1).json() == {"status": 0, "request": code}

    sandbox.set_scenario(limits(bad_key_calls=1, bad_key_ban_s=0.1))
    client.submit(key="x")
    until(lambda: client.submit().startswith("OK|"))


def test_too_many_polls(sandbox, client):
    sandbox.set_scenario(limits(polls_per_captcha=2, polls_allowance=1))
    captcha_id = client.create()

    assert [client.res("get", captcha_id) for _ in range(3)] == ["CAPCHA_NOT_READY"] * 3
    assert client.res("getbalance") == "ERROR: 1005"
    assert client.submit() == "ERROR: 1005"


def test_too_many_requests_a_second(sandbox):
    sandbox.set_scenario(limits(requests_per_s=5))
    request = b"GET /in.php HTTP/1.1\r\n%s\r\n"
    began = time.monotonic()
    answer = raw(sandbox, (request % b"") * 19 + request % b"Connection: close\r\n")
    took_s = time.monotonic() - began

    good, limited = answer.count(b"HTTP/1.1 200"), answer.count(b"HTTP/1.1 429")
    assert (good + limited, limited > 0) == (20, True)
    assert 5 <= good <= 5 + 5 * took_s


def test_the_documented_numbers():
    """60 submits in 3 s; 120 refusals in a minute; 20 polls a captcha and 1200 more."""
    book = LimitBook(Limits(enabled=True))
    assert [book.submit("k", 0.0) for _ in range(60)] == [""] * 60
    assert book.submit("k", 2.9) == "MAX_USER_TURN"
    assert book.submit("k", 12.8) == "MAX_USER_TURN"
    assert book.submit("k", 12.9) == ""

    for _ in range(120):
        book.refused("z", "ERROR_ZERO_BALANCE", 0.0)
    assert (book.submit("z", 299.9), book.submit("z", 300.0)) == ("ERROR: 1002", "")
    for _ in range(120):
        book.refused("n", "ERROR_NO_SLOT_AVAILABLE", 0.0)
    assert (book.result("n", 599.9), book.result("n", 600.0)) == ("ERROR: 1001", "")

    book.created("p")
    assert {book.result("p", 0.0) for _ in range(1220)} == {""}
    assert (book.result("p", 0.0), book.result("p", 299.9), book.result("p", 300.0)) == (
        "ERROR: 1005",
        "ERROR: 1005",
        "",
    )
    for _ in range(5):
        book.wrong_key("192.0.2.1", 0.0)
    assert (book.banned_address("192.0.2.1", 599.0), book.banned_address("192.0.2.1", 600.0)) == ("ERROR: 1004", "")
    assert book.banned_address("192.0.2.2", 0.0) == ""
