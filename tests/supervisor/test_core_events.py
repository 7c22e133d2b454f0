"""What happened, and what the view says of it afterwards: causes of death, times that are discounted, seats that go."""

import math

import pytest

from captchad.supervisor.core import events
from captchad.supervisor.core.actions import Abandon, Condemn, Kill, Move, Ping, Retire, Scale, Start
from captchad.supervisor.core.events import LATE_TICK_S, End
from captchad.supervisor.core.states import NotAllowed, Reason, SeatState, WorkerState
from captchad.supervisor.core.view import Autoscale, Load, Seat, View, Vital
from tests.supervisor.fleet import START, beaten, fleet, forked, settings, settle

ENDS = [
    (End(status=0), Reason.CRASH),
    (End(status=1), Reason.CRASH),
    (End(signal=11), Reason.SIGNAL),
    (End(signal=9), Reason.SIGNAL),
    (End(signal=9, oom=True), Reason.OOM),
]


@pytest.mark.parametrize(("end", "reason"), ENDS)
def test_the_cause_of_a_death_that_nobody_ordered(end, reason):
    view = fleet()
    death = events.died(view, 1, end, START + 60, 0.0)
    assert (death.number, death.seat, death.reason, death.lived_s, death.booted) == (1, 0, reason, 60.0, True)
    assert view.seats[0].last_death == str(reason)
    assert view.seats[0].why is reason
    assert view.seats[0].restarts == 1
    assert 1 not in view.vitals


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (End(status=1), Reason.BOOT_FAILED),
        (End(signal=9, oom=True), Reason.OOM),
        (End(status=74, disk=True), Reason.DISK),
    ],
)
def test_the_cause_of_a_death_before_the_first_beat(end, reason):
    view = fleet(settings(workers=1))
    events.rescale(view, 2, Reason.SCALE_UP, START)
    settle(view, START)
    forked(view, 2, START)
    assert events.died(view, 2, end, START + 1, 0.0).reason is reason
    assert (view.boot_failures, view.boot_faults) == (1, 0 if reason is Reason.DISK else 1)


def test_boots_that_failed_are_held_against_the_settings_under_which_they_were_ordered():
    view = View(settings(workers=4), 4)
    events.rescale(view, 4, Reason.START, START)
    settle(view, START)
    for number in (1, 2, 3, 4):
        forked(view, number, START)
    for number in (1, 2):
        events.died(view, number, End(status=1), START, 0.0)
    assert (view.boot_failures, view.boot_faults) == (2, 2)

    events.renew(view, settings(workers=4, boot_s=60.0), START)
    assert (view.boot_failures, view.boot_faults) == (2, 0)
    events.died(view, 3, End(status=1), START, 0.0)
    assert (view.boot_failures, view.boot_faults) == (3, 0)
    settle(view, START + 1.0)
    forked(view, 5, START + 1.0)
    events.died(view, 5, End(status=1), START + 1.0, 0.0)
    assert (view.boot_failures, view.boot_faults) == (4, 1)
    beaten(view, 4, START + 1.0)
    assert (view.boot_failures, view.boot_faults) == (0, 0)


@pytest.mark.parametrize("reason", [Reason.SILENT, Reason.WEDGED, Reason.NONSENSE, Reason.STOP_AGAIN])
def test_who_was_killed_died_of_that(reason):
    view = fleet()
    events.apply(view, Kill(1, reason), START + 1, 0.0)
    assert events.died(view, 1, End(signal=9), START + 2, 0.0).reason is reason


def test_the_condemned_one_that_dies_before_its_kill_hung_all_the_same():
    view = fleet()
    events.apply(view, Condemn(1, Reason.WEDGED), START + 1, 0.0)
    assert events.died(view, 1, End(signal=9), START + 1.2, 0.0).reason is Reason.WEDGED


@pytest.mark.parametrize(
    ("end", "reason"),
    [(End(status=0), Reason.EXIT), (End(status=70), Reason.CRASH), (End(status=74, disk=True), Reason.DISK)],
)
def test_who_drains_exits_with_nothing_left(end, reason):
    view = fleet()
    events.apply(view, Retire(1, Reason.STOP), START + 1, 0.0)
    death = events.died(view, 1, end, START + 2, 0.0)
    assert death.reason is reason
    assert view.seats[0].last_death == ("" if reason is Reason.EXIT else str(reason))
    assert view.seats[0].restarts == (0 if reason is Reason.EXIT else 1)


def test_a_kill_that_ends_a_drain_is_no_fault():
    view = fleet()
    events.apply(view, Retire(1, Reason.STOP), START + 1, 0.0)
    events.apply(view, Kill(1, Reason.DRAIN_OVERDUE), START + 11, 0.0)
    death = events.died(view, 1, End(signal=9), START + 11, 1.0)
    assert (death.reason, death.delay_s) == (Reason.DRAIN_OVERDUE, 0.0)
    assert view.seats[0].restarts == 0
    assert view.seats[0].last_death == "drain_overdue"


def test_the_work_of_those_who_sat_before_is_counted_with_the_seat():
    view = fleet(settings(standby=1, stall_s=1e6))
    beaten(view, 1, START + 1, completed=7)
    events.apply(view, Retire(1, Reason.MAX_TASKS), START + 1, 0.0)
    events.apply(view, Move(5, 0, Reason.MAX_TASKS), START + 1, 0.0)
    beaten(view, 5, START + 2, completed=2)
    assert (view.seats[0].completed, view.seats[0].worker) == (7, 5)
    events.died(view, 5, End(status=1), START + 60, 0.0)
    assert view.seats[0].completed == 9
    events.died(view, 1, End(status=0), START + 61, 0.0)
    assert view.seats[0].completed == 9


def test_an_action_on_a_worker_in_the_wrong_state_raises():
    view = fleet()
    events.apply(view, Condemn(1, Reason.SILENT), START, 0.0)
    with pytest.raises(NotAllowed):
        events.apply(view, Retire(1, Reason.STOP), START, 0.0)


def test_one_that_has_left_its_seat_takes_none_with_it_when_it_is_given_up():
    view = fleet(settings(standby=1))
    events.apply(view, Retire(1, Reason.MAX_AGE), START, 0.0)
    events.apply(view, Move(5, 0, Reason.MAX_AGE), START, 0.0)
    events.apply(view, Kill(1, Reason.DRAIN_OVERDUE), START, 0.0)
    events.apply(view, Abandon(1, Reason.UNDYING), START, 0.0)
    assert [seat.worker for seat in view.seats] == [5, 2, 3, 4]
    assert view.vitals[1].state is WorkerState.KILLED


def test_a_fork_that_fails_for_one_without_a_seat_frees_none():
    view = fleet(settings(workers=1))
    events.rescale(view, 2, Reason.SCALE_UP, START)
    settle(view, START)
    view.vitals[2].seat = None
    events.fork_failed(view, 2, START, 0.0)
    assert view.seats[1].worker == 2
    assert 2 not in view.vitals


def test_states_know_since_when():
    view = fleet()
    beaten(view, 1, START + 5)
    assert view.vitals[1].since == START
    events.apply(view, Condemn(1, Reason.SILENT), START + 6, 0.0)
    assert view.vitals[1].since == START + 6
    events.apply(view, Kill(1, Reason.SILENT), START + 7, 0.0)
    events.apply(view, Kill(1, Reason.SILENT), START + 8, 0.0)
    assert view.vitals[1].since == START + 7


# ---------------------------------------------------------------- a parent that was held up


def test_what_the_parent_was_held_up_is_no_silence_of_the_workers():
    view = fleet()
    assert events.ticked(view, START + 25, START + 5) == 20.0
    assert {vital.last_beat_at for vital in view.vitals.values()} == {START + 20}
    assert settle(view, START + 25) == []


def test_a_tick_that_is_a_little_late_is_on_time():
    view = fleet()
    assert events.ticked(view, START + 5 + LATE_TICK_S - 0.001, START + 5) == 0.0
    assert events.ticked(view, START + 5, START + 9) == 0.0
    assert view.vitals[1].last_beat_at == START


def test_no_time_is_put_into_the_future():
    view = fleet(settings(workers=2))
    beaten(view, 1, START + 24.9)
    events.rescale(view, 3, Reason.SCALE_UP, START + 24.9)
    events.apply(view, Start(2, Reason.SCALE_UP), START + 24.9, 0.0)
    events.apply(view, Condemn(2, Reason.SILENT), START + 24.9, 0.0)
    events.ticked(view, START + 25, START + 5)
    assert view.vitals[1].last_beat_at == START + 25
    assert view.vitals[3].ordered_at == START + 25
    assert view.vitals[3].forked_at is None
    assert view.vitals[2].since == START + 25
    assert view.vitals[1].forked_at == START + 20


def test_boots_and_drains_get_the_time_back():
    view = fleet(settings(workers=2))
    events.apply(view, Retire(2, Reason.STOP), START + 1, 0.0)
    events.ticked(view, START + 25, START + 5)
    assert view.vitals[2].drain_until == START + 31
    assert view.vitals[1].drain_until == math.inf


def test_what_should_have_been_done_meanwhile_is_due_now_and_what_is_ahead_stays():
    view = fleet(settings(workers=2, stall_s=1e6))
    for number in (1, 2):
        events.died(view, number, End(status=1), START + 60, 0.0)
    view.seats[0].until, view.seats[1].until = START + 65, START + 99
    events.ticked(view, START + 90, START + 61)
    assert view.seats[0].due_at == START + 90
    assert view.seats[1].due_at == START + 99


# ---------------------------------------------------------------- seats


def test_seats_that_do_not_count_go_when_nobody_sits_there():
    view = fleet()
    events.apply(view, Scale(2, Reason.OPERATOR), START, 0.0)
    assert (view.target, len(view.seats)) == (2, 4)
    events.died(view, 3, End(status=1), START + 60, 0.0)
    assert len(view.seats) == 4
    events.died(view, 4, End(status=1), START + 60, 0.0)
    assert len(view.seats) == 2


def test_a_seat_that_is_taken_is_never_due():
    assert Seat(0, Reason.START, SeatState.TAKEN, since=1.0).due_at == math.inf
    assert Seat(0, Reason.START, SeatState.WAITING, since=1.0, until=5.0).due_at == 5.0
    assert Seat(0, Reason.START, since=7.0, until=5.0).due_at == 7.0


def test_a_worker_was_born_when_it_was_forked_or_at_least_ordered():
    vital = Vital(1, 0, 0, 10.0, 0.0)
    assert vital.born_at == 10.0
    vital.forked_at = 11.0
    assert vital.born_at == 11.0


@pytest.mark.parametrize(
    ("state", "seat", "usable"),
    [("ready", 0, True), ("ready", -1, False), ("ready", None, False), ("draining", 0, False)],
)
def test_who_is_ready_and_has_a_seat_may_be_given_work(state, seat, usable):
    assert Vital(1, seat, 0, 0.0, 0.0, WorkerState(state)).usable is usable


def test_seats_are_found_by_their_numbers():
    view = fleet(settings(standby=2))
    assert [view.seat(index).index for index in (0, 3, -1, -2)] == [0, 3, -1, -2]


# ---------------------------------------------------------------- settings, load


def test_other_settings_with_as_many_workers_leave_the_number_as_an_operator_has_set_it():
    view = fleet()
    events.rescale(view, 6, Reason.OPERATOR, START)
    events.renew(view, settings(stall_s=50.0), START)
    assert (view.target, view.settings.stall_s, view.generation) == (6, 50.0, 0)
    events.renew(view, settings(workers=3), START)
    assert view.target == 3


def test_a_number_that_is_too_small_now_is_raised():
    view = fleet()
    events.rescale(view, 2, Reason.OPERATOR, START)
    events.renew(view, settings(min_workers=3), START)
    assert view.target == 3


@pytest.mark.parametrize(("least", "most", "target"), [(1, 3, 3), (5, 9, 5), (1, 9, 4)])
def test_the_number_is_kept_within_the_bounds_of_autoscaling(least, most, target):
    view = fleet()
    events.renew(view, settings(autoscale=Autoscale(least, most, 30.0, 60.0)), START)
    assert view.target == target


def test_without_autoscaling_any_more_there_are_as_many_as_are_configured():
    view = fleet(settings(autoscale=Autoscale(1, 9, 30.0, 60.0)))
    events.rescale(view, 7, Reason.QUEUE_AGE, START)
    events.renew(view, settings(autoscale=Autoscale(1, 9, 30.0, 50.0)), START)
    assert view.target == 7
    events.renew(view, settings(), START)
    assert view.target == 4


def test_more_seats_are_empty_since_they_are_there_and_know_why():
    view = fleet()
    events.rescale(view, 6, Reason.QUEUE_AGE, START + 5)
    assert [(seat.index, seat.why, seat.due_at) for seat in view.seats[4:]] == [
        (4, Reason.QUEUE_AGE, START + 5),
        (5, Reason.QUEUE_AGE, START + 5),
    ]
    assert (view.scaled_at, view.calm_since) == (START + 5, None)
    events.renew(view, settings(workers=7), START + 6)
    assert view.seats[6].why is Reason.SCALE_UP


def test_there_is_a_place_in_reserve_even_if_none_is_kept_there():
    view = fleet(settings(standby=0))
    assert [(seat.index, seat.why, seat.due_at) for seat in view.reserve] == [(-1, Reason.RESERVE, START)]


def test_the_place_in_reserve_of_one_that_moves_is_empty_since_then():
    view = fleet(settings(standby=1, stall_s=1e6))
    events.died(view, 1, End(status=1), START + 60, 0.0)
    events.apply(view, Move(5, 0, Reason.CRASH), START + 61, 0.0)
    (place,) = view.reserve
    assert (place.state, place.worker, place.since, place.until, place.why) == (
        SeatState.EMPTY,
        None,
        START + 61,
        START + 61,
        Reason.RESERVE,
    )
    assert view.vitals[5].seat == 0


def test_one_that_is_given_up_is_punished_like_one_that_died():
    view = fleet(settings(stall_s=1e6))
    for number in (1, 2):
        events.apply(view, Kill(number, Reason.SILENT), START + 1, 0.0)
    view.vitals[2].first_beat_at = None
    events.apply(view, Abandon(1, Reason.UNDYING), START + 2, 1.0)
    events.apply(view, Abandon(2, Reason.UNDYING), START + 2, 1.0)
    assert [(seat.restarts, seat.history.short_lives, seat.due_at) for seat in view.seats[:2]] == [
        (1, 1, START + 2),
        (1, 1, START + 2.1),
    ]
    assert view.seats[0].why is Reason.UNDYING


def test_a_fork_knows_when_it_was_made():
    view = fleet(settings(workers=1))
    events.rescale(view, 2, Reason.SCALE_UP, START + 1)
    settle(view, START + 1, chance=0.25)
    vital = view.vitals[2]
    assert (vital.ordered_at, vital.since, vital.spread) == (START + 1, START + 1, 0.25)
    forked(view, 2, START + 2)
    assert (vital.forked_at, vital.since) == (START + 2, START + 2)


def test_a_replacement_of_all_makes_another_generation():
    view = fleet()
    events.renew(view, view.settings, START, replace_all=Reason.OPERATOR)
    assert (view.generation, view.why_generation) == (1, Reason.OPERATOR)


def test_calm_is_known_since_it_began():
    view = fleet(settings(autoscale=Autoscale(1, 8, 40.0, 60.0)))
    events.loaded(view, Load(0.0, 0.1), START + 1)
    events.loaded(view, Load(9.9, 0.3), START + 2)
    assert view.calm_since == START + 1
    events.loaded(view, Load(10.0, 0.0), START + 3)
    assert view.calm_since is None
    assert view.load == Load(10.0, 0.0)


def test_a_beat_that_tells_of_more_starvation_is_a_sign():
    view = fleet()
    beaten(view, 1, START + 1, starved=0)
    assert view.guard.sign is None
    beaten(view, 1, START + 2, starved=2)
    assert (view.guard.sign, view.guard.sign_at) == (Reason.DESCRIPTORS, START + 2)


def test_a_ping_is_due_again_after_its_time_also_when_nobody_asks_any_more():
    view = fleet()
    events.apply(view, Ping(), START, 0.0)
    assert view.watchdog.next_at == START


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_who_waits_in_reserve_for_long_and_dies_on_sitting_down_died_at_once(chance):
    view = fleet(settings(workers=1, standby=1))
    beaten(view, 2, START + 60)
    events.died(view, 1, End(signal=9), START + 60, chance)
    settle(view, START + 60)
    assert view.seats[0].worker == 2
    death = events.died(view, 2, End(signal=9), START + 60.5, chance)
    assert (death.seat, death.lived_s, view.seats[0].history.short_lives) == (0, 0.5, 1)


def test_who_dies_in_reserve_lived_since_its_fork():
    view = fleet(settings(workers=1, standby=1))
    death = events.died(view, 2, End(signal=9), START + 60, 0.0)
    assert (death.seat, death.lived_s, view.reserve[0].history.short_lives) == (-1, 60.0, 0)


def test_a_suspended_parent_makes_no_short_life_in_a_seat_long():
    view = fleet(settings(workers=1))
    events.ticked(view, START + 3600, START + 1)
    death = events.died(view, 1, End(signal=9), START + 3600, 0.0)
    assert (death.lived_s, view.seats[0].history.short_lives) == (1.0, 1)
