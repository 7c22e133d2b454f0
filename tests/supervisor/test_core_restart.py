"""When a dead worker is replaced: at once, or after delays that grow up to a cap."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.supervisor.core.restart import (
    FAILING_LIVES,
    FIRST_DELAY_S,
    FREE_DEATHS,
    SHORT_LIFE_S,
    History,
    after_death,
    growing,
)


def test_a_worker_that_lived_is_replaced_at_once_and_one_that_dies_at_once_later_and_later() -> None:
    rng = random.Random(1)
    assert after_death(History(9), lived_s=60.0, booted=True, max_delay_s=30.0, jitter=rng.random()) == (
        History(0),
        0.0,
    )
    history, delays = History(), []
    for _ in range(FREE_DEATHS + 12):
        history, delay = after_death(history, lived_s=0.1, booted=True, max_delay_s=30.0, jitter=rng.random())
        delays.append(delay)
    assert delays[:FREE_DEATHS] == [0.0] * FREE_DEATHS
    assert delays[FREE_DEATHS] > 0.0
    assert 15.0 <= delays[-1] <= 30.0


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_a_worker_that_never_booted_waits_at_once(jitter: float) -> None:
    _, delay = after_death(History(), lived_s=0.1, booted=False, max_delay_s=30.0, jitter=jitter)
    assert delay > 0.0


def test_one_that_never_booted_gets_no_credit_for_having_taken_long() -> None:
    history, delay = after_death(History(7), lived_s=60.0, booted=False, max_delay_s=30.0, jitter=0.0)
    assert history == History(8)
    assert delay > 0.0


def test_a_life_is_short_below_its_limit_and_not_at_it() -> None:
    history, _ = after_death(History(2), lived_s=SHORT_LIFE_S, booted=True, max_delay_s=30.0, jitter=0.0)
    assert history == History()
    history, _ = after_death(History(2), lived_s=SHORT_LIFE_S - 0.01, booted=True, max_delay_s=30.0, jitter=0.0)
    assert history == History(3)


def test_short_lives_in_a_row_are_a_fault_that_lasts_until_one_has_lived() -> None:
    history = History()
    for count in range(1, FAILING_LIVES + 1):
        assert not history.failing
        history, _ = after_death(history, lived_s=0.1, booted=True, max_delay_s=30.0, jitter=0.0)
        assert history.short_lives == count
    assert history.failing
    history, _ = after_death(history, lived_s=60.0, booted=True, max_delay_s=30.0, jitter=0.0)
    assert not history.failing


def test_delays_double() -> None:
    assert [growing(times, 1000.0, 1.0) for times in range(5)] == pytest.approx(
        [0.0, FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S, 8 * FIRST_DELAY_S]
    )


@given(times=st.integers(1, 10**9), most=st.floats(0.01, 3600.0), jitter=st.floats(0.0, 1.0))
def test_a_delay_is_between_half_and_all_of_its_step_and_never_beyond_the_cap(
    times: int, most: float, jitter: float
) -> None:
    step = min(most, FIRST_DELAY_S * 2.0 ** min(times - 1, 60))
    assert step / 2.0 <= growing(times, most, jitter) <= step * (1.0 + 1e-9)
