"""What the directory holds after many tasks have gone through, with cleaning as the daemon does it."""

__all__ = ["Steady", "measure_steady", "steady_report"]

from dataclasses import dataclass
from pathlib import Path

from benchmarks.markdown import table
from benchmarks.queue.captchad_store import SEGMENT_MB
from benchmarks.queue.subprocesses import run_json
from captchad.journal.reader import read_all
from captchad.policy.lifecycle import Kind


@dataclass(frozen=True, slots=True)
class Steady:
    """`live_bytes` is what the rows of all remembered tasks would take, each written once.

    The directory is weighed once, at the end, which may be just before or just after cleaning; the peak is that of the
    journal during the second half.
    """

    through: int
    remembered: int
    directory_bytes: int
    peak_bytes: int
    live_bytes: int
    segment_bytes: int

    @property
    def bound_bytes(self) -> int:
        return 2 * self.live_bytes + self.segment_bytes


def measure_steady(directory: Path, tasks: int, segment_mb: int = SEGMENT_MB) -> Steady:
    """Ten lives of an id pass: nine tenths of the tasks are forgotten on the way."""
    held = run_json("build", "flowing", directory, tasks, segment_mb)
    remembered = held["pending"] + held["finished"]
    return Steady(
        tasks,
        remembered,
        held["bytes"],
        held["peak_bytes"],
        round(remembered * _kept_bytes(directory)),
        segment_mb << 20,
    )


def _kept_bytes(directory: Path) -> float:
    """Bytes a task of the records by which cleaning tells of those that are over; 0 when it has written none."""
    tasks, size = 0, 0
    for record in read_all(directory / "journal"):
        if record.kind == Kind.ENDED:
            tasks += len(record.fields["rows"])
            size += record.entry.length
    return size / tasks if tasks else 0.0


def steady_report(steady: Steady) -> str:
    """Megabytes, and whether the bound holds."""
    head = ["tasks through", "remembered", "directory, MB", "peak, MB", "live, MB", "2 x live + segment, MB", ""]
    weighed = (steady.directory_bytes, steady.peak_bytes, steady.live_bytes, steady.bound_bytes)
    sizes = [f"{size / 1e6:.1f}" for size in weighed]
    ends, peaks = (
        "within" if size < steady.bound_bytes else "**beyond**" for size in (steady.directory_bytes, steady.peak_bytes)
    )
    verdict = f"end {ends}, peak {peaks}"
    return table(head, [[f"{steady.through:,}", f"{steady.remembered:,}", *sizes, verdict]])
