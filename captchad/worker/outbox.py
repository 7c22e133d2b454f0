"""Notes to the parent, from any thread. Only a submit thread ever waits here, shortly, for its `begin` to leave."""

__all__ = ["Outbox"]

import threading
from collections.abc import Callable

from captchad.ipc.channel import Channel, Message


class Outbox:
    """The writing side of a channel, under one lock.

    `poke` wakes the work loop, which then calls `flush` when the pipe has room.
    """

    def __init__(self, channel: Channel, poke: Callable[[], None]) -> None:
        self._channel = channel
        self._poke = poke
        self._moved = threading.Condition(threading.Lock())

    @property
    def gone(self) -> bool:
        """Whether the parent is known to be gone."""
        return self._channel.gone

    @property
    def unsent(self) -> int:
        """Bytes that wait for room in the pipe."""
        return self._channel.unsent

    def send(self, *messages: Message) -> None:
        """Write `messages`, or queue them for `flush`. Raises as `Channel.send` does."""
        if not messages:
            return
        with self._moved:
            whole = self._channel.send(*messages)
        if not whole:
            self._poke()

    def send_through(self, message: Message, within_s: float) -> bool:
        """Write `message`; True when all of it has left this process, within `within_s`, and the parent is there."""
        with self._moved:
            if self._channel.send(message):
                return True
            end = self._channel.taken + self._channel.unsent
            self._poke()
            self._moved.wait_for(lambda: self._channel.gone or self._channel.taken >= end, within_s)
            return not self._channel.gone and self._channel.taken >= end

    def flush(self) -> None:
        """Write what the pipe takes; lets those go on who wait for it, or for the end of the parent."""
        with self._moved:
            self._channel.flush()
            self._moved.notify_all()
