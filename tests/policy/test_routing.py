"""Which provider takes the next submit, and when one that was left is preferred again."""

import pytest

from captchad.policy.routing import Absence, Lane, ReturnSettings, choose, is_back, probes, share, why_away

SETTINGS = ReturnSettings(successes=5, after_s=120.0)


@pytest.mark.parametrize(
    ("lanes", "chosen"),
    [
        ([], None),
        ([Lane("first", 1, 50, 100, 9), Lane("second", 2, 0, 100, 9)], "first"),
        ([Lane("first", 1, 100, 100, 9), Lane("second", 2, 0, 100, 9)], "second"),
        ([Lane("first", 1, 0, 100, 0), Lane("second", 2, 0, 100, 9)], "second"),
        ([Lane("first", 1, 0, 100, 0)], None),
        ([Lane("a", 1, 20, 100, 9), Lane("b", 1, 10, 20, 9)], "a"),
        ([Lane("b", 1, 0, 10, 9), Lane("a", 1, 0, 20, 9)], "a"),
        # On its way back, without a probe left: whoever else has room comes first.
        ([Lane("first", 1, 0, 100, 9, last_resort=True), Lane("second", 2, 90, 100, 9)], "second"),
        ([Lane("first", 1, 0, 100, 9, last_resort=True), Lane("second", 2, 100, 100, 9)], "first"),
        ([Lane("first", 1, 0, 100, 9, last_resort=True), Lane("second", 2, 0, 100, 0)], "first"),
        ([Lane("first", 1, 0, 100, 0, last_resort=True), Lane("second", 2, 0, 100, 0)], None),
        ([Lane("first", 1, 0, 9, 9, last_resort=True), Lane("second", 2, 0, 9, 9, last_resort=True)], "first"),
    ],
)
def test_choose(lanes: list[Lane], chosen: str | None) -> None:
    assert choose(lanes) == chosen


@pytest.mark.parametrize(
    ("successes", "now", "back"),
    [(0, 1000.0, False), (4, 1000.0, False), (5, 219.9, False), (5, 220.0, True), (9, 300.0, True)],
)
def test_a_provider_is_back_after_successes_and_a_time(successes: int, now: float, back: bool) -> None:
    assert is_back(Absence(100.0, successes), now, SETTINGS) is back


@pytest.mark.parametrize(
    ("successes", "submitting", "more"),
    [(0, 0, 1), (0, 1, 0), (1, 0, 2), (1, 1, 1), (2, 0, 3), (2, 3, 0), (4, 0, 1), (4, 2, 0), (5, 0, 0), (70, 0, 0)],
)
def test_probes_come_slowly_and_are_no_more_than_it_takes(successes: int, submitting: int, more: int) -> None:
    assert probes(Absence(0.0, successes), submitting, SETTINGS) == more


@pytest.mark.parametrize(("providers", "each"), [(0, 16), (1, 16), (2, 8), (3, 5), (64, 1)])
def test_providers_that_hang_leave_threads_to_the_others(providers: int, each: int) -> None:
    assert share(16, providers) == each


def test_a_fault_on_the_way_back_takes_the_successes_away_and_not_the_time() -> None:
    absence = Absence(100.0).after_success().after_success()
    assert absence == Absence(100.0, 2)
    assert absence.after_fault() == Absence(100.0, 0)


def test_why_away_says_what_is_missing() -> None:
    assert why_away(Absence(100.0, 2), 150.0, SETTINGS) == "on its way back: 2 of 5 submits taken, 70 s left"
    assert why_away(Absence(100.0, 8), 500.0, SETTINGS) == "on its way back: 5 of 5 submits taken, 0 s left"
