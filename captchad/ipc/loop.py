"""One selector, one wait: file descriptors and timers of one process, in one thread.

Callbacks run one after the other; each is a bounded slice. Nothing here blocks but `turn`.
"""

__all__ = ["Loop", "Timer", "next_beat"]

import heapq
import math
import selectors
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
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()

    def watch(self, fd: int, *, readable: Callback | None = None, writable: Callback | None = None) -> None:
        """Call `readable` or `writable` when `fd` is so. Replaces what was watched before on `fd`."""
        events = (selectors.EVENT_READ if readable else 0) | (selectors.EVENT_WRITE if writable else 0)
        if not events:
            self.unwatch(fd)
        elif fd in self._selector.get_map():
            self._selector.modify(fd, events, (readable, writable))
        else:
            self._selector.register(fd, events, (readable, writable))

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; call it before the descriptor is closed. Unknown descriptors are fine."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

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
        for key, events in self._selector.select(self._wait_s(max_wait_s)):
            readable, writable = key.data
            # A callback earlier in this turn may have dropped the descriptor.
            if events & selectors.EVENT_READ and readable and self._still(key):
                ran += 1
                readable()
            if events & selectors.EVENT_WRITE and writable and self._still(key):
                ran += 1
                writable()
        return ran + self._run_timers()

    def close(self) -> None:
        """Close the selector; the watched descriptors stay their owners'."""
        self._selector.close()

    def _still(self, key: selectors.SelectorKey) -> bool:
        current = self._selector.get_map().get(key.fd)
        return current is not None and current.data is key.data

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
