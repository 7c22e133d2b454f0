"""Crew and outbox: threads on demand, notes that leave or do not, and a log without keys."""

import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from captchad.ipc.channel import Channel
from captchad.worker.crew import Crew
from captchad.worker.log import Log
from captchad.worker.outbox import Outbox

PATIENCE_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "did not happen"
        os.sched_yield()


class Jobs:
    """Jobs for a crew; each says who does it and waits until it may end."""

    def __init__(self, size: int, idle_s: float = 60.0) -> None:
        self.todo: deque[int] = deque()
        self.begun: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self.may_end = {n: threading.Event() for n in range(20)}
        self.left: list[int] = []
        self.said: list[str] = []
        self.crew: Crew[int] = Crew(
            "test",
            size,
            next_job=lambda: self.todo.popleft() if self.todo else None,
            run=self.run,
            leave=lambda: self.left.append(threading.get_ident()),
            say=self.said.append,
            idle_s=idle_s,
        )

    def run(self, job: int) -> None:
        self.begun.put((job, threading.get_ident()))
        self.may_end[job].wait(PATIENCE_S)

    def add(self, job: int) -> None:
        self.todo.append(job)
        self.crew.wake()

    def next_begun(self) -> tuple[int, int]:
        return self.begun.get(timeout=PATIENCE_S)

    def end(self, *jobs: int) -> None:
        for job in jobs:
            self.may_end[job].set()

    def finish(self) -> None:
        self.crew._idle_s = 0.0
        for event in self.may_end.values():
            event.set()
        for _ in range(self.crew.threads):
            self.crew.wake()
        until(lambda: self.crew.threads == 0)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs(3)
    yield made
    made.finish()


def test_threads_start_on_demand_up_to_the_size_and_the_rest_waits_in_order(jobs):
    assert jobs.crew.threads == 0
    for job in range(6):
        jobs.add(job)
    first = [jobs.next_begun() for _ in range(3)]
    assert sorted(job for job, _ in first) == [0, 1, 2]
    assert len({thread for _, thread in first}) == 3
    assert list(jobs.todo) == [3, 4, 5]
    for done, expected in ((1, 3), (0, 4), (2, 5)):
        jobs.end(done)
        assert jobs.next_begun()[0] == expected
    assert jobs.crew.threads == 3


def test_the_thread_that_parked_last_is_woken_first(jobs):
    for job in (0, 1):
        jobs.add(job)
    who = dict(jobs.next_begun() for _ in range(2))
    jobs.end(0)
    until(lambda: len(jobs.crew._parked) == 1)
    jobs.end(1)
    until(lambda: len(jobs.crew._parked) == 2)
    jobs.add(2)
    assert jobs.next_begun() == (2, who[1])


def test_an_idle_thread_ends_and_another_comes_when_it_is_needed():
    jobs = Jobs(3, idle_s=0.01)
    jobs.add(0)
    jobs.end(0, 1)
    _, thread = jobs.next_begun()
    until(lambda: jobs.crew.threads == 0)
    until(lambda: jobs.left == [thread])
    jobs.add(1)
    assert jobs.next_begun()[0] == 1
    until(lambda: jobs.crew.threads == 0)


def test_a_refused_thread_is_told_once_and_the_job_waits(jobs, monkeypatch):
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        jobs.add(0)
        jobs.crew.retry()
    assert jobs.crew.threads == 0
    assert jobs.said == ["no thread for test: can't start new thread"]
    jobs.crew.retry()
    assert jobs.next_begun()[0] == 0
    jobs.crew.retry()
    assert jobs.crew.threads == 1


@pytest.fixture
def pipe() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    yield Channel(ours.fileno()), Channel(theirs.fileno())
    ours.close()
    theirs.close()


def test_a_note_that_leaves_at_once_needs_nobody(pipe):
    ours, theirs = pipe
    outbox = Outbox(ours, lambda: pytest.fail("woke the loop for nothing"))
    assert outbox.send_through({"m": "begin"}, 0.0)
    outbox.send({"m": "exec"}, {"m": "done"})
    outbox.send()
    assert [each["m"] for each in theirs.receive()] == ["begin", "exec", "done"]


def test_a_note_counts_once_the_loop_has_flushed_all_of_it(pipe):
    ours, theirs = pipe
    pokes: queue.SimpleQueue[None] = queue.SimpleQueue()
    outbox = Outbox(ours, lambda: pokes.put(None))
    outbox.send({"m": "out", "token": "x" * 3_000_000})
    pokes.get(timeout=PATIENCE_S)
    answer: queue.SimpleQueue[bool] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: answer.put(outbox.send_through({"m": "begin"}, 10 * PATIENCE_S)))
    thread.start()
    pokes.get(timeout=PATIENCE_S)
    got: list[str] = []
    while outbox.unsent:
        assert answer.empty(), "said yes before the note had left"
        got += [each["m"] for each in theirs.receive()]
        outbox.flush()
    assert answer.get(timeout=PATIENCE_S)
    thread.join()
    assert got + [each["m"] for each in theirs.receive_all()] == ["out", "begin"]


def test_a_note_that_does_not_leave_in_time_does_not_count(pipe):
    outbox = Outbox(pipe[0], lambda: None)
    outbox.send({"m": "out", "token": "x" * 3_000_000})
    assert not outbox.send_through({"m": "begin"}, 0.01)
    assert not outbox.gone


def test_the_end_of_the_parent_frees_who_waits(pipe):
    ours, theirs = pipe
    pokes: queue.SimpleQueue[None] = queue.SimpleQueue()
    outbox = Outbox(ours, lambda: pokes.put(None))
    outbox.send({"m": "out", "token": "x" * 3_000_000})
    pokes.get(timeout=PATIENCE_S)
    answer: queue.SimpleQueue[bool] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: answer.put(outbox.send_through({"m": "begin"}, 10 * PATIENCE_S)))
    thread.start()
    pokes.get(timeout=PATIENCE_S)
    with socket.socket(fileno=os.dup(theirs.fd)) as parent:
        parent.shutdown(socket.SHUT_RDWR)
    outbox.flush()
    assert not answer.get(timeout=PATIENCE_S)
    thread.join()
    assert outbox.gone
    assert not outbox.send_through({"m": "begin"}, 10 * PATIENCE_S)


def test_the_log_shows_no_key_in_any_form(caplog):
    log = Log("3-1")
    for key in ("old+key/1", "new key"):
        log.hide(key)
    log.say("http://h/?key=old%2Bkey%2F1&k=new+key\nold+key/1 new%20key")
    log.trace(ValueError("new key"))
    said, traced = caplog.messages
    assert said == "worker 3-1: http://h/?key=***&k=***\n*** ***"
    assert "ValueError: ***" in traced
    assert "old" not in traced
    assert "new" not in traced
