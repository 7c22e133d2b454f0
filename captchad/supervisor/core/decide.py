"""What is to be done now, from the view alone.

`decide` changes nothing. When it has found nothing to do, and nothing happens, it finds nothing before `next_due`:
whoever carries the actions out may sleep until then, and a simulation may leap there.

A worker hangs in one of three ways. It is *silent*: its loop does not turn. It is *wedged*: its loop turns, and every
call is far beyond its time-out. Or it does not boot. A worker whose calls are slow is none of these: calls end by their
time-outs, and beats come meanwhile.
"""

__all__ = ["FORK_S", "STACK_S", "UNDYING_S", "decide", "next_due"]

import math
from collections.abc import Iterator

from captchad.supervisor.core import scale
from captchad.supervisor.core.actions import (
    Abandon,
    Action,
    Condemn,
    Kill,
    Limit,
    Move,
    Ping,
    Refork,
    Retire,
    Scale,
    Start,
    Withhold,
)
from captchad.supervisor.core.states import Reason, WorkerState
from captchad.supervisor.core.view import Seat, View, Vital

#: A condemned worker gets so long to write its stack before it is killed, and never more than a heartbeat.
STACK_S = 0.5

#: A template that has not answered for so long hangs. It answers within milliseconds.
FORK_S = 5.0

#: A worker that is there so long after its SIGKILL hangs in the kernel, perhaps on a dead disk: nobody waits for it.
UNDYING_S = 5.0

#: Limits of age, tasks and memory come up to this part earlier, so that workers do not reach them all at once.
SPREAD = 0.1

#: A journal that was written within this lives, however short a heartbeat is: no clock of a busy machine is that good.
GRACE_S = 0.5

#: Workers that leave for one of these are replaced first, and one at a time.
_REPLACED = frozenset(
    {
        Reason.RELOAD,
        Reason.OPERATOR,
        Reason.STUCK_CALL,
        Reason.MAX_MEMORY,
        Reason.MAX_TASKS,
        Reason.MAX_AGE,
    }
)


_COMING = frozenset({WorkerState.FORKING, WorkerState.BOOTING})


def decide(view: View, now: float) -> list[Action]:
    """What is due, in the order in which it is to be done. To be asked again until nothing is: some things come first.

    So the watchdog's ping is decided on last, when nothing else is left to be done.
    """
    return (
        [*_judge(view, now), *_refork(view, now)]
        or (_stop(view) if view.stopping else _seats(view, now))
        or [*_scale(view, now), *_limit(view, now)]
        or list(_watch(view, now))
    )


def next_due(view: View, now: float) -> float:
    """When `decide`, which finds nothing now, may find something if nothing happens before; infinite if never."""
    times = [due_at(view, vital) for vital in view.vitals.values()]
    if not view.stopping:
        forks_at = _forks_at(view)
        times += [max(seat.due_at, forks_at) for seat in (*view.seats, *view.reserve)]
        times += [_too_old_at(view, vital) for vital in view.vitals.values()]
        times += scale.times(view)
    times += [scale.limit_due(view), view.watchdog.next_at if view.watchdog.every_s is not None else math.inf]
    return min((at for at in times if at > now), default=math.inf)


# ---------------------------------------------------------------- judging workers


def due_at(view: View, vital: Vital) -> float:
    """When something must be done about a worker that goes on as it is."""
    settings = view.settings
    match vital.state:
        case WorkerState.FORKING:
            return vital.ordered_at + FORK_S
        case WorkerState.CONDEMNED:
            return vital.since + min(STACK_S, settings.heartbeat_s)
        case WorkerState.KILLED:
            return math.inf if vital.seat is None else vital.since + UNDYING_S
        case WorkerState.DRAINING:
            return min(vital.drain_until, _hangs_at(view, vital))
    return _hangs_at(view, vital)


def _hangs_at(view: View, vital: Vital) -> float:
    if vital.last_beat_at is None:
        return vital.born_at + view.settings.boot_s
    if _wedged(view, vital):
        return vital.last_beat_at
    return vital.last_beat_at + view.settings.stall_s


def _wedged(view: View, vital: Vital) -> bool:
    """Whether each of its calls should have ended by `stall_s` ago."""
    beyond_s = vital.beat.beyond_s
    return beyond_s is not None and beyond_s >= view.settings.stall_s


def _judge(view: View, now: float) -> Iterator[Action]:
    for vital in view.vitals.values():
        if now < due_at(view, vital):
            continue
        match vital.state:
            case WorkerState.BOOTING:
                yield Condemn(vital.number, Reason.BOOT_TIMEOUT)
            case WorkerState.READY:
                yield Condemn(vital.number, _ill(view, vital))
            case WorkerState.DRAINING if now >= vital.drain_until:
                yield Kill(vital.number, Reason.DRAIN_OVERDUE)
            case WorkerState.DRAINING:
                yield Condemn(vital.number, _ill(view, vital))
            case WorkerState.CONDEMNED:
                yield Kill(vital.number, vital.why or Reason.SILENT)
            case WorkerState.KILLED:
                yield Abandon(vital.number, Reason.UNDYING)


def _ill(view: View, vital: Vital) -> Reason:
    if vital.last_beat_at is None:
        return Reason.BOOT_TIMEOUT
    return Reason.WEDGED if _wedged(view, vital) else Reason.SILENT


def _refork(view: View, now: float) -> Iterator[Action]:
    owed = [vital for vital in view.vitals.values() if vital.state is WorkerState.FORKING]
    if any(now >= due_at(view, vital) for vital in owed):
        yield Refork(Reason.TEMPLATE_HUNG)


# ---------------------------------------------------------------- seats


def _stop(view: View) -> list[Action]:
    staying = (WorkerState.BOOTING, WorkerState.READY)
    return [Retire(vital.number, Reason.STOP) for vital in view.vitals.values() if vital.state in staying]


def _seats(view: View, now: float) -> list[Action]:
    """Who goes, who sits down where, and who is to be forked."""
    old = _to_replace(view, now)
    # A replacement before its time needs somebody in reserve in any case.
    wanted = max(view.settings.standby, int(old is not None))
    actions = [*_shrink(view, wanted), *_fill(view, now, old), *_keep_reserve(view, now, wanted)]
    if not view.nobody_boots:
        return actions
    first = next((action for action in actions if isinstance(action, Start)), None)
    return [action for action in actions if action is first or not isinstance(action, Start)]


def _shrink(view: View, wanted: int) -> Iterator[Action]:
    """Who sits where no seat counts any more goes, and so does a reserve too many, or made for other settings."""
    for seat in reversed(view.seats[view.target :]):
        yield from _send_away(view, seat, Reason.SCALE_DOWN)
    for seat in reversed(view.reserve):
        if -seat.index > wanted:
            yield from _send_away(view, seat, Reason.SURPLUS)
        elif (vital := _sitting(view, seat)) is not None and vital.generation != view.generation:
            yield from _send_away(view, seat, view.why_generation)


def _send_away(view: View, seat: Seat, reason: Reason) -> Iterator[Action]:
    vital = _sitting(view, seat)
    if vital is not None and vital.state in (WorkerState.BOOTING, WorkerState.READY):
        yield Retire(vital.number, reason)


def _sitting(view: View, seat: Seat) -> Vital | None:
    return None if seat.worker is None else view.vitals[seat.worker]


def _fill(view: View, now: float, old: tuple[Seat, Reason] | None) -> Iterator[Action]:
    """Empty seats first, by who is ready in reserve; then one replacement."""
    ready = [
        vital.number
        for seat in view.reserve
        if (vital := _sitting(view, seat)) is not None
        and vital.state is WorkerState.READY
        and vital.generation == view.generation
    ]
    for seat in view.seats[: view.target]:
        if now < seat.due_at:
            continue
        if ready:
            yield Move(ready.pop(0), seat.index, seat.why)
        elif now >= _forks_at(view):
            yield Start(seat.index, seat.why)
    if ready and old is not None and not _replacing(view):
        seat, reason = old
        yield Retire(seat.worker or 0, reason)
        yield Move(ready.pop(0), seat.index, reason)


def _keep_reserve(view: View, now: float, wanted: int) -> Iterator[Action]:
    for seat in view.reserve[:wanted]:
        if now >= max(seat.due_at, _forks_at(view)):
            yield Start(seat.index, seat.why)


def _forks_at(view: View) -> float:
    """From when on processes may be made. Not while as many as are wanted hang in the kernel: more would, too.

    While nobody boots, one tries for all; but nobody waits for it for longer than the capped delay.
    """
    if _undead(view) >= view.target:
        return math.inf
    if not view.nobody_boots:
        return view.forks.resume_at
    tries = [vital.ordered_at for vital in view.vitals.values() if vital.state in _COMING]
    return max([view.forks.resume_at, *(at + view.settings.restart_max_delay_s for at in tries)])


def _undead(view: View) -> int:
    return sum(vital.state is WorkerState.KILLED and vital.seat is None for vital in view.vitals.values())


def _replacing(view: View) -> bool:
    """Whether one is being replaced: the next one has to wait until it is gone, or has outlived its time to go."""
    return any(vital.state is WorkerState.DRAINING and vital.why in _REPLACED for vital in view.vitals.values())


def _to_replace(view: View, now: float) -> tuple[Seat, Reason] | None:
    """The first seat whose worker is to be replaced although it works, and why."""
    for seat in view.seats[: view.target]:
        vital = _sitting(view, seat)
        if vital is not None and vital.state is WorkerState.READY:
            reason = _worn(view, vital, now)
            if reason is not None:
                return seat, reason
    return None


def _worn(view: View, vital: Vital, now: float) -> Reason | None:
    settings, beat = view.settings, vital.beat
    if vital.generation != view.generation:
        return view.why_generation
    if beat.oldest_beyond_s is not None and beat.oldest_beyond_s >= settings.stall_s:
        return Reason.STUCK_CALL
    part = 1.0 - SPREAD * vital.spread
    if 0 < settings.max_private_bytes * part <= beat.private_bytes:
        return Reason.MAX_MEMORY
    if 0 < settings.max_tasks * part <= beat.completed:
        return Reason.MAX_TASKS
    return Reason.MAX_AGE if now >= _too_old_at(view, vital) else None


def _too_old_at(view: View, vital: Vital) -> float:
    limit_s = view.settings.max_age_s * (1.0 - SPREAD * vital.spread)
    return vital.born_at + limit_s if limit_s > 0 and vital.usable else math.inf


# ---------------------------------------------------------------- load, systemd


def _scale(view: View, now: float) -> Iterator[Action]:
    found = None if view.stopping else scale.target(view, now)
    if found is not None:
        yield Scale(*found)


def _limit(view: View, now: float) -> Iterator[Action]:
    found = scale.share(view, now)
    if found is not None:
        yield Limit(*found)


def _watch(view: View, now: float) -> Iterator[Action]:
    watchdog = view.watchdog
    if watchdog.every_s is None or now < watchdog.next_at:
        return
    neglected = _neglected(view, now)
    yield Ping() if neglected is None else Withhold(neglected)


def _neglected(view: View, now: float) -> Reason | None:
    """What no decision of ours can mend, and systemd should know of."""
    if view.watchdog.journal_at < now - max(GRACE_S, 2.0 * view.settings.heartbeat_s):
        return Reason.JOURNAL
    return Reason.WORKERS if _undead(view) >= view.target and not view.alive else None
