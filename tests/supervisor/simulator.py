"""A machine that does not exist: the supervision's core under a simulated clock, with workers that fail in every way.

Real are the view, the events and the decisions of `captchad.supervisor.core`. Simulated are time, processes, the
template, the journal's disk and the load. A seed gives one run; `Machine.watch` holds each run to the promises while it
goes on, from what the simulation knows and the core does not.

The clock leaps from one moment at which something happens to the next. Heartbeats of workers that are well are not
events of their own: those that have come meanwhile are told when the parent looks.
"""

__all__ = ["Broken", "Fate", "Machine", "Process", "Promise", "run_seed"]

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count

from captchad.supervisor.core import events
from captchad.supervisor.core.actions import (
    Abandon,
    Action,
    Condemn,
    Kill,
    Move,
    Ping,
    Refork,
    Retire,
    Start,
    Withhold,
    verb,
)
from captchad.supervisor.core.decide import FORK_S, UNDYING_S, decide, next_due
from captchad.supervisor.core.events import End
from captchad.supervisor.core.states import FAULTS, Reason, SeatState, WorkerState
from captchad.supervisor.core.view import Autoscale, Beat, Load, Settings, View

HOUR_S = 3600.0

#: Rounds of decisions at one moment, as the crew has them.
ROUNDS = 64

#: Why workers are replaced that work.
REPLACED = {
    Reason.RELOAD,
    Reason.OPERATOR,
    Reason.STUCK_CALL,
    Reason.MAX_AGE,
    Reason.MAX_MEMORY,
    Reason.MAX_TASKS,
}

#: So long the beats of one come late: each look at it is due soon after the last one.
LATE_S = 300.0

#: What the arithmetic of floats may be wrong by.
EXACT_S = 1e-6


class Promise(AssertionError):
    """The core has broken one of its promises."""


class Broken(StrEnum):
    """What a process does beside its work, from a moment on."""

    NOTHING = "nothing"
    EXITS = "exits"
    SIGNALLED = "signalled"
    EATEN = "eaten"  # by the kernel, for its memory
    BOOT_EXITS = "boot_exits"
    BOOT_DISK = "boot_disk"  # no disk takes its side file
    BOOT_HANGS = "boot_hangs"
    HANGS = "hangs"  # in whatever phase: its loop does not turn any more
    WEDGED = "wedged"  # its loop turns, and no call ends
    STUCK = "stuck"  # one call does not end
    SLOW = "slow"  # its calls take long: it is well
    LATE = "late"  # its beats come late: it is well


#: Those who never beat.
NO_BOOTS = (Broken.BOOT_EXITS, Broken.BOOT_DISK, Broken.BOOT_HANGS)


@dataclass(frozen=True, slots=True)
class Fate:
    """What is to become of a process; seconds from its fork."""

    boot_s: float
    broken: Broken = Broken.NOTHING
    after_s: float = math.inf
    drain_s: float = 0.1  # what it takes to go when it is told to
    dying_s: float = 0.0  # what the kernel takes to end it after SIGKILL
    leak: float = 0.0  # bytes a second
    tasks: float = 0.0  # a second


@dataclass(slots=True)
class Process:
    """One simulated worker."""

    number: int
    fate: Fate
    forked_at: float
    beaten_at: float = -math.inf
    moved_at: float = -math.inf  # from the reserve into a seat
    draining: bool = False
    killed_at: float | None = None
    dead: bool = False

    @property
    def broken_at(self) -> float:
        return self.forked_at + self.fate.after_s

    @property
    def boots_at(self) -> float:
        hangs = self.fate.broken in NO_BOOTS
        return math.inf if hangs else self.forked_at + self.fate.boot_s

    def ill(self, now: float, stall_s: float) -> bool:
        """Whether it is right to kill it."""
        if self.fate.broken is Broken.BOOT_HANGS:
            return True
        far = stall_s if self.fate.broken is Broken.WEDGED else 0.0
        return self.fate.broken in (Broken.HANGS, Broken.WEDGED) and now >= self.broken_at + far - EXACT_S

    def beats_until(self, now: float) -> float:
        """When its last heartbeat at or before `now` can have come."""
        if self.killed_at is not None or self.dead:
            return self.beaten_at
        return min(now, self.broken_at) if self.fate.broken is Broken.HANGS else now

    def says(self, now: float) -> Beat:
        """A heartbeat."""
        if now < self.broken_at and not self.fate.leak and not self.fate.tasks:
            return _WELL
        broken = self.fate.broken if now >= self.broken_at else Broken.NOTHING
        since = now - self.broken_at
        least, most = -10.0, -1.0
        if broken is Broken.WEDGED:
            least, most = since, since + EXACT_S
        elif broken is Broken.STUCK:
            most = since
        elif broken is Broken.SLOW:
            least, most = -0.5, 2.0  # the sweep that aborts it comes a moment later
        age = now - self.forked_at
        return Beat(
            phase="working",
            in_flight=3,
            submits=1,
            calls=2,
            beyond_s=least,
            oldest_beyond_s=most,
            completed=int(self.fate.tasks * age),
            rss_bytes=30 << 20,
            private_bytes=int(3e6 + self.fate.leak * age),
        )


_WELL = Beat(phase="working", in_flight=3, submits=1, calls=2, beyond_s=-10.0, oldest_beyond_s=-1.0)


class Machine:
    """One run. `plan(machine, number)` says what is to become of a process that is forked."""

    def __init__(
        self,
        settings: Settings,
        plan: Callable[["Machine", int], Fate],
        *,
        seed: int = 0,
        watchdog_s: float | None = None,
        leaps: bool = True,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.wall = 1.8e9  # nothing of the core may depend on it
        self.view = View(settings, settings.workers)
        self.processes: dict[int, Process] = {}
        self.log: list[tuple[float, str, str, int | None]] = []  # when, what, why, seat
        self.counts: Counter[str] = Counter()
        self.deaf = False  # the parent decides and nothing is carried out
        self.journal_fails = False
        self.no_forks_until = -math.inf
        self.template_hangs_until = -math.inf
        self.no_boots_until = -math.inf
        self.deadly_until = -math.inf
        self.fork_needs = Reason.PROCESSES  # what a fork that fails is short of
        self.held_up_until = -math.inf  # the parent's loop does not turn
        self._held_up_at = math.inf  # since when
        self._paused = (-math.inf, -math.inf)  # nobody does anything in between
        self.leaps = leaps
        self._plan = plan
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._due = self.now
        self._owed: set[int] = set()  # orders that a template that hangs has not answered
        self._pinged_at = self.now
        self._failing_since: float | None = None  # since when pings must stop
        self._delayed: dict[int, float] = {}  # seat -> not to be filled before
        self._boot_failures = 0  # in a row, of all
        self._boot_faults = 0  # in a row, of those who were ordered under the present settings; not for the disk
        self._renewals = 0
        self._ordered: dict[int, int] = {}  # process -> the renewals before it was ordered
        self._short_lives: Counter[int] = Counter()  # in a row, by seat
        self._excused = self.now  # until then nobody could have done better
        self._hung: dict[int, float] = {}  # process -> by when it is to be killed
        self.view.watchdog.every_s = watchdog_s
        self.view.watchdog.next_at = self.now
        events.rescale(self.view, self.view.target, Reason.START, self.now)

    # ---------------------------------------------------------------- time

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._queue, (when, next(self._order), what))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            due = self._queue[0][0] if self._queue else math.inf
            look = max(self._due, self.held_up_until)
            if min(due, look) > end:
                break
            if due <= look:
                when, _, what = heapq.heappop(self._queue)
                self.now = max(self.now, when)
                what()
                self._due = min(self._due, self.now)  # the crew looks at the end of a turn in which something happened
            else:
                self.now = max(self.now, look)
                self.look()
        self.now = end

    def look(self) -> None:
        """The parent's loop turns."""
        view = self.view
        # The crew ticks at every heartbeat: the first tick that it missed is what it is late for.
        late_s = events.ticked(view, self.now, min(self._due, self._held_up_at + view.settings.heartbeat_s))
        self._held_up_at = math.inf
        if late_s:
            self._forgive(late_s)
        self._tell_beats()
        if not self.journal_fails:
            events.journal_lives(view, self.now)
        for _ in range(ROUNDS):
            actions = decide(view, self.now)
            replaced = [
                view.vitals[action.number].seat
                for action in actions
                if isinstance(action, Retire) and action.reason in REPLACED
            ]
            for action in actions:
                self.carry_out(action)
            self._keep_capacity([seat for seat in replaced if seat is not None and seat >= 0])
            if not actions or self.deaf:
                break
        self._due = next_due(view, self.now)
        if not self.leaps or self.deaf:
            self._due = min(self._due, self.now + view.settings.heartbeat_s)
        if self._due <= self.now:
            self._due = self.now + view.settings.heartbeat_s  # it has had its rounds: a tick comes
        self.watch()

    def _tell_beats(self) -> None:
        """The heartbeats that have come since the last look: the latest of each worker."""
        beat_s = self.view.settings.heartbeat_s
        for process in self.processes.values():
            vital = self.view.vitals.get(process.number)
            if vital is None or vital.state is WorkerState.FORKING or process.boots_at > self.now:
                continue
            until = process.beats_until(self.now)
            at = max(min(until, math.floor(until / beat_s) * beat_s), process.boots_at)
            if process.fate.broken is Broken.LATE and 0.0 <= until - process.broken_at < LATE_S:
                at -= min(self.view.settings.stall_s - 2.0 * beat_s - 1.0, until - process.broken_at)
            if self._paused[0] < at <= self._paused[1]:
                at = math.floor(self._paused[0] / beat_s) * beat_s
            if at <= process.beaten_at or at > until or process.boots_at > until:
                continue
            if process.beaten_at == -math.inf:
                self._boot_failures = self._boot_faults = 0
            process.beaten_at = at
            # Of a parent that was held up, it is read now.
            read_at = self.now if self.held_up_until >= at else at
            events.beat(self.view, process.number, process.says(at), max(read_at, vital.born_at))

    # ---------------------------------------------------------------- what the parent does

    def carry_out(self, action: Action) -> None:
        """As the crew does."""
        self._check(action)
        if self.deaf:
            return
        if not isinstance(action, Ping):
            seat = getattr(action, "seat", None)
            if seat is None and isinstance(action, Retire | Condemn | Kill | Abandon):
                seat = self.view.vitals[action.number].seat
            self.log.append((self.now, verb(action), str(action.reason), seat))
            self.counts[f"{verb(action)} {action.reason}"] += 1
        events.apply(self.view, action, self.now, self.rng.random())
        match action:
            case Start():
                self._fork(self.view.last_number)
            case Move():
                self._sit_down(self.processes[action.number])
            case Kill():
                self._kill(action.number)
            case Retire():
                self._drain(action.number)
            case Refork():
                self._owed.clear()
                self.template_hangs_until = -math.inf
            case _:
                pass

    def _sit_down(self, process: Process) -> None:
        process.moved_at = self.now
        if self.now < self.deadly_until:
            self.at(self.now + 0.3, lambda: self._die(process, End(signal=11)))

    def renew(self, settings: Settings, replace_all: Reason | None) -> None:
        """Other settings."""
        self._renewals += 1
        self._boot_faults = 0
        events.renew(self.view, settings, self.now, replace_all=replace_all)

    def _fork(self, number: int) -> None:
        self._ordered[number] = self._renewals
        self._excuse_boots()
        if self.now < self.template_hangs_until:
            self._owed.add(number)
            return
        took_s = self.rng.uniform(0.001, 0.01)
        self.at(self.now + took_s, lambda: self._forked(number))

    def _forked(self, number: int) -> None:
        vital = self.view.vitals.get(number)
        if vital is None or vital.state is not WorkerState.FORKING:
            return
        if self.now < self.no_forks_until:
            events.fork_failed(self.view, number, self.now, self.rng.random(), self.fork_needs)
            self._excused = max(self._excused, self.view.forks.resume_at)
            self.counts["fork failed"] += 1
            self.log.append((self.now, "fork", "fork_failed", vital.seat))
            return
        events.forked(self.view, number, self.now)
        process = self.processes[number] = Process(number, self._plan(self, number), self.now)
        fate = process.fate
        if fate.broken in NO_BOOTS:
            self._excuse_boots()
        match fate.broken:
            case Broken.EXITS:
                self.at(process.broken_at, lambda: self._die(process, End(status=1)))
            case Broken.SIGNALLED:
                self.at(process.broken_at, lambda: self._die(process, End(signal=11)))
            case Broken.EATEN:
                self.at(process.broken_at, lambda: self._die(process, End(signal=9, oom=True)))
            case Broken.BOOT_EXITS:
                self.at(self.now + fate.boot_s, lambda: self._die(process, End(status=70)))
            case Broken.BOOT_DISK:
                self.at(self.now + fate.boot_s, lambda: self._die(process, End(status=74, disk=True)))
            case Broken.BOOT_HANGS:
                self._expect(process, self.now + self.view.settings.boot_s)
            case Broken.HANGS:
                self.at(process.broken_at, lambda: self._hang(process))
            case Broken.WEDGED | Broken.STUCK:
                self.at(process.broken_at + self.view.settings.stall_s, lambda: self._see(process))
            case _:
                pass
        if process.boots_at < math.inf:
            self.at(process.boots_at, lambda: None)
        for limit, rate in (
            (self.view.settings.max_private_bytes, fate.leak),
            (self.view.settings.max_tasks, fate.tasks),
        ):
            if limit and rate:
                self.at(self.now + limit / rate, lambda: None)

    def _hang(self, process: Process) -> None:
        if not process.dead and process.killed_at is None and not process.draining:
            self._expect(process, self.now + self.view.settings.stall_s)

    def _see(self, process: Process) -> None:
        """The next heartbeat says it."""
        if not process.dead and process.fate.broken is Broken.WEDGED and not process.draining:
            self._expect(process, self.now + self.view.settings.heartbeat_s)
        beat_s = self.view.settings.heartbeat_s
        self.at(math.ceil(self.now / beat_s) * beat_s + EXACT_S, lambda: None)

    def _expect(self, process: Process, due: float) -> None:
        """It hangs: two heartbeats after `due` it is to be killed at the latest."""
        if process.killed_at is None:
            self._hung[process.number] = due + 2.0 * self.view.settings.heartbeat_s

    def _drain(self, number: int) -> None:
        process = self.processes[number]
        process.draining = True
        self._hung.pop(number, None)  # its time to drain may end before
        hangs = process.fate.broken is Broken.HANGS and self.now >= process.broken_at
        if not hangs and process.fate.broken not in (Broken.WEDGED, Broken.BOOT_HANGS):
            self.at(self.now + process.fate.drain_s, lambda: self._die(process, End(status=0)))

    def _kill(self, number: int) -> None:
        process = self.processes[number]
        process.killed_at = self.now
        self._hung.pop(number, None)
        self.at(self.now + process.fate.dying_s, lambda: self._die(process, End(signal=9)))

    def _die(self, process: Process, end: End) -> None:
        if process.dead or (process.killed_at is not None and end.signal != 9):
            return
        if process.killed_at is not None and self.now < process.killed_at + process.fate.dying_s - EXACT_S:
            return
        # Its last words are read first.
        self._tell_beats()
        process.dead = True
        self._hung.pop(process.number, None)
        del self.processes[process.number]
        death = events.died(self.view, process.number, end, self.now, self.rng.random())
        self.log.append((self.now, "death", str(death.reason), death.seat))
        self.counts[f"death {death.reason}"] += 1
        if process.beaten_at == -math.inf:
            self._boot_failures += 1
            under_others = self._ordered[process.number] < self._renewals
            if death.reason in FAULTS and process.fate.broken is not Broken.BOOT_DISK and not under_others:
                self._boot_faults += 1
            self._excuse_boots()
        if death.seat is not None and death.reason in FAULTS:
            self._punish(death.seat, process, death.delay_s)

    def _excuse_boots(self) -> None:
        """When nobody boots one tries for all, and the others need not: from its order on, or its death."""
        if self._boot_failures >= self.view.target + self.view.settings.standby:
            self._excused = self.now

    def _punish(self, seat: int, process: Process, delay_s: float) -> None:
        """Reckon for ourselves how soon the seat may be filled again."""
        booted = process.beaten_at > -math.inf
        if booted and self.now - max(process.forked_at, process.moved_at) >= 5.0:
            self._short_lives[seat] = 0
            return
        self._short_lives[seat] += 1
        counted = self._short_lives[seat] - (3 if booted else 0)
        cap_s = self.view.settings.restart_max_delay_s
        if counted > 0:
            self._delayed[seat] = self.now + min(cap_s, 0.1 * 2.0 ** (counted - 1)) / 2.0
        if delay_s > cap_s:
            raise Promise(f"a delay of {delay_s} s is above the cap")

    # ---------------------------------------------------------------- what the machine does

    def hold_up(self, seconds: float) -> None:
        """The parent's loop stands still: a disk that blocks, SIGSTOP. The workers go on."""
        self.held_up_until = max(self.held_up_until, self.now + seconds)
        self._held_up_at = min(self._held_up_at, self.now)
        self.counts["held up"] += 1

    def pause(self, seconds: float) -> None:
        """The whole machine stands still while the monotonic clock goes on (a virtual machine that is moved)."""
        self.hold_up(seconds)
        self._paused = (self.now, self.now + seconds)
        for process in self.processes.values():
            if process.fate.broken is not Broken.NOTHING and process.broken_at > self.now:
                process.fate = replace(process.fate, after_s=process.fate.after_s + seconds)
        self._queue = [(when + seconds, order, what) for when, order, what in self._queue]
        heapq.heapify(self._queue)

    def lose_template(self) -> None:
        """It dies, and there is another one."""
        events.template_died(self.view, self.now, self.rng.random())
        self._owed.clear()

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: the wall clock leaps, the monotonic one stands still with all processes."""
        self.wall += seconds

    def _forgive(self, late_s: float) -> None:
        self._excused = max(self._excused, self.now)
        self._hung = {number: due + late_s for number, due in self._hung.items()}
        self._pinged_at = max(self._pinged_at, self.now)

    def fail_journal(self, failing: bool) -> None:
        """It neither takes writes nor says that it is down."""
        self.journal_fails = failing
        self._failing_since = self.now if failing else None
        self._pinged_at = self.now

    def go_deaf(self) -> None:
        """From now on no decision is carried out."""
        self.deaf = True

    # ---------------------------------------------------------------- the promises

    def _check(self, action: Action) -> None:
        """Before it is carried out."""
        view = self.view
        match action:
            case Kill() | Condemn():
                process = self.processes[action.number]
                ordered = action.reason in (Reason.DRAIN_OVERDUE, Reason.STOP_AGAIN)
                if not ordered and not process.ill(self.now, view.settings.stall_s):
                    raise Promise(f"{action} at {self.now}: {process} is well")
            case Refork() if not self._owed:
                raise Promise(f"{action} at {self.now}: the template owes nothing")
            case Start() if self._undead() >= view.target:
                raise Promise(f"{action} at {self.now}: {self._undead()} processes hang in the kernel already")
            case Start() | Move() if action.seat >= 0:
                before = self._delayed.get(action.seat, 0.0)
                if view.seat(action.seat).state is not SeatState.TAKEN and self.now < before - EXACT_S:
                    raise Promise(f"{action} at {self.now}, {before - self.now} s too early")
            case Ping():
                grace_s = max(0.5, 2.0 * view.settings.heartbeat_s)
                if self._failing_since is not None and self.now > self._failing_since + grace_s + EXACT_S:
                    raise Promise(
                        f"a ping at {self.now}, {self.now - self._failing_since} s after it should have stopped"
                    )
                self._pinged_at = self.now
            case Withhold():
                if self._failing_since is None and not self._all_undead():
                    raise Promise(f"{action} at {self.now}: nothing is wrong")
                self._pinged_at = self.now
            case _:
                pass

    def _undead(self) -> int:
        vitals = self.view.vitals.values()
        return sum(vital.state is WorkerState.KILLED and vital.seat is None for vital in vitals)

    def _keep_capacity(self, seats: list[int]) -> None:
        """A worker that is to be replaced goes when another has its seat, and one at a time."""
        if not seats:
            return
        for seat in seats:
            number = self.view.seat(seat).worker
            if number is None or not self.view.vitals[number].usable:
                raise Promise(f"at {self.now} seat {seat} was left before another worker was ready")
        leaving = [
            vital
            for vital in self.view.vitals.values()
            if vital.state is WorkerState.DRAINING and vital.seat is None and vital.why in REPLACED
        ]
        if len(leaving) > 1:
            raise Promise(f"{len(leaving)} are replaced at once at {self.now}")

    def _all_undead(self) -> bool:
        return self._undead() >= self.view.target and self.view.alive == 0

    def watch(self) -> None:
        """After each look."""
        if self.deaf:
            return
        view = self.view
        if view.boot_faults != self._boot_faults:
            raise Promise(
                f"{view.boot_faults} boots are held against the settings at {self.now}, not {self._boot_faults}"
            )
        for number, due in self._hung.items():
            if self.now > due + EXACT_S:
                raise Promise(f"process {number} hangs and is not killed at {self.now}, {self.now - due} s too late")
        for gone in [seat for seat in self._short_lives if seat >= len(view.seats)]:
            del self._short_lives[gone]  # should there be one of that number again, it is another
            self._delayed.pop(gone, None)
        if any(process.fate.broken is Broken.BOOT_HANGS for process in self.processes.values()):
            self._excuse_boots()
        if view.stopping:
            return
        # At the latest after the capped delay, from when it could be done.
        patience_s = view.settings.restart_max_delay_s + EXACT_S
        undead = self._undead() >= view.target
        for seat in view.seats[: view.target]:
            since = max(seat.since, self._excused)
            if seat.state is not SeatState.TAKEN and self.now > since + patience_s and not undead:
                raise Promise(f"seat {seat.index} is empty since {seat.since} at {self.now}")
        every_s = view.watchdog.every_s
        if every_s is not None and self.now > self._pinged_at + every_s + 2.0 * view.settings.heartbeat_s + EXACT_S:
            raise Promise(f"no ping since {self._pinged_at} at {self.now}")


# ---------------------------------------------------------------- a run by its seed


def run_seed(seed: int, hours: float) -> Machine:
    """A machine with random settings, faults and load, watched for `hours`. Raises Promise."""
    rng = random.Random(f"machine {seed}")
    settings = _settings(rng)
    machine = Machine(
        settings,
        _planner(rng, settings),
        seed=seed,
        watchdog_s=rng.choice([None, 120.0, 300.0, 600.0]),
    )
    _schedule(machine, rng, hours * HOUR_S)
    machine.run(hours * HOUR_S)
    _stop(machine)
    return machine


def _settings(rng: random.Random) -> Settings:
    workers = rng.choice([1, 2, 3, 4, 8])
    autoscale = None
    if rng.random() < 0.3:
        autoscale = Autoscale(1, workers + rng.randint(0, 4), 30.0, rng.choice([30.0, 120.0]))
    return Settings(
        workers=workers,
        min_workers=rng.randint(1, workers),
        heartbeat_s=rng.choice([0.2, 1.0, 1.0, 5.0]),
        boot_s=rng.choice([5.0, 30.0]),
        stall_s=rng.choice([20.0, 120.0, 300.0, 600.0]),
        drain_s=rng.choice([5.0, 30.0]),
        restart_max_delay_s=rng.choice([5.0, 30.0]),
        standby=rng.choice([0, 1, 1, 1, 2]),
        max_tasks=rng.choice([0, 0, 5000]),
        max_private_bytes=rng.choice([0, 0, 64 << 20]),
        max_age_s=rng.choice([0.0, 0.0, 4000.0]),
        autoscale=autoscale,
    )


def _planner(rng: random.Random, settings: Settings) -> Callable[[Machine, int], Fate]:
    """Most processes live for an hour or so; now and then none boots for a while."""
    ways = [broken for broken in Broken if broken not in NO_BOOTS]
    weights = [6 if broken is Broken.NOTHING else 1 for broken in ways]
    undying = rng.random() < 0.2

    def plan(machine: Machine, number: int) -> Fate:
        fate = Fate(
            boot_s=rng.uniform(0.005, 0.2) if rng.random() < 0.95 else rng.uniform(0.2, settings.boot_s * 0.9),
            drain_s=rng.uniform(0.0, 2.0) if rng.random() < 0.9 else rng.uniform(0.0, 3.0 * settings.drain_s),
            dying_s=rng.choice([0.0, 0.002, 1.0]) if not undying else rng.choice([0.0, 10.0, 300.0, 3000.0]),
            leak=rng.choice([0.0, 0.0, 2e4]),
            tasks=rng.choice([0.0, 1.0]),
        )
        if machine.no_boots_until > machine.now:
            return replace(fate, broken=rng.choice([*NO_BOOTS, Broken.BOOT_EXITS]))
        broken = rng.choices(ways, weights)[0]
        after_s = fate.boot_s + (rng.expovariate(1 / HOUR_S) if rng.random() < 0.9 else rng.uniform(0.0, 4.0))
        return replace(fate, broken=broken, after_s=after_s)

    return plan


def _schedule(machine: Machine, rng: random.Random, span_s: float) -> None:
    """What happens to the machine as a whole, and what its operators do."""

    def sometimes(mean_s: float, what: Callable[[], None]) -> None:
        when = machine.now + rng.expovariate(1 / mean_s)
        while when < machine.now + span_s:
            machine.at(when, what)
            when += rng.expovariate(1 / mean_s)

    def no_boots() -> None:
        machine.no_boots_until = machine.now + rng.uniform(5.0, 300.0)
        if rng.random() < 0.5:  # an operator sees it, and does something
            machine.at(machine.now + rng.uniform(0.0, 300.0), reload)

    def deadly_seats() -> None:
        """Who comes from the reserve dies of the work, as soon as there is some."""
        machine.deadly_until = machine.now + rng.uniform(5.0, 120.0)

    def no_forks() -> None:
        machine.no_forks_until = machine.now + rng.uniform(1.0, 120.0)

    def template_hangs() -> None:
        machine.template_hangs_until = machine.now + rng.uniform(0.0, 600.0)

    def template_dies() -> None:
        """It hangs for a while before, or it would owe nothing."""
        machine.template_hangs_until = machine.now + rng.uniform(0.0, 4.0)
        machine.at(machine.template_hangs_until, machine.lose_template)

    def load() -> None:
        events.loaded(machine.view, Load(rng.choice([0.0, 5.0, 40.0]), rng.random()), machine.now)

    def short() -> None:
        events.short_of(machine.view, rng.choice([Reason.MEMORY, Reason.DESCRIPTORS]), machine.now)

    def reload() -> None:
        settings = replace(machine.view.settings, workers=rng.choice([1, 2, 3, 4, 8]))
        settings = replace(settings, standby=rng.choice([0, 1, 2]))
        settings = replace(settings, min_workers=rng.randint(1, settings.workers), autoscale=None)
        machine.renew(settings, Reason.RELOAD if rng.random() < 0.7 else None)

    def scale() -> None:
        least = machine.view.settings.min_workers
        events.rescale(machine.view, rng.randint(least, least + 4), Reason.OPERATOR, machine.now)

    sometimes(2 * HOUR_S, no_boots)
    sometimes(2 * HOUR_S, deadly_seats)
    sometimes(2 * HOUR_S, no_forks)
    sometimes(3 * HOUR_S, template_hangs)
    sometimes(1 * HOUR_S, template_dies)
    sometimes(1 * HOUR_S, lambda: machine.hold_up(rng.uniform(0.1, 10.0)))
    sometimes(2 * HOUR_S, lambda: machine.pause(rng.uniform(0.5, 400.0)))
    sometimes(2 * HOUR_S, lambda: machine.suspend(rng.uniform(-1e5, 1e6)))
    sometimes(0.3 * HOUR_S, load)
    sometimes(2 * HOUR_S, short)
    sometimes(3 * HOUR_S, reload)
    sometimes(3 * HOUR_S, scale)
    for when in (rng.uniform(0.0, span_s) for _ in range(rng.choice([0, 0, 1]))):
        machine.at(machine.now + when, lambda: machine.fail_journal(True))
        machine.at(machine.now + when + rng.uniform(1.0, 900.0), lambda: machine.fail_journal(False))


def _stop(machine: Machine) -> None:
    """All go within the time to drain, and what cannot be killed is all that is left."""
    settings = machine.view.settings
    machine.no_forks_until = machine.template_hangs_until = -math.inf
    events.stop(machine.view)
    machine._due = machine.now
    machine.run(settings.boot_s + settings.drain_s + FORK_S + UNDYING_S + 3.0 * settings.heartbeat_s + 4000.0)
    if machine.view.vitals:
        raise Promise(f"after the stop there are {machine.view.vitals}")
