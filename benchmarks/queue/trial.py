"""One measurement of one contender, in a process of its own: JSON in as the argument, JSON out.

    python -m benchmarks.queue.trial '{"contender": "sqlite-wal", "cell": "take4", "tasks": 1000, "seconds": 1.0, ...}'

It checks while it measures: what was enqueued is there, every payload comes out as it went in, nothing is handed out
twice, nothing is lost, and as many answers are kept as tasks were completed.
"""

__all__ = ["Order", "Outcome", "main", "run"]

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.queue.contenders import make_peer
from benchmarks.queue.peer import Client, Peer
from benchmarks.queue.processes import Crew, Job, cpu_s
from benchmarks.queue.slow_sync import VARIABLE, SyncCounter
from benchmarks.queue.work import Work, answer_for, make_work, task_id_in

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure. `cell` is `one`, `batch`, `take1`, `take4`, `take8` or `life`.

    At most `tasks` tasks, and no new one after `seconds`. Every sync takes `sync_s` at least while the clock runs; in a
    `life` always.
    """

    contender: str
    cell: str
    directory: str
    tasks: int
    seconds: float
    sync_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. Latencies are of one enqueue, one batch, or one take with its completion."""

    tasks: int
    wall_s: float
    cpu_s: float
    p50_s: float
    p99_s: float
    syncs: int | None = None  # during the measurement, when the library was there
    twice: int = 0
    lost: int = 0
    locked: int = 0  # times that a contender's own client was told "database is locked"
    pending_bytes: float | None = None  # on disk, a task
    finished_bytes: float | None = None

    @property
    def rate(self) -> float:
        return self.tasks / self.wall_s if self.wall_s else 0.0


@dataclass(slots=True)
class Meter:
    """Wall time, processor time and syncs of the part that counts."""

    peer: Peer
    sync_s: float
    counter: SyncCounter | None
    _wall: float = 0.0
    _cpu: float = 0.0
    _syncs: int = 0

    def start(self) -> None:
        if self.counter is not None:
            self.counter.slow_down(self.sync_s)
            self._syncs = self.counter.syncs
        self._cpu = self._cpu_now()
        self._wall = time.monotonic()

    def stop(self) -> tuple[float, float, int | None]:
        """Wall seconds, processor seconds of this process and the servers, syncs. Syncs are fast again."""
        wall = time.monotonic() - self._wall
        cpu = self._cpu_now() - self._cpu
        if self.counter is None:
            return wall, cpu, None
        self.counter.slow_down(0.0)
        return wall, cpu, self.counter.syncs - self._syncs

    @property
    def started_at(self) -> float:
        return self._wall

    def _cpu_now(self) -> float:
        return time.process_time() + sum(cpu_s(pid) for pid in self.peer.server_pids())


def run(order: Order) -> Outcome:
    """Carry `order` out. The directory must be there and empty."""
    directory = Path(order.directory)
    store = directory / "store"
    store.mkdir()
    counter = SyncCounter(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else None
    peer = make_peer(order.contender, store)
    peer.start()
    try:
        meter = Meter(peer, order.sync_s, counter)
        if order.cell in ("one", "batch"):
            return _enqueue(peer, order, meter)
        if order.cell == "life":
            return _life(peer, order, meter, directory)
        return _take(peer, order, meter, directory)
    finally:
        peer.stop()


# --- enqueue ----------------------------------------------------------------------------------------------------------


def _enqueue(peer: Peer, order: Order, meter: Meter) -> Outcome:
    works = list(make_work(order.tasks))
    size = 1 if order.cell == "one" else BATCH
    pieces = [works[start : start + size] for start in range(0, len(works), size)]
    enqueue: Callable[[list[Work]], None] = peer.enqueue_many if size > 1 else lambda piece: peer.enqueue(piece[0])
    latencies = []
    tasks = 0
    meter.start()
    deadline = meter.started_at + order.seconds
    at = time.perf_counter()
    for piece in pieces:
        enqueue(piece)
        then, at = at, time.perf_counter()
        latencies.append(at - then)
        tasks += len(piece)
        if time.monotonic() > deadline:
            break
    wall, cpu, syncs = meter.stop()
    lost = tasks - peer.counts().pending
    return Outcome(tasks, wall, cpu, *_percentiles(latencies), syncs, lost=lost)


def _percentiles(latencies: list[float]) -> tuple[float, float]:
    if not latencies:
        return 0.0, 0.0
    latencies.sort()
    return latencies[len(latencies) // 2], latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)]


# --- take and complete ------------------------------------------------------------------------------------------------


def _take(peer: Peer, order: Order, meter: Meter, directory: Path) -> Outcome:
    processes = int(order.cell.removeprefix("take"))
    jobs = [partial(_consume, seat, order.seconds) for seat in peer.seats(processes)]
    # Forked before the store is filled: they share nothing of that with the process that does it.
    crew = Crew(jobs, directory)
    _fill(peer, list(make_work(order.tasks)))
    return _measure(peer, crew, meter, order.tasks)


def _fill(peer: Peer, works: Sequence[Work]) -> None:
    for start in range(0, len(works), BATCH):
        peer.enqueue_many(works[start : start + BATCH])


def _measure(peer: Peer, crew: Crew, meter: Meter, enqueued: int) -> Outcome:
    meter.start()
    crew.go()
    peer.attend(crew.pidfds)
    _, cpu, syncs = meter.stop()
    reports = crew.reports()
    taken = Counter(task_id for report in reports for task_id in report["ids"])
    latencies = [latency for report in reports for latency in report["latencies"]]
    # Until the last completion, not until the last client found nothing more.
    wall = max(report["ended_at"] for report in reports) - meter.started_at
    counts = peer.counts()
    return Outcome(
        tasks=len(taken),
        wall_s=wall,
        cpu_s=cpu + sum(report["cpu_s"] for report in reports),
        p50_s=_percentiles(latencies)[0],
        p99_s=_percentiles(latencies)[1],
        syncs=syncs,
        twice=taken.total() - len(taken),
        lost=max(0, enqueued - len(taken) - counts.pending) + max(0, len(taken) - counts.finished),
        locked=sum(report["locked"] for report in reports),
    )


def _consume(seat: Callable[[], Client], seconds: float, wait: Callable[[], None]) -> dict[str, Any]:
    """The life of a client."""
    client = seat()
    wait()
    ids: list[str] = []
    latencies: list[float] = []
    cpu, ended_at = time.process_time(), time.monotonic()
    deadline = ended_at + seconds
    while ended_at < deadline:
        start = time.perf_counter()
        taken = client.take()
        if taken is None:
            break
        answer = answer_for(task_id_in(taken.payload))
        client.complete(taken, answer)
        latencies.append(time.perf_counter() - start)
        ids.append(answer.token[:14])
        ended_at = time.monotonic()
    used = time.process_time() - cpu
    return {"ids": ids, "latencies": latencies, "cpu_s": used, "ended_at": ended_at, "locked": client.locked}


# --- a whole life on disk ---------------------------------------------------------------------------------------------


def _life(peer: Peer, order: Order, meter: Meter, directory: Path) -> Outcome:
    """Bytes on disk a task, pending and finished; and what was acknowledged is there after the server was killed."""
    if meter.counter is not None:
        meter.counter.slow_down(order.sync_s)
    empty = _bytes_at_rest(peer, directory)
    works = list(make_work(order.tasks))
    deadline = time.monotonic() + order.seconds
    filled = 0
    while filled < len(works) and time.monotonic() < deadline:
        _fill(peer, works[filled : filled + BATCH])
        filled += len(works[filled : filled + BATCH])
    pending = _bytes_at_rest(peer, directory)
    jobs: list[Job] = [partial(_consume, seat, order.seconds) for seat in peer.seats(4)]
    outcome = _measure(peer, Crew(jobs, directory), meter, filled)
    before = peer.counts()
    finished = _bytes_at_rest(peer, directory)
    after = peer.counts()
    forgotten = abs(before.pending - after.pending) + abs(before.finished - after.finished)
    a_task = (pending - empty) / filled
    growth = (finished - pending) / outcome.tasks if outcome.tasks else 0.0
    return Outcome(
        **{
            **asdict(outcome),
            "lost": outcome.lost + forgotten,
            "pending_bytes": a_task,
            "finished_bytes": a_task + growth,
        }
    )


def _bytes_at_rest(peer: Peer, directory: Path) -> int:
    """Bytes of all files while nothing runs; then it runs again. Space reserved behind the end of a file is no part."""
    peer.stop()
    size = sum(path.stat().st_size for path in (directory / "store").rglob("*") if path.is_file())
    peer.start()
    return size


def main() -> int:
    """Run the order in the argument and print the outcome."""
    outcome = run(Order(**json.loads(sys.argv[1])))
    print(json.dumps(asdict(outcome)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
