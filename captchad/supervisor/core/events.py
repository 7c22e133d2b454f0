"""What happened, told to the view: actions that were carried out, and what workers and the system did.

Each function changes the view in one step. Nothing here decides.
"""

__all__ = [
    "Death",
    "End",
    "apply",
    "beat",
    "died",
    "fork_failed",
    "forked",
    "journal_lives",
    "loaded",
    "renew",
    "rescale",
    "short_of",
    "stop",
    "template_died",
    "ticked",
]

from dataclasses import dataclass

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
)
from captchad.supervisor.core.restart import after_death, growing
from captchad.supervisor.core.states import (
    FAULTS,
    SEATS,
    WORKERS,
    Reason,
    SeatEvent,
    SeatState,
    WorkerEvent,
    WorkerState,
    after,
)
from captchad.supervisor.core.view import Beat, Load, Seat, Settings, View, Vital

#: A tick later than this means that the parent itself was held up: that is no silence of the workers'.
LATE_TICK_S = 0.2

#: A ping that was withheld is decided on again after this part of the time between two, or a heartbeat: what was in the
#: way may be gone, and the watchdog strikes after two such times, however rare heartbeats are.
WITHHELD_PART = 0.25


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended: exit status or signal.

    `oom`: the kernel says that it took it for its memory. `disk`: it says itself that no disk took its side file.
    """

    status: int | None = None
    signal: int | None = None
    oom: bool = False
    disk: bool = False


@dataclass(frozen=True, slots=True)
class Death:
    """What is to be remembered of a worker that died."""

    number: int
    seat: int | None
    reason: Reason
    lived_s: float  # in its seat; of one that never took a seat that counts, since its fork
    booted: bool
    delay_s: float  # until its seat is filled again


# ---------------------------------------------------------------- actions


def apply(view: View, action: Action, now: float, chance: float) -> None:
    """`action` is being carried out. `chance` is drawn from 0 to 1. Who starts has the number `last_number`."""
    match action:
        case Start():
            _start(view, view.seat(action.seat), now, chance)
        case Move():
            _move(view, view.vitals[action.number], view.seat(action.seat), now)
        case Retire():
            vital = view.vitals[action.number]
            _step(vital, WorkerEvent.RETIRE, now, action.reason)
            vital.drain_until = now + view.settings.drain_s
        case Condemn():
            _step(view.vitals[action.number], WorkerEvent.CONDEMN, now, action.reason)
        case Kill():
            _step(view.vitals[action.number], WorkerEvent.KILL, now, action.reason)
        case Abandon():
            _abandon(view, view.vitals[action.number], now, chance)
        case Refork():
            _forks_fail(view, _owed(view), now, chance, action.reason)
        case Scale():
            rescale(view, action.target, action.reason, now)
        case Limit():
            view.guard.share, view.guard.sign, view.guard.changed_at = action.share, None, now
        case Ping():
            view.watchdog.next_at, view.watchdog.withheld = now + (view.watchdog.every_s or 0.0), None
        case _:
            again_s = min(view.settings.heartbeat_s, (view.watchdog.every_s or 0.0) * WITHHELD_PART)
            view.watchdog.next_at, view.watchdog.withheld = now + again_s, action.reason


def _step(vital: Vital, event: WorkerEvent, now: float, why: Reason | None = None) -> None:
    state = after(WORKERS, vital.state, event)
    if state is not vital.state:
        vital.state, vital.since = state, now
    vital.why = why or vital.why


def _start(view: View, seat: Seat, now: float, chance: float) -> None:
    seat.state = after(SEATS, seat.state, SeatEvent.TAKE)
    view.last_number += 1
    seat.worker = view.last_number
    view.vitals[seat.worker] = Vital(seat.worker, seat.index, view.generation, now, spread=chance, since=now)


def _move(view: View, vital: Vital, seat: Seat, now: float) -> None:
    if seat.worker is not None:
        left = view.vitals[seat.worker]
        left.seat = None
        seat.completed += left.beat.completed
    _empty(view.seat(-1 if vital.seat is None else vital.seat), now, Reason.RESERVE)
    seat.state = after(SEATS, seat.state, SeatEvent.TAKE)
    seat.worker, vital.seat, vital.seated_at = vital.number, seat.index, now
    _drop_empty(view)


def _abandon(view: View, vital: Vital, now: float, chance: float) -> None:
    seat = _leave(view, vital, now, Reason.UNDYING)
    if seat is not None:
        _delay(seat, now + _punish(view, seat, now - vital.begun_at, vital.first_beat_at is not None, chance))
    _drop_empty(view)


def _leave(view: View, vital: Vital, now: float, why: Reason) -> Seat | None:
    """Its seat is empty from now on; None when it had none."""
    if vital.seat is None:
        return None
    seat, vital.seat = view.seat(vital.seat), None
    seat.completed += vital.beat.completed
    _empty(seat, now, Reason.RESERVE if seat.index < 0 and why is Reason.EXIT else why)
    return seat


def _empty(seat: Seat, now: float, why: Reason) -> None:
    seat.state = after(SEATS, seat.state, SeatEvent.LEAVE)
    seat.worker, seat.since, seat.until, seat.why = None, now, now, why


def _drop_empty(view: View) -> None:
    """Seats that do not count any more go when nobody sits there."""
    while len(view.seats) > view.target and view.seats[-1].worker is None:
        view.seats.pop()


# ---------------------------------------------------------------- processes


def forked(view: View, number: int, now: float) -> None:
    """The template has made it."""
    vital = view.vitals[number]
    _step(vital, WorkerEvent.FORK, now)
    vital.forked_at = now
    view.forks.failures = 0


def fork_failed(view: View, number: int, now: float, chance: float, sign: Reason | None = None) -> None:
    """The system makes no process now. `sign` says what it is short of, if that is known."""
    _forks_fail(view, [view.vitals[number]], now, chance, Reason.FORK_FAILED)
    if sign is not None:
        short_of(view, sign, now)


def template_died(view: View, now: float, chance: float) -> None:
    """What was ordered from it will not come."""
    owed = _owed(view)
    if owed:
        _forks_fail(view, owed, now, chance, Reason.TEMPLATE_DIED)


def _owed(view: View) -> list[Vital]:
    return [vital for vital in view.vitals.values() if vital.state is WorkerState.FORKING]


def _forks_fail(view: View, vitals: list[Vital], now: float, chance: float, why: Reason) -> None:
    view.forks.failures += 1
    view.forks.resume_at = now + growing(view.forks.failures, view.settings.restart_max_delay_s, chance)
    for vital in vitals:
        _step(vital, WorkerEvent.FORK_FAIL, now)
        del view.vitals[vital.number]
        seat = _leave(view, vital, now, why)
        if seat is not None:
            _delay(seat, view.forks.resume_at)
    _drop_empty(view)


def _delay(seat: Seat, until: float) -> None:
    seat.state = after(SEATS, seat.state, SeatEvent.DELAY)
    seat.until = until


def beat(view: View, number: int, said: Beat, now: float) -> bool:
    """A heartbeat; True for its first one."""
    vital = view.vitals[number]
    first = vital.last_beat_at is None
    _step(vital, WorkerEvent.BEAT, now)
    if said.starved > vital.beat.starved:
        short_of(view, Reason.DESCRIPTORS, now)
    vital.last_beat_at, vital.beat = now, said
    if first:
        vital.first_beat_at = now
        view.boot_failures = view.boot_faults = 0
    if vital.usable and vital.seated_at is None:
        vital.seated_at = now
    return first


def died(view: View, number: int, end: End, now: float, chance: float) -> Death:
    """It is dead, and its pipe was read dry."""
    vital = view.vitals[number]
    reason = _cause(vital, end)
    _step(vital, WorkerEvent.DIE, now)
    del view.vitals[number]
    booted = vital.first_beat_at is not None
    index = vital.seat
    seat = _leave(view, vital, now, reason)
    delay_s = 0.0
    if reason in FAULTS:
        if not booted:
            _note_boot_failure(view, number, reason, now, chance)
        if seat is not None:
            delay_s = _punish(view, seat, now - vital.begun_at, booted, chance)
            _delay(seat, now + delay_s)
    if seat is not None and reason is not Reason.EXIT:
        seat.last_death = str(reason)
    _drop_empty(view)
    return Death(number, index, reason, now - vital.begun_at, booted, delay_s)


def _note_boot_failure(view: View, number: int, reason: Reason, now: float, chance: float) -> None:
    view.boot_failures += 1
    # What failed before the settings came is not for them to answer, and no setting mends a disk.
    if number > view.renewed_after and reason is not Reason.DISK:
        view.boot_faults += 1
    if view.nobody_boots:
        times = view.boot_failures - view.places + 1
        delay_s = growing(times, view.settings.restart_max_delay_s, chance)
        view.forks.resume_at = max(view.forks.resume_at, now + delay_s)


def _punish(view: View, seat: Seat, lived_s: float, booted: bool, chance: float) -> float:
    """Note a death in the history of the seat; the delay until the next start."""
    seat.restarts += 1
    max_delay_s = view.settings.restart_max_delay_s
    seat.history, delay_s = after_death(
        seat.history, lived_s=lived_s, booted=booted, max_delay_s=max_delay_s, jitter=chance
    )
    return delay_s


def _cause(vital: Vital, end: End) -> Reason:
    if vital.state in (WorkerState.CONDEMNED, WorkerState.KILLED) and vital.why is not None:
        return vital.why
    if vital.state is WorkerState.DRAINING and end.status == 0:
        return Reason.EXIT
    if end.oom:
        return Reason.OOM
    if end.disk:
        return Reason.DISK
    if vital.first_beat_at is None:
        return Reason.BOOT_FAILED
    return Reason.CRASH if end.signal is None else Reason.SIGNAL


# ---------------------------------------------------------------- time, load, settings


def ticked(view: View, now: float, due: float) -> float:
    """The parent's loop turns at `now`, and should have at `due`. Returns for how long it was held up, if that counts.

    By a slow sync, SIGSTOP, a machine that was suspended: that is no silence of the workers'.
    """
    late_s = now - due
    if late_s <= LATE_TICK_S:
        return 0.0
    for vital in view.vitals.values():
        vital.ordered_at = min(now, vital.ordered_at + late_s)
        vital.forked_at = None if vital.forked_at is None else min(now, vital.forked_at + late_s)
        vital.seated_at = None if vital.seated_at is None else min(now, vital.seated_at + late_s)
        vital.last_beat_at = None if vital.last_beat_at is None else min(now, vital.last_beat_at + late_s)
        vital.since = min(now, vital.since + late_s)
        vital.drain_until += late_s
    for seat in (*view.seats, *view.reserve):
        if seat.state is not SeatState.TAKEN and seat.due_at < now:
            seat.until = now  # what should have been done meanwhile is due now, not overdue
    return late_s


def journal_lives(view: View, now: float) -> None:
    """The journal took a write, or is down and its next try is ahead."""
    view.watchdog.journal_at = now


def loaded(view: View, load: Load, now: float) -> None:
    """What there is to do now."""
    view.load = load
    if not scale.is_calm(view):
        view.calm_since = None
    elif view.calm_since is None:
        view.calm_since = now


def short_of(view: View, sign: Reason, now: float) -> None:
    """The system is short of something: descriptors, processes, memory."""
    guard = view.guard
    guard.sign_at = now
    # What the last cut has done must show first.
    if now >= guard.changed_at + scale.CUT_EVERY_S and guard.share > scale.LEAST_SHARE:
        guard.sign = sign


def rescale(view: View, target: int, reason: Reason, now: float) -> None:
    """That many seats count from now on; those that are too many go when who sits there has gone."""
    view.target, view.scaled_at, view.calm_since = target, now, None
    while len(view.seats) < target:
        view.seats.append(Seat(len(view.seats), reason, since=now, until=now))
    while len(view.reserve) < max(1, view.settings.standby):
        view.reserve.append(Seat(-1 - len(view.reserve), Reason.RESERVE, since=now, until=now))
    _drop_empty(view)


def renew(view: View, settings: Settings, now: float, *, replace_all: Reason | None = None) -> None:
    """Take new settings. `replace_all`: every worker is to be replaced by another, one at a time, and why."""
    before, view.settings = view.settings, settings
    view.boot_faults, view.renewed_after = 0, view.last_number
    if replace_all is not None:
        view.generation += 1
        view.why_generation = replace_all
    auto = settings.autoscale
    asked = settings.workers != before.workers or (auto is None and before.autoscale is not None)
    target = settings.workers if asked else view.target
    if auto is not None:
        target = min(max(target, auto.least, settings.min_workers), auto.most)
    rescale(view, max(target, settings.min_workers), Reason.SCALE_UP, now)


def stop(view: View) -> None:
    """The daemon stops: all go, and nobody comes."""
    view.stopping = True
