"""Decisions from a view and a time: each state, each limit to the moment, and the order of things."""

import math

import pytest

from captchad.supervisor.core import events
from captchad.supervisor.core.actions import (
    Abandon,
    Condemn,
    Kill,
    Limit,
    Move,
    Ping,
    Refork,
    Retire,
    Start,
    Withhold,
    verb,
)
from captchad.supervisor.core.decide import FORK_S, STACK_S, UNDYING_S, decide, due_at, next_due
from captchad.supervisor.core.events import End
from captchad.supervisor.core.states import Reason, SeatState, WorkerState
from captchad.supervisor.core.view import View
from tests.supervisor.fleet import START, beaten, fleet, forked, settings, settle, started

JUST = 0.001


def fresh(made=None) -> View:
    """Nobody is there yet."""
    made = made or settings()
    view = View(made, made.workers)
    events.rescale(view, view.target, Reason.START, START)
    return view


def patient(**changes):
    """Settings with which nobody is taken for hung."""
    return settings(stall_s=1e6, **changes)


def kill(view: View, number: int, now: float, *, signal: int = 9, chance: float = 0.0) -> events.Death:
    return events.died(view, number, End(signal=signal), now, chance)


# ---------------------------------------------------------------- start


def test_a_start_fills_every_seat_in_order_and_then_the_reserve():
    actions = decide(fresh(settings(standby=2)), START)
    assert actions == [
        *[Start(seat, Reason.START) for seat in range(4)],
        Start(-1, Reason.RESERVE),
        Start(-2, Reason.RESERVE),
    ]


def test_nothing_is_left_to_be_done_when_all_have_beaten():
    view = fleet(settings(standby=1))
    assert decide(view, START) == []
    assert view.alive == 4
    assert view.vitals[5].seat == -1
    assert not view.vitals[5].usable


def test_a_start_is_no_work_before_its_first_beat():
    view = fresh()
    settle(view, START)
    forked(view, 1, START)
    assert view.alive == 0
    assert beaten(view, 1, START + 1)
    assert view.alive == 1
    assert view.vitals[1].seated_at == START + 1
    assert not beaten(view, 1, START + 2)
    assert view.vitals[1].seated_at == START + 1
    assert view.vitals[1].first_beat_at == START + 1


# ---------------------------------------------------------------- hung


def test_a_worker_that_does_not_boot_is_condemned_when_its_grace_is_over():
    view = fresh(settings(workers=1))
    settle(view, START)
    forked(view, 1, START + 1)
    due = START + 1 + 30.0
    assert decide(view, due - JUST) == []
    assert next_due(view, START + 2) == due
    assert decide(view, due) == [Condemn(1, Reason.BOOT_TIMEOUT)]


def test_a_silent_worker_is_condemned_then_killed_when_it_has_written_its_stack():
    view = fleet()
    due = START + 20.0
    for number in (1, 2, 3):
        beaten(view, number, START + 5)
    assert decide(view, due - JUST) == []
    assert settle(view, due) == [Condemn(4, Reason.SILENT)]
    assert decide(view, due + STACK_S - JUST) == []
    assert next_due(view, due) == due + STACK_S
    assert decide(view, due + STACK_S) == [Kill(4, Reason.SILENT)]


def test_the_time_to_write_a_stack_is_never_more_than_a_heartbeat():
    view = fleet(settings(workers=1, heartbeat_s=0.2))
    settle(view, START + 20)
    assert decide(view, START + 20.2 - JUST) == []
    assert decide(view, START + 20.2) == [Kill(1, Reason.SILENT)]


def test_a_beat_that_comes_after_all_does_not_save_the_condemned():
    view = fleet(settings(workers=1))
    settle(view, START + 20)
    beaten(view, 1, START + 20.1)
    assert view.vitals[1].state is WorkerState.CONDEMNED
    assert decide(view, START + 21) == [Kill(1, Reason.SILENT)]


@pytest.mark.parametrize(("beyond_s", "condemned"), [(None, False), (-1.0, False), (19.9, False), (20.0, True)])
def test_a_worker_is_wedged_when_every_call_is_far_beyond_its_time_out(beyond_s, condemned):
    view = fleet(settings(workers=1, standby=0))
    beaten(view, 1, START + 1, calls=3, beyond_s=beyond_s, oldest_beyond_s=beyond_s)
    found = [action for action in decide(view, START + 1) if isinstance(action, Condemn)]
    assert found == ([Condemn(1, Reason.WEDGED)] if condemned else [])


def test_a_worker_whose_calls_are_slow_is_left_alone():
    view = fleet(settings(workers=1))
    for second in range(1, 100):
        beaten(view, 1, START + second, calls=32, beyond_s=-0.1, oldest_beyond_s=1.0, in_flight=500)
        assert decide(view, START + second) == []


def test_the_killed_one_is_given_up_when_the_kernel_does_not_let_it_go():
    view = fleet(settings(workers=2))
    beaten(view, 2, START + 19)
    settle(view, START + 20)
    settle(view, START + 20.5)
    assert decide(view, START + 20.5 + UNDYING_S - JUST) == []
    assert next_due(view, START + 20.5) == START + 20.5 + UNDYING_S
    assert decide(view, START + 20.5 + UNDYING_S) == [Abandon(1, Reason.UNDYING)]
    events.apply(view, Abandon(1, Reason.UNDYING), START + 26, 0.0)
    assert view.vitals[1].seat is None
    assert due_at(view, view.vitals[1]) == math.inf
    assert settle(view, START + 26) == [Start(0, Reason.UNDYING)]
    # When it dies at last, nothing happens to the one who sits there now.
    death = kill(view, 1, START + 30)
    assert death.seat is None
    assert view.seats[0].worker == 3


def test_no_more_are_forked_while_as_many_as_are_wanted_hang_in_the_kernel():
    view = fleet(settings(workers=1, standby=1))
    for number in (1, 2):
        events.apply(view, Kill(number, Reason.SILENT), START, 0.0)
    for number in (1, 2):
        events.apply(view, Abandon(number, Reason.UNDYING), START + 5, 0.0)
    assert decide(view, START + 100) == []
    assert next_due(view, START + 100) == math.inf
    kill(view, 1, START + 101)
    assert decide(view, START + 101) == []
    kill(view, 2, START + 102)
    assert started(decide(view, START + 102)) == [0, -1]


# ---------------------------------------------------------------- death and its delay


def test_a_death_is_made_good_at_once_by_the_one_in_reserve():
    view = fleet(patient(standby=1))
    death = kill(view, 2, START + 60)
    assert (death.reason, death.delay_s, death.seat) == (Reason.SIGNAL, 0.0, 1)
    assert settle(view, START + 60) == [Move(5, 1, Reason.SIGNAL), Start(-1, Reason.RESERVE)]
    assert view.vitals[5].usable
    assert view.vitals[5].seated_at == START + 60
    assert view.seats[1].restarts == 1


def test_without_a_reserve_a_worker_is_forked():
    view = fleet(patient())
    kill(view, 2, START + 60, signal=11)
    assert settle(view, START + 60) == [Start(1, Reason.SIGNAL)]


def test_a_reserve_that_has_not_booted_helps_nobody():
    view = fleet(patient(standby=1))
    kill(view, 1, START + 60)
    settle(view, START + 60)
    kill(view, 2, START + 60)
    assert settle(view, START + 60) == [Start(1, Reason.SIGNAL)]


def test_who_dies_again_and_again_waits_longer_each_time_and_the_others_do_not():
    view = fleet(patient(workers=2))
    delays = []
    now = START
    for _ in range(12):
        number = view.seats[0].worker
        now += 1.0
        delays.append(kill(view, number, now, chance=1.0).delay_s)
        seat = view.seats[0]
        assert seat.state is SeatState.WAITING
        if delays[-1]:
            assert started(decide(view, now + delays[-1] - JUST)) == []
            assert next_due(view, now) == now + delays[-1]
        now += delays[-1]
        beaten(view, 2, now)
        assert settle(view, now) == [Start(0, Reason.SIGNAL)]
        forked(view, view.last_number, now)
        beaten(view, view.last_number, now)
    assert delays[:4] == [0.0, 0.0, 0.0, 0.1]
    assert delays[-1] == 25.6
    assert view.seats[0].history.failing
    assert view.seats[1].restarts == 0


def test_a_worker_that_cannot_boot_gets_no_free_try():
    view = fresh(settings(workers=1))
    settle(view, START)
    forked(view, 1, START)
    death = events.died(view, 1, End(status=70), START + 0.1, 1.0)
    assert (death.reason, death.booted, death.delay_s) == (Reason.BOOT_FAILED, False, 0.1)
    assert view.boot_failures == 1
    assert settle(view, START + 0.1) == []
    assert settle(view, START + 0.2) == [Start(0, Reason.BOOT_FAILED)]
    forked(view, 2, START + 0.2)
    beaten(view, 2, START + 0.3)
    assert view.boot_failures == 0


def nobody_boots(view: View, now: float, times: int) -> float:
    """Start and lose workers at boot until so many have died; the time afterwards."""
    died = 0
    while died < times:
        settle(view, now)
        coming = [number for number, vital in view.vitals.items() if vital.state is WorkerState.FORKING]
        for number in coming[: times - died]:
            forked(view, number, now)
            events.died(view, number, End(status=70), now, 0.0)
            died += 1
        now += 0.05
    return now


def test_when_nobody_boots_one_tries_for_all():
    view = fresh(settings(workers=4, standby=1))
    assert (view.places, view.nobody_boots) == (5, False)
    view.boot_failures = 4
    assert not view.nobody_boots
    view.boot_failures = 0
    now = nobody_boots(view, START, 5)
    assert view.nobody_boots
    assert len(started(settle(view, now + 10.0))) == 1
    assert started(settle(view, now + 11.0)) == []


def test_nobody_waits_for_the_one_that_tries_for_longer_than_the_capped_delay():
    view = fresh(settings(workers=2, standby=0, restart_max_delay_s=4.0))
    now = nobody_boots(view, START, 2) + 10.0
    assert len(started(settle(view, now))) == 1
    assert next_due(view, now) == now + 4.0
    assert started(settle(view, now + 4.0 - JUST)) == []
    assert len(started(settle(view, now + 4.0))) == 1


def test_the_tries_of_one_for_all_come_less_and_less_often_up_to_the_cap():
    view = fresh(settings(workers=1, min_workers=1, standby=0, restart_max_delay_s=2.0))
    now, gaps = START, []
    for _ in range(8):
        settle(view, now)
        forked(view, view.last_number, now)
        events.died(view, view.last_number, End(status=70), now, 1.0)
        due = max(view.forks.resume_at, view.seats[0].due_at)
        gaps.append(round(due - now, 3))
        now = due
    assert gaps == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]


def test_when_one_has_booted_all_may():
    view = fresh(settings(workers=3, standby=0))
    now = nobody_boots(view, START, 3) + 10.0
    settle(view, now)
    forked(view, view.last_number, now)
    assert started(settle(view, now)) == []
    beaten(view, view.last_number, now + 1.0)
    assert len(started(settle(view, now + 1.0))) == 2


# ---------------------------------------------------------------- forks


def test_a_fork_that_fails_is_tried_again_after_a_growing_delay_and_for_all_seats():
    view = fresh(settings(workers=2))
    settle(view, START)
    events.fork_failed(view, 1, START, 1.0, Reason.PROCESSES)
    assert view.forks.resume_at == START + 0.1
    assert view.seats[0].state is SeatState.WAITING
    assert settle(view, START + 0.1 - JUST) == [Limit(0.5, Reason.PROCESSES)]
    assert settle(view, START + 0.1) == [Start(0, Reason.FORK_FAILED)]
    events.fork_failed(view, 3, START + 0.1, 1.0)
    assert view.forks.resume_at == pytest.approx(START + 0.3)
    forked(view, 2, START + 0.2)
    assert view.forks.failures == 0


def test_no_seat_is_filled_by_a_fork_while_forks_fail_but_the_reserve_may_sit_down():
    view = fleet(patient(standby=1))
    kill(view, 1, START + 60)
    settle(view, START + 60)
    view.forks.resume_at = START + 70
    events.forked(view, 6, START + 60)
    beaten(view, 6, START + 61)
    view.forks.resume_at = START + 70
    kill(view, 2, START + 62)
    assert settle(view, START + 62) == [Move(6, 1, Reason.SIGNAL)]
    assert next_due(view, START + 62) == START + 70
    assert settle(view, START + 70) == [Start(-1, Reason.RESERVE)]


def test_a_template_that_does_not_answer_is_replaced_and_what_it_owes_is_ordered_again():
    view = fresh(settings(workers=2))
    settle(view, START)
    forked(view, 1, START)
    beaten(view, 1, START)
    due = START + FORK_S
    assert decide(view, due - JUST) == []
    assert next_due(view, START) == due
    assert settle(view, due, chance=1.0) == [Refork(Reason.TEMPLATE_HUNG)]
    assert list(view.vitals) == [1]
    assert settle(view, due + 0.1) == [Start(1, Reason.TEMPLATE_HUNG)]


def test_a_template_that_dies_owes_nothing_any_more():
    view = fresh(settings(workers=2))
    settle(view, START)
    events.template_died(view, START, 1.0)
    assert view.vitals == {}
    assert settle(view, START + 0.1) == [Start(0, Reason.TEMPLATE_DIED), Start(1, Reason.TEMPLATE_DIED)]
    forked(view, 3, START + 0.1)
    forked(view, 4, START + 0.1)
    events.template_died(view, START + 0.2, 1.0)
    assert view.forks.failures == 0


# ---------------------------------------------------------------- recycling, one at a time


@pytest.mark.parametrize(
    ("changes", "said", "reason"),
    [
        ({"max_tasks": 100}, {"completed": 100}, Reason.MAX_TASKS),
        ({"max_private_bytes": 1000}, {"private_bytes": 1000}, Reason.MAX_MEMORY),
        ({}, {"calls": 2, "beyond_s": -1.0, "oldest_beyond_s": 20.0}, Reason.STUCK_CALL),
    ],
)
def test_a_worn_worker_is_replaced_by_a_new_one_that_is_ready_before_it_goes(changes, said, reason):
    view = fleet(settings(standby=1, **changes))
    view.vitals[3].spread = 0.0
    just_below = {name: value - 1 if value == 100 or value == 1000 else value - 0.1 for name, value in said.items()}
    beaten(view, 3, START + 1, **just_below)
    assert decide(view, START + 1) == []
    beaten(view, 3, START + 2, **said)
    assert settle(view, START + 2) == [Retire(3, reason), Move(5, 2, reason), Start(-1, Reason.RESERVE)]
    assert view.alive == 4
    assert view.vitals[3].seat is None
    assert view.vitals[3].drain_until == START + 12


def test_limits_come_up_to_a_tenth_earlier_by_the_spread():
    view = fleet(settings(standby=1, max_tasks=100))
    view.vitals[3].spread = 1.0
    beaten(view, 3, START + 1, completed=89)
    assert decide(view, START + 1) == []
    beaten(view, 3, START + 1, completed=90)
    assert settle(view, START + 1)[0] == Retire(3, Reason.MAX_TASKS)


def test_an_old_worker_is_replaced_at_its_time():
    view = fleet(settings(workers=1, min_workers=1, standby=1, max_age_s=100.0))
    view.vitals[1].spread = 0.5
    for number in (1, 2):
        beaten(view, number, START + 90)
    due = START + 95.0
    assert decide(view, due - JUST) == []
    assert next_due(view, START + 91) == due
    assert settle(view, due) == [Retire(1, Reason.MAX_AGE), Move(2, 0, Reason.MAX_AGE), Start(-1, Reason.RESERVE)]


def test_one_in_reserve_does_not_grow_old():
    view = fleet(settings(workers=1, min_workers=1, standby=1, max_age_s=100.0, stall_s=1e6, boot_s=1e6))
    settle(view, START + 100)
    forked(view, 3, START + 100)
    beaten(view, 3, START + 100)
    assert view.seats[0].worker == 2  # as old as the one before
    assert settle(view, START + 100) == []
    beaten(view, 1, START + 100)
    events.died(view, 1, End(status=0), START + 101, 0.0)
    assert settle(view, START + 101)[0] == Retire(2, Reason.MAX_AGE)


def test_two_are_never_replaced_at_once():
    view = fleet(settings(standby=1, max_tasks=10))
    for number in (1, 2):
        view.vitals[number].spread = 0.0
        beaten(view, number, START + 1, completed=10)
    assert settle(view, START + 1)[:2] == [Retire(1, Reason.MAX_TASKS), Move(5, 0, Reason.MAX_TASKS)]
    forked(view, 6, START + 1)
    beaten(view, 6, START + 2)
    assert settle(view, START + 2) == []
    events.died(view, 1, End(status=0), START + 3, 0.0)
    assert settle(view, START + 3)[:2] == [Retire(2, Reason.MAX_TASKS), Move(6, 1, Reason.MAX_TASKS)]


def test_one_that_does_not_go_in_its_time_holds_up_the_next_replacement_no_longer():
    view = fleet(patient(standby=1, max_tasks=10))
    for number in (1, 2):
        view.vitals[number].spread = 0.0
        beaten(view, number, START + 1, completed=10)
    settle(view, START + 1)
    forked(view, 6, START + 1)
    beaten(view, 6, START + 2)
    assert settle(view, START + 11 - JUST) == []
    assert settle(view, START + 11) == [
        Kill(1, Reason.DRAIN_OVERDUE),
        Retire(2, Reason.MAX_TASKS),
        Move(6, 1, Reason.MAX_TASKS),
        Start(-1, Reason.RESERVE),
    ]


def test_without_a_reserve_one_is_made_for_the_replacement_and_goes_when_it_is_not_needed():
    view = fleet(settings(max_tasks=10))
    view.vitals[1].spread = 0.0
    beaten(view, 1, START + 1, completed=10)
    assert settle(view, START + 1) == [Start(-1, Reason.RESERVE)]
    forked(view, 5, START + 1)
    beaten(view, 5, START + 2)
    assert settle(view, START + 2) == [Retire(1, Reason.MAX_TASKS), Move(5, 0, Reason.MAX_TASKS)]


def test_a_reserve_that_nobody_needs_goes():
    view = fleet(settings(standby=2))
    events.renew(view, settings(standby=1), START + 1)
    assert settle(view, START + 1) == [Retire(6, Reason.SURPLUS)]
    death = events.died(view, 6, End(status=0), START + 2, 0.0)
    assert (death.reason, death.seat) == (Reason.EXIT, -2)
    assert settle(view, START + 2) == []


# ---------------------------------------------------------------- reload and scale


def test_a_rolling_replacement_begins_with_the_reserve_and_keeps_all_seats_full():
    view = fleet(settings(workers=2, standby=1))
    events.renew(view, view.settings, START + 1, replace_all=Reason.RELOAD)
    assert settle(view, START + 1) == [Retire(3, Reason.RELOAD)]
    now = START + 1
    order = []
    for _ in range(3):
        for number in [n for n, vital in view.vitals.items() if vital.state is WorkerState.DRAINING]:
            events.died(view, number, End(status=0), now, 0.0)
        order += settle(view, now)
        now += 1.0
        forked(view, view.last_number, now)
        beaten(view, view.last_number, now)
        assert view.alive == 2
        order += settle(view, now)
    assert order == [
        Start(-1, Reason.RESERVE),
        Retire(1, Reason.RELOAD),
        Move(4, 0, Reason.RELOAD),
        Start(-1, Reason.RESERVE),
        Retire(2, Reason.RELOAD),
        Move(5, 1, Reason.RELOAD),
        Start(-1, Reason.RESERVE),
    ]
    assert {vital.generation for vital in view.vitals.values() if vital.usable} == {1}


def test_with_new_settings_that_cannot_boot_the_old_workers_stay():
    view = fleet(settings(workers=2, standby=1, stall_s=1e6))
    events.renew(view, view.settings, START + 1, replace_all=Reason.RELOAD)
    settle(view, START + 1)
    events.died(view, 3, End(status=0), START + 1, 0.0)
    now = START + 1
    for _ in range(20):
        settle(view, now)
        if view.reserve[0].worker is not None:
            forked(view, view.last_number, now)
            events.died(view, view.last_number, End(status=70), now, 0.0)
        now += 40.0
    assert view.boot_failures == 20
    assert view.alive == 2
    assert {1, 2} <= view.vitals.keys()


def test_fewer_workers_go_from_the_last_seat_down():
    view = fleet()
    events.rescale(view, 2, Reason.OPERATOR, START + 1)
    assert settle(view, START + 1) == [Retire(4, Reason.SCALE_DOWN), Retire(3, Reason.SCALE_DOWN)]
    events.died(view, 3, End(status=0), START + 2, 0.0)
    assert len(view.seats) == 4
    events.died(view, 4, End(status=0), START + 2, 0.0)
    assert len(view.seats) == 2
    assert settle(view, START + 2) == []


def test_more_workers_are_started_at_once():
    view = fleet()
    events.rescale(view, 6, Reason.OPERATOR, START + 1)
    assert settle(view, START + 1) == [Start(4, Reason.OPERATOR), Start(5, Reason.OPERATOR)]


def test_one_that_was_to_go_and_counts_again_is_replaced_when_it_has_gone():
    view = fleet(settings(workers=2))
    events.rescale(view, 1, Reason.OPERATOR, START + 1)
    settle(view, START + 1)
    events.rescale(view, 2, Reason.OPERATOR, START + 2)
    assert settle(view, START + 2) == []
    events.died(view, 2, End(status=0), START + 3, 0.0)
    assert settle(view, START + 3) == [Start(1, Reason.EXIT)]


def test_an_empty_seat_that_does_not_count_is_not_filled():
    view = fleet(settings(workers=2))
    kill(view, 2, START + 1)
    view.seats[1].until = START + 10
    events.rescale(view, 1, Reason.OPERATOR, START + 2)
    assert len(view.seats) == 1
    assert settle(view, START + 20 - JUST) == []


# ---------------------------------------------------------------- stop


def test_a_stop_retires_all_and_starts_nobody():
    view = fleet(settings(workers=2, standby=1))
    kill(view, 1, START + 1)
    settle(view, START + 1)
    forked(view, 4, START + 1)
    events.stop(view)
    stopping = settle(view, START + 2)
    assert stopping == [Retire(2, Reason.STOP), Retire(3, Reason.STOP), Retire(4, Reason.STOP)]
    events.died(view, 2, End(status=0), START + 3, 0.0)
    assert settle(view, START + 3) == []


def test_one_that_is_forked_after_the_stop_goes_as_well():
    view = fresh(settings(workers=1))
    settle(view, START)
    events.stop(view)
    assert settle(view, START) == []
    forked(view, 1, START + 1)
    assert settle(view, START + 1) == [Retire(1, Reason.STOP)]


def test_a_drain_that_takes_too_long_ends_with_a_kill():
    view = fleet(settings(workers=1))
    events.stop(view)
    settle(view, START + 15)
    assert decide(view, START + 19) == []
    beaten(view, 1, START + 20)
    assert next_due(view, START + 20) == START + 25
    assert settle(view, START + 25) == [Kill(1, Reason.DRAIN_OVERDUE)]


def test_a_worker_that_hangs_while_it_drains_is_condemned():
    view = fleet(settings(workers=1, drain_s=100.0))
    events.stop(view)
    settle(view, START + 1)
    assert settle(view, START + 20) == [Condemn(1, Reason.SILENT)]


def test_a_worker_that_is_told_to_go_before_it_has_booted_and_hangs_is_condemned():
    view = fresh(settings(workers=1, drain_s=100.0))
    settle(view, START)
    forked(view, 1, START)
    events.stop(view)
    assert settle(view, START + 1) == [Retire(1, Reason.STOP)]
    assert settle(view, START + 30) == [Condemn(1, Reason.BOOT_TIMEOUT)]


# ---------------------------------------------------------------- watchdog


def watched() -> View:
    view = fleet(settings(workers=1, standby=0))
    view.watchdog.every_s, view.watchdog.next_at = 10.0, START + 10
    return view


def test_systemd_is_told_as_often_as_it_wants():
    view = watched()
    events.journal_lives(view, START + 10)
    assert decide(view, START + 10 - JUST) == []
    assert next_due(view, START) == START + 10
    assert settle(view, START + 10) == [Ping()]
    assert next_due(view, START + 10) == START + 20
    assert Ping().reason is Reason.HEALTHY


def test_nobody_is_told_when_nobody_asks():
    assert decide(fleet(), START + 10) == []


def test_a_journal_that_takes_no_write_and_is_not_tried_is_no_reason_to_say_that_all_is_well():
    view = watched()
    events.journal_lives(view, START + 8.0)
    assert decide(view, START + 10.0) == [Ping()]
    assert settle(view, START + 10.0 + JUST) == [Withhold(Reason.JOURNAL)]
    assert view.watchdog.withheld is Reason.JOURNAL
    assert next_due(view, START + 10.0 + JUST) == START + 11.0 + JUST
    events.journal_lives(view, START + 12)
    assert settle(view, START + 12) == [Ping()]
    assert view.watchdog.withheld is None


def test_a_ping_that_is_withheld_is_decided_on_again_in_time_however_rare_heartbeats_are():
    view = watched()
    view.settings = settings(workers=1, standby=0, heartbeat_s=60.0, stall_s=600.0)
    events.apply(view, Withhold(Reason.JOURNAL), START + 10.0, 0.0)
    assert next_due(view, START + 10.0) == START + 12.5


def test_half_a_second_is_nothing_however_short_a_heartbeat_is():
    view = watched()
    view.settings = settings(workers=1, heartbeat_s=0.01)
    events.journal_lives(view, START + 9.5)
    assert decide(view, START + 10.0) == [Ping()]
    assert decide(view, START + 10.1) == [Withhold(Reason.JOURNAL)]


def test_workers_that_can_neither_be_killed_nor_replaced_are_systemds_matter():
    view = watched()
    events.apply(view, Kill(1, Reason.SILENT), START, 0.0)
    events.apply(view, Abandon(1, Reason.UNDYING), START + 5, 0.0)
    events.journal_lives(view, START + 10)
    assert decide(view, START + 10) == [Withhold(Reason.WORKERS)]


def test_one_that_works_beside_them_is_enough():
    view = fleet(settings(workers=2, min_workers=1))
    view.watchdog.every_s, view.watchdog.next_at = 10.0, START + 10
    events.journal_lives(view, START + 10)
    for number in (1, 2):
        beaten(view, number, START + 9)
    events.apply(view, Kill(1, Reason.SILENT), START, 0.0)
    events.apply(view, Abandon(1, Reason.UNDYING), START + 5, 0.0)
    settle(view, START + 9)
    assert decide(view, START + 10) == [Ping()]


def test_the_ping_comes_last():
    view = watched()
    events.journal_lives(view, START + 20)
    assert decide(view, START + 20) == [Condemn(1, Reason.SILENT)]
    assert settle(view, START + 20) == [Condemn(1, Reason.SILENT), Ping()]


def test_actions_have_names():
    assert [verb(Start(0, Reason.START)), verb(Ping())] == ["start", "ping"]
