"""The learned limit: lower at a refusal, higher with time, never above what is allowed nor below one."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.policy.capacity import (
    DECREASE,
    DOUBLE_S,
    WINDOW_S,
    Capacity,
    free_at,
    grown_at,
    limit,
    on_recovered,
    on_saturated,
    on_threads,
)

NOW = 1000.0


@pytest.mark.parametrize(
    ("capacity", "max_in_flight", "now", "expected"),
    [
        (Capacity(), 100, NOW, 100),
        (Capacity(threads=30), 100, NOW, 30),
        (Capacity(threads=300), 100, NOW, 100),
        (Capacity(learned=40.0, grows_from=NOW), 100, NOW - 5.0, 40),
        (Capacity(learned=40.0, grows_from=NOW), 100, NOW, 40),
        (Capacity(learned=40.0, grows_from=NOW), 100, NOW + 9.9, 49),
        (Capacity(learned=40.0, grows_from=NOW), 100, NOW + 1e6, 100),
        (Capacity(threads=45, learned=40.0, grows_from=NOW), 100, NOW + 1e6, 45),
        (Capacity(learned=40.0, grows_from=NOW), 20, NOW, 20),
        (Capacity(learned=1.0, grows_from=NOW), 1, NOW, 1),
        (Capacity(learned=100.0, grows_from=NOW), 6000, NOW + 10.0, 200),
    ],
)
def test_the_limit(capacity: Capacity, max_in_flight: int, now: float, expected: int) -> None:
    assert limit(capacity, max_in_flight, now) == expected


@pytest.mark.parametrize(
    ("before", "accepted", "expected"),
    [
        (Capacity(), 50, 40),
        (Capacity(), 100, 80),
        (Capacity(), 0, 1),
        (Capacity(), 1, 1),
        # It had taken more than the limit of now, from before: the limit is what counts.
        (Capacity(learned=20.0, grows_from=NOW), 50, 16),
    ],
)
def test_a_refusal_leaves_a_part_of_what_was_accepted(before: Capacity, accepted: int, expected: int) -> None:
    after = on_saturated(before, accepted, 100, NOW, 5.0)
    assert after.wait_until == NOW + 5.0
    assert limit(after, 100, NOW + 5.0) == expected


def test_the_refusals_of_one_wave_are_one_lesson() -> None:
    once = on_saturated(Capacity(), 50, 100, NOW, 5.0)
    assert on_saturated(once, 50, 100, NOW + 4.9, 5.0) == once
    assert limit(on_saturated(once, 50, 100, NOW + 5.0, 5.0), 100, NOW + 10.0) == int(40 * DECREASE)


@pytest.mark.parametrize(
    ("threads", "working", "accepted", "ours"),
    [(50, 0, 0, 50), (50, 20, 20, 50), (50, 20, 5, 35), (50, 10, 30, 50), (5, 9, 0, 1), (0, 0, 0, 1)],
)
def test_threads_that_others_keep_busy_are_not_ours(threads: int, working: int, accepted: int, ours: int) -> None:
    assert limit(on_threads(Capacity(), threads, working, accepted), 100, NOW) == ours


@pytest.mark.parametrize("in_flight", [40, 43, 57, 99])
@pytest.mark.parametrize("max_in_flight", [100, 7000])
def test_grown_at_is_when_there_is_room(in_flight: int, max_in_flight: int) -> None:
    capacity = on_saturated(Capacity(), 50, max_in_flight, NOW, 5.0)
    now = NOW + 5.0
    at = grown_at(capacity, in_flight, max_in_flight, now)
    assert at is not None
    assert limit(capacity, max_in_flight, at - 0.01) <= in_flight < limit(capacity, max_in_flight, at)


@pytest.mark.parametrize(
    ("capacity", "in_flight", "at"),
    [
        (Capacity(), 100, None),
        (Capacity(learned=40.0, grows_from=NOW), 39, None),
        (Capacity(learned=40.0, grows_from=NOW), 100, None),
        (Capacity(threads=40), 40, None),
        (Capacity(learned=40.0, grows_from=NOW + 3.0, wait_until=NOW + 3.0), 0, NOW + 3.0),
    ],
)
def test_grown_at_when_time_alone_is_not_what_is_missing(capacity: Capacity, in_flight: int, at: float | None) -> None:
    assert grown_at(capacity, in_flight, 100, NOW) == at


@pytest.mark.parametrize("threads", [1, 7, 50, 90])
def test_a_plan_is_used_well_and_hardly_overrun(threads: int) -> None:
    """An hour against a provider with a fixed number of threads and solves of 20 s."""
    capacity, now, ends, refusals, used = Capacity(), NOW, deque[float](), deque[float](), 0.0
    worst = 0
    while now < NOW + 3600.0:
        while ends and ends[0] <= now:
            ends.popleft()
        while now >= capacity.wait_until and len(ends) < limit(capacity, 100, now):
            if len(ends) < threads:
                ends.append(now + 20.0)
            else:
                refusals.append(now)
                capacity = on_saturated(capacity, len(ends), 100, now, 5.0)
        while refusals and refusals[0] <= now - 60.0:
            refusals.popleft()
        worst = max(worst, len(refusals))
        used += len(ends) * 0.1
        now += 0.1
    assert worst < 120 / 4  # ERROR: 1001
    assert used / 3600.0 > 0.75 * threads


@pytest.mark.parametrize(
    ("submits", "at"),
    [([], 0.0), ([NOW], 0.0), ([NOW, NOW + 1.0], 0.0), ([NOW, NOW + 1.0, NOW + 2.0], NOW + WINDOW_S),
     ([0.0, NOW, NOW + 1.0, NOW + 2.0], NOW + WINDOW_S)],
)  # fmt: skip
def test_the_next_submit_waits_until_the_window_has_room(submits: list[float], at: float) -> None:
    assert free_at(deque(submits), 3) == at


def test_after_an_outage_the_number_in_flight_doubles_up_to_all() -> None:
    capacity = on_recovered(Capacity(), 3, now=100.0)
    assert [limit(capacity, 1000, 100.0 + DOUBLE_S * step) for step in (0, 1, 2, 5, 9)] == [3, 6, 12, 96, 1000]
    assert limit(capacity, 1000, 1e9) == 1000


@given(recovered=st.integers(0, 50), in_flight=st.integers(0, 120), learned=st.none() | st.floats(1.0, 100.0))
def test_there_is_room_when_it_is_said_to_come(recovered: int, in_flight: int, learned: float | None) -> None:
    capacity = on_recovered(Capacity(learned=learned, grows_from=90.0), recovered, now=100.0)
    at = grown_at(capacity, in_flight, 100, 100.0)
    if at is None:
        assert limit(capacity, 100, 100.0) > in_flight or in_flight >= 100
    else:
        assert at > 100.0
        assert limit(capacity, 100, at) > in_flight
