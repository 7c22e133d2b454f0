"""The chaos run: tasks under a rain of SIGKILL, and what must be true of it afterwards."""

__all__ = ["PARENT_KILLS", "Chaos", "run_chaos"]

import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

SCENARIO = """
seed = {seed}
[solve]
seconds = [0.2, 1.0]
"""

#: One kill in so many is the template's.
TEMPLATE_EVERY = 15

#: The parent dies at so many moments of a run.
PARENT_KILLS = 5

#: The part of the tasks that comes before the first of them. The rest comes with them: a run cannot be over before the
#: last one, however much is done while a parent boots.
AT_ONCE = 0.9

OVERRIDES: dict[str, Any] = {
    "daemon": {"workers": 4, "min_workers": 1},
    "supervision": {"heartbeat_s": 0.2, "stall_s": 20.0, "restart_max_delay_s": 0.3, "drain_s": 5.0},
    "provider": {"max_in_flight": 1000, "first_poll_s": 0.3, "poll_s": 0.2, "timeout_s": 120.0, "submit_s": 10.0},
    "retry": {"base_delay_s": 0.05, "max_delay_s": 0.2},
    "breaker": {"failure_threshold": 1000},
    "http": {"listen": ""},
}


@dataclass
class Chaos:
    """What a run left behind."""

    results: dict[str, dict[str, Any]]
    charges: Counter[str]  # by task: captchas that the provider made for it
    status: dict[str, Any]
    worker_kills: int = 0
    parent_kills: int = 0
    took_s: float = 0.0
    orphans: list[int] = field(default_factory=list)

    def check(self, tasks: int) -> None:
        """The promises, for a provider that solves everything."""
        queue = self.status["queue"]
        assert len(self.results) == tasks
        assert {result["status"] for result in self.results.values()} == {"solved"}
        extra = sum(count - 1 for count in self.charges.values() if count > 1)
        assert extra <= queue["unknown_submits"] + queue["late_submits"], (extra, queue)
        assert queue["solved_total"] == tasks
        assert queue["pending"] == queue["in_flight"] == queue["dead"] == 0
        assert len(self.charges) == tasks

    def line(self) -> str:
        queue = self.status["queue"]
        extra = sum(count - 1 for count in self.charges.values() if count > 1)
        return (
            f"{self.worker_kills} workers and {self.parent_kills} parents killed in {self.took_s:.1f} s: "
            f"{len(self.results)} results, {sum(self.charges.values())} charges, {extra} second charges, "
            f"{queue['unknown_submits']} unknown submits, {queue['late_submits']} late"
        )


def run_chaos(directory: Path, *, seed: int, tasks: int = 1000, kill_workers: bool = True) -> Chaos:
    """Drop `tasks`, kill a random worker every 200 ms and the parent now and then, until all have a result."""
    rng = random.Random(seed)
    with Sandbox(scenario=SCENARIO.format(seed=seed)) as sandbox, Daemon(directory, sandbox, OVERRIDES) as daemon:
        every = [
            {"id": f"c-{number}", "sitekey": f"key-{number}", "pageurl": "https://example.com/"}
            for number in range(tasks)
        ]
        cut = int(AT_ONCE * tasks)
        later = [every[cut + kill :: PARENT_KILLS] for kill in range(PARENT_KILLS)]
        ids = daemon.drop(every[:cut])
        began = time.monotonic()
        # By how much is done: early, late and in between.
        milestones = sorted(rng.uniform(0.02, 0.98) * cut for _ in range(PARENT_KILLS))
        killer = _Killer(daemon, rng)
        killed_parents = 0
        results = daemon.directory / "spool" / "results"
        deadline = began + 240.0
        if kill_workers:
            killer.start()
        try:
            while (done := _count(results)) < tasks:
                assert time.monotonic() < deadline, f"only {done} of {tasks} results\n{daemon.log()[-4000:]}"
                assert daemon.running, daemon.log()[-4000:]
                killer.seen.update(_children(daemon.pid))
                if milestones and done >= milestones[0]:
                    milestones.pop(0)
                    ids += daemon.drop(later.pop())
                    daemon.restart(signal.SIGKILL)
                    killed_parents += 1
                time.sleep(0.02)
        finally:
            killer.stop()
        took_s = time.monotonic() - began
        status = eventually(lambda: _settled(daemon), 30.0)
        current = set(_children(daemon.pid))
        orphans = [pid for pid in killer.seen - current if _is_ours(pid, daemon.pid)]
        charges = Counter(captcha["fields"]["googlekey"] for captcha in sandbox.captchas())
        found = daemon.results()
        assert set(found) == set(ids)
    return Chaos(found, charges, status, killer.kills, killed_parents, took_s, orphans)


class _Killer(threading.Thread):
    """Kills a random worker every 200 ms, also while a new parent boots; without one it has nobody to kill.

    Every now and then it kills their template instead: that one needs the time of its imports to come back.
    """

    def __init__(self, daemon: Daemon, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.kills = 0
        self.seen: set[int] = set()
        self._captchad = daemon
        self._rng = random.Random(rng.random())
        self._stopped = threading.Event()

    def run(self) -> None:
        due = time.monotonic()
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due += 0.2
            children = _children(self._captchad.pid)
            workers = [pid for pid in children if _is_worker(pid)]
            if workers and self.kills % TEMPLATE_EVERY == TEMPLATE_EVERY - 1:
                workers = [pid for pid in children if pid not in workers]
            if workers:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(self._rng.choice(workers)).kill()
                    self.kills += 1

    def stop(self) -> None:
        """No kill comes after this."""
        self._stopped.set()
        if self.is_alive():
            self.join()


def _count(results: Path) -> int:
    return sum(1 for path in results.iterdir() if path.suffix == ".json" and not path.name.startswith("."))


def _children(pid: int) -> list[int]:
    with suppress(OSError, psutil.Error):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def _is_worker(pid: int) -> bool:
    """Workers alone have themselves killed first when memory runs out."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"
    return False


def _is_ours(pid: int, parent: int) -> bool:
    """Whether a former worker still lives: same pid, and not a child of the parent that runs now."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "captchad" in " ".join(process.cmdline())
    return False


def _settled(daemon: Daemon) -> dict[str, Any] | None:
    status = daemon.status()
    queue = status["queue"]
    quiet = queue["in_flight"] == 0 and queue["undelivered"] == 0 and status["daemon"]["orphans"] == 0
    return status if quiet else None
