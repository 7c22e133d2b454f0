"""A whole captchad in a temporary directory, for end-to-end tests: real processes, real files, real signals."""

__all__ = ["Account", "Daemon", "eventually", "merge", "write_batch"]

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import tomli_w

from captchad.control.client import call
from captchad.model.errors import NotRunning, TryLater

T = TypeVar("T")

#: What the environment of a test must not hand down: systemd's, and the operator's.
_NOT_INHERITED = ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "STATE_DIRECTORY", "WATCHDOG_PID", "WATCHDOG_USEC")


def eventually(probe: Callable[[], T], timeout: float = 30.0, every: float = 0.02) -> T:
    """The first true value of `probe`, tried again and again. Raises AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s; the last value was {value!r}")
        time.sleep(every)
    return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the tables of `over` merged in. A dict given for a list of tables goes over its first one."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        elif isinstance(value, Mapping) and isinstance(below, list):
            merged[key] = [merge(below[0], value), *below[1:]]
        else:
            merged[key] = value
    return merged


def write_batch(incoming: Path, name: str, tasks: Iterable[Mapping[str, Any]]) -> None:
    """Drop `tasks` as `NAME.jsonl`: written beside under a dot-name, then renamed."""
    hidden = incoming / f".{name}.part"
    hidden.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    hidden.rename(incoming / f"{name}.jsonl")


class Account(Protocol):
    """What a daemon needs of a provider: tests.support.sandbox.Sandbox is one."""

    @property
    def url(self) -> str: ...

    @property
    def key(self) -> str: ...


class Daemon:
    """`captchad run` with its own directories. A context manager: starts, waits until ready, and leaves no process."""

    def __init__(
        self,
        directory: Path,
        sandbox: Account,
        overrides: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """Write the files of a daemon below `directory`; `overrides` go over the configuration, table by table.

        `environ` is added to what the daemon inherits; `prefix` is a command that runs it, as `prlimit` does.
        """
        self._prefix = prefix
        self.directory = directory
        self._environ = dict(environ or {})
        self.state_dir = directory / "state"
        self.spool_dir = directory / "spool"
        # Not below `directory`: the path of a socket is limited to 107 bytes.
        self.runtime_dir = Path(tempfile.mkdtemp(prefix="captchad-"))
        self.config_file = directory / "captchad.toml"
        self.log_file = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._batches = count(1)
        self._groups: list[int] = []
        key_file = directory / "key"
        key_file.write_text(sandbox.key)
        key_file.chmod(0o600)
        self.config = merge(self._defaults(sandbox.url, key_file), overrides or {})
        self.write_config()

    def _defaults(self, url: str, key_file: Path) -> dict[str, Any]:
        return {
            "daemon": {
                "workers": 2,
                "min_workers": 1,
                "probation_s": 1.0,
                "state_dir": str(self.state_dir),
                "spool_dir": str(self.spool_dir),
                "runtime_dir": str(self.runtime_dir),
            },
            "supervision": {"heartbeat_s": 0.2, "stall_s": 10.0, "drain_s": 10.0, "restart_max_delay_s": 1.0},
            "policy": {"allowed_hosts": ["*", "-"]},
            "provider": [
                {
                    "name": "sandbox",
                    "url": url,
                    "api_key_file": str(key_file),
                    "max_in_flight": 1000,
                    "submits_per_3s": 100_000,
                    "first_poll_s": 0.2,
                    "poll_s": 0.2,
                    "timeout_s": 60.0,
                    "submit_s": 10.0,
                    "pause_s": 0.5,
                }
            ],
            "retry": {"base_delay_s": 0.1, "max_delay_s": 1.0},
            "breaker": {"reset_timeout_s": 0.5},
            "http": {"listen": ""},
        }

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._end(show_log=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end(show_log=error is not None)

    def start(self, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Start the daemon in a session of its own; with `wait`, return when it is ready."""
        if self.process is not None and self.process.poll() is None:
            raise AssertionError("the daemon runs already")
        environ = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        environ["XDG_STATE_HOME"] = str(self.directory / "xdg-state")
        environ |= self._environ
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, self.program("captchad"), "run", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                start_new_session=True,
            )
        self._groups.append(self.process.pid)
        if wait:
            self.wait_ready(timeout)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the running daemon itself says that it runs and has its workers."""
        eventually(self._ready, timeout)

    def _ready(self) -> bool:
        if not self.running:
            raise AssertionError(f"the daemon has ended:\n{self.log()}")
        status = self.status()
        return (
            bool(status)
            and status["daemon"]["pid"] == self.pid
            and status["daemon"]["state"] == "running"
            and status["workers"]["alive"] >= status["workers"]["min"]
        )

    def kill(self, signum: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the parent alone. After SIGKILL it is gone when this returns."""
        os.kill(self.pid, signum)
        if signum == signal.SIGKILL:
            self._wait(10.0)

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self._wait(timeout)

    def restart(self, signum: signal.Signals = signal.SIGTERM, *, wait: bool = True) -> None:
        """End the parent by `signum` and start the next one."""
        if self.running:
            os.kill(self.pid, signum)
            self._wait(30.0)
        self.start(wait=wait)

    def _wait(self, timeout: float) -> int:
        if self.process is None:
            raise AssertionError("the daemon was never started")
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon has not ended within {timeout} s:\n{self.log()[-4000:]}") from None

    def _end(self, *, show_log: bool) -> None:
        """Kill every process of every daemon that was started here, workers that outlived their parent too."""
        for group in self._groups:
            with suppress(ProcessLookupError):  # all of them are gone already
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10.0)
        if show_log:
            print(f"--- log of the daemon in {self.directory}\n{self.log()[-20000:]}")
        shutil.rmtree(self.runtime_dir, ignore_errors=True)

    # --- what it is -----------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        if self.process is None:
            raise AssertionError("the daemon was never started")
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def socket(self) -> Path:
        return self.runtime_dir / "control.sock"

    @staticmethod
    def program(name: str) -> str:
        """The path of one of captchad's programs: those of the Python that runs the tests."""
        return str(Path(sys.executable).with_name(name))

    def ctl(self, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run `captchactl` on this daemon."""
        command = [self.program("captchactl"), "--config", str(self.config_file), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)

    def status(self) -> dict[str, Any]:
        """What the daemon itself answers; {} while none does."""
        try:
            return call(self.socket, "status", timeout_s=60.0)
        except (NotRunning, TryLater):
            return {}

    def worker_pids(self) -> list[int]:
        """The processes that work now, by slot."""
        return [worker["pid"] for worker in self.status()["workers"]["list"] if worker["pid"]]

    def log(self) -> str:
        """Everything that was logged by all starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    # --- configuration, tasks, results ----------------------------------------------------------------------------

    def write_config(self, overrides: Mapping[str, Any] | None = None) -> None:
        """Write the configuration file, with `overrides` merged in for good. The daemon is not told."""
        self.config = merge(self.config, overrides or {})
        self.config_file.write_text(tomli_w.dumps(self.config))

    def drop(self, tasks: Iterable[Mapping[str, Any]]) -> list[str]:
        """Drop one batch into the spool. Returns the ids, which the tasks must have."""
        batch = list(tasks)
        write_batch(self.spool_dir / "incoming", f"batch-{next(self._batches)}", batch)
        return [task["id"] for task in batch]

    def results(self) -> dict[str, dict[str, Any]]:
        """The results that lie there now, by id."""
        found = (self.spool_dir / "results").glob("*.json")
        return {result["id"]: result for result in (json.loads(path.read_text()) for path in found)}

    def wait_results(self, number: int, timeout: float = 60.0) -> dict[str, dict[str, Any]]:
        """Wait until that many results lie there."""
        eventually(lambda: self._has_results(number), timeout)
        return self.results()

    def _has_results(self, number: int) -> bool:
        # A parent that a test has killed has a negative status: another thread may be about to start the next one.
        status = None if self.process is None else self.process.poll()
        if status is not None and status > 0:
            raise AssertionError(f"the daemon has ended with {status}:\n{self.log()}")
        return sum(1 for _ in (self.spool_dir / "results").glob("*.json")) >= number
