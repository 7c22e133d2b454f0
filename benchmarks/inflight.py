"""Thousands of captchas at once, and the most solves a second: a real daemon with 4 workers and the practice provider.

    python -m benchmarks.inflight [--captchas 5000] [--rate 250] [--seconds 60] [--solve-s 20] [--json FILE]

At once: all captchas lie in the spool when the daemon begins; each takes 20 s to be solved. Reported are how many the
provider had at the same time, the memory (PSS, pages that processes share count once) of all of the daemon's processes
at that moment, and the processor time up to the last result.
Sustained: so many tasks a second come into the spool, half a second's worth at a time, for as long as a captcha takes
and then for 60 s, which are measured: solves a second, and what each process takes of a core. A daemon that cannot keep
up shows by its solves and by what waits in its queue at the end.

The practice provider runs on the same machine, as one process on one core, and it verifies the end: as many charges as
tasks, no captcha twice.
"""

__all__ = ["main"]

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import psutil

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

WORKERS = 4

#: How often tasks are dropped, and the figures looked at.
STEP_S = 0.5

#: What a slow machine may take beyond the solve time, for each captcha.
PATIENCE_S = 0.05

CONFIG = {
    "daemon": {"workers": WORKERS, "min_workers": WORKERS},
    "supervision": {"heartbeat_s": 1.0, "stall_s": 60.0},
    "provider": {
        "max_in_flight": 100_000,
        "first_poll_s": 0.0,
        "poll_s": 5.0,
        "timeout_s": 180.0,
        "submit_s": 30.0,
    },
}


@dataclass(frozen=True, slots=True)
class AtOnce:
    """What became of many captchas that came together. Processor times in seconds."""

    captchas: int
    peak_in_flight: int
    peak_pss_mb: float
    submitted_s: float  # until the provider had all of them
    solved_s: float  # until the last was solved
    cpu_s: Mapping[str, float]
    polls: int


@dataclass(frozen=True, slots=True)
class Sustained:
    """What was solved while tasks came in steadily."""

    rate: float
    seconds: float
    solved: int
    waiting: int  # in the queue at the end
    cpu_s: Mapping[str, float]
    machine_percent: float  # of all processors, whoever used them
    polls: int


# --- what is measured -------------------------------------------------------------------------------------------------


class Bench:
    """One daemon and its provider."""

    def __init__(self, daemon: Daemon, sandbox: Sandbox) -> None:
        self._daemon = daemon
        self._sandbox = sandbox
        self._numbers = count(1)
        self.dropped = 0

    def at_once(self, captchas: int, solve_s: float) -> AtOnce:
        """Drop all, wait for all."""
        cpu, polls, start = self._cpu_s(), self._polls(), time.monotonic()
        self._drop(captchas)
        peak, pss, submitted_s = 0, 0.0, 0.0
        for _ in self._steps(captchas * PATIENCE_S + 3 * solve_s):
            totals = self._sandbox.totals()
            if totals["in_flight"] > peak:
                peak, pss = totals["in_flight"], self._pss_mb()
            submitted_s = submitted_s or (totals["created"] >= self.dropped and time.monotonic() - start)
            if self._solved() >= self.dropped:
                break
        else:
            raise AssertionError(f"not solved in time: {self._daemon.status()['queue']}")
        solved_s = time.monotonic() - start
        return AtOnce(captchas, peak, pss, submitted_s, solved_s, self._since(cpu), self._polls() - polls)

    def sustained(self, rate: float, seconds: float, solve_s: float) -> Sustained:
        """Drop `rate` tasks a second for `solve_s` and a little, then for the `seconds` that count."""
        self._feed(rate, solve_s + 10.0)
        cpu, polls, solved, start = self._cpu_s(), self._polls(), self._solved(), time.monotonic()
        psutil.cpu_percent()
        self._feed(rate, seconds)
        seconds = time.monotonic() - start
        queue = self._daemon.status()["queue"]
        result = Sustained(
            rate,
            seconds,
            queue["solved_total"] - solved,
            queue["pending"],
            self._since(cpu),
            psutil.cpu_percent(),
            self._polls() - polls,
        )
        eventually(lambda: self._solved() >= self.dropped, self.dropped * PATIENCE_S + 3 * solve_s, every=STEP_S)
        return result

    def verify(self) -> None:
        """Raises AssertionError when something was lost, or paid for twice."""
        totals = self._sandbox.totals()
        if (totals["charges"], totals["duplicates"]) != (self.dropped, 0):
            raise AssertionError(f"{self.dropped} tasks: {totals}")

    def _feed(self, rate: float, seconds: float) -> None:
        first, due = self.dropped, 0.0
        for passed in self._steps(seconds):
            due = rate * min(passed + STEP_S, seconds)
            self._drop(int(due) - (self.dropped - first))

    def _steps(self, seconds: float) -> Iterator[float]:
        """The seconds that have passed, every STEP_S."""
        start = time.monotonic()
        for step in count():
            passed = time.monotonic() - start
            if passed >= seconds:
                return
            yield passed
            time.sleep(max(0.0, start + (step + 1) * STEP_S - time.monotonic()))

    def _drop(self, number: int) -> None:
        self.dropped += number
        numbers = [next(self._numbers) for _ in range(number)]
        self._daemon.drop({"id": f"t{n}", "sitekey": f"key-{n}", "pageurl": "https://example.com/"} for n in numbers)

    def _solved(self) -> int:
        return int(self._daemon.status()["queue"]["solved_total"])

    def _polls(self) -> int:
        return int(self._sandbox.totals()["polls"])

    def _processes(self) -> dict[str, psutil.Process]:
        parent = psutil.Process(self._daemon.pid)
        workers = self._daemon.status()["workers"]["list"]
        names = {worker["pid"]: f"worker {worker['slot']}" for worker in workers}
        return {"parent": parent} | {names.get(each.pid, "monitor"): each for each in parent.children()}

    def _cpu_s(self) -> dict[str, float]:
        processes = self._processes() | {"practice provider": psutil.Process(self._sandbox.pid)}
        times = {name: process.cpu_times() for name, process in processes.items()}
        return {name: each.user + each.system for name, each in times.items()}

    def _since(self, before: Mapping[str, float]) -> dict[str, float]:
        return {name: value - before.get(name, 0.0) for name, value in self._cpu_s().items()}

    def _pss_mb(self) -> float:
        return sum(process.memory_full_info().pss for process in self._processes().values()) / 1e6


# --- report -----------------------------------------------------------------------------------------------------------


def _grouped(cpu_s: Mapping[str, float]) -> dict[str, float]:
    """Processor time of the parent, of all workers together, of the monitor and of the provider."""
    groups: dict[str, float] = {}
    for name, value in cpu_s.items():
        group = f"{WORKERS} workers" if name.startswith("worker ") else name
        groups[group] = groups.get(group, 0.0) + value
    return groups


def report(once: AtOnce, sustained: Sustained) -> str:
    """Both as Markdown tables."""
    ours = sum(value for name, value in once.cpu_s.items() if name != "practice provider")
    out = [
        "| at once | in flight at most | memory then (PSS) | all submitted | all solved | polls a captcha "
        "| processor time a captcha |",
        "|--:|--:|--:|--:|--:|--:|--:|",
        f"| {once.captchas:,} | {once.peak_in_flight:,} | {once.peak_pss_mb:.0f} MB | {once.submitted_s:.1f} s "
        f"| {once.solved_s:.1f} s | {once.polls / once.captchas:.1f} | {ours / once.captchas * 1e3:.2f} ms |",
        "",
        "| tasks a second | solved a second | waiting at the end | polls a captcha | machine busy |",
        "|--:|--:|--:|--:|--:|",
        f"| {sustained.rate:g} | {sustained.solved / sustained.seconds:.1f} | {sustained.waiting:,} "
        f"| {sustained.polls / max(1, sustained.solved):.1f} | {sustained.machine_percent:.0f} % |",
        "",
        "| process | of a core, at once | ms a captcha | of a core, sustained | ms a captcha |",
        "|---|--:|--:|--:|--:|",
    ]
    steady = _grouped(sustained.cpu_s)
    for name, value in _grouped(once.cpu_s).items():
        out.append(
            f"| {name} | {value / once.solved_s:.0%} | {value / once.captchas * 1e3:.2f} "
            f"| {steady[name] / sustained.seconds:.0%} | {steady[name] / max(1, sustained.solved) * 1e3:.2f} |"
        )
    return "\n".join(out)


def main() -> int:
    """Run both, print the tables. Status 0 also when an aim is missed: a busy machine is no fault."""
    parser = argparse.ArgumentParser(prog="benchmarks.inflight")
    parser.add_argument("--captchas", type=int, default=5000, help="captchas at once (default: 5000)")
    parser.add_argument("--rate", type=float, default=250.0, help="tasks a second (default: 250)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long that is measured (default: 60)")
    parser.add_argument("--solve-s", type=float, default=20.0, help="what a captcha takes (default: 20)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    scenario = f"[[key]]\nthreads = 1000000\nbalance = 1000000\n[solve]\nseconds = {options.solve_s}\n"
    with (
        tempfile.TemporaryDirectory(prefix="captchad-inflight-") as directory,
        Sandbox(scenario=scenario) as sandbox,
        Daemon(Path(directory), sandbox, CONFIG) as daemon,
    ):
        bench = Bench(daemon, sandbox)
        once = bench.at_once(options.captchas, options.solve_s)
        sustained = bench.sustained(options.rate, options.seconds, options.solve_s)
        bench.verify()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {psutil.cpu_count()} cores, Python {platform.python_version()}\n")
    print(report(once, sustained))
    if options.json:
        options.json.write_text(json.dumps({"at_once": asdict(once), "sustained": asdict(sustained)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
