"""One selector, one wait: file descriptors and timers of one process, in one thread.

Callbacks run one after the other; each is a bounded slice. Nothing here blocks but `turn`.
"""

__all__ = ["Loop", "Timer", "next_beat"]

import heapq
import math
import select
from collections.abc import Callable
from itertools import count

from captchad.model.clock import Clock

Callback = Callable[[], None]


def next_beat(now: float, every_s: float) -> float:
    """The next multiple of `every_s` after `now`, both monotonic.

    The clock is one for all processes, so all that beat by it beat together: an idle daemon wakes the machine up once.
    """
    return (math.floor(now / every_s) + 1.0) * every_s


class Timer:
    """A call that is due at a monotonic time; `cancel` makes it nothing."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Watches descriptors and timers. `turn()` waits once and runs what is due."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Callback | None, Callback | None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()

    def watch(self, fd: int, *, readable: Callback | None = None, writable: Callback | None = None) -> None:
        """Call `readable` or `writable` when `fd` is so. Replaces what was watched before on `fd`."""
        events = (select.EPOLLIN if readable else 0) | (select.EPOLLOUT if writable else 0)
        if not events:
            self.unwatch(fd)
            return
        if fd in self._watched:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._watched[fd] = (readable, writable)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; call it before the descriptor is closed. Unknown descriptors are fine."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Run `callback` in the first turn at or after monotonic time `when`."""
        timer = Timer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        return self.call_at(self.clock.monotonic() + delay_s, callback)

    def turn(self, max_wait_s: float | None = None) -> int:
        """Wait for the first event, timer or `max_wait_s`, then run everything that is due, once; how many ran."""
        ran = 0
        ready = self._epoll.poll(self._wait_s(max_wait_s))
        for (fd, events), watched in zip(ready, [self._watched.get(fd) for fd, _ in ready], strict=True):
            # An error or a hang-up is both. A callback earlier in this turn may have dropped the descriptor.
            readable, writable = watched or (None, None)
            if readable and events & ~select.EPOLLOUT and self._watched.get(fd) is watched:
                ran += 1
                readable()
            if writable and events & ~select.EPOLLIN and self._watched.get(fd) is watched:
                ran += 1
                writable()
        return ran + self._run_timers()

    def close(self) -> None:
        """Stop watching; the descriptors stay their owners'."""
        self._epoll.close()

    def _wait_s(self, max_wait_s: float | None) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return max_wait_s
        due_s = max(0.0, self._timers[0][0] - self.clock.monotonic())
        return due_s if max_wait_s is None else min(due_s, max_wait_s)

    def _run_timers(self) -> int:
        now = self.clock.monotonic()
        due: list[Timer] = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        return len(due)
