"""Threads that are started on demand and end after idling.

The one that parked last is woken first: its connection is the freshest, and those that are not needed come to rest.
"""

__all__ = ["Crew"]

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")

#: A thread that was not needed for so long ends, with its connections.
IDLE_S = 60.0

_Bell = queue.SimpleQueue[None]


class Crew(Generic[Job]):
    """At most `size` threads that take jobs by `next_job` and do them by `run`. Neither may raise.

    `leave` runs in a thread that is about to end; `say` is told when the system refuses a new one.
    """

    def __init__(
        self,
        name: str,
        size: int,
        *,
        next_job: Callable[[], Job | None],
        run: Callable[[Job], None],
        leave: Callable[[], None],
        say: Callable[[str], None],
        idle_s: float = IDLE_S,
    ) -> None:
        self._name = name
        self._size = size
        self._next_job = next_job
        self._run = run
        self._leave = leave
        self._say = say
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._parked: list[_Bell] = []
        self._threads = 0
        self._refused = False
        self.refusals = 0  #: threads that the system has refused, ever

    @property
    def threads(self) -> int:
        """Threads that are alive."""
        return self._threads

    def wake(self) -> None:
        """Say that there is a job: wake a parked thread, or start one. If all are busy, the next that is free takes it.

        When the system refuses a new thread, the job waits for the next call, or for `retry`.
        """
        with self._lock:
            if self._parked:
                self._parked.pop().put(None)
                return
            if self._threads >= self._size:
                return
            self._threads += 1
        self._start()

    def retry(self) -> None:
        """Call now and then while there are jobs: tries again if the system refused a thread."""
        if self._refused:
            self.wake()

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._threads -= 1
                self.refusals += 1
            if not self._refused:
                self._say(f"no thread for {self._name}: {error}")
            self._refused = True
        else:
            self._refused = False

    def _work(self) -> None:
        bell: _Bell = queue.SimpleQueue()
        while True:
            # Under the lock that `wake` takes: a job that comes now is either seen here or finds this thread parked.
            with self._lock:
                job = self._next_job()
                if job is None:
                    self._parked.append(bell)
            if job is not None:
                self._run(job)
            elif not self._woken(bell):
                self._leave()
                return

    def _woken(self, bell: _Bell) -> bool:
        try:
            bell.get(timeout=self._idle_s)
        except queue.Empty:
            with self._lock:
                if bell in self._parked:
                    self._parked.remove(bell)
                    self._threads -= 1
                    return False
            bell.get()  # rung in this moment
        return True
