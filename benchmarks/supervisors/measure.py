"""What is measured of each contender: recovery, idle processor and memory, workers that die at boot, and siblings."""

__all__ = ["Figures", "Results", "Scale", "Watched", "measure"]

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from benchmarks.machine import bare_forks, cpu_s, pss_mb
from benchmarks.supervisors.contender import Contender, Kind, Place
from tests.support.harness import eventually

#: Before the first look after a kill and between two looks: asking captchad is work for its one thread, and looking at
#: the others takes processor time that they need now.
_LOOK_S = 0.1

#: A replacement that is not there by then does not come.
_KILL_LIMIT_S = 30.0

#: A contender gets no more than one kill in so many seconds. With 8 workers that are killed by turns each then lives
#: longer than any of them calls a short life, and cotyledon does not find that it forks too often (9 in 8 s).
SPACING_S = 1.2


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything; times in seconds."""

    kills: int
    stalls: int
    never_s: float  # a stopped worker that is not replaced by then is never replaced
    idle_s: float
    boot_s: float
    spread_s: float  # at random up to this before each round: see `_Run.pause`
    settle_s: float  # between the start of a contender and the first look at its memory, or the first kill
    deep: bool = False  # whether a daemon with a million tasks takes part, too


@dataclass(slots=True)
class Figures:
    """What was found of one contender; None or empty: not measured."""

    kill_s: list[float] = field(default_factory=list)
    lost_kills: int = 0  # workers that were killed and not replaced
    disturbed: int = 0  # siblings of killed workers that were replaced or stopped working, too
    stall_s: list[float] = field(default_factory=list)
    never: bool = False  # a stopped worker was not replaced within the time that was waited
    idle_percent: float | None = None
    pss_mb: float | None = None
    processes: int | None = None
    boot_starts: int | None = None
    boot_survived: bool | None = None  # whether the supervisor lived on with workers that die at boot


@dataclass(slots=True)
class Results:
    """Of everybody, and of the bare forks between the kills."""

    figures: dict[str, Figures] = field(default_factory=dict)
    reference_s: list[float] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # contender -> why it was given up

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Watched:
    """A running contender under measurement, and the workers that it should have: pid -> when each was ready."""

    def __init__(self, contender: Contender, figures: Figures) -> None:
        self.contender = contender
        self._figures = figures
        self._expected = contender.workers()
        self._next_kill = 0.0
        self._idle: tuple[list[int], float, float] = ([], 0.0, 0.0)

    def begin_idle(self) -> None:
        """From now on nothing is asked of it."""
        pids = self.contender.pids()
        self._idle = pids, time.monotonic(), cpu_s(pids)

    def end_idle(self) -> None:
        """Note the processor time that it has taken since."""
        pids, since, before = self._idle
        self._figures.idle_percent = (cpu_s(pids) - before) / (time.monotonic() - since) * 100

    def kill_one(self) -> None:
        """Kill the worker that has lived longest, and wait for the next one."""
        time.sleep(max(0.0, self._next_kill - time.monotonic()))  # the pace: see SPACING_S
        self.check_siblings()
        time.sleep(_LOOK_S)  # the pace: what the question has cost is over by then
        taken = self._replaced_after(signal.SIGKILL, _KILL_LIMIT_S)
        self._next_kill = time.monotonic() + SPACING_S
        if taken is None:
            self._figures.lost_kills += 1
        else:
            self._figures.kill_s.append(taken)

    def stop_one(self, limit_s: float) -> None:
        """Stop the worker that has lived longest, and wait for the next one. Who never replaces one is asked once."""
        if self._figures.never:
            return
        taken = self._replaced_after(signal.SIGSTOP, limit_s)
        if taken is None:
            self._figures.never = True
        else:
            self._figures.stall_s.append(taken)

    def check_siblings(self) -> None:
        """Count the workers that should be there and are not at work."""
        now = self.contender.workers()
        gone = [pid for pid in self._expected if pid not in now]
        self._figures.disturbed += len(gone)
        if gone:
            self._expected = now

    def _replaced_after(self, number: signal.Signals, limit_s: float) -> float | None:
        """Seconds from the signal until a worker that was not there before could begin; None when none came."""
        known = set(self._expected)
        victim = min(self._expected, key=self._expected.__getitem__)
        sent_at = time.monotonic()
        os.kill(victim, number)
        del self._expected[victim]
        while time.monotonic() < sent_at + limit_s:
            time.sleep(_LOOK_S)
            fresh = {pid: at for pid, at in self.contender.workers().items() if pid not in known}
            if fresh:
                pid = min(fresh, key=fresh.__getitem__)
                self._expected[pid] = fresh[pid]
                return fresh[pid] - sent_at
        return None


def measure(
    place: Place,
    contenders: Sequence[type[Contender]],
    scale: Scale,
    say: Callable[[str], None],
    *,
    killed_only: Sequence[type[Contender]] = (),
) -> Results:
    """Everything. A contender that fails is given up, and the reason kept; the others go on.

    Of those in `killed_only` only the time from killed to ready is taken, each alone.
    """
    run = _Run(place, contenders, scale, say, Results({each.title: Figures() for each in contenders}))
    # What contenders share counts for each in part, and who starts without pause takes the machine from the others.
    run.one_by_one(Kind.DEFAULT, run.memory)
    run.together(Kind.DEFAULT, run.idle_and_kills)
    run.together(Kind.LIMITED, run.stalls)
    run.one_by_one(Kind.BROKEN, run.boots)
    run.contenders = killed_only
    run.results.figures |= {each.title: Figures() for each in killed_only}
    run.one_by_one(Kind.DEFAULT, run.kills_alone)
    return run.results


@dataclass(slots=True)
class _Run:
    place: Place
    contenders: Sequence[type[Contender]]
    scale: Scale
    say: Callable[[str], None]
    results: Results
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def one_by_one(self, kind: Kind, look: Callable[[Contender, Figures], None]) -> None:
        """Run and look at one contender after the other."""
        for each in self.contenders:

            def run_and_look(each: type[Contender] = each) -> None:
                with each(self.place, kind) as contender:
                    look(contender, self.results.figures[each.title])

            self.say(f"{look.__name__}: {each.title}")
            self._attempt(each.title, run_and_look)

    def together(self, kind: Kind, look: Callable[[Sequence[Watched]], None]) -> None:
        """Run all contenders at the same time, so that the machine is as fast or slow for everybody."""
        with ExitStack() as stack:
            watched: list[Watched] = []
            for each in self.contenders:

                def start(each: type[Contender] = each) -> None:
                    contender = stack.enter_context(each(self.place, kind))
                    contender.wait_ready()
                    watched.append(Watched(contender, self.results.figures[each.title]))

                self._attempt(each.title, start)
            time.sleep(self.scale.settle_s)  # what follows a start is over then
            look(watched)

    def _attempt(self, title: str, step: Callable[[], None]) -> None:
        """Do it, unless this contender was given up already."""
        if title in self.results.failures:
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever ails one contender, the others are measured
            self.results.failures[title] = f"{type(error).__name__}: {error}"

    def memory(self, contender: Contender, figures: Figures) -> None:
        contender.wait_ready()
        time.sleep(self.scale.settle_s)  # what is loaded soon after the start belongs to it
        pids = contender.pids()
        figures.processes, figures.pss_mb = len(pids), sum(map(pss_mb, pids))

    def idle_and_kills(self, watched: Sequence[Watched]) -> None:
        self._idle(watched)
        for number in range(self.scale.kills):
            self.say(f"kill {number + 1} of {self.scale.kills}")
            self.pause()
            self.results.reference_s += bare_forks(1)
            for each in _rotated(watched, number):
                self._attempt(each.contender.title, each.kill_one)
        for each in watched:
            self._attempt(each.contender.title, each.check_siblings)

    def kills_alone(self, contender: Contender, figures: Figures) -> None:
        contender.wait_ready()
        watched = Watched(contender, figures)
        time.sleep(self.scale.settle_s)  # what follows a start is over then
        for _ in range(self.scale.kills):
            self.results.reference_s += bare_forks(1)
            watched.kill_one()

    def _idle(self, watched: Sequence[Watched]) -> None:
        self.say(f"idle: {self.scale.idle_s:g} s")
        for each in watched:
            self._attempt(each.contender.title, each.begin_idle)
        time.sleep(self.scale.idle_s)
        for each in watched:
            self._attempt(each.contender.title, each.end_idle)

    def stalls(self, watched: Sequence[Watched]) -> None:
        for number in range(self.scale.stalls):
            self.say(f"stall {number + 1} of {self.scale.stalls}")
            self.pause()
            for each in _rotated(watched, number):
                self._attempt(each.contender.title, partial(each.stop_one, self.scale.never_s))

    def pause(self) -> None:
        """Keep the kills from falling always at the same place of a contender's own timer.

        circus looks every 5 s, and what it finds then ends a turn: without a pause the next turn begins as long after
        that look each time, and of its delays only a part would be seen.
        """
        time.sleep(self.rng.uniform(0.0, self.scale.spread_s))

    def boots(self, contender: Contender, figures: Figures) -> None:
        eventually(lambda: contender.starts() > 0, _KILL_LIMIT_S, every=_LOOK_S)
        end = time.monotonic() + self.scale.boot_s
        while contender.lives and time.monotonic() < end:
            time.sleep(_LOOK_S)
        figures.boot_survived, figures.boot_starts = contender.lives, contender.starts()


def _rotated(watched: Sequence[Watched], number: int) -> list[Watched]:
    """Another one begins each time: nobody always follows the same neighbour."""
    first = number % max(1, len(watched))
    return [*watched[first:], *watched[:first]]
