"""captchad: one process owns the queue, clients talk to it over pipes with the loop and the channel of captchad.ipc.

A turn of the loop takes what all clients have said, stages their records, and commits once; only then does anybody get
an answer. Two durable steps a task, as the others have: `submitting` before the client sees the task, `submitted` and
`solved` with the answer before it is told that the task is done. A client asks for the next task in a message of its
own. Tasks come in by the owner itself, as in the daemon, where they come from files.
"""

__all__ = ["CaptchadPeer"]

import gc
import multiprocessing
import multiprocessing.connection
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.queue.captchad_store import Enqueuer, commit, finish, open_queue
from benchmarks.queue.peer import Client, Counts, Peer, Taken
from benchmarks.queue.work import Answer, Work
from captchad.ipc.channel import Channel, Message
from captchad.ipc.loop import Loop
from captchad.model.clock import SystemClock
from captchad.model.states import State
from captchad.queue.queue import Queue


class CaptchadPeer(Peer):
    """The owner of the queue is the process that holds this object."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._clock = SystemClock()
        self._queue: Queue | None = None
        self._channels: list[Channel] = []

    def start(self) -> None:
        self._queue = open_queue(self.directory, self._clock)
        self._enqueuer = Enqueuer(self._queue)
        # As the daemon does it before it forks.
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        if self._queue is not None:
            self._queue.journal.close()  # gives the lock back and writes nothing
            self._queue = None

    @property
    def queue(self) -> Queue:
        if self._queue is None:
            raise RuntimeError("not started")
        return self._queue

    def enqueue(self, work: Work) -> None:
        self._enqueuer.enqueue(work)

    def enqueue_many(self, works: Sequence[Work]) -> None:
        self._enqueuer.enqueue_many(works)

    def client(self) -> Client:
        raise NotImplementedError("made by `seats`: each needs its end of a pipe")

    def seats(self, number: int) -> list[Callable[[], Client]]:
        seats: list[Callable[[], Client]] = []
        for _ in range(number):
            ours, theirs = multiprocessing.Pipe()
            self._channels.append(Channel(os.dup(ours.fileno())))
            ours.close()
            seats.append(partial(_Consumer, theirs))
        return seats

    def counts(self) -> Counts:
        states = self.queue.view.states
        return Counts(states[State.PENDING], states[State.SOLVED])

    def attend(self, pidfds: Sequence[int]) -> None:
        loop = Loop(self._clock)
        left = set(pidfds)

        def ended(pidfd: int) -> None:
            loop.unwatch(pidfd)
            left.discard(pidfd)

        for pidfd in pidfds:
            loop.watch(pidfd, readable=partial(ended, pidfd))
        for number, channel in enumerate(self._channels):
            loop.watch(channel.fd, readable=partial(self._on_messages, number, channel, loop))
        while left:
            loop.turn()
            commit(self.queue)
            for channel in self._channels:
                if channel.unsent:
                    channel.flush()
        loop.close()

    def _on_messages(self, number: int, channel: Channel, loop: Loop) -> None:
        for message in channel.receive():
            if message["m"] == "take":
                self._hand_out(number, channel)
            else:
                self._done(channel, message)
        if channel.gone:
            loop.unwatch(channel.fd)

    def _hand_out(self, number: int, channel: Channel) -> None:
        queue = self.queue
        task = queue.view.peek_ready()
        if task is None:
            channel.send({"m": "none"})
            return
        payload = queue.payload(task).decode()
        n = queue.order(task, "bench", (1, number), "k")
        message = {"m": "submit", "n": n, "payload": payload}
        queue.after_commit(lambda: _send(channel, message))

    def _done(self, channel: Channel, message: Message) -> None:
        n = message["n"]
        finish(self.queue, n, message["token"])
        self.queue.after_commit(lambda: _send(channel, {"m": "ack", "n": n}))


def _send(channel: Channel, message: Message) -> None:
    channel.send(message)  # what the pipe does not take at once goes with a flush


class _Consumer:
    """The client's end: a loop and a channel, like a worker's."""

    def __init__(self, pipe: multiprocessing.connection.Connection) -> None:
        self.locked = 0
        self._pipe = pipe  # owns the descriptor
        self._channel = Channel(pipe.fileno())
        self._loop = Loop(SystemClock())
        self._inbox: list[Message] = []
        self._loop.watch(self._channel.fd, readable=lambda: self._inbox.extend(self._channel.receive()))

    def take(self) -> Taken | None:
        reply = self._ask({"m": "take"})
        return None if reply["m"] == "none" else Taken(reply["payload"].encode(), reply["n"])

    def complete(self, taken: Taken, answer: Answer) -> None:
        self._ask({"m": "out", "n": taken.handle, "o": "solved", "token": answer.token, "answer": None, "extra": {}})

    def _ask(self, message: Message) -> Message:
        self._channel.send(message)
        while not self._inbox:
            if self._channel.gone:
                raise EOFError("the owner of the queue has gone")
            self._loop.turn()
        return self._inbox.pop()
