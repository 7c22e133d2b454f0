"""`captchad demo`: the main job, live, in a temporary directory: practice provider, daemon, sixty tasks, one murder.

Everything is real: processes, files, signals, HTTP. The provider keeps its own ledger, and the demo fails (exit 1) when
the bill is not what the daemon says, or a task has not exactly one result.
"""

__all__ = ["main"]

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from captchad.cli.exits import Exit
from captchad.cli.render import clean, table
from captchad.control.client import call
from captchad.model.errors import CaptchadError, NotRunning, TryLater

#: How the sixty are mixed.
GOOD, FLAKY, UNSOLVABLE = 48, 8, 4
TASKS = GOOD + FLAKY + UNSOLVABLE

#: All of it must be over by then; it takes a third of that.
_LIMIT_S = 55.0
_START_S = 20.0
_STOP_S = 8.0

#: Between two looks at the daemon.
_TICK_S = 0.1
_LOG_LINES = 25

_BROKEN = '{\n  "sitekey": "6Le-demo",\n  "pageurl": "https://shop.example/login",,\n}\n'

#: systemd's and the operator's: they must not reach the demo's daemon.
_NOT_INHERITED = ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "STATE_DIRECTORY", "WATCHDOG_PID", "WATCHDOG_USEC")

_SCENARIO = """\
[[key]]
key = "{key}"

[solve]
seconds = [2.0, 5.0]

[[rule]]  # "flaky" pages: the first submit is answered with a server error, the second works
op = "submit"
fault = "ERROR_SERVER_ERROR"
match = {{pageurl = "*/flaky/*"}}
times = 1
per = "pageurl"

[[rule]]  # nobody can read these
outcome = "ERROR_CAPTCHA_UNSOLVABLE"
match = {{pageurl = "*/unsolvable/*"}}
"""

_CONFIG = """\
[daemon]
workers = 3
min_workers = 2
state_dir = "{root}/state"
spool_dir = "{root}/spool"
runtime_dir = "{root}/run"

[supervision]
heartbeat_s = 0.25
drain_s = 3.0
restart_max_delay_s = 1.0

[policy]
allowed_hosts = ["shop.example"]

[[provider]]
name = "sandbox"
url = "{url}"
api_key_file = "{root}/key"
first_poll_s = 1.0
poll_s = 0.5
timeout_s = 30.0
submit_s = 5.0
pause_s = 1.0

[retry]
base_delay_s = 0.5
max_delay_s = 2.0

[breaker]
reset_timeout_s = 1.5

[http]
listen = ""
"""


class _Failed(CaptchadError):
    """The demo cannot go on, or its sums do not come out."""


@dataclass(slots=True)
class _Progress:
    """What the live view shows, and whether it is a terminal."""

    out: IO[str]
    started_at: float = field(default_factory=time.monotonic)
    shown_at: float = float("-inf")
    width: int = 0
    breaker: str = "closed"

    def say(self, text: str) -> None:
        """A line that stays."""
        self._wipe()
        print(text, file=self.out, flush=True)

    def show(self, status: dict[str, Any]) -> None:
        """The state of things: redrawn on a terminal, a line a second elsewhere."""
        now = time.monotonic()
        self._show_breaker(status["providers"][0])
        tty = self.out.isatty()
        if now - self.shown_at < (0.2 if tty else 1.0):
            return
        self.shown_at = now
        queue, workers = status["queue"], status["workers"]
        line = (
            f"{now - self.started_at:5.1f} s  waiting {queue['pending'] + queue['delayed']:2}  "
            f"at the provider {queue['in_flight']:2}  solved {queue['solved_total']:2}  dead {queue['dead']}  "
            f"charges {queue['charges_total']:2}  workers {workers['alive']}/{workers['configured']}"
        )
        if tty:
            self._wipe()
            self.out.write(line)
            self.out.flush()
            self.width = len(line)
        else:
            print(line, file=self.out, flush=True)

    def _show_breaker(self, provider: dict[str, Any]) -> None:
        word, before = str(provider["breaker"]), self.breaker
        self.breaker = word
        if word == "closed" != before:
            self.say("the provider works again: the circuit breaker is closed")
        elif word != "closed" == before:
            reason = clean(provider.get("reason"))
            self.say(f"the provider fails ({reason}): the circuit breaker stops submits; what is paid is polled on")

    def _wipe(self) -> None:
        if self.width:
            self.out.write("\r" + " " * self.width + "\r")
            self.width = 0


def main() -> int:
    """Run the demo; 0 when everything came out as promised."""
    progress = _Progress(sys.stdout)
    before = signal.signal(signal.SIGTERM, _terminate)
    root = Path(tempfile.mkdtemp(prefix="captchad-demo-"))
    try:
        _demonstrate(root, progress)
    except KeyboardInterrupt:
        progress.say("interrupted; cleaning up")
        return Exit.INTERRUPTED
    except CaptchadError as error:
        progress.say("")
        print(f"captchad demo: {error}", file=sys.stderr)
        _show_logs(root)
        return Exit.FAILED
    finally:
        shutil.rmtree(root, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)
    return Exit.OK


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends the demo as Ctrl-C does, so that nothing is left behind."""
    raise KeyboardInterrupt


def _demonstrate(root: Path, progress: _Progress) -> None:
    key = secrets.token_hex(16)
    _write_private(root / "key", key)
    _write_private(root / "scenario.toml", _SCENARIO.format(key=key))
    socket = root / "run" / "control.sock"
    with _sandbox(root) as url:
        progress.say(f"practice provider at {url}")
        (root / "captchad.toml").write_text(_CONFIG.format(root=root, url=url))
        with _daemon(root) as daemon:
            _wait(lambda: _is_up(socket, daemon), _START_S, "the daemon did not become ready")
            progress.say(f"captchad runs, pid {daemon.pid}, 3 workers; its files are in {root} until the end")
            ids = _drop(root / "spool" / "incoming")
            progress.say(
                f"{TASKS} tasks and a broken file dropped: {GOOD} plain, {FLAKY} that meet a server error first, "
                f"{UNSOLVABLE} that nobody can solve"
            )
            _live(root, socket, daemon, progress)
            _report(root, socket, url, ids, progress)


# --- the processes


@contextmanager
def _sandbox(root: Path) -> Iterator[str]:
    command = ["captchad.provider.sandbox", "--port", "0", "--scenario", str(root / "scenario.toml")]
    with _process(command, root, "sandbox.log") as sandbox:
        log = root / "sandbox.log"
        _wait(lambda: "listening on " in log.read_text() or _dead(sandbox, "sandbox"), _START_S, "no practice provider")
        yield log.read_text().partition("listening on ")[2].split()[0]


@contextmanager
def _daemon(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = ["captchad.cli.captchad", "run", "--config", str(root / "captchad.toml")]
    with _process(command, root, "captchad.log") as daemon:
        yield daemon


@contextmanager
def _process(module: list[str], root: Path, log: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own (Ctrl-C is for the demo); the whole group is gone at the end."""
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    environ["XDG_STATE_HOME"] = str(root / "state-home")
    with (root / log).open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environ,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, then kill what is left of its group."""
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kill does not ask
            process.wait(_STOP_S)
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of the group has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _dead(process: subprocess.Popen[bytes], name: str) -> bool:
    """False while it lives. Raises _Failed when it has ended: nothing will come of waiting."""
    if process.poll() is None:
        return False
    raise _Failed(f"the {name} ended with exit code {process.returncode}")


def _wait(probe: Callable[[], bool], limit_s: float, complaint: str) -> None:
    end = time.monotonic() + limit_s
    while not probe():
        if time.monotonic() > end:
            raise _Failed(f"{complaint} within {limit_s:g} s")
        time.sleep(_TICK_S)


def _status(socket: Path, daemon: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """The daemon's status; None while it does not answer. Raises _Failed when it is dead."""
    _dead(daemon, "daemon")
    try:
        return call(socket, "status", timeout_s=5.0)
    except (NotRunning, TryLater):
        return None


def _is_up(socket: Path, daemon: subprocess.Popen[bytes]) -> bool:
    status = _status(socket, daemon)
    return status is not None and status["daemon"]["state"] == "running" and status["workers"]["alive"] == 3


# --- the tasks


def _drop(incoming: Path) -> list[str]:
    """Forty in one batch, twenty as files of their own, one that is no JSON; all by rename. Returns the ids."""
    tasks = list(_tasks())
    for name, text in [
        ("batch.jsonl", "".join(json.dumps(task) + "\n" for task in tasks[:40])),
        ("broken.json", _BROKEN),
        *((f"{task['id']}.json", json.dumps(task)) for task in tasks[40:]),
    ]:
        part = incoming / f".{name}"
        part.write_text(text)
        part.rename(incoming / name)
    return [task["id"] for task in tasks]


def _tasks() -> Iterator[dict[str, Any]]:
    # The flaky ones go first, so that the provider's errors come together, as those of a real outage do.
    kinds = ["flaky"] * FLAKY + ["plain", *["unsolvable", "plain", "plain"] * UNSOLVABLE]
    kinds += ["plain"] * (TASKS - len(kinds))
    methods: list[dict[str, Any]] = [
        {"method": "userrecaptcha", "sitekey": "6Le-demo"},
        {"method": "userrecaptcha", "sitekey": "6Le-demo", "params": {"invisible": 1}},
        {"method": "turnstile", "sitekey": "0x4AAA-demo"},
        {"method": "hcaptcha", "sitekey": "demo-hcaptcha"},
    ]
    for number, kind in enumerate(kinds):
        yield {
            "id": f"{kind}-{number:02}",
            **methods[number % len(methods)],
            "pageurl": f"https://shop.example/{kind}/{number}",
            "priority": "critical" if kind == "flaky" else "high" if number % 10 == 0 else "normal",
            "tags": {"kind": kind},
        }


def _live(root: Path, socket: Path, daemon: subprocess.Popen[bytes], progress: _Progress) -> None:
    """Watch until every task has a result; kill a worker on the way."""
    results = root / "spool" / "results"
    rejected = root / "spool" / "rejected" / "broken.json.reason"
    end = time.monotonic() + _LIMIT_S
    victim = 0
    while True:
        status = _status(socket, daemon)
        if status is not None:
            progress.show(status)
            if not victim:
                victim = _kill_one(status, progress)
        if victim and rejected.exists() and sum(1 for _ in results.glob("*.json")) >= TASKS:
            return
        if time.monotonic() > end:
            raise _Failed(f"not every task has ended within {_LIMIT_S:g} s")
        time.sleep(_TICK_S)


def _kill_one(status: dict[str, Any], progress: _Progress) -> int:
    """SIGKILL the busiest worker while many captchas are at the provider; its pid, or 0: not yet."""
    queue = status["queue"]
    # Not in the middle of a submit: whether that was paid nobody could know, and here the bill must come out exactly.
    submitting = queue["in_flight"] > queue["charges_total"] - queue["solved_total"]
    if submitting or queue["in_flight"] < TASKS // 6:
        return 0
    workers = [worker for worker in status["workers"]["list"] if worker["pid"] and worker["state"] == "running"]
    busiest = max(workers, key=lambda worker: int(worker["in_flight"]), default=None)
    if busiest is None or not busiest["in_flight"]:
        return 0
    pid = int(busiest["pid"])
    os.kill(pid, signal.SIGKILL)
    progress.say(
        f"worker {pid} killed (SIGKILL) with {busiest['in_flight']} paid captchas in its hands; "
        "the others poll them now, under their ids"
    )
    return pid


# --- the reckoning


def _report(root: Path, socket: Path, url: str, ids: list[str], progress: _Progress) -> None:
    status = call(socket, "status")
    results = {
        path.name.removesuffix(".json"): json.loads(path.read_text()) for path in _json_files(root / "spool/results")
    }
    progress.say("")
    progress.say(_summary(results, status, time.monotonic() - progress.started_at))
    progress.say(_dead_letters(call(socket, "dlq.list", {"limit": 100})["tasks"]))
    progress.say(_rejected(root / "spool" / "rejected"))
    totals = _totals(url)
    progress.say(_bill(totals, status["queue"]))
    _check(ids, results, status["queue"], totals)
    progress.say("Each task has exactly one result, and each captcha was paid for once.")


def _json_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.json"))


def _summary(results: dict[str, dict[str, Any]], status: dict[str, Any], took_s: float) -> str:
    solved = [result for result in results.values() if result["status"] == "solved"]
    retried = sum(result["attempts"] > 1 for result in results.values())
    restarts = sum(int(worker["restarts"]) for worker in status["workers"]["list"])
    return (
        f"{len(results)} of {TASKS} tasks have a result after {took_s:.1f} s: {len(solved)} solved, "
        f"{len(results) - len(solved)} failed; {retried} took more than one attempt; {restarts} worker replaced"
    )


def _dead_letters(tasks: list[dict[str, Any]]) -> str:
    rows = [
        [clean(task.get(name)) for name in ("id", "error", "category", "attempts", "charges")]
        for task in sorted(tasks, key=lambda task: str(task.get("id")))
    ]
    head = ("ID", "ERROR", "CATEGORY", "ATTEMPTS", "CHARGES")
    return "\nDead letters (captchactl dlq redrive would run them again):\n" + table(head, rows, indent="  ").rstrip()


def _rejected(directory: Path) -> str:
    reason = json.loads((directory / "broken.json.reason").read_text())
    place = f"line {reason.get('line', '?')}, column {reason.get('column', '?')}"
    return f"\nRejected:\n  broken.json: {place}: {clean(reason.get('error'))}"


def _bill(totals: dict[str, Any], queue: dict[str, Any]) -> str:
    return (
        f"\nThe bill:\n  the provider's ledger   {totals['charges']} captchas accepted and charged\n"
        f"  captchad's journal      {queue['charges_total']} charges, {queue['unknown_submits']} unknown submits\n"
    )


def _totals(url: str) -> dict[str, Any]:
    """The sandbox's own sums."""
    import http.client  # 40 ms that only the demo pays

    host, _, port = url.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", "/_sandbox/totals")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    except OSError as error:
        raise _Failed(f"the practice provider does not show its ledger: {error.strerror or error}") from error
    finally:
        connection.close()
    return found


def _check(ids: list[str], results: dict[str, Any], queue: dict[str, Any], totals: dict[str, Any]) -> None:
    """Raise _Failed with everything that is not as promised."""
    wrong = []
    if sorted(ids) != sorted(results):
        wrong.append(f"results without a task or tasks without a result: {sorted(set(ids) ^ set(results))}")
    unsolved = [
        name for name in ids if not name.startswith("unsolvable") and results.get(name, {}).get("status") != "solved"
    ]
    if unsolved:
        wrong.append(f"not solved: {', '.join(unsolved)}")
    paid, recorded, unknown = totals["charges"], queue["charges_total"], queue["unknown_submits"]
    # An unknown submit may or may not have reached the provider; without one the two must be equal.
    if not recorded <= paid <= recorded + unknown:
        wrong.append(f"the provider charged {paid}, the journal has {recorded} and {unknown} unknown submits")
    told = sum(result.get("charges", 0) for result in results.values())
    if told != recorded:
        wrong.append(f"the results name {told} charges, the journal {recorded}")
    if wrong:
        raise _Failed("; ".join(wrong))


def _show_logs(root: Path) -> None:
    for name in ("sandbox.log", "captchad.log"):
        path = root / name
        lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:] if path.exists() else []
        if lines:
            print(f"--- the end of {name}", *map(clean, lines), sep="\n", file=sys.stderr)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
