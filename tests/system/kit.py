"""What scenarios inside the throw-away systemd have in common: commands, the unit, tasks and results.

A scenario is a function marked `@scenario`, in a module that guest.py imports; it gets the one directory whose
changes outlive the boot. An assertion that fails ends it.
"""

__all__ = [
    "DEB",
    "HOLDS",
    "QUICK",
    "ROOT",
    "SCENARIOS",
    "SLOW",
    "SPOOL",
    "UNITS",
    "charges",
    "configure",
    "drop",
    "drop_in",
    "environ",
    "install",
    "journal",
    "main_pid",
    "result",
    "run",
    "scenario",
    "show",
    "status",
    "step",
    "wait_solved",
]

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.harness import eventually, write_batch
from tests.support.sandbox import Sandbox

Scenario = Callable[[Path], None]

#: By name, in the order of their definition.
SCENARIOS: dict[str, Scenario] = {}

ROOT = Path(__file__).resolve().parent.parent.parent
#: The package of this tree.
DEB = Path(os.environ.get("CAPTCHAD_DEB", ""))
UNITS = Path("/etc/systemd/system")
SPOOL = Path("/var/spool/captchad")
QUICK = "[solve]\nseconds = [0.2, 0.5]\n"
SLOW = "[solve]\nseconds = [4.0, 5.0]\n"
#: Nothing is solved, however long a look at it takes.
HOLDS = f'{QUICK}[[rule]]\nop = "poll"\nfault = "CAPCHA_NOT_READY"\n'


def scenario(function: Scenario) -> Scenario:
    """Mark a function as one that guest.py runs, and test_systemd.py asks for."""
    SCENARIOS[function.__name__] = function
    return function


def step(text: str) -> None:
    """Tell the reader of a failed test how far it came."""
    print(f"* {text}", flush=True)


def environ() -> dict[str, str]:
    """The environment of commands: with captchad as it is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; with `ok`, its failure fails the scenario, with what the journal has."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environ())
    if ok and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}\n{journal()}")
    return done


def show(unit: str, name: str) -> str:
    """A property of a unit."""
    return run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()


def journal(unit: str = "captchad") -> str:
    """What the unit, and systemd about it, have logged until now. journald may be behind, but not after a sync."""
    run("journalctl", "--sync", ok=False)
    return run("journalctl", "--no-pager", "--unit", unit, ok=False).stdout


def main_pid(unit: str) -> int:
    """The process that systemd watches. A stopped unit has none, and signals to 0 would hit ourselves."""
    pid = int(show(unit, "MainPID"))
    if pid <= 1:
        raise AssertionError(f"{unit} does not run\n{journal(unit)}")
    return pid


def install() -> None:
    """Install captchad's Debian package. What it could not do, its scripts say and go on: their silence counts."""
    Path("/var/lib/man-db/auto-update").unlink(missing_ok=True)  # an index of all manuals, which no scenario reads
    done = run("dpkg", "--install", str(DEB))
    complaints = [
        line for line in done.stderr.splitlines() if not line.startswith(("Creating ", "Not building database"))
    ]
    assert complaints == [], complaints


def configure(sandbox: Sandbox, **daemon: Any) -> None:
    """Write a configuration for the sandbox, and its key where the unit looks for it."""
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in daemon.items())
    Path("/etc/captchad/captchad.toml").write_text(
        f"[daemon]\nprobation_s = 1.0\n{lines}"
        '[supervision]\nheartbeat_s = 0.2\nstall_s = 10.0\n[policy]\nallowed_hosts = ["example.com"]\n'
        f'[[provider]]\nname = "sandbox"\nurl = "{sandbox.url}"\napi_key_credential = "captchaai.key"\n'
        "first_poll_s = 0.5\npoll_s = 0.2\n"
    )
    key = Path("/etc/captchad/credentials/captchaai.key")
    key.write_text(sandbox.key)
    key.chmod(0o600)


def drop_in(text: str) -> None:
    """Add `text` to the unit's [Service]."""
    directory = UNITS / "captchad.service.d"
    directory.mkdir(exist_ok=True)
    (directory / "test.conf").write_text(f"[Service]\n{text}")
    run("systemctl", "daemon-reload")


def drop(name: str, number: int) -> list[str]:
    """Drop a batch as a member of captchad-submit would; returns the ids."""
    tasks = [
        {
            "id": f"{name}-{index}",
            "sitekey": "6Lc_aCMTAAAAABx7u2W0WPXnVbI_v6ZdbM6rYf16",
            "pageurl": "https://example.com/",
        }
        for index in range(number)
    ]
    write_batch(SPOOL / "incoming", name, tasks)
    return [str(task["id"]) for task in tasks]


def result(task: str) -> dict[str, Any] | None:
    path = SPOOL / "results" / f"{task}.json"
    return json.loads(path.read_text()) if path.exists() else None


def wait_solved(ids: list[str]) -> None:
    eventually(lambda: all(result(task) for task in ids), 60)
    bad = [found for task in ids if (found := result(task)) and found["status"] != "solved"]
    assert bad == [], bad


def status() -> dict[str, Any]:
    """`captchactl status --json`, as an operator would ask."""
    found: dict[str, Any] = json.loads(run("captchactl", "status", "--json").stdout)
    return found


def charges(sandbox: Sandbox) -> int:
    """What the provider has put on the bill."""
    return int(sandbox.totals()["charges"])
