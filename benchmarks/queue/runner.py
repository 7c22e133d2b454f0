"""Rounds over all contenders: each cell of the table is measured in turn for everybody, then all of it again.

What shares a machine is now fast, now slow: neighbours in time are compared, and the median of the rounds is shown.
"""

__all__ = ["CELLS", "Cell", "Plan", "Results", "measure"]

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.queue.contenders import REFERENCE
from benchmarks.queue.slow_sync import NO_SYNC_S, VARIABLE, SyncCounter
from benchmarks.queue.subprocesses import root
from benchmarks.queue.trial import BATCH, Order, Outcome


@dataclass(frozen=True, slots=True)
class Cell:
    """One column. `most` bounds the tasks of a trial, for what must be in memory before the clock starts."""

    name: str
    title: str
    most: int


CELLS = (
    Cell("one", "enqueue one by one", 50_000),
    Cell("batch", "enqueue 1,000 at a time", 400_000),
    Cell("take1", "take and complete, 1 process", 40_000),
    Cell("take4", "4 processes", 40_000),
    Cell("take8", "8 processes", 40_000),
)

_PILOT_TASKS = 500
_PILOT_BATCHES = 4
_LIFE_TASKS = 50_000

#: A trial that has not ended by then has hung.
_HUNG_S = 300.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often. `python` runs the trials, with `library` preloaded where syncs are not as they are."""

    directory: Path
    python: Path
    rounds: int
    seconds: float
    library: Path | None  # None: no gcc
    sync_s: float = 0.0
    tasks: int | None = None  # instead of as many as fill `seconds`


@dataclass(slots=True)
class Results:
    """All outcomes: contender -> cell -> one a round. `life` has one for each contender."""

    rounds: dict[str, dict[str, list[Outcome]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    failures: dict[str, str] = field(default_factory=dict)  # contender -> why it was given up

    def median(self, contender: str, cell: str, of: Callable[[Outcome], float]) -> float | None:
        """The median over the rounds; None where nothing was measured."""
        outcomes = self.rounds[contender][cell]
        return statistics.median(map(of, outcomes)) if outcomes else None

    def ratio(self, contender: str, cell: str) -> float | None:
        """How many times the reference's rate: the median of the ratios within each round."""
        pairs = zip(self.rounds[contender][cell], self.rounds[REFERENCE][cell], strict=False)
        ratios = [ours.rate / theirs.rate for ours, theirs in pairs if theirs.rate]
        return statistics.median(ratios) if ratios else None

    def total(self, contender: str, of: Callable[[Outcome], int]) -> int:
        """The sum over everything that was measured."""
        return sum(of(outcome) for outcomes in self.rounds[contender].values() for outcome in outcomes)

    def as_json(self) -> dict[str, object]:
        cells = {
            contender: {cell: [asdict(outcome) for outcome in outcomes] for cell, outcomes in found.items()}
            for contender, found in self.rounds.items()
        }
        return {"rounds": cells, "failures": self.failures}


def measure(plan: Plan, contenders: Sequence[str], batches: Callable[[str], bool], *, life: bool) -> Results:
    """Run the plan. A contender whose trial fails is given up, and the reason kept; the others go on."""
    results = Results()
    sizes = {(name, cell.name): _pilot_tasks(plan, cell) for name in contenders for cell in CELLS}
    # The first round only says how many tasks fill the time.
    for number in range(1 if plan.tasks else 0, plan.rounds + 1):
        for cell in CELLS:
            for name in _rotated(contenders, number):
                if name in results.failures or (cell.name == "batch" and not batches(name)):
                    continue
                outcome = _try(results, plan, name, cell.name, sizes[name, cell.name])
                if outcome is None:
                    continue
                sizes[name, cell.name] = plan.tasks or _enough(outcome, plan.seconds, cell.most)
                if number > 0:
                    results.rounds[name][cell.name].append(outcome)
            _say(f"round {number} of {plan.rounds}: {cell.title}")
    if life:
        for name in contenders:
            _live(results, plan, name)
    return results


def _live(results: Results, plan: Plan, name: str) -> None:
    if name in results.failures:
        return
    # Only sizes are of interest, of as many tasks as there is time for.
    outcome = _try(results, replace(plan, sync_s=NO_SYNC_S), name, "life", plan.tasks or _LIFE_TASKS)
    if outcome is not None:
        results.rounds[name]["life"].append(outcome)
    _say(f"a whole life: {name}")


def _pilot_tasks(plan: Plan, cell: Cell) -> int:
    return plan.tasks or (_PILOT_BATCHES * BATCH if cell.name == "batch" else _PILOT_TASKS)


def _enough(outcome: Outcome, seconds: float, most: int) -> int:
    """As many tasks as fill the time, with some to spare: the clock ends the trial, not the lack of tasks."""
    return min(most, max(_PILOT_TASKS, int(outcome.rate * seconds * 1.5)))


def _rotated(contenders: Sequence[str], number: int) -> list[str]:
    """Another one begins each time: nobody always follows the same neighbour's write-back."""
    first = number % len(contenders)
    return [*contenders[first:], *contenders[:first]]


def _try(results: Results, plan: Plan, name: str, cell: str, tasks: int) -> Outcome | None:
    directory = Path(tempfile.mkdtemp(prefix="trial-", dir=plan.directory))
    seconds = plan.seconds * 6.0 if cell == "life" else plan.seconds
    order = Order(name, cell, str(directory), tasks, seconds, plan.sync_s)
    try:
        done = subprocess.run(
            [str(plan.python), "-m", "benchmarks.queue.trial", json.dumps(asdict(order))],
            env=_environment(plan, directory),
            cwd=root(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_HUNG_S,
        )
    except subprocess.TimeoutExpired:
        results.failures[name] = f"{cell}: hung"
        return None
    finally:
        shutil.rmtree(directory)
    if done.returncode:
        results.failures[name] = f"{cell}: {done.stderr.strip()[-2000:]}"
        return None
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def _environment(plan: Plan, directory: Path) -> dict[str, str]:
    environ = {key: value for key, value in os.environ.items() if key not in (VARIABLE, "LD_PRELOAD")}
    if plan.library is not None and plan.sync_s:
        environ |= {VARIABLE: str(SyncCounter(directory / "syncs").path), "LD_PRELOAD": str(plan.library)}
    return environ


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
