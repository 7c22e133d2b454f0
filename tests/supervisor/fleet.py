"""Views of the core in a given state, for its tests; times in seconds, beginning at 100."""

__all__ = ["START", "beaten", "fleet", "forked", "settings", "settle"]

from dataclasses import replace
from typing import Any

from captchad.supervisor.core import events
from captchad.supervisor.core.actions import Action, Start
from captchad.supervisor.core.decide import decide
from captchad.supervisor.core.states import Reason
from captchad.supervisor.core.view import Beat, Settings, View

START = 100.0


def settings(**changes: Any) -> Settings:
    """Four workers, two needed, none in reserve."""
    made = Settings(
        workers=4,
        min_workers=2,
        heartbeat_s=1.0,
        boot_s=30.0,
        stall_s=20.0,
        drain_s=10.0,
        restart_max_delay_s=30.0,
        standby=0,
    )
    return replace(made, **changes)


def fleet(made: Settings | None = None, now: float = START) -> View:
    """A view whose workers have all beaten at `now`, in the order of their seats, the reserve last."""
    made = made or settings()
    view = View(made, made.workers)
    events.rescale(view, view.target, Reason.START, now)
    settle(view, now)
    for number in list(view.vitals):
        forked(view, number, now)
        beaten(view, number, now)
    settle(view, now)
    return view


def settle(view: View, now: float, chance: float = 0.0) -> list[Action]:
    """Carry out what is decided until nothing is; what that was."""
    done: list[Action] = []
    while actions := decide(view, now):
        for action in actions:
            events.apply(view, action, now, chance)
        done += actions
        assert len(done) < 1000, "it does not come to an end"
    return done


def started(actions: list[Action]) -> list[int]:
    """The seats that workers were started for."""
    return [action.seat for action in actions if isinstance(action, Start)]


def forked(view: View, number: int, now: float) -> None:
    """The template has answered."""
    events.forked(view, number, now)


def beaten(view: View, number: int, now: float, **said: Any) -> bool:
    """A heartbeat that says `said`."""
    return events.beat(view, number, Beat(**{"phase": "working", **said}), now)
