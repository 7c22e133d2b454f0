"""The mode: when it comes, when it goes, and that it always goes."""

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.model.states import Priority
from captchad.policy.degradation import (
    FEWEST_FAILURES,
    RATE_WINDOW_S,
    Degradation,
    DegradationSettings,
    Mode,
    Signs,
    error_rate,
    judge,
)

SETTINGS = DegradationSettings(
    degraded_error_rate=0.2, emergency_error_rate=0.5, degraded_queue_ratio=0.75, hold_s=30.0
)


def signs(rate: float = 0.0, ratio: float = 0.0, alive: int | None = 4, *, down: bool = False) -> Signs:
    return Signs(error_rate=rate, queue_ratio=ratio, workers_alive=alive, min_workers=2, journal_down=down)


def after(*steps: tuple[float, Signs]) -> Degradation:
    state = Degradation()
    for now, seen in steps:
        state = judge(state, seen, SETTINGS, now)
    return state


@pytest.mark.parametrize("alive", [None, 2, 4])
def test_an_empty_daemon_is_normal(alive: int | None) -> None:
    assert after((0.0, signs(alive=alive))) == Degradation()
    assert error_rate([], 0.0) == 0.0
    assert error_rate([(0.0, False)] * (FEWEST_FAILURES - 1), 1.0) == 0.0


@pytest.mark.parametrize(
    ("seen", "mode", "bar"),
    [
        (signs(rate=0.19), Mode.NORMAL, Priority.LOW),
        (signs(rate=0.2), Mode.DEGRADED, Priority.HIGH),
        (signs(rate=0.5), Mode.EMERGENCY, Priority.CRITICAL),
        (signs(ratio=0.74), Mode.NORMAL, Priority.LOW),
        (signs(ratio=0.75), Mode.DEGRADED, Priority.LOW),  # only submits empty a queue
        (signs(rate=0.2, ratio=0.75), Mode.DEGRADED, Priority.HIGH),
        (signs(alive=1), Mode.DEGRADED, Priority.HIGH),
        (signs(alive=0), Mode.EMERGENCY, Priority.CRITICAL),
        (signs(rate=0.5, alive=1), Mode.EMERGENCY, Priority.CRITICAL),
        (signs(down=True), Mode.EMERGENCY, Priority.LOW),  # the queue itself submits nothing then
        (signs(rate=0.2, down=True), Mode.EMERGENCY, Priority.HIGH),
    ],
)
def test_a_mode_comes_at_its_threshold_at_once(seen: Signs, mode: Mode, bar: Priority) -> None:
    state = after((0.0, signs()), (1.0, seen))
    assert (state.mode, state.bar) == (mode, bar)
    assert bool(state.reasons) == (mode is not Mode.NORMAL)


def test_a_share_must_be_clearly_below_for_a_while() -> None:
    entered = (0.0, signs(rate=0.5))
    assert after(entered, (1.0, signs(rate=0.39)), (30.9, signs(rate=0.39))).mode is Mode.EMERGENCY
    assert after(entered, (1.0, signs(rate=0.39)), (31.0, signs(rate=0.39))).mode is Mode.DEGRADED
    # Near the threshold the time begins anew.
    near = after(entered, (1.0, signs(rate=0.39)), (20.0, signs(rate=0.41)), (31.0, signs(rate=0.39)))
    assert near.mode is Mode.EMERGENCY
    assert judge(near, signs(rate=0.1), SETTINGS, 61.0).mode is Mode.DEGRADED


def test_what_is_known_exactly_ends_at_once() -> None:
    assert after((0.0, signs(alive=0)), (1.0, signs(alive=2))).mode is Mode.NORMAL
    assert after((0.0, signs(down=True)), (1.0, signs())).mode is Mode.NORMAL


@given(st.lists(st.floats(0.0, 1.0), max_size=200))
def test_a_mode_does_not_flap(rates: list[float]) -> None:
    state, left_at = Degradation(), -1e9
    for now, rate in enumerate(rates):
        before, state = state, judge(state, signs(rate=rate), SETTINGS, float(now))
        if rate >= 0.5:
            assert state.mode is Mode.EMERGENCY
        if before.mode is not Mode.NORMAL and state.mode is Mode.NORMAL:
            assert now - left_at >= SETTINGS.hold_s
            assert all(each < 0.16 for each in rates[now - 30 : now + 1])
            left_at = now


@pytest.mark.parametrize("outage_s", [10, 60, 600, 3600])
@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.HIGH, Priority.CRITICAL])
def test_it_always_recovers(outage_s: int, priority: Priority) -> None:
    """A provider that fails for a while, two tasks a second of one priority: submitted again soon, whatever happens."""
    rng = random.Random(outage_s)
    ends: deque[tuple[float, bool]] = deque(maxlen=200)
    under_way: list[tuple[float, bool]] = []
    state, normal_at = Degradation(), None
    seen = set()
    for now in range(outage_s + 1000):
        for end in [each for each in under_way if each[0] <= now]:
            under_way.remove(end)
            ends.append(end)
        state = judge(state, signs(rate=error_rate(ends, now)), SETTINGS, now)
        seen.add(state.mode)
        if priority <= state.bar:
            under_way += [(now + rng.uniform(5.0, 90.0), now >= outage_s) for _ in range(2)]
        if state.mode is not Mode.NORMAL:
            normal_at = None
        elif now >= outage_s and normal_at is None:
            normal_at = now
    assert seen > {Mode.NORMAL}
    assert normal_at is not None
    assert normal_at <= outage_s + 90 + RATE_WINDOW_S + 2 * SETTINGS.hold_s
