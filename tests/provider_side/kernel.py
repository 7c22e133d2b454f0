"""Time for a whole daemon in one process: actors that run one at a time, and a clock that jumps to the next event.

An actor is a thread, but only the one whose turn it is runs; it gives its turn back where the real program would wait.
So every run is the same run, no lock is ever contended, and a day of waiting takes no time.
"""

import heapq
import math
import select
import threading
from collections import deque
from collections.abc import Callable
from itertools import count

from captchad.ipc.loop import Loop
from tests.support.clock import FakeClock

#: Turns at one instant. More of them mean that somebody waits for nothing at all.
BUSY_TURNS = 20_000


class TheEnd(BaseException):
    """Raised in actors that wait when the world ends."""


class _Actor:
    """A thread that runs jobs, each of them in turns."""

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.run: Callable[[], None] = lambda: None
        self.failed: BaseException | None = None
        self.due = math.inf
        self.epoll: select.epoll | None = None
        self.left = False


class Kernel:
    """Runs actors until a time."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.ended = False
        self._back = threading.Lock()
        self._back.acquire()
        self._ready: deque[_Actor] = deque()
        self._sleeping: list[tuple[float, int, _Actor]] = []
        self._watching: list[_Actor] = []
        self._idle: list[_Actor] = []
        self._threads: list[threading.Thread] = []
        self._order = count()
        self._now: _Actor | None = None

    # --- for actors

    def spawn(self, run: Callable[[], None]) -> None:
        """Start an actor. It gets its first turn when this one has ended."""
        if self._idle:
            actor = self._idle.pop()
        else:
            actor = _Actor()
            thread = threading.Thread(target=self._live, args=(actor,), daemon=True)
            self._threads.append(thread)
            thread.start()
        actor.run = run
        self._ready.append(actor)

    def sleep(self, seconds: float) -> bool:
        """Wait. False when the world has ended meanwhile."""
        actor = self._current()
        if not self.ended:
            heapq.heappush(self._sleeping, (self.clock.monotonic() + seconds, next(self._order), actor))
            self._yield(actor)
        return not self.ended

    def wait(self, epoll: select.epoll, seconds: float | None) -> None:
        """Wait for a descriptor or for a time. Raises TheEnd."""
        actor = self._current()
        actor.epoll = epoll
        actor.due = math.inf if seconds is None else self.clock.monotonic() + seconds
        self._watching.append(actor)
        self._yield(actor)
        if self.ended:
            raise TheEnd

    # --- for the test

    def run_until(self, when: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Run until monotonic time `when`, or until nothing happens at an instant at which `stop` holds."""
        turns = 0
        while True:
            while self._ready:
                self._resume(self._ready.popleft())
                turns += 1
                assert turns < BUSY_TURNS, f"a busy loop at {self.clock.monotonic()}"
            self._find_ready()
            if self._ready:
                continue
            if stop():
                return
            turns = 0
            due = min((actor.due for actor in self._watching), default=math.inf)
            if self._sleeping:
                due = min(due, self._sleeping[0][0])
            if due > when:
                self.clock.advance(max(0.0, when - self.clock.monotonic()))
                return
            self.clock.advance(max(0.0, due - self.clock.monotonic()))

    def end(self) -> None:
        """Let every actor come to its end."""
        self.ended = True
        self._ready.extend(actor for _, _, actor in self._sleeping)
        self._ready.extend(self._watching)
        self._sleeping.clear()
        self._watching.clear()
        while self._ready:
            self._resume(self._ready.popleft())
        for actor in self._idle:
            actor.left = True
            actor.go.release()
        for thread in self._threads:
            thread.join(10.0)
            assert not thread.is_alive()

    def _find_ready(self) -> None:
        now = self.clock.monotonic()
        while self._sleeping and self._sleeping[0][0] <= now:
            self._ready.append(heapq.heappop(self._sleeping)[2])
        waiting = []
        for actor in self._watching:
            assert actor.epoll is not None
            if actor.due <= now or actor.epoll.poll(0.0, 1):
                self._ready.append(actor)
            else:
                waiting.append(actor)
        self._watching = waiting

    # --- whose turn it is

    def _current(self) -> _Actor:
        assert self._now is not None, "only an actor can wait"
        return self._now

    def _resume(self, actor: _Actor) -> None:
        self._now = actor
        actor.go.release()
        self._back.acquire()
        self._now = None
        if actor.failed is not None:
            failed, actor.failed = actor.failed, None
            raise failed

    def _yield(self, actor: _Actor) -> None:
        self._back.release()
        actor.go.acquire()

    def _live(self, actor: _Actor) -> None:
        actor.go.acquire()
        while not actor.left:
            try:
                actor.run()
            except TheEnd:
                pass
            except BaseException as error:  # noqa: BLE001 - the test gets it
                actor.failed = error
            self._idle.append(actor)
            self._yield(actor)


def loops(kernel: Kernel) -> type[Loop]:
    """The Loop whose waits are the kernel's."""

    class SimulatedLoop(Loop):
        def turn(self, max_wait_s: float | None = None) -> int:
            kernel.wait(self._epoll, self._wait_s(max_wait_s))
            return super().turn(0.0)

    return SimulatedLoop


class Threads:
    """Stands for captchad.worker.crew.Crew: actors instead of threads."""

    kernel: Kernel
    refusals = 0

    def __init__(
        self,
        name: str,
        size: int,
        *,
        next_job: Callable[[], object],
        run: Callable[..., None],
        leave: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self.threads = 0
        self._size = size
        self._next_job = next_job
        self._run = run

    def wake(self) -> None:
        if self.threads < self._size and not self.kernel.ended:
            self.threads += 1
            self.kernel.spawn(self._work)

    def retry(self) -> None:
        pass

    def _work(self) -> None:
        while not self.kernel.ended and (job := self._next_job()) is not None:
            self._run(job)
        self.threads -= 1
