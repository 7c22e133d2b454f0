"""The log in a real journald: found by event, task, worker and process, one entry each, and no key in it."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from captchad.logs import JOURNAL_SOCKET
from captchad.model.logevents import Event
from tests.support.broken import NO_WORKER
from tests.support.harness import eventually, write_batch
from tests.support.sandbox import Sandbox
from tests.system.kit import (
    SPOOL,
    configure,
    drop,
    drop_in,
    environ,
    install,
    main_pid,
    result,
    run,
    scenario,
    status,
    step,
    wait_solved,
)

BAD = '[solve]\nseconds = [0.2, 0.5]\n[[rule]]\nmatch = { sitekey = "bad-*" }\nfault = "ERROR_BAD_PARAMETERS"\n'
#: While it is there no worker can start.
NOT_NOW = Path("/var/lib/captchad/no-worker")
MODULES = Path("/usr/lib/python3/dist-packages")


def entries(*matches: str) -> list[dict[str, Any]]:
    """What journalctl finds, each entry an object; all that was logged until now is there."""
    run("journalctl", "--sync")
    found = run("journalctl", "--output=json", "--all", *matches).stdout
    return [json.loads(line) for line in found.splitlines()]


def logs(*options: str) -> list[dict[str, Any]]:
    """What `captchactl logs` finds, the same."""
    run("journalctl", "--sync")
    return [json.loads(line) for line in run("captchactl", "logs", "--json", *options).stdout.splitlines()]


def by_event(event: Event, *options: str) -> list[dict[str, Any]]:
    return [entry for entry in logs("--event", event, *options) if entry["CAPTCHAD_EVENT"] == event]


def the_latest_are_shown(directory: Path) -> None:
    """A number of lines is that of the latest, whatever it stands with."""
    dead = ["--event", Event.TASK_DEAD, "--since", "1h"]
    *_, last = logs(*dead)
    assert logs(*dead, "-n", "1") == logs("--event", Event.TASK_DEAD, "-n", "1") == [last]
    assert logs(*dead, "-n", "9") == logs(*dead)
    assert logs("--task", "nobody", "--since", "1h", "-n", "1") == []
    shown = directory / "followed"
    command = ["captchactl", "logs", "--json", "--follow", "-n", "1", *dead]

    def tasks() -> list[str]:
        whole = [line for line in shown.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line)["CAPTCHAD_TASK"] for line in whole]

    with shown.open("w") as file, subprocess.Popen(command, stdout=file, env=environ()) as follower:
        try:
            eventually(tasks)
            die("bad-later")
            eventually(lambda: len(tasks()) > 1)
        finally:
            follower.terminate()
    assert tasks() == [last["CAPTCHAD_TASK"], "bad-later"]


def die(*ids: str) -> None:
    """Have tasks that end in the dead-letter queue."""
    page = "https://example.com/"
    write_batch(SPOOL / "incoming", ids[0], [{"id": each, "sitekey": each, "pageurl": page} for each in ids])
    eventually(lambda: all(result(each) for each in ids), 30)


@contextmanager
def a_journald_that_takes_nothing() -> Iterator[None]:
    """Stopped, and its queue is full."""
    pid = main_pid("systemd-journald")
    os.kill(pid, signal.SIGSTOP)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, suppress(BlockingIOError):
            while True:
                other.sendto(b"MESSAGE=in the way\n", socket.MSG_DONTWAIT, JOURNAL_SOCKET)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@scenario
def the_log_is_found_by_what_it_is_about(directory: Path) -> None:
    install()
    with Sandbox(scenario=BAD) as sandbox:
        configure(sandbox, workers=2)
        (MODULES / "no_worker.py").write_text(NO_WORKER)
        (MODULES / "no_worker.pth").write_text("import no_worker\n")
        drop_in(f"Environment=BROKEN={NOT_NOW}\n")
        run("systemctl", "start", "captchad")
        assert len(by_event(Event.STARTED)) == len(by_event(Event.READY)) == 1

        die("bad-1", "bad-2")
        (dead,) = entries("--unit=captchad", f"MESSAGE_ID={Event.TASK_DEAD.message_id}", "CAPTCHAD_TASK=bad-1")
        assert logs("--task", "bad-1") == [dead]
        assert dead.items() >= {
            "CAPTCHAD_EVENT": "task_dead", "CAPTCHAD_PROVIDER": "sandbox", "CAPTCHAD_REASON": "ERROR_BAD_PARAMETERS",
            "PRIORITY": "4", "SYSLOG_IDENTIFIER": "captchad", "_TRANSPORT": "journal",
            "_SYSTEMD_UNIT": "captchad.service", "_PID": str(main_pid("captchad")),
        }.items()  # fmt: skip
        assert len(logs("--provider", "sandbox", "-n", "1")) == 1
        assert len(by_event(Event.TASK_DEAD, "--provider", "sandbox", "--since", "1h")) == 2
        assert "bad-2: dead after" in run("captchactl", "logs").stdout
        step("a dead task is found by its event and its id")

        the_latest_are_shown(directory)
        step("the latest lines of the last hour are found, and followed")

        # A worker with a fault of its own: a traceback, from a process that ends at once.
        NOT_NOW.touch()
        victim = next(worker for worker in status()["workers"]["list"] if worker["slot"] == 1)
        os.kill(victim["pid"], signal.SIGKILL)
        eventually(lambda: by_event(Event.WORKER_DIED, "--worker", "1"))
        (killed,) = by_event(Event.WORKER_DIED, "--worker", "1")
        assert (killed["CAPTCHAD_REASON"], killed["CAPTCHAD_SEAT"]) == ("signal", "1")
        assert killed in logs("--worker", killed["CAPTCHAD_WORKER"])
        step(f"a killed worker is found by its event, its seat and its name: {killed['MESSAGE']}")

        internal = f"MESSAGE_ID={Event.INTERNAL_ERROR.message_id}"
        eventually(lambda: entries(internal))
        failed = entries(internal)[0]
        first, *rest = failed["MESSAGE"].splitlines()
        assert first == f"worker {failed['CAPTCHAD_WORKER']}: Traceback (most recent call last):"
        assert rest[-1] == "RuntimeError: no worker can start here", rest
        assert not any("Traceback" in entry["MESSAGE"] for entry in entries("_TRANSPORT=stdout"))
        step(f"a traceback of {len(rest) + 1} lines is one entry; its unit is {failed.get('_SYSTEMD_UNIT')}")
        NOT_NOW.unlink()

        with a_journald_that_takes_nothing():
            die("bad-3")
            assert status()["daemon"]["state"] == "running"
        said = "task bad-3: dead after 2 attempts: ERROR_BAD_PARAMETERS (task)"
        eventually(lambda: said in [entry["MESSAGE"] for entry in logs()])
        (late,) = [entry for entry in logs() if entry["MESSAGE"] == said]
        assert (late["_TRANSPORT"], late["PRIORITY"]) == ("stdout", "4")
        step("it waits for no journald, and what that does not take comes by the other door")

        run("systemctl", "restart", "systemd-journald")
        wait_solved(drop("after", 3))
        run("systemctl", "stop", "captchad")
        assert len(by_event(Event.STOPPED)) == 1
        step("a new journald gets what comes after it")

        everything = run("journalctl", "--output=json", "--all").stdout
        assert Event.STOPPED.message_id in everything
        assert sandbox.key not in everything
        nobody = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
        refused = run(*nobody, "captchactl", "logs", ok=False)
        assert refused.returncode == 4, refused
        assert "systemd-journal" in refused.stderr, refused
        step("no key anywhere, and who may not read is told so")
