"""A quarter of an hour with each kind of outage; `make days` has whole days."""

import pytest

from tests.provider_side.days import OUTAGES, SHORT, Day, live

#: Of `[breaker]`, as it is by default.
THRESHOLD, RESET_S = 5, 60.0

#: Answers that end a task by themselves, or that may have been paid for: tasks may fail of these.
MAY_FAIL = {"unsolvable", "charged, answer lost"}

#: The provider takes no task, but no fault opens its breaker.
NO_BREAKER = {"NO_SLOT", "no free thread", "unsolvable", "slow solves"}

#: How long these outages go on for us after they are over: the provider said so.
SAID_S = {"IP_BANNED": 300.0, "ERROR: 1005": 300.0}


@pytest.fixture(scope="module", params=OUTAGES)
def day(request: pytest.FixtureRequest) -> Day:
    return live(request.param, SHORT)


def test_an_outage_is_waited_out(day: Day) -> None:
    assert day.lost == 0
    assert day.failed == 0 or day.kind in MAY_FAIL
    assert day.double == 0


def test_an_outage_is_noticed_and_few_calls_are_made_in_it(day: Day) -> None:
    if day.kind in NO_BREAKER:
        assert day.faults is None
        return
    assert day.faults is not None
    # Calls that were under way when the last of them came in come on top.
    assert day.faults <= THRESHOLD + 1
    # Those that opened the breaker, then one every reset_timeout_s; a hang shows only at its deadline.
    if day.kind in SAID_S:
        assert day.submits + day.polls <= 5
    tries = SHORT.outage_s / RESET_S
    assert day.submits <= THRESHOLD + tries + (6 if day.kind == "hang" else 1)


def test_recovery_is_quick_and_no_herd(day: Day) -> None:
    assert day.taken_s is not None
    assert day.taken_s <= SAID_S.get(day.kind, RESET_S) + 10.0 + (30.0 if day.kind == "hang" else 0.0)
    # One, two, four at a time, and then the number in flight doubles every two seconds; 60 would be the limit.
    assert day.burst <= 25
    assert day.clear_s is not None
    assert day.clear_s <= day.taken_s + 60.0


def test_a_captcha_takes_few_polls(day: Day) -> None:
    assert day.polls_each <= 20.0
