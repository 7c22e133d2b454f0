"""Retry, breaker, routing: tables and properties, no clock but the one passed in."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.model.states import Category
from captchad.policy import breaker as b
from captchad.policy.retry import Again, Bury, RetrySettings, after_failure, after_not_sent, after_unknown, backoff_s
from captchad.policy.routing import Lane, choose

SETTINGS = RetrySettings(max_attempts=3, base_delay_s=5.0, max_delay_s=300.0)
RNG = random.Random(1)


def decide(category: Category, attempts: int, task_errors: int = 0, outage: bool = False) -> Again | Bury:
    return after_failure(
        category, attempts=attempts, task_errors=task_errors, settings=SETTINGS, rng=RNG, outage=outage
    )


@given(step=st.integers(1, 10_000), seed=st.integers())
def test_backoff_stays_within_its_step(step: int, seed: int) -> None:
    delay = backoff_s(step, SETTINGS, random.Random(seed))
    assert 0.0 <= delay <= min(300.0, 5.0 * 2.0 ** min(step - 1, 60))


def test_jitter_varies_over_the_whole_range() -> None:
    delays = [backoff_s(3, SETTINGS, RNG) for _ in range(500)]
    assert min(delays) < 2.0
    assert max(delays) > 18.0


@pytest.mark.parametrize("category", [Category.PERMANENT, Category.BUDGET])
def test_key_and_money_never_cost_the_task_an_attempt(category: Category) -> None:
    assert decide(category, attempts=99) == Again(0.0, free=True)


def test_a_task_error_is_tried_once_more() -> None:
    assert isinstance(decide(Category.TASK, attempts=1, task_errors=1), Again)
    assert decide(Category.TASK, attempts=2, task_errors=2) == Bury()


def test_transient_errors_end_with_the_attempts_but_not_in_an_outage() -> None:
    assert isinstance(decide(Category.TRANSIENT, attempts=2), Again)
    assert decide(Category.TRANSIENT, attempts=3) == Bury()
    waiting = decide(Category.TRANSIENT, attempts=3, outage=True)
    assert isinstance(waiting, Again)
    assert waiting.free


def test_not_sent_is_free_and_an_unknown_by_crash_too() -> None:
    assert after_not_sent(faults=3, settings=SETTINGS, rng=RNG).free
    assert after_unknown(attempts=9, by_crash=True, settings=SETTINGS, rng=RNG) == Again(0.0, free=True)
    assert after_unknown(attempts=3, by_crash=False, settings=SETTINGS, rng=RNG) == Bury()


def test_the_submits_that_try_in_an_outage_use_up_no_attempts() -> None:
    again = after_unknown(attempts=3, by_crash=False, settings=SETTINGS, rng=RNG, outage=True)
    assert isinstance(again, Again)
    assert again.free


def test_good_polls_hide_no_bad_submits() -> None:
    settings, breaker = b.BreakerSettings(3, 10.0, 2), b.Breaker()
    for _ in range(2):
        breaker = b.on_poll(b.on_fault(breaker, 0.0, "x", settings, submit=True))
    assert b.on_fault(breaker, 0.0, "x", settings).tripped

    breaker = b.Breaker()
    for _ in range(9):
        breaker = b.on_poll(b.on_fault(breaker, 0.0, "x", settings))
    assert breaker == b.Breaker()


BREAKER = b.BreakerSettings(failure_threshold=5, reset_timeout_s=60.0, half_open_successes=3)


def test_the_breaker_opens_tries_and_closes() -> None:
    breaker = b.Breaker()
    for _ in range(4):
        breaker = b.on_fault(breaker, 0.0, "x", BREAKER)
    assert b.state_word(breaker, 0.0) == "closed"
    breaker = b.on_success(breaker, 0.0, BREAKER)
    for _ in range(5):
        breaker = b.on_fault(breaker, 0.0, "x", BREAKER)
    assert b.state_word(breaker, 59.9) == "open"
    assert b.allowance(breaker, 59.9, 0) == 0
    assert b.on_success(breaker, 30.0, BREAKER) == breaker
    assert b.state_word(breaker, 60.0) == "half-open"
    assert b.allowance(breaker, 60.0, 0) == 1
    assert b.allowance(breaker, 60.0, 1) == 0
    breaker = b.on_success(breaker, 60.0, BREAKER)
    assert b.allowance(breaker, 60.0, 0) == 2
    again = b.on_fault(breaker, 61.0, "y", BREAKER)
    assert b.state_word(again, 120.9) == "open"
    for _ in range(2):
        breaker = b.on_success(breaker, 61.0, BREAKER)
    assert breaker == b.Breaker()


def test_a_pause_ends_by_itself() -> None:
    breaker = b.on_pause(b.Breaker(), 10.0, 60.0, "ERROR_ZERO_BALANCE")
    assert b.allowance(breaker, 69.9, 0) == 0
    assert b.allowance(breaker, 70.0, 0) == 1


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    breaker = b.on_pause(b.Breaker(), 10.0, 600.0, "ERROR: 1001")
    assert b.on_pause(breaker, 20.0, 10.0, "MAX_USER_TURN") == breaker
    assert b.on_pause(breaker, 605.0, 10.0, "MAX_USER_TURN").open_until == 615.0


def test_routing_prefers_then_shares() -> None:
    lanes = [Lane("a", 1, 50, 100, 9), Lane("b", 1, 10, 100, 9), Lane("c", 2, 0, 100, 9)]
    assert choose(lanes) == "b"
    assert choose([Lane("a", 1, 100, 100, 9), Lane("c", 2, 0, 100, 9)]) == "c"
    assert choose([Lane("a", 1, 0, 100, 0)]) is None
