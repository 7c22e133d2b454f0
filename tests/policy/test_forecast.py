"""Forecasts of when all that is under way has ended."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.policy.forecast import Group, by_share

EXACT_S = 0.11


def evenly(seconds: float) -> Callable[[float], float]:
    """Solved after 0 to `seconds`, each as likely; never quite all, as what was observed never says."""
    return lambda age: max(0.001, 1.0 - age / seconds)


def test_nothing_under_way_has_ended_now() -> None:
    assert by_share([], 0.9) == 0.0


def test_of_what_nothing_is_known_all_may_take_until_the_time_out() -> None:
    assert by_share([Group(1, 20.0, 160.0, None)], 0.5) == pytest.approx(160.0, abs=EXACT_S)


@pytest.mark.parametrize(
    ("group", "share", "seconds"),
    [
        (Group(1, 0.0, 100.0, evenly(10.0)), 0.5, 5.0),
        (Group(1, 0.0, 100.0, evenly(10.0)), 0.9, 9.0),
        # Half of its time is over: what is left is as likely in each second of the rest.
        (Group(1, 5.0, 95.0, evenly(10.0)), 0.5, 2.5),
        # The last of two: each is there by the root.
        (Group(2, 0.0, 100.0, evenly(10.0)), 0.5, 10.0 * math.sqrt(0.5)),
        # Its time-out comes first.
        (Group(1, 0.0, 4.0, evenly(10.0)), 0.9, 4.0),
        # Older than any that was ever solved: until its time-out.
        (Group(1, 50.0, 30.0, evenly(10.0)), 0.5, 30.0),
    ],
)
def test_by_share(group: Group, share: float, seconds: float) -> None:
    assert by_share([group], share) == pytest.approx(seconds, abs=EXACT_S)


def test_the_slowest_group_decides() -> None:
    quick, slow = Group(1, 0.0, 100.0, evenly(1.0)), Group(1, 0.0, 100.0, evenly(50.0))
    assert by_share([quick, slow], 0.9) == pytest.approx(45.0, abs=0.2)


def test_what_has_timed_out_holds_nobody_up() -> None:
    unknown, known = Group(1, 0.0, 10.0, None), Group(1, 0.0, 100.0, evenly(50.0))
    assert by_share([unknown, known], 0.9) == pytest.approx(45.0, abs=EXACT_S)
    assert by_share([unknown, known], 0.1) == pytest.approx(10.0, abs=EXACT_S)


GROUPS = st.lists(
    st.builds(
        Group,
        st.integers(1, 1000),
        st.floats(0.0, 300.0),
        st.floats(0.0, 300.0),
        st.none() | st.floats(0.1, 300.0).map(evenly),
    ),
    max_size=6,
)


@given(GROUPS, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_more_certain_is_never_sooner_and_never_after_the_last_time_out(
    groups: list[Group], one: float, other: float
) -> None:
    sooner, later = by_share(groups, min(one, other)), by_share(groups, max(one, other))
    assert 0.0 <= sooner <= later <= max((group.left_s for group in groups), default=0.0)
