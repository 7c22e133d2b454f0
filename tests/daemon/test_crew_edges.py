"""The crew: a worker that talks nonsense, and a slot that was one too many and counts again."""

import logging
import os
import random
import signal

import pytest

from captchad.ipc.channel import Channel, Message
from captchad.ipc.loop import Loop
from captchad.model.clock import SystemClock
from captchad.supervisor.crew import Crew, CrewSettings, Worker
from captchad.supervisor.process import send_signal


class Duties:
    def __init__(self) -> None:
        self.deaths: list[int] = []

    def on_ready(self, worker: Worker) -> None: ...

    def on_message(self, worker: Worker, message: Message) -> None:
        raise KeyError("o")

    def on_retire(self, worker: Worker) -> None: ...

    def on_death(self, worker: Worker, reason: str) -> None:
        self.deaths.append(worker.slot)


def settings(workers: int) -> CrewSettings:
    return CrewSettings(workers, 1.0, 30.0, 30.0, 30.0, 30.0, 0, 0)


def nonsense(channel_fd: int, slot: int, number: int) -> int:
    Channel(channel_fd).send({"m": "out", "n": 1})
    signal.sigwait([signal.SIGUSR1])
    return 0


def silent(channel_fd: int, slot: int, number: int) -> int:
    signal.sigwait([signal.SIGUSR1])
    return 0


def test_a_worker_that_talks_nonsense_is_killed_and_the_parent_lives(caplog: pytest.LogCaptureFixture) -> None:
    loop, duties = Loop(SystemClock()), Duties()
    crew = Crew(settings(1), loop, SystemClock(), random.Random(1), duties, nonsense, logging.getLogger("test"))
    crew.start(1)
    crew.draining = True  # no replacement
    while crew.workers:
        loop.turn(5.0)

    assert duties.deaths == [0]
    assert "makes no sense" in caplog.text
    loop.close()


def test_a_slot_that_was_one_too_many_is_filled_when_it_counts_again() -> None:
    loop, duties = Loop(SystemClock()), Duties()
    crew = Crew(settings(3), loop, SystemClock(), random.Random(1), duties, silent, logging.getLogger("test"))
    crew.start(1)
    send_signal(crew.workers[1].child, signal.SIGKILL)
    while not duties.deaths:
        loop.turn(5.0)
    assert crew.slots[1].next_spawn is not None  # it never booted: its replacement waits
    crew.settings = settings(1)
    crew.resize()
    crew.settings = settings(3)
    crew.resize()

    worker = crew.slots[1].worker
    assert worker is not None
    os.kill(worker.child.pid, 0)
    crew.draining = True
    crew.kill_all()
    while crew.workers:
        loop.turn(5.0)
    loop.close()
