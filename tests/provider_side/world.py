"""A whole captchad under a clock that the test turns: parent and workers, against simulated providers.

Real are the parent with all its parts, spool, journal and results on disk, the workers' loops, desks, callers and
provider clients, and the pipes between them. Simulated are time, fork and threads (tests.provider_side.kernel) and the
network (tests.provider_side.service).
"""

import logging
import os
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import pytest
import tomli_w

from captchad.daemon import parent as parent_module
from captchad.daemon.configuration import Configuration
from captchad.daemon.parent import Parent
from captchad.ipc.channel import Channel
from captchad.journal.sidefile import SideFile
from captchad.notify import Notify
from captchad.provider.client import ProviderClient
from captchad.queue.task import Task
from captchad.supervisor.process import Child
from captchad.supervisor.template import Done, Template
from captchad.worker import caller as caller_module
from captchad.worker import main as worker_module
from captchad.worker.log import Log
from tests.provider_side.kernel import Kernel, Threads, loops
from tests.provider_side.service import Service, SimulatedTransport
from tests.support.clock import FakeClock
from tests.support.harness import merge, write_batch

#: How often parent and workers look up by themselves: rarely, because a day has many seconds.
TICK_S = 5.0
BEAT_S = 20.0


class _Parent(Parent):
    """The parent, with workers in its own process."""

    def _catch_signals(self) -> None:
        """They belong to pytest."""

    def _publish_status(self) -> None:
        """Nobody reads it."""

    @property
    def _tick_s(self) -> float:
        return TICK_S


class _Template:
    """Stands for captchad.supervisor.template.Template: its children are actors, and it answers with our own pid."""

    def __init__(self, start: Callable[[Mapping[str, Any], int], None]) -> None:
        self._start = start
        self._answers: deque[Done] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.child = Child(os.getpid(), os.pidfd_open(os.getpid()))
        self.gone = False

    #: While it owes something nobody is reaped: the children of this process are pytest's.
    owes = True

    @property
    def fd(self) -> int:
        return self._bell

    def order(self, order: Mapping[str, Any], fds: Sequence[int], done: Done) -> None:
        """The descriptors stay the caller's. It is told later, as by the real one."""
        assert order["what"] == "worker", "nothing listens in a simulation"
        self._start(order, os.dup(fds[0]))
        self._answers.append(done)
        os.eventfd_write(self._bell, 1)

    def receive(self) -> None:
        os.eventfd_read(self._bell)
        while self._answers:
            self._answers.popleft()(os.getpid())

    def bury(self) -> int:
        self.gone = True
        self.child.close()
        os.close(self._bell)
        return 0

    def renew(self) -> None:
        raise AssertionError("it never dies")


class World:
    """`services` by the names of their providers, the first one preferred. A context manager."""

    def __init__(
        self, services: Mapping[str, Service], overrides: Mapping[str, Any] | None = None, *, workers: int = 1
    ) -> None:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.directory = Path(tempfile.mkdtemp(dir=memory))
        self.clock = FakeClock()
        self.kernel = Kernel(self.clock)
        self.services = dict(services)
        self._batches = 0
        self._patch = pytest.MonkeyPatch()
        (self.directory / "key").write_text("k" * 32)
        (self.directory / "key").chmod(0o600)
        self.config_file = self.directory / "captchad.toml"
        self.config_file.write_text(tomli_w.dumps(merge(self._defaults(workers), overrides or {})))

    def _defaults(self, workers: int) -> dict[str, Any]:
        return {
            "daemon": {
                "workers": workers,
                "min_workers": 1,
                "state_dir": str(self.directory / "state"),
                "spool_dir": str(self.directory / "spool"),
                "runtime_dir": str(self.directory / "run"),
            },
            # Nobody dies here, and a reserve has nothing to do but to wake everybody up.
            "supervision": {"heartbeat_s": BEAT_S, "standby": 0},
            "policy": {"allowed_hosts": ["*"]},
            "provider": [
                {
                    "name": name,
                    "url": f"http://{name}",
                    "api_key_file": str(self.directory / "key"),
                    "priority": priority,
                }
                for priority, name in enumerate(self.services, 1)
            ],
            "http": {"listen": ""},
        }

    # --- life

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        random.seed(1)  # the jitter of the workers' schedules
        for service in self.services.values():
            service.join(self.kernel)
        loop = loops(self.kernel)
        self._patch.setattr(Threads, "kernel", self.kernel, raising=False)
        self._patch.setattr(parent_module, "Loop", loop)
        self._patch.setattr(worker_module, "Loop", loop)
        self._patch.setattr(worker_module, "Crew", Threads)
        transport = partial(SimulatedTransport, {f"http://{name}": each for name, each in self.services.items()})
        self._patch.setattr(caller_module, "ProviderClient", partial(ProviderClient, transport_factory=transport))
        environ = {"XDG_STATE_HOME": str(self.directory / "xdg")}
        configuration = Configuration(self.config_file, environ, self.clock)
        configuration.load_at_start()
        log = logging.getLogger("captchad.world")
        log.setLevel(logging.ERROR)
        notify = Notify({}, self.clock, os.getpid())
        template = cast(Template, _Template(self.start_worker))
        self.parent = _Parent(configuration, notify, template, self.clock, random.Random(1), log)
        self.kernel.spawn(self._be_parent)
        self.run(0.0)
        assert self.parent.state == "running"

    def _be_parent(self) -> None:
        self.parent.open()
        self.parent.start()
        self.parent.run()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kernel.end()
        if hasattr(self, "parent"):
            for worker in self.parent.crew.workers:
                worker.channel.close()
                if worker.child is not None:
                    worker.child.close()
            self.parent.close()
            self.parent.loop.close()
        self._patch.undo()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start_worker(self, order: Mapping[str, Any], channel_fd: int) -> None:
        """Do what a template's child does, in an actor."""
        side = SideFile.create(Path(order["journal"]), order["epoch"], order["number"], preallocate=4096)
        channel = Channel(channel_fd)
        log = Log(f"{order['epoch']}-{order['number']}")

        def work() -> None:
            try:
                worker_module._Worker(channel, side, self.clock, log, order["threads"]).work()
            finally:
                side.close()
                channel.close()

        self.kernel.spawn(work)

    # --- what tests do

    def run(self, seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, at most until everything is quiet and `stop` holds."""
        self.kernel.run_until(self.clock.monotonic() + seconds, stop)

    def drop(self, *ids: str, **fields: object) -> None:
        """Drop tasks into the spool."""
        self._batches += 1
        tasks = [{"id": each, "sitekey": each, "pageurl": "https://example.com/", **fields} for each in ids]
        write_batch(self.directory / "spool" / "incoming", f"batch-{self._batches}", tasks)

    def breaker(self, provider: str) -> str:
        """As the status says it."""
        rows = self.parent.reporter.snapshot()["providers"]
        return next(row["breaker"] for row in rows if row["name"] == provider)

    @property
    def calls_are_over(self) -> bool:
        return not any(service.calling for service in self.services.values())

    @property
    def waiting(self) -> int:
        """Tasks that are with no provider."""
        lines = self.parent.queue.view.lines
        return lines["ready"] + lines["delayed"] + lines["waiting"]

    def ended(self, *ids: str) -> bool:
        tasks = (self.parent.queue.view.tasks.get(each) for each in ids)
        return all(task is not None and task.state.ended for task in tasks)

    def task(self, task_id: str) -> Task:
        task = self.parent.queue.view.tasks.get(task_id)
        assert task is not None
        return task
