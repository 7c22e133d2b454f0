"""Poll timing: plans, what they cost, what is learned. Solve times are drawn, no clock runs."""

import math
import random
from collections.abc import Callable
from itertools import accumulate, pairwise
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.policy.poll_timing import LATE_POLL_FACTOR, MAX_POLLS, Pace, SolveTimes, late_plan, plan, rest

PACE = Pace(first_poll_s=0.0, poll_s=5.0, timeout_s=180.0)
METHOD = "userrecaptcha"

Draw = Callable[[], float]


def lognormal(median_s: float, seed: int = 1) -> Draw:
    rng = random.Random(seed)
    return lambda: median_s * math.exp(rng.gauss(0.0, 0.45))


def live(times: SolveTimes, draw: Draw, captchas: int, pace: Pace = PACE) -> tuple[float, float]:
    """Poll so many captchas by plans that learn; the median delay and the polls a captcha."""
    delays, polls = [], 0
    for _ in range(captchas):
        before, solve_s = 0.0, draw()
        for age in plan(METHOD, pace, times):
            polls += 1
            if age >= solve_s:
                times.learn(before, age)
                delays.append(age - solve_s)
                break
            before = age
    return median(delays), polls / captchas


def common_client(draw: Draw, captchas: int) -> tuple[float, float]:
    """The same for a client that polls first after 15 s, then every 5 s."""
    delays, polls = [], 0
    for _ in range(captchas):
        solve_s = draw()
        more = max(0, math.ceil((solve_s - 15.0) / 5.0))
        polls += 1 + more
        delays.append(15.0 + 5.0 * more - solve_s)
    return median(delays), polls / captchas


def learned(median_s: float, captchas: int = 200) -> SolveTimes:
    times = SolveTimes()
    live(times, lognormal(median_s, seed=2), captchas)
    return times


def test_while_nothing_is_known_the_first_poll_is_by_method_and_the_next_ones_poll_s_apart() -> None:
    ages = plan(METHOD, PACE, SolveTimes())
    assert ages[:2] == [15.0, 20.0]
    assert plan("turnstile", PACE, SolveTimes())[0] == 10.0
    gaps = [after - before for before, after in pairwise(ages)]
    assert gaps == sorted(gaps)
    assert ages[-1] == pytest.approx(180.0)
    # With so few to come none needs to be left out.
    assert plan(METHOD, Pace(0.0, 20.0, 60.0), SolveTimes()) == [15.0, 35.0, 55.0, 75.0]


def test_a_configured_first_poll_stays_the_first() -> None:
    pace = Pace(first_poll_s=19.0, poll_s=5.0, timeout_s=180.0)
    assert plan(METHOD, pace, SolveTimes())[0] == 19.0
    ages = plan(METHOD, pace, learned(20.0))
    assert ages[0] == 19.0
    assert ages == sorted(set(ages))


def test_the_first_poll_comes_in_time_also_with_a_short_time_out() -> None:
    assert plan(METHOD, Pace(0.0, 5.0, 10.0), SolveTimes())[0] == 5.0


@given(
    first_poll_s=st.sampled_from([0.0, 0.2, 7.0, 300.0]),
    poll_s=st.floats(0.01, 600.0),
    timeout_s=st.floats(0.1, 86_400.0),
    solve_s=st.lists(st.floats(0.0, 5000.0), max_size=40),
)
def test_no_plan_has_too_many_polls(first_poll_s: float, poll_s: float, timeout_s: float, solve_s: list[float]) -> None:
    times = SolveTimes()
    for each in solve_s:
        times.learn(each * 0.8, each)
    pace = Pace(first_poll_s, poll_s, timeout_s)
    ages = plan(METHOD, pace, times)
    late = late_plan(pace, timeout_s * 5.0)
    assert ages
    assert len(ages) + len(late) <= MAX_POLLS
    assert all(before < after for before, after in pairwise([0.0, *ages]))
    assert max(ages[-1], first_poll_s) >= timeout_s * 0.999


@given(
    ages=st.lists(st.floats(0.0, 500.0), min_size=1, max_size=16, unique=True).map(sorted),
    age_s=st.floats(0.0, 600.0),
    most=st.integers(-20, 20),
)
def test_who_polls_on_by_another_plan_misses_none_and_keeps_to_the_most(
    ages: list[float], age_s: float, most: int
) -> None:
    first_in_s, gaps_s = rest(ages, age_s, most)
    times = [age_s + each for each in accumulate(gaps_s, initial=first_in_s)]
    left = [age for age in ages if age > age_s]
    assert len(times) == max(1, min(most, len(left)))
    assert times[-1] == pytest.approx(left[-1] if left else age_s)
    assert all(any(time == pytest.approx(age) for age in left or [age_s]) for time in times)


def test_of_many_polls_that_are_left_few_are_taken_evenly() -> None:
    assert rest([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 2.5, 3) == (1.5, [2.0, 2.0])


def test_a_late_captcha_is_polled_at_once_then_slowly() -> None:
    ages = late_plan(PACE, 900.0)
    assert ages[0] == 180.0
    assert ages[1] == 180.0 + 5.0 * LATE_POLL_FACTOR
    assert ages[-1] == pytest.approx(900.0)


def test_learned_polls_are_no_more_than_the_common_clients_and_come_sooner() -> None:
    """How much sooner is bounded: see docs/benchmarks.md, Delivery delay."""
    usual_s, usual_polls = common_client(lognormal(20.0), 4000)
    delay_s, polls = live(learned(20.0), lognormal(20.0), 4000)
    assert polls <= usual_polls
    assert delay_s < usual_s


def test_a_shorter_poll_s_buys_a_shorter_delay_with_more_polls() -> None:
    delay_s, polls = live(learned(20.0), lognormal(20.0), 2000)
    sooner_s, more = live(learned(20.0), lognormal(20.0), 2000, Pace(0.0, 2.0, 180.0))
    assert sooner_s < 0.65 * delay_s
    assert polls < more < 8.0


@pytest.mark.parametrize(("median_s", "least_gain"), [(5.0, 10.0), (8.0, 5.0)])
def test_fast_ones_are_fetched_soon(median_s: float, least_gain: float) -> None:
    usual_s, _ = common_client(lognormal(median_s), 1000)
    delay_s, polls = live(learned(median_s), lognormal(median_s), 1000)
    assert delay_s < usual_s / least_gain
    assert polls <= 3.0


@pytest.mark.parametrize("then_s", [2.0, 40.0])
def test_a_change_is_followed(then_s: float) -> None:
    times = learned(20.0, 400)
    live(times, lognormal(then_s), 400)
    changed_s, changed_polls = live(times, lognormal(then_s, seed=5), 500)
    anew_s, anew_polls = live(learned(then_s, 400), lognormal(then_s, seed=5), 500)
    assert changed_s < 1.3 * anew_s
    assert changed_polls < 1.2 * anew_polls


def test_an_odd_one_changes_little() -> None:
    times = learned(20.0)
    before_s = plan(METHOD, PACE, times)[0]
    times.learn(0.0, 170.0)  # found after a long time without a poll: says nothing
    times.learn(140.0, 150.0)
    assert plan(METHOD, PACE, times)[0] == pytest.approx(before_s, rel=0.1)


def test_whatever_is_observed_is_taken() -> None:
    times = SolveTimes()
    for low_s, high_s in ((0.0, 0.0), (-3.0, -1.0), (5.0, 2.0), (0.0, 1e9), (1e9, 1e9), (7.0, 7.0)) * 5:
        times.learn(low_s, high_s)
    survival = times.survival()
    assert survival[0] == 1.0
    assert survival == sorted(survival, reverse=True)
    assert survival[-1] > 0.0


def test_the_rest_of_a_plan() -> None:
    ages = [15.0, 20.0, 30.0]
    assert rest(ages, 0.0) == (15.0, [5.0, 10.0])
    assert rest(ages, 4.0) == (11.0, [5.0, 10.0])
    # Nobody knows whether the poll at 15 s took place: one now.
    assert rest(ages, 18.0) == (0.0, [2.0, 10.0])
    assert rest(ages, 99.0) == (0.0, [])
    first_s, gaps_s = rest(ages, 20.5)
    assert list(accumulate(gaps_s, initial=20.5 + first_s)) == [20.5, 30.0]
