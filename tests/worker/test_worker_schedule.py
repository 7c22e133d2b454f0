"""The poll schedule: due order, one poll at a time, back-off, renewals, drops."""

import random

import pytest

from captchad.worker.schedule import ALONE_S, BACK_OFF_CAP, COMPANY, COMPANY_EVERY_S, JITTER, PollSchedule


@pytest.fixture
def schedule() -> PollSchedule:
    return PollSchedule(jitter=lambda: 0.0)


def watch(
    schedule: PollSchedule, n: int, *, first: float = 0.0, every: float = 5.0, now: float = 0.0, cid: str = ""
) -> None:
    schedule.watch(n, "p", "k", cid or str(n), first_in_s=first, every_s=every, now=now)


def taken(schedule: PollSchedule) -> list[int]:
    """Everything that is ready, in order."""
    return [watched.n for watched in iter(schedule.take, None)]


def poll(schedule: PollSchedule, now: float):
    schedule.ripen(now)
    return schedule.take()


def test_captchas_are_taken_in_the_order_in_which_they_fell_due(schedule):
    for n, first in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 9.0)):
        watch(schedule, n, first=first)

    assert schedule.ripen(0.5) == 0
    assert schedule.ripen(1.0) == 1
    assert schedule.ripen(3.0) == 2

    assert taken(schedule) == [2, 3, 1]
    assert schedule.next_due() == 9.0
    assert len(schedule) == 4


def test_a_pending_captcha_waits_for_its_interval(schedule):
    watch(schedule, 1, first=2.0, every=5.0)
    watched = poll(schedule, 2.0)

    assert schedule.again(watched, 10.0)

    assert schedule.next_due() == 15.0


def test_the_jitter_draws_a_wait_out_a_little_and_differs():
    schedule = PollSchedule(jitter=random.Random(1).random)
    dues = set()
    watch(schedule, 1, every=100.0)
    for _ in range(50):
        schedule.again(poll(schedule, 1e9), 0.0)
        dues.add(schedule.next_due())

    assert len(dues) == 50
    assert all(100.0 <= due < 100.0 * (1 + JITTER) for due in dues)


def test_faults_double_the_wait_up_to_a_cap_and_an_answer_resets_it(schedule):
    watch(schedule, 1, every=2.0)
    waits = []
    for _ in range(6):
        schedule.back_off(poll(schedule, 1e9), 0.0)
        waits.append(schedule.next_due())
    schedule.again(poll(schedule, 1e9), 0.0)
    schedule.back_off(poll(schedule, 1e9), 0.0)

    assert waits == [2.0, 4.0, 8.0, 16.0, 16.0, 16.0]
    assert max(waits) == 2.0 * BACK_OFF_CAP
    assert schedule.next_due() == 2.0


def test_a_captcha_is_never_polled_twice_at_once(schedule):
    watch(schedule, 1)
    watched = poll(schedule, 0.0)

    watch(schedule, 1, first=0.0, every=3.0)
    assert schedule.ripen(100.0) == 0
    assert schedule.take() is None

    assert schedule.again(watched, 100.0)
    assert schedule.next_due() == 103.0  # the new interval


def test_a_renewed_captcha_is_polled_at_its_new_time_only(schedule):
    watch(schedule, 1, first=1.0)
    watch(schedule, 1, first=4.0)
    assert schedule.ripen(3.0) == 0

    watch(schedule, 1, first=0.5, now=3.0)
    assert schedule.ripen(3.5) == 1
    watch(schedule, 1, first=1.0, now=3.5)  # while it waits for a thread

    assert taken(schedule) == []
    assert schedule.ripen(9.0) == 1
    assert taken(schedule) == [1]


def test_a_provider_has_no_more_than_its_share_of_polls_and_keeps_its_turn(schedule):
    for n, provider in ((1, "hangs"), (2, "hangs"), (3, "hangs"), (4, "fine"), (5, "hangs"), (6, "fine")):
        schedule.watch(n, provider, "k", str(n), first_in_s=0.0, every_s=5.0, now=0.0)
    schedule.ripen(0.0)
    polls = [schedule.take(2) for _ in range(4)]
    assert [watched.n for watched in polls] == [1, 2, 4, 6]
    assert schedule.take(2) is None
    assert schedule.ready == 2

    schedule.drop(2)
    assert not schedule.end(polls[1])
    assert schedule.take(2).n == 3
    assert schedule.take(2) is None
    assert schedule.again(polls[0], 1.0)
    assert schedule.take(2).n == 5
    assert schedule.take() is None


def test_a_dropped_captcha_is_forgotten_wherever_it_stands(schedule):
    watch(schedule, 1, first=1.0)
    watch(schedule, 2)
    watch(schedule, 3)
    schedule.ripen(0.0)
    running = schedule.take()
    for n in (1, 2, 3, 4):
        schedule.drop(n)
        schedule.drop(n)

    assert len(schedule) == 0
    assert schedule.ripen(9.0) == 0
    assert taken(schedule) == []
    assert not schedule.end(running)
    assert schedule.next_due() is None


@pytest.mark.parametrize("way", ["again", "back_off"])
def test_a_captcha_dropped_under_way_is_not_polled_again(schedule, way):
    watch(schedule, 1)
    running = poll(schedule, 0.0)
    schedule.drop(1)

    assert not getattr(schedule, way)(running, 1.0)
    assert (len(schedule), schedule.next_due()) == (0, None)


def test_a_captcha_dropped_and_wanted_again_under_way_counts(schedule):
    watch(schedule, 1)
    running = poll(schedule, 0.0)
    schedule.drop(1)
    watch(schedule, 1)

    assert len(schedule) == 1
    assert schedule.end(running)
    assert len(schedule) == 0


def test_another_captcha_under_the_same_number_is_another_captcha(schedule):
    watch(schedule, 1, cid="old")
    running = poll(schedule, 0.0)
    schedule.drop(1)
    watch(schedule, 1, cid="new", first=7.0)

    assert not schedule.end(running)
    assert len(schedule) == 1
    assert poll(schedule, 7.0).cid == "new"


def test_clearing_ends_all_but_the_say_of_what_runs(schedule):
    watch(schedule, 1)
    running = poll(schedule, 0.0)
    watch(schedule, 2)
    schedule.ripen(0.0)
    watch(schedule, 3, first=5.0)

    schedule.clear()

    assert schedule.next_due() is None
    assert taken(schedule) == []
    assert len(schedule) == 1
    assert schedule.end(running)


def test_renewals_do_not_pile_up(schedule):
    for turn in range(10_000):
        watch(schedule, 1, first=1e6 - turn)

    assert len(schedule._waiting) < 200
    assert schedule.ripen(1e6) == 1


def test_a_wrong_timing_makes_no_busy_loop(schedule):
    watch(schedule, 1, first=-5.0, every=0.0, now=3.0)
    assert schedule.next_due() == 3.0
    schedule.again(poll(schedule, 3.0), 3.0)
    assert schedule.next_due() > 3.0


def test_a_random_life_keeps_its_promises():
    """Against a plain model: nothing is polled twice at once or early, and nothing wanted is forgotten."""
    rng = random.Random(7)
    schedule = PollSchedule(jitter=rng.random)
    wanted: set[int] = set()
    running: dict[int, object] = {}
    now = 0.0
    for _ in range(20_000):
        now += rng.random()
        n = rng.randrange(20)
        match rng.randrange(6):
            case 0:
                watch(schedule, n, first=rng.random() * 10, every=rng.random() * 10, now=now, cid=str(n))
                wanted.add(n)
            case 1:
                schedule.drop(n)
                wanted.discard(n)
            case 2 | 3:
                watched = poll(schedule, now)
                if watched is not None:
                    assert watched.n in wanted
                    assert watched.n not in running
                    running[watched.n] = watched
            case _ if running:
                n, watched = running.popitem()
                way = rng.choice((schedule.again, schedule.back_off, None))
                kept = schedule.end(watched) if way is None else way(watched, now)
                assert kept == (n in wanted)
                if way is None:
                    wanted.discard(n)
        assert len(schedule) == len(wanted)
    for watched in running.values():
        schedule.again(watched, now)
    schedule.ripen(now + 1e6)
    assert set(taken(schedule)) == wanted


def test_polls_follow_their_plan_and_then_the_interval(schedule):
    schedule.watch(1, "p", "k", "1", first_in_s=3.0, gaps_s=[1.0, 4.0], every_s=9.0, now=0.0)
    dues = [schedule.next_due()]
    for _ in range(4):
        schedule.again(poll(schedule, dues[-1]), dues[-1])
        dues.append(schedule.next_due())

    assert dues == [3.0, 4.0, 8.0, 17.0, 26.0]


def test_a_failed_poll_takes_its_place_in_the_plan(schedule):
    schedule.watch(1, "p", "k", "1", first_in_s=0.0, gaps_s=[1.0, 1.0, 7.0], every_s=9.0, now=0.0)
    waits = []
    for go_on in (schedule.back_off, schedule.back_off, schedule.again, schedule.again):
        go_on(poll(schedule, 1e9), 0.0)
        waits.append(schedule.next_due())

    assert waits == [1.0, 2.0, 7.0, 9.0]


def test_a_call_takes_others_of_the_same_account_along_for_company(schedule):
    for n, first in ((1, 0.0), (2, 10.0), (3, 30.0), (4, 10.0), (5, 10.0), (6, 10.0)):
        account = {5: ("other", "k"), 6: ("p", "other")}.get(n, ("p", "k"))
        schedule.watch(n, *account, str(n), first_in_s=first, every_s=5.0, now=-5.0)
    running = poll(schedule, 0.0)

    # Not the third: less than half of its first wait is over.
    assert {each.n for each in schedule.company(running, 0.0)} == {2, 4}
    assert schedule.company(running, COMPANY_EVERY_S - 0.01) == []
    assert {each.n for each in schedule.company(running, COMPANY_EVERY_S)} == {2, 4}


def test_those_that_were_asked_about_longest_ago_come_first_and_not_too_many(schedule):
    for n in range(COMPANY + 50):
        watch(schedule, n, first=2.0, now=-1.0 - n / 1000)
    running = poll(schedule, 5.0)
    first = schedule.company(running, 5.0)
    second = schedule.company(running, 5.0)

    assert len(first) == COMPANY - 1
    assert len(second) == 50
    assert not {each.n for each in first} & {each.n for each in second}


def test_what_others_calls_say_puts_a_poll_off_or_makes_it_due(schedule):
    for n in (1, 2, 3):
        watch(schedule, n, first=0.1 * n, every=5.0)
    running = poll(schedule, 0.1)
    schedule.ripen(0.2)
    unready, ready = schedule.company(running, 0.2)
    assert taken(schedule) == []

    schedule.asked([unready, ready], [True, False], 0.21)

    assert poll(schedule, 0.25) is ready
    assert unready.answered_at == 0.21
    assert schedule.next_due() == pytest.approx(0.2 + COMPANY_EVERY_S)
    assert poll(schedule, 1.2) is unready


def test_one_that_may_be_ready_is_put_off_by_no_other_call(schedule):
    for n in (1, 2):
        watch(schedule, n)
    running = poll(schedule, 0.0)
    schedule.asked(schedule.company(running, 0.0), [False], 0.1)
    assert schedule.company(running, 5.0) == []
    ready = poll(schedule, 5.0)
    schedule.again(ready, 5.0)
    assert schedule.company(running, 5.0 + COMPANY_EVERY_S) == [ready]


def test_after_a_call_that_told_nothing_each_is_polled_by_itself_at_its_own_time(schedule):
    for n in (1, 2, 3):
        watch(schedule, n, first=0.1 * n)
    running = poll(schedule, 0.1)
    company = schedule.company(running, 0.16)
    assert [each.n for each in company] == [2, 3]
    schedule.asked(company, None, 0.17)

    assert [poll(schedule, 0.21).n, poll(schedule, 0.31).n] == [2, 3]
    watch(schedule, 4, now=1.0)
    assert schedule.company(running, ALONE_S) == []
    assert [each.n for each in schedule.company(running, 0.17 + ALONE_S)] == [4]


def test_what_was_dropped_or_is_polled_meanwhile_stays_so(schedule):
    for n in (1, 2, 3):
        watch(schedule, n)
    running = poll(schedule, 0.0)
    company = dropped, taken_up = schedule.company(running, 0.0)
    schedule.drop(dropped.n)
    assert poll(schedule, COMPANY_EVERY_S) is taken_up

    schedule.asked(company, [False, False], 1.5)

    assert poll(schedule, 99.0) is None
