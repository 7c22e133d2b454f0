"""What one take and one enqueue cost with more and more tasks pending: queues of all depths, measured by turns."""

__all__ = ["depth_report", "measure_depths"]

import json
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import table
from benchmarks.queue.subprocesses import Figures, start

_KINDS = {
    "enqueue": "enqueue, staged",
    "enqueue_commit": "enqueue, committed",
    "take": "take, staged",
    "take_commit": "take, committed",
}

#: depth -> kind -> nanoseconds of each operation
Samples = dict[int, dict[str, list[int]]]

AIM = 1.2


def measure_depths(directory: Path, depths: Sequence[int], rounds: int, operations: int) -> Samples:
    """All depths live at once, each in its process; each round measures `operations` in every one."""
    hosts: dict[int, subprocess.Popen[str]] = {}
    samples: Samples = {depth: defaultdict(list) for depth in depths}
    try:
        for depth in depths:
            place = directory / f"depth-{depth}"
            place.mkdir()
            hosts[depth] = start("depth_host", place, depth)
            if _answer(hosts[depth])["depth"] != depth:
                raise RuntimeError("the queue is not as deep as it should be")
        for _ in range(rounds):
            for depth, host in hosts.items():
                for kind, took in _ask(host, operations).items():
                    samples[depth][kind] += took
    finally:
        for host in hosts.values():
            host.kill()
            host.communicate()
    return samples


def _ask(host: subprocess.Popen[str], operations: int) -> Figures:
    if host.stdin is None:
        raise RuntimeError("no pipe")
    host.stdin.write(f"{operations}\n")
    host.stdin.flush()
    return _answer(host)


def _answer(host: subprocess.Popen[str]) -> Figures:
    line = host.stdout.readline() if host.stdout else ""
    if not line:
        raise RuntimeError("a queue has ended")
    found: Figures = json.loads(line)
    return found


def depth_report(samples: Samples) -> str:
    """Medians in microseconds with the ratio to the shallowest; the means tell of what is rare and long."""
    shallowest = min(samples)
    rows = []
    for kind, title in _KINDS.items():
        for name, of in (("median", statistics.median), ("mean", statistics.fmean)):
            values = {depth: float(of(samples[depth][kind])) / 1e3 for depth in samples}
            cells = [f"{value:.1f} ({value / values[shallowest]:.2f})" for value in values.values()]
            rows.append([f"{title}, {name}", *cells])
    head = ["µs (ratio)", *(f"{depth:,}" for depth in samples)]
    return f"{table(head, rows)}\n\nAim: every ratio below {AIM}."
