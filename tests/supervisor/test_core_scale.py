"""How many workers, and how much of their threads: each rule at its edge."""

import math

import pytest

from captchad.supervisor.core import events, scale
from captchad.supervisor.core.actions import Limit, Retire, Scale, Start
from captchad.supervisor.core.decide import decide, next_due
from captchad.supervisor.core.scale import CUT_EVERY_S, LEAST_SHARE, RAISE_EVERY_S
from captchad.supervisor.core.states import Reason
from captchad.supervisor.core.view import Autoscale, Load, View
from tests.supervisor.fleet import START, beaten, fleet, forked, settings, settle

COOL = 60.0
LATER = START + COOL


def scaled(**changes) -> View:
    """Four workers of two to eight that have been there for a while."""
    auto = Autoscale(2, 8, 40.0, COOL)
    return fleet(settings(**{"autoscale": auto, "stall_s": 1e6, "boot_s": 1e6, "min_workers": 1, **changes}))


def test_a_worker_is_added_when_tasks_have_waited_and_the_workers_are_busy():
    view = scaled()
    events.loaded(view, Load(40.0, 0.5), LATER)
    assert settle(view, LATER) == [Scale(5, Reason.QUEUE_AGE), Start(4, Reason.QUEUE_AGE)]


@pytest.mark.parametrize(
    "load", [Load(39.9, 1.0), Load(1000.0, 0.49)], ids=["young", "not busy: the providers are slow"]
)
def test_no_worker_is_added_for_less(load):
    view = scaled()
    events.loaded(view, load, LATER)
    assert decide(view, LATER) == []


def test_the_next_one_comes_after_a_while_and_when_the_last_one_works():
    view = scaled()
    events.loaded(view, Load(50.0, 1.0), LATER)
    settle(view, LATER)
    forked(view, 5, LATER)
    assert decide(view, LATER + COOL) == []
    beaten(view, 5, LATER + 1)
    assert decide(view, LATER + COOL - 0.01) == []
    assert next_due(view, LATER + 1) == LATER + COOL
    assert decide(view, LATER + COOL) == [Scale(6, Reason.QUEUE_AGE)]


def test_there_are_never_more_than_the_most():
    view = scaled(workers=8)
    events.loaded(view, Load(50.0, 1.0), LATER)
    assert decide(view, LATER) == []


def test_a_worker_goes_after_a_time_of_calm():
    view = scaled()
    events.loaded(view, Load(0.0, 0.1), LATER)
    assert decide(view, LATER + COOL - 0.01) == []
    assert next_due(view, LATER) == LATER + COOL
    assert settle(view, LATER + COOL) == [Scale(3, Reason.IDLE), Retire(4, Reason.SCALE_DOWN)]
    assert view.calm_since is None


def test_who_is_busy_enough_without_the_last_one_is_calm_and_else_not():
    view = scaled()
    view.load = Load(9.9, 0.37)
    assert scale.is_calm(view)
    view.load = Load(10.0, 0.37)
    assert not scale.is_calm(view)
    view.load = Load(0.0, 0.375)  # three would be half busy
    assert not scale.is_calm(view)
    view.target = 1
    view.load = Load(0.0, 0.0)
    assert not scale.is_calm(view)
    view.target = 2
    assert scale.is_calm(view)
    view.settings = settings()
    assert not scale.is_calm(view)


@pytest.mark.parametrize(("least", "needed"), [(4, 1), (2, 4)])
def test_there_are_never_fewer_than_the_least(least, needed):
    view = scaled(autoscale=Autoscale(least, 8, 40.0, COOL), min_workers=needed)
    events.loaded(view, Load(0.0, 0.0), LATER)
    assert decide(view, LATER + COOL) == []


def test_without_autoscaling_the_load_changes_nothing():
    view = scaled(autoscale=None)
    events.loaded(view, Load(1000.0, 1.0), LATER)
    assert decide(view, LATER) == []
    assert scale.times(view) == []


def test_a_daemon_that_stops_scales_no_more():
    view = scaled()
    events.loaded(view, Load(1000.0, 1.0), LATER)
    events.stop(view)
    assert not [action for action in settle(view, LATER) if isinstance(action, Scale)]


# ---------------------------------------------------------------- the share of the threads


def test_a_sign_halves_the_share_at_once_and_it_comes_back_step_by_step():
    view = fleet(settings(stall_s=1e6))
    events.short_of(view, Reason.MEMORY, START)
    assert settle(view, START) == [Limit(0.5, Reason.MEMORY)]
    now = START
    for share in (0.625, 0.75, 0.875, 1.0):
        assert next_due(view, now) == now + RAISE_EVERY_S
        assert decide(view, now + RAISE_EVERY_S - 0.01) == []
        now += RAISE_EVERY_S
        assert settle(view, now) == [Limit(share, Reason.RECOVERED)]
    assert scale.limit_due(view) == math.inf


def test_what_the_last_cut_has_done_must_show_first():
    view = fleet(settings(stall_s=1e6))
    events.short_of(view, Reason.MEMORY, START)
    settle(view, START)
    events.short_of(view, Reason.MEMORY, START + CUT_EVERY_S - 0.01)
    assert settle(view, START + CUT_EVERY_S + 1) == []
    assert scale.limit_due(view) == START + CUT_EVERY_S - 0.01 + RAISE_EVERY_S
    events.short_of(view, Reason.DESCRIPTORS, START + CUT_EVERY_S)
    assert settle(view, START + CUT_EVERY_S) == [Limit(0.25, Reason.DESCRIPTORS)]


def test_the_share_has_a_bottom_and_comes_back_from_there():
    view = fleet(settings(stall_s=1e6))
    now = START
    for _ in range(10):
        events.short_of(view, Reason.PROCESSES, now)
        settle(view, now)
        now += CUT_EVERY_S
    assert view.guard.share == LEAST_SHARE
    assert view.guard.sign is None
    assert settle(view, now - CUT_EVERY_S + RAISE_EVERY_S) == [Limit(0.25, Reason.RECOVERED)]


def test_a_step_up_never_goes_beyond_all():
    view = fleet(settings(stall_s=1e6))
    view.guard.share, view.guard.changed_at = 0.95, START
    assert settle(view, START + RAISE_EVERY_S) == [Limit(1.0, Reason.RECOVERED)]
