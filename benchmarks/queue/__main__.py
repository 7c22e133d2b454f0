"""`make bench-queue`: captchad's queue against its peers, and against its own aims.

    python -m benchmarks.queue [--part peers|slow|depth|start|steady] [--quick] [--tasks N] [--json FILE]

peers: all contenders by turns, on the disk as it is. slow: the same with every sync slowed to 1.3 ms. depth, start,
steady: captchad alone, with up to a million tasks. What it needs it installs into .venv-bench; see docs/benchmarks.md.
"""

__all__ = ["main"]

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.environment import bench_python
from benchmarks.queue.contenders import CONTENDERS, REFERENCE, takes_batches
from benchmarks.queue.depth import depth_report, measure_depths
from benchmarks.queue.disk import describe_disk
from benchmarks.queue.install import install, installed_versions
from benchmarks.queue.report import peers_report
from benchmarks.queue.runner import Plan, measure
from benchmarks.queue.slow_sync import build
from benchmarks.queue.start import measure_starts, start_report
from benchmarks.queue.steady import measure_steady, steady_report
from benchmarks.queue.subprocesses import root

PARTS = ("peers", "slow", "depth", "start", "steady")

#: What many disks and clouds give.
SLOW_SYNC_S = 0.0013


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. `trial_tasks` bounds every trial of the peers; None: as many as fill the time."""

    rounds: int
    seconds: float
    slow_rounds: int
    slow_seconds: float
    tasks: int
    depths: tuple[int, ...]
    depth_rounds: int
    depth_operations: int
    starts: tuple[str, ...] = ("pending", "finished")
    trial_tasks: int | None = None


SCALES = {
    "full": Scale(4, 0.6, 2, 0.6, 1_000_000, (1_000, 10_000, 100_000, 1_000_000), 20, 100),
    "quick": Scale(1, 0.25, 1, 0.25, 5_000, (1_000, 10_000), 5, 50, trial_tasks=1_000),
    "tiny": Scale(1, 5.0, 1, 5.0, 400, (100, 200), 2, 5, ("pending",), trial_tasks=40),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the benchmark: where, how much, with whom."""

    directory: Path
    scale: Scale
    contenders: Sequence[str]
    python: Path

    def place(self, part: str) -> Path:
        directory = self.directory / part
        directory.mkdir()
        return directory


def _peers(run: Run) -> tuple[str, object]:
    scale = run.scale
    directory = run.place("peers")
    plan = Plan(directory, run.python, scale.rounds, scale.seconds, build(directory), tasks=scale.trial_tasks)
    results = measure(plan, run.contenders, takes_batches, life=True)
    return peers_report(results, run.contenders), results.as_json()


def _slow(run: Run) -> tuple[str, object]:
    scale = run.scale
    directory = run.place("slow")
    library = build(directory)
    if library is None:
        return "Left out: no gcc, which makes the library that slows the syncs down.", None
    plan = Plan(
        directory, run.python, scale.slow_rounds, scale.slow_seconds, library, SLOW_SYNC_S, tasks=scale.trial_tasks
    )
    results = measure(plan, run.contenders, takes_batches, life=False)
    return peers_report(results, run.contenders), results.as_json()


def _depth(run: Run) -> tuple[str, object]:
    scale = run.scale
    samples = measure_depths(run.place("depth"), scale.depths, scale.depth_rounds, scale.depth_operations)
    medians = {
        depth: {kind: statistics.median(took) for kind, took in kinds.items()} for depth, kinds in samples.items()
    }
    return depth_report(samples), medians


def _start(run: Run) -> tuple[str, object]:
    starts = measure_starts(run.place("start"), run.scale.tasks, run.scale.starts)
    return start_report(starts), [asdict(start) for start in starts]


def _steady(run: Run) -> tuple[str, object]:
    steady = measure_steady(run.place("steady"), run.scale.tasks)
    return steady_report(steady), asdict(steady)


_RUN: dict[str, tuple[str, Callable[[Run], tuple[str, object]]]] = {
    "peers": ("The queue against its peers", _peers),
    "slow": (f"The same with every sync slowed to {SLOW_SYNC_S * 1e3:.1f} ms", _slow),
    "depth": ("Depth", _depth),
    "start": ("Start", _start),
    "steady": ("Steady state", _steady),
}


def _file_system(directory: Path) -> str:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [(len(mount[1]), mount[2]) for mount in mounts if directory.is_relative_to(mount[1])]
    return max(holding)[1]


def _choose(arguments: argparse.Namespace) -> tuple[list[str], Path]:
    """Who takes part, and with which Python; who does not is said."""
    wanted = arguments.only.split(",") if arguments.only else list(CONTENDERS)
    if REFERENCE not in wanted:
        wanted.append(REFERENCE)
    if not arguments.no_install:
        for line in install():
            print(f"- {line}")
    python = Path(sys.executable) if arguments.no_install else bench_python()
    code = "import sys; from benchmarks.queue.contenders import present; print(*present(sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", code, *wanted], cwd=root(), capture_output=True, text=True, check=True)
    there = done.stdout.split()
    for name in wanted:
        if name not in there:
            print(f"- {CONTENDERS[name].title} is left out: not installed")
    return there, python


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.queue")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be repeated")
    parser.add_argument("--scale", choices=list(SCALES), default="full", help="how much of everything (default: full)")
    parser.add_argument("--quick", dest="scale", action="store_const", const="quick", help="a minute: --scale quick")
    parser.add_argument("--tasks", type=int, help="tasks of start and steady, instead of what the scale says")
    parser.add_argument("--only", help=f"these contenders, with commas between: {', '.join(CONTENDERS)}")
    parser.add_argument("--no-install", action="store_true", help="install nothing, run all with this Python")
    parser.add_argument("--directory", type=Path, default=Path("build"), help="data goes below it (default: build)")
    parser.add_argument("--json", type=Path, help="write every round there, too")
    return parser.parse_args()


def main() -> int:
    """Run the parts, print their tables. Status 0 also when an aim is missed: a busy machine is no fault."""
    arguments = _arguments()
    parts = arguments.part or PARTS
    figures: dict[str, object] = {}
    contenders, python = _choose(arguments) if {"peers", "slow"} & set(parts) else ([], Path(sys.executable))
    # Not in /tmp, which may be memory: the disk is what is measured.
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-queue-", dir=arguments.directory.resolve()) as name:
        directory = Path(name)
        print(f"{platform.system()} {platform.release()}, {os.cpu_count()} processors, {_file_system(directory)},")
        print(describe_disk(directory))
        if contenders:
            print(", ".join(installed_versions(python)))
        scale = SCALES[arguments.scale]
        run = Run(directory, replace(scale, tasks=arguments.tasks or scale.tasks), contenders, python)
        for part in parts:
            title, measure_part = _RUN[part]
            begin = time.monotonic()
            text, figures[part] = measure_part(run)
            print(f"\n## {title}\n\n{text}\n\n({time.monotonic() - begin:.0f} s)", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
