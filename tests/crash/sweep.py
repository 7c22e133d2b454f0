"""The whole crash sweep, on all processors: `python -m tests.crash.sweep`, or `make sweep`.

Prints what was tried and what was wrong. Exits with 1 if something was, or if it has become too small.
"""

__all__ = ["main"]

import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.crash.checker import Checker, Tally
from tests.crash.mutants import MUTANTS
from tests.crash.sweeps import (
    SEED,
    SLICES,
    Found,
    Kill,
    calls_of,
    kill_sweep,
    places_of,
    power_sweep,
    really_kill,
    recovery_kill_sweep,
    recovery_power_sweep,
)
from tests.journal.model import any_byte, half

#: The sweep is too small below these.
STATES = 100_000
RECOVERED = 2_000

#: Stories in which the power goes at every note, beside the one in which writes tear at every byte.
SEEDS = (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13)

#: A sweep is cut into so many parts.
PARTS = 16

Part = Callable[[Checker, Path], Iterator[Found]]


def every_byte(part: int, checker: Checker, root: Path) -> Iterator[Found]:
    """Every write tears at every byte."""
    return power_sweep(checker, root, SEED, tears=any_byte, where=lambda notes: range(part, len(notes) + 1, PARTS))


def other_stories(seed: int, part: int, checker: Checker, root: Path) -> Iterator[Found]:
    """The power goes after every note."""
    return power_sweep(checker, root, seed, tears=half, where=lambda notes: range(part, len(notes) + 1, 2))


def kills(part: int, checker: Checker, root: Path) -> Iterator[Found]:
    """A process is killed before, inside and after every system call."""
    return kill_sweep(checker, root, SEED, _all_kills(root)[part::PARTS])


def recovery_kills(part: int, checker: Checker, root: Path) -> Iterator[Found]:
    """Some of them, and the next start is killed at every call."""
    return recovery_kill_sweep(checker, root, SEED, _all_kills(root)[part * 5 :: PARTS * 30])


def recovery_power_cuts(part: int, checker: Checker, root: Path) -> Iterator[Found]:
    """Some of them, and the power goes in the next start, after every note."""
    return recovery_power_sweep(checker, root, SEED, _all_kills(root)[part * 5 + 2 :: PARTS * 60])


def sigkills(checker: Checker, root: Path) -> Iterator[Found]:
    """Some of them by SIGKILL."""
    return really_kill(checker, root, SEED, [kill for kill in _all_kills(root)[::40] if kill[1] == "before"])


def _all_kills(root: Path) -> list[Kill]:
    calls = calls_of(root, SEED)
    found: list[Kill] = [(at, how) for at in range(1, len(calls) + 1) for how in ("before", "after")]
    found += [(at, how) for at in places_of(calls, "write") for how in (1, 17, 100, -20, -1)]
    return sorted(found, key=lambda kill: kill[0])


def parts() -> list[tuple[str, Part]]:
    """The whole sweep, in parts that do not depend on each other."""
    found: list[tuple[str, Part]] = [("SIGKILL", sigkills)]
    for part in range(PARTS):
        found.append(("power cuts at every byte", partial(every_byte, part)))
        found.append(("kills", partial(kills, part)))
        found.append(("kills in recovery", partial(recovery_kills, part)))
        found.append(("power cuts in recovery", partial(recovery_power_cuts, part)))
    return found + [("power cuts", partial(other_stories, seed, part)) for seed in SEEDS for part in range(2)]


def run(named: tuple[str, Part]) -> tuple[str, Tally, list[Found]]:
    """One part, in a process of its own."""
    name, part = named
    logging.disable(logging.WARNING)
    root = Path(tempfile.mkdtemp(prefix="captchad-sweep-", dir=_memory()))
    try:
        checker = Checker(root / "state", read_every=5)
        return name, checker.tally, list(part(checker, root / "live"))
    finally:
        shutil.rmtree(root)


def find_mutant(number: int) -> str:
    """What finds one of the faults that are put in on purpose."""
    mutant = MUTANTS[number]
    logging.disable(logging.WARNING)
    root = Path(tempfile.mkdtemp(prefix="captchad-sweep-", dir=_memory()))
    try:
        with pytest.MonkeyPatch.context() as patch:
            mutant.apply(patch)
            checker = Checker(root / "state")
            found = next(SLICES[mutant.slice](checker, root / "live", mutant.begin), None)
        return f"{mutant.name}: " + (f"{found.breach.check}, {found.where}" if found else "NOT FOUND")
    finally:
        shutil.rmtree(root)


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    """Run all parts, print a line for each sweep, then the mutants; the exit code."""
    began = time.monotonic()
    whole = Tally()
    of_sweeps: dict[str, Tally] = {}
    wrong: list[Found] = []
    with multiprocessing.get_context("spawn").Pool() as pool:
        for name, tally, found in pool.imap_unordered(run, parts()):
            whole.add(tally)
            of_sweeps.setdefault(name, Tally()).add(tally)
            wrong += found
            print(f"{time.monotonic() - began:6.0f} s  {whole}, {len(wrong)} wrong", file=sys.stderr)
        mutants = pool.map(find_mutant, range(len(MUTANTS)), chunksize=1)
    for name, tally in of_sweeps.items():
        print(f"{name}: {tally}")
    print(f"in all: {whole}, {time.monotonic() - began:.0f} s")
    for where, breach in wrong[:20]:
        print(f"WRONG: {where}: {breach.check}: {breach.text}")
    print(f"{len(mutants)} mutants", *mutants, sep="\n  ")
    missed = any(line.endswith("NOT FOUND") for line in mutants)
    small = whole.states < STATES or len(whole.recovered) < RECOVERED
    if small:
        print(f"too small: {STATES} states and {RECOVERED} recovered ones are to be reached")
    return int(bool(wrong) or missed or small)


if __name__ == "__main__":
    sys.exit(main())
