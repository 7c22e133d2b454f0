"""A few scenarios, played twice: with real processes under the real crew, and on the simulated machine.

Times are such that no two things that are independent of each other happen within a heartbeat: the order of the
decisions is then the same wherever it is played.
"""

__all__ = ["LATE_S", "SCENARIOS", "SETTINGS", "TRIES", "Scenario", "play_for_real", "play_in_time", "play_simulated"]

import logging
import os
import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from captchad.ipc.channel import Message
from captchad.ipc.loop import Loop, next_beat
from captchad.model.clock import SystemClock
from captchad.supervisor.core import events
from captchad.supervisor.core.actions import Scale
from captchad.supervisor.core.states import Reason
from captchad.supervisor.core.view import Settings
from captchad.supervisor.crew import Crew
from captchad.supervisor.process import become_subreaper, reap_strangers
from captchad.supervisor.template import Template
from captchad.supervisor.worker import Worker
from tests.supervisor import puppet
from tests.supervisor.simulator import Broken, Fate, Machine

BEAT_S = 0.2

#: What was done, and why; the seat of those who came or died.
Entry = tuple[str, str, int | None]

SETTINGS = Settings(
    workers=2,
    min_workers=1,
    heartbeat_s=BEAT_S,
    boot_s=1.5,
    stall_s=1.0,
    drain_s=1.0,
    restart_max_delay_s=1.0,
    standby=1,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`fates` by the numbers of workers: the seats first, then the reserve. `script`: when something else happens."""

    seconds: float
    fates: Mapping[int, Fate] = field(default_factory=dict)
    script: tuple[tuple[float, str], ...] = ()
    settings: Settings = SETTINGS


def _fate(broken: Broken, after_s: float, **more: float) -> Fate:
    return Fate(boot_s=0.0, broken=broken, after_s=after_s, **more)


SCENARIOS = {
    "a crash": Scenario(2.0, {1: _fate(Broken.EXITS, 0.7)}),
    "a signal, without a reserve": Scenario(
        2.0, {2: _fate(Broken.SIGNALLED, 0.7)}, settings=replace(SETTINGS, standby=0)
    ),
    "one that hangs": Scenario(3.5, {1: _fate(Broken.HANGS, 0.7)}),
    "one whose calls never end": Scenario(3.5, {2: _fate(Broken.WEDGED, 0.5)}),
    "one call that never ends": Scenario(4.0, {2: _fate(Broken.STUCK, 0.5)}),
    "slow calls": Scenario(3.0, {1: _fate(Broken.SLOW, 0.3)}, settings=replace(SETTINGS, stall_s=2.5)),
    "one that does not boot in time": Scenario(4.0, {2: _fate(Broken.BOOT_HANGS, 0.0)}),
    "one that cannot boot for a while": Scenario(
        3.0,
        {number: Fate(0.05, Broken.BOOT_EXITS if number % 2 else Broken.BOOT_DISK) for number in (2, 3, 4, 5)},
        settings=replace(SETTINGS, workers=1, standby=1),
    ),
    "one that has done its tasks": Scenario(4.0, {1: Fate(0.0, tasks=12.0)}, settings=replace(SETTINGS, max_tasks=20)),
    "one that leaks": Scenario(4.0, {2: Fate(0.0, leak=2e7)}, settings=replace(SETTINGS, max_private_bytes=30_000_000)),
    "all are renewed": Scenario(4.0, script=((0.7, "renew"),)),
    "more, then fewer": Scenario(4.0, script=((0.7, "scale 4"), (2.0, "scale 1"))),
    "a parent that is held up": Scenario(4.5, {2: _fate(Broken.HANGS, 2.9)}, script=((0.7, "hold up"),)),
    "no descriptors for a while": Scenario(
        3.0,
        {1: _fate(Broken.EXITS, 0.7)},
        script=((0.5, "no descriptors"), (1.5, "descriptors")),
        settings=replace(SETTINGS, standby=0),
    ),
    "a stop, and one that does not go": Scenario(3.5, {1: Fate(0.0, drain_s=60.0)}, script=((0.7, "stop"),)),
}

#: A real play in which somebody was later than this is no play of its scenario: what was to be apart may have met.
LATE_S = BEAT_S / 2

#: A machine that has other things to do may spoil so many, less one.
TRIES = 6

#: The parent stands still for longer than a worker may be silent.
HELD_UP_S = 1.7


# ---------------------------------------------------------------- simulated


def play_simulated(scenario: Scenario) -> list[Entry]:
    """Its decisions and deaths on the simulated machine."""
    well = Fate(boot_s=0.0)
    machine = Machine(scenario.settings, lambda _, number: scenario.fates.get(number, well))
    ops: dict[str, Callable[[], None]] = {
        "renew": lambda: machine.renew(machine.view.settings, Reason.OPERATOR),
        "hold up": lambda: machine.hold_up(HELD_UP_S),
        "no descriptors": lambda: _no_forks(machine),
        "descriptors": lambda: None,
        "stop": lambda: events.stop(machine.view),
    }
    for at, what in scenario.script:
        if what.startswith("scale"):
            target = int(what.split()[1])
            machine.at(machine.now + at, lambda target=target: machine.carry_out(Scale(target, Reason.OPERATOR)))
        else:
            machine.at(machine.now + at, ops[what])
    machine.run(scenario.seconds)
    return [_entry(what, why, seat) for _, what, why, seat in machine.log]


def _no_forks(machine: Machine) -> None:
    machine.no_forks_until, machine.fork_needs = machine.now + 1.0, Reason.DESCRIPTORS


def _entry(what: str, why: str, seat: int | None) -> Entry:
    """Of the others the seat goes without saying."""
    return what, why, seat if what in ("start", "move") else None


# ---------------------------------------------------------------- real


class _Nobody:
    """Duties and office: what was done is written down."""

    def __init__(self) -> None:
        self.log: list[Entry] = []

    def on_boot(self, worker: Worker) -> None: ...

    def on_ready(self, worker: Worker) -> None: ...

    def on_message(self, worker: Worker, message: Message) -> None: ...

    def on_retire(self, worker: Worker) -> None: ...

    def on_limit(self, share: float) -> None: ...

    def on_death(self, worker: Worker, kind: str) -> list[str]:
        return []

    def write(self, fields: dict[str, Any]) -> None:
        self.log.append(_entry(fields["do"], fields["why"], fields.get("seat")))

    def journal_lives(self) -> bool:
        return True

    def ping(self) -> None: ...


class _Stage:
    """The real crew with real processes."""

    def __init__(self, scenario: Scenario, template: Template, out_of_memory: Callable[[], bool]) -> None:
        self.loop = Loop(SystemClock())
        self.nobody = _Nobody()
        self.crew = Crew(
            scenario.settings,
            self.loop,
            SystemClock(),
            random.Random(1),
            self.nobody,
            self.nobody,
            template,
            lambda _, number: puppet.order(scenario.fates.get(number, Fate(0.0)), BEAT_S),
            logging.getLogger("tests.scenarios"),
            out_of_memory,
        )
        self._ends = False
        self._due: float | None = None
        self._silent = [number for number, fate in scenario.fates.items() if fate.broken is Broken.HANGS]
        self.late_s = 0.0

    def play(self, scenario: Scenario) -> list[Entry]:
        self.crew.start(1)
        self._tick()
        for at, what in scenario.script:
            self.loop.call_later(at, lambda what=what: self._do(what))
        self.loop.call_later(scenario.seconds, self._end)
        while not self._ends:
            self.loop.turn()
        found = list(self.nobody.log)
        self.crew.drain()
        self.crew.look()
        self.crew.kill_all()
        while self.crew.workers:
            self.loop.turn(0.1)
        return found

    def _end(self) -> None:
        self._ends = True

    def _tick(self) -> None:
        """As the parent does it."""
        self._look_at_times()
        due = next_beat(time.monotonic() - 0.02, BEAT_S) + 0.02
        self.crew.tick(due)
        self._due = due
        self.loop.call_at(due, self._tick)

    def _look_at_times(self) -> None:
        """How late this tick is, all beats are or were, and forks and first beats, which come at once."""
        now = time.monotonic()
        late = [0.0 if self._due is None else now - self._due]
        for number, vital in self.crew.view.vitals.items():
            late.append(vital.beat.lag_s)
            late.append((vital.forked_at or now) - vital.ordered_at)
            if vital.first_beat_at is not None:
                late.append(vital.first_beat_at - vital.ordered_at)
            if vital.last_beat_at is not None and number not in self._silent:
                late.append(now - vital.last_beat_at - BEAT_S)
        self.late_s = max(self.late_s, *late)

    def _do(self, what: str) -> None:
        match what.split():
            case ["renew"]:
                self.crew.renew(self.crew.view.settings, replace_all=Reason.OPERATOR)
            case ["scale", target]:
                self.crew.rescale(int(target))
            case ["hold", "up"]:
                time.sleep(HELD_UP_S)  # the parent itself stands still: that is what is tested
                self._due = None
            case ["no", "descriptors"]:
                self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free(), self._limit[1]))
            case ["descriptors"]:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)
            case ["stop"]:
                self.crew.drain()

    def close(self) -> None:
        self.crew.close()
        self.loop.close()


def _lowest_free() -> int:
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    return fd


@contextmanager
def _template() -> Iterator[Template]:
    become_subreaper()
    made = Template(puppet.body, "tests.supervisor.puppet")
    try:
        yield made
    finally:
        if not made.gone:
            made.bury()
        reap_strangers(())


def play_for_real(scenario: Scenario, out_of_memory: Callable[[], bool] = lambda: False) -> tuple[list[Entry], float]:
    """Its decisions and deaths with real processes, and how late in s the machine was, at the worst."""
    with _template() as template:
        stage = _Stage(scenario, template, out_of_memory)
        try:
            return stage.play(scenario), stage.late_s
        finally:
            stage.close()


def play_in_time(scenario: Scenario) -> tuple[list[Entry], float]:
    """The same, of another try if the decisions are not the simulated ones and the machine was late."""
    wanted = play_simulated(scenario)
    for _ in range(TRIES):
        found, late_s = play_for_real(scenario)
        if found == wanted or late_s < LATE_S:
            break
    return found, late_s
