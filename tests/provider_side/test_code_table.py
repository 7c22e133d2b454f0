"""What every answer of a provider does to its task, to the account and to the breaker.

Each row of TABLE is run through a whole captchad (tests.provider_side.world): once with a provider that says it to the
first call only and is well again then, once with one that says it to every call, for a quarter of an hour. That all
spellings of a code are understood alike is shown by tests/provider/test_provider_answers.py; here they take turns.

`python -m tests.provider_side.test_code_table` prints the table as it is: read what changed before you paste it.
"""

import itertools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from captchad.model.codes import CODES, OWN_CODES, lookup
from captchad.provider.transport import Lost, NotSent, Response
from tests.provider_side.service import Call, Service, Trouble, says
from tests.provider_side.world import World

PROTOCOL = Path(__file__).resolve().parents[2].parent / "shared" / "protocol.md"

QUARTER_S = 900.0

#: Said once: the task is solved; how often it was submitted, how often the provider charged for it and how often
#: captchad counted a charge; the breaker after it, and for how many seconds the provider gets no other task.
#: Said always: the end of the task and its error, the same three numbers, the breaker after a quarter of an hour.
TABLE = """
                                          the first call                 every call
                                          n paid counted breaker rest   end     error           n paid counted breaker
CAPCHA_NOT_READY                 submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
CAPCHA_NOT_READY                 poll   | 1    1       1 closed     0 | dead    TIMEOUT         3    3       3 closed
CAPTCHA_NOT_READY                submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
CAPTCHA_NOT_READY                poll   | 1    1       1 closed     0 | dead    TIMEOUT         3    3       3 closed
ERROR_WRONG_USER_KEY             submit | 2    1       1 open      60 | pending                16    0       0 open
ERROR_WRONG_USER_KEY             poll   | 1    1       1 open      60 | pending                 1    1       1 open
ERROR_KEY_DOES_NOT_EXIST         submit | 2    1       1 open      60 | pending                16    0       0 open
ERROR_KEY_DOES_NOT_EXIST         poll   | 1    1       1 open      60 | pending                 1    1       1 open
ERROR_ZERO_BALANCE               submit | 2    1       1 open      60 | pending                16    0       0 open
ERROR_ZERO_BALANCE               poll   | 1    1       1 open      60 | pending                 1    1       1 open
ERROR_NO_SLOT_AVAILABLE          submit | 2    1       1 closed     6 | pending               181    0       0 closed
ERROR_NO_SLOT_AVAILABLE          poll   | 1    1       1 closed     5 | dead    TIMEOUT         3    3       3 closed
ERROR_TOO_MUCH_REQUESTS          submit | 2    1       1 open      10 | pending                91    0       0 open
ERROR_TOO_MUCH_REQUESTS          poll   | 1    1       1 open      10 | pending                 1    1       1 open
MAX_USER_TURN                    submit | 2    1       1 open      10 | pending                91    0       0 open
MAX_USER_TURN                    poll   | 1    1       1 open      10 | pending                 1    1       1 open
ERROR: 1001                      submit | 2    1       1 open     600 | pending                 2    0       0 open
ERROR: 1001                      poll   | 1    1       1 open     600 | pending                 1    1       1 open
ERROR: 1002                      submit | 2    1       1 open     300 | pending                 4    0       0 open
ERROR: 1002                      poll   | 1    1       1 open     300 | pending                 1    1       1 open
ERROR: 1003                      submit | 2    1       1 open      30 | pending                31    0       0 open
ERROR: 1003                      poll   | 1    1       1 open      30 | pending                 1    1       1 open
ERROR: 1004                      submit | 2    1       1 open     600 | pending                 2    0       0 open
ERROR: 1004                      poll   | 1    1       1 open     600 | pending                 1    1       1 open
ERROR: 1005                      submit | 2    1       1 open     300 | pending                 4    0       0 open
ERROR: 1005                      poll   | 1    1       1 open     300 | pending                 1    1       1 open
IP_BANNED                        submit | 2    1       1 open     300 | pending                 4    0       0 open
IP_BANNED                        poll   | 1    1       1 open     300 | pending                 1    1       1 open
ERROR_IP_BANNED                  submit | 2    1       1 open     300 | pending                 4    0       0 open
ERROR_IP_BANNED                  poll   | 1    1       1 open     300 | pending                 1    1       1 open
ERROR_IP_NOT_ALLOWED             submit | 2    1       1 open      60 | pending                16    0       0 open
ERROR_IP_NOT_ALLOWED             poll   | 1    1       1 open      60 | pending                 1    1       1 open
ERROR_PAGEURL                    submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_PAGEURL                    poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_GOOGLEKEY                  submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_GOOGLEKEY                  poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_WRONG_GOOGLEKEY            submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_WRONG_GOOGLEKEY            poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_BAD_TOKEN_OR_PAGEURL       submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_BAD_TOKEN_OR_PAGEURL       poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_BAD_PARAMETERS             submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_BAD_PARAMETERS             poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_DOMAIN_NOT_ALLOWED         submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_DOMAIN_NOT_ALLOWED         poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_ZERO_CAPTCHA_FILESIZE      submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_ZERO_CAPTCHA_FILESIZE      poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_TOO_BIG_CAPTCHA_FILESIZE   submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_TOO_BIG_CAPTCHA_FILESIZE   poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_IMAGE_DIMENSIONS_TOO_LARGE submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_IMAGE_DIMENSIONS_TOO_LARGE poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_WRONG_FILE_EXTENSION       submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_WRONG_FILE_EXTENSION       poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_IMAGE_TYPE_NOT_SUPPORTED   submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_IMAGE_TYPE_NOT_SUPPORTED   poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_UPLOAD                     submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_UPLOAD                     poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_CAPTCHAIMAGE_BLOCKED       submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_CAPTCHAIMAGE_BLOCKED       poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
TOO_MANY_BAD_IMAGES              submit | 2    1       1 open      60 | pending                16    0       0 open
TOO_MANY_BAD_IMAGES              poll   | 1    1       1 open      60 | pending                 1    1       1 open
ERROR_EMPTY_CAPTCHA              submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_EMPTY_CAPTCHA              poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_PROXY_FORMAT               submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_PROXY_FORMAT               poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_BAD_PROXY                  submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_BAD_PROXY                  poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_PROXY_CONNECTION_FAILED    submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_PROXY_CONNECTION_FAILED    poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_SERVER_ERROR               submit | 2    1       1 closed     0 | dead                    3    0       0 closed
ERROR_SERVER_ERROR               poll   | 1    1       1 closed     0 | pending                 1    1       1 open
ERROR_INTERNAL_SERVER_ERROR      submit | 2    1       1 closed     0 | dead                    3    0       0 closed
ERROR_INTERNAL_SERVER_ERROR      poll   | 1    1       1 closed     0 | pending                 1    1       1 open
ERROR_CAPTCHA_UNSOLVABLE         submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_CAPTCHA_UNSOLVABLE         poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_WRONG_ID_FORMAT            submit | 1    0       0 closed     0 | dead                    1    0       0 closed
ERROR_WRONG_ID_FORMAT            poll   | 1    1       1 closed     0 | dead                    1    1       1 closed
ERROR_WRONG_CAPTCHA_ID           submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_WRONG_CAPTCHA_ID           poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_NO_SUCH_CAPCHA_ID          submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_NO_SUCH_CAPCHA_ID          poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_EMPTY_ACTION               submit | 2    1       1 open      60 | pending                16    0       0 open
ERROR_EMPTY_ACTION               poll   | 1    1       1 open      60 | pending                 1    1       1 open
ERROR_BAD_DUPLICATES             submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_BAD_DUPLICATES             poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_TOKEN_EXPIRED              submit | 1    0       0 closed     0 | dead                    1    0       0 closed
ERROR_TOKEN_EXPIRED              poll   | 1    1       1 closed     0 | dead                    1    1       1 closed
ERROR_REPORT_NOT_RECORDED        submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_REPORT_NOT_RECORDED        poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
REPORT_NOT_RECORDED              submit | 2    1       1 closed     0 | dead                    2    0       0 closed
REPORT_NOT_RECORDED              poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_DUPLICATE_REPORT           submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_DUPLICATE_REPORT           poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
ERROR_IP_ADDRES                  submit | 2    1       1 open      60 | pending                16    0       0 open
ERROR_IP_ADDRES                  poll   | 1    1       1 open      60 | pending                 1    1       1 open
ERROR_NO_SUCH_METHOD             submit | 2    1       1 closed     0 | dead                    2    0       0 closed
ERROR_NO_SUCH_METHOD             poll   | 2    2       2 closed     0 | dead                    2    2       2 closed
HTTP 429                         submit | 2    1       1 closed     0 | dead    HTTP_429        3    0       0 closed
HTTP 429                         poll   | 1    1       1 closed     0 | pending                 1    1       1 open
HTTP 500                         submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
HTTP 500                         poll   | 1    1       1 closed     0 | pending                 1    1       1 open
HTTP 502                         submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
HTTP 502                         poll   | 1    1       1 closed     0 | pending                 1    1       1 open
HTTP 503                         submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
HTTP 503                         poll   | 1    1       1 closed     0 | pending                 1    1       1 open
HTTP 504                         submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
HTTP 504                         poll   | 1    1       1 closed     0 | pending                 1    1       1 open
a web page                       submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
a web page                       poll   | 1    1       1 closed     0 | pending                 1    1       1 open
nothing                          submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
nothing                          poll   | 1    1       1 closed     0 | pending                 1    1       1 open
half an answer                   submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
half an answer                   poll   | 1    1       1 closed     0 | pending                 1    1       1 open
another encoding                 submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
another encoding                 poll   | 1    1       1 closed     0 | pending                 1    1       1 open
a redirect                       submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
a redirect                       poll   | 1    1       1 closed     0 | pending                 1    1       1 open
10 MB                            submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
10 MB                            poll   | 1    1       1 closed     0 | pending                 1    1       1 open
slow headers                     submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
slow headers                     poll   | 1    1       1 closed     0 | submitted                 2    2       2 open
refused                          submit | 2    1       1 closed     0 | pending                11    0       0 half-open
refused                          poll   | 1    1       1 closed     0 | pending                 1    1       1 open
reset before the charge          submit | 2    1       1 closed     0 | dead    UNKNOWN_SUBMIT  3    0       0 closed
reset before the charge          poll   | 1    1       1 closed     0 | pending                 1    1       1 open
reset after the charge           submit | 2    2       1 closed     0 | dead    UNKNOWN_SUBMIT  3    3       0 closed
reset after the charge           poll   | 1    1       1 closed     0 | pending                 1    1       1 open
"""


class Row(NamedTuple):
    """One line of TABLE."""

    what: str
    at: str
    once: str
    always: str


def rows() -> list[Row]:
    lines = [line for line in TABLE.splitlines() if "|" in line]
    found = []
    for line in lines:
        what, once, always = (part.strip() for part in line.split("|"))
        name, _, at = what.rpartition(" ")
        found.append(Row(name.strip(), at, " ".join(once.split()), " ".join(always.split())))
    return found


def html(status: int) -> Response:
    return says("<html><h1>Bad Gateway</h1></html>", status)


#: What a call may come back with besides a code; tests below show that the transport says so.
ANSWERS: dict[str, Trouble] = {
    **{f"HTTP {status}": Trouble(html(status)) for status in (429, 500, 502, 503, 504)},
    "a web page": Trouble(html(200)),
    "nothing": Trouble(says("")),
    "half an answer": Trouble(says('{"status":1,"request":"21229')),
    "another encoding": Trouble(says("OK|2122\xa0".encode("latin-1"))),
    "a redirect": Trouble(Response(302, "text/html", b"OK|2122")),
    "10 MB": Trouble(Lost("the answer is too big")),
    "slow headers": Trouble(hang=True),
    "refused": Trouble(NotSent("connect: Connection refused")),
    "reset before the charge": Trouble(Lost("receive: connection reset by peer")),
    "reset after the charge": Trouble(Lost("receive: connection reset by peer"), after=True),
}


def text(status: int, request: object) -> Response:
    return says(str(request) if status == 0 else f"OK|{request}")


def integers(status: int, request: object) -> Response:
    digits = isinstance(request, str) and request.isdecimal()
    return says({"status": status, "request": int(request) if digits else request})


def strings(status: int, request: object) -> Response:
    return says({"status": str(status), "request": request})


def words(status: int, request: object) -> Response:
    return says({"status": status, "request": request, **({} if status else {"error_text": "it failed"})})


def service(row: Row, *, always: bool) -> Service:
    """A provider that says it, in all spellings in turn, and is quick otherwise."""
    made = Service(latency_s=0.0)
    turn = itertools.cycle((text, integers, strings, words))
    for _ in range(sum(row.what.encode()) % 4):
        next(turn)
    made.write = lambda status, request: next(turn)(status, request)
    trouble: Callable[[], Trouble] = lambda: ANSWERS.get(row.what) or Trouble(made.write(0, row.what))  # noqa: E731

    def strike(call: Call) -> Trouble | None:
        return trouble() if call.op == row.at and (always or call.nth == 1) else None

    made.trouble = strike
    return made


def said_once(row: Row) -> str:
    provider = service(row, always=False)
    with World({"p": provider}) as world:
        world.drop("a")
        world.run(QUARTER_S, lambda: provider.count(row.at) > 0 and world.calls_are_over)
        breaker, since = world.breaker("p"), world.clock.monotonic()
        world.drop("b")
        world.run(QUARTER_S, lambda: world.ended("a", "b"))
        end = "dead" if lookup(row.what).hopeless else "solved"
        assert [str(world.task(each).state) for each in ("a", "b")] == [end, "solved"]
        submits = [call for call in provider.calls if call.op == "submit"]
        rest_s = next(call.at for call in submits if call.fields["googlekey"] == "b") - since
        tried = sum(call.fields["googlekey"] == "a" for call in submits)
        return f"{tried} {provider.charges['a']} {world.task('a').charges} {breaker} {rest_s:.0f}"


def said_always(row: Row) -> str:
    provider = service(row, always=True)
    with World({"p": provider}) as world:
        world.drop("a")
        world.run(QUARTER_S, lambda: world.ended("a"))
        task = world.task("a")
        numbers = f"{provider.count('submit')} {provider.charges['a']} {task.charges}"
        error = task.error if task.state.ended and task.error != row.what else ""
        return " ".join(f"{task.state} {error} {numbers} {world.breaker('p')}".split())


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.what} at {row.at}".replace(" ", "-"))
def test_row(row: Row) -> None:
    assert said_once(row) == row.once
    assert said_always(row) == row.always


def test_every_code_is_in_the_table() -> None:
    wanted = (set(CODES) - OWN_CODES) | set(ANSWERS)
    assert sorted((row.what, row.at) for row in rows()) == sorted(itertools.product(wanted, ("poll", "submit")))


@pytest.mark.skipif(not PROTOCOL.exists(), reason="the papers are not beside this repository")
def test_every_code_of_the_protocol_is_in_the_table() -> None:
    section = PROTOCOL.read_text().partition("\n## 3. ")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", section, re.MULTILINE)
    codes = {code for cell in cells for code in re.findall(r"`([^`]+)`", cell)}
    assert len(codes) > 40
    #: Any numeric code stands for itself, and answers that look like codes are no codes.
    assert codes - {"ERROR: NNNN", "No_matching_images", "notpic"} == set(CODES) - OWN_CODES


def printed(what: str, at: str) -> str:
    """A line of TABLE as captchad is now."""
    row = Row(what, at, "", "")
    n, paid, counted, breaker, rest = said_once(row).split()
    end, *error, numbers, charged, known, after = said_always(row).split()
    once = f"{n} {paid:>4} {counted:>7} {breaker:6} {rest:>5}"
    always = f"{end:7} {' '.join(error):14}{numbers:>3} {charged:>4} {known:>7} {after}"
    return f"{what:33}{at:7}| {once} | {always}"


if __name__ == "__main__":
    logging.disable()
    for what in (*(name for name in CODES if name not in OWN_CODES), *ANSWERS):
        print(printed(what, "submit"), printed(what, "poll"), sep="\n")
