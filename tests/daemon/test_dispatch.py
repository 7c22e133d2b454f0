"""The dispatcher on a real journal, with workers of which the test plays the other end of the pipe."""

import logging
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.daemon.dispatch import Dispatcher
from captchad.daemon.providers import Providers, ProviderSettings
from captchad.ipc.channel import Channel
from captchad.journal.store import Journal
from captchad.model.key import Key
from captchad.policy.breaker import BreakerSettings
from captchad.policy.retry import RetrySettings
from captchad.queue.queue import Queue, QueueSettings
from captchad.supervisor.core.states import WorkerState
from captchad.supervisor.core.view import Vital
from captchad.supervisor.process import Child
from captchad.supervisor.worker import Worker
from tests.support.clock import FakeClock

PROVIDER = ProviderSettings(
    "p", Key("http://127.0.0.1:9", "k" * 32), 100, 0, 1.0, 1.0, 60.0, 10.0, 1.0, submits_per_3s=100_000
)
QUEUE = QueueSettings(
    capacity=50, id_ttl_s=300.0, dead_ttl_s=600.0, max_redrives=2, hold_unknown=False, retry=RetrySettings(3, 1.0, 10.0)
)

#: Submits that a worker runs at once.
THREADS = 16


def let_go(worker: Worker) -> None:
    """Close what the parent has of a worker that is dead."""
    worker.channel.close()
    if worker.child is not None:
        worker.child.close()


class Bench:
    """A dispatcher, and workers that say what the test tells them to."""

    def __init__(self, directory: Path, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.journal = Journal.open(directory, segment_bytes=1 << 20, clock=self.clock, reserve_bytes=65536)
        self.queue = Queue(self.journal, QUEUE, self.clock, random.Random(1))
        self.queue.replay()
        self.queue.stage("epoch", {"epoch": 1, "t": self.clock.time()})
        self.dispatcher = Dispatcher(
            self.queue,
            self.clock,
            Providers(self.clock, BreakerSettings(5, 10.0, 1), print, logging.getLogger("test")),
            10.0,
            lambda: {"m": "config"},
            lambda _: None,
            logging.getLogger("test"),
        )
        self.dispatcher.set_providers({"p": PROVIDER})
        self.ends: dict[int, Channel] = {}
        self.turn()

    def turn(self) -> None:
        self.dispatcher.turn()
        self.queue.commit()
        assert self.queue.down_reason == ""

    def accept(self, task_id: str, *, priority: int = 2, deadline_s: float | None = None) -> None:
        deadline_at = None if deadline_s is None else self.clock.time() + deadline_s
        data = {
            "pr": priority, "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0,
            "m": "userrecaptcha", "h": "example.com", "dl": deadline_at,
        }  # fmt: skip
        payload = b'{"id":"%s","sitekey":"k","pageurl":"https://example.com/"}' % task_id.encode()
        self.queue.accept(task_id, data, payload)
        self.queue.commit()

    def worker(self, number: int) -> Worker:
        """One whose first heartbeat has come."""
        ours, theirs = socket.socketpair()
        self.ends[number] = Channel(theirs.detach())
        now = self.clock.monotonic()
        vital = Vital(number, number, 0, now, 0.0, WorkerState.READY, first_beat_at=now, last_beat_at=now)
        child = Child(os.getpid(), os.pidfd_open(os.getpid()))
        worker = Worker(vital, 1, number, THREADS, Channel(ours.detach()), child)
        self.dispatcher.on_ready(worker)
        self.told(worker)
        return worker

    def told(self, worker: Worker) -> list[tuple[str, int]]:
        """Kind and attempt of each message that it was sent since."""
        worker.channel.flush()
        return [(message["m"], message.get("n", 0)) for message in self.ends[worker.vital.number].receive()]

    def says(self, worker: Worker, kind: str, n: int, **fields: str) -> None:
        self.dispatcher.on_message(worker, {"m": kind, "n": n, **fields})
        self.queue.commit()

    def submit(self, task_id: str, worker: Worker) -> int:
        """A task that this worker has submitted and polls."""
        self.accept(task_id)
        self.turn()
        ((kind, n),) = self.told(worker)
        assert kind == "submit"
        self.says(worker, "begin", n)
        self.says(worker, "out", n, o="submitted", cid=str(1000 + n))
        assert self.told(worker) == [("poll", n), ("ack", n)]
        return n

    def close(self) -> None:
        for load in list(self.dispatcher._loads.values()):
            let_go(load.worker)
        for channel in self.ends.values():
            channel.close()
        self.journal.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def test_a_poll_that_begins_while_its_drop_is_under_way_holds_up_no_suspect(bench: Bench) -> None:
    first = bench.worker(1)
    suspects = [bench.submit(name, first) for name in ("a", "b")]
    for n in suspects:
        bench.says(first, "exec", n)
    second = bench.worker(2)
    other = bench.submit("other", second)
    bench.dispatcher.on_death(first, "stall")
    let_go(first)
    bench.turn()
    assert bench.told(second) == [("drop", other), ("poll", suspects[0])]

    # It was sent before the drop came; after that the worker says nothing more about this captcha.
    bench.says(second, "exec", other)
    bench.says(second, "exec", suspects[0])
    bench.says(second, "done", suspects[0])
    bench.turn()

    assert ("poll", suspects[1]) in bench.told(second)


@pytest.mark.parametrize("why", ["drain", "no room"])
def test_a_suspect_that_is_paid_for_is_polled_also_when_nothing_new_is_submitted(bench: Bench, why: str) -> None:
    first = bench.worker(1)
    n = bench.submit("paid", first)
    bench.says(first, "exec", n)
    if why == "drain":
        bench.dispatcher.draining = True
    else:
        bench.queue.no_room = "the disk is full"
    bench.dispatcher.on_death(first, "crash")
    let_go(first)
    second = bench.worker(2)
    bench.accept("fresh")
    bench.turn()
    assert [told for told in bench.told(second) if told[0] != "recall"] == [("poll", n)]


def test_a_suspect_is_not_submitted_while_nothing_is(bench: Bench) -> None:
    first = bench.worker(1)
    bench.accept("s")
    bench.turn()
    ((_, n),) = bench.told(first)
    bench.says(first, "begin", n)
    bench.dispatcher.draining = True
    bench.dispatcher.on_death(first, "crash")
    let_go(first)
    second = bench.worker(2)
    bench.clock.advance(20.0)
    bench.turn()
    assert bench.told(second) == []
    bench.dispatcher.draining = False
    bench.turn()
    assert [kind for kind, _ in bench.told(second)] == ["submit"]
