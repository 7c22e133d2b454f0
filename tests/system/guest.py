"""What runs inside the throw-away systemd: one scenario a boot. Standard output is the protocol of its steps.

    python3 guest.py SCENARIO DIRECTORY

Runs under the system's Python with Debian's packages, as captchad itself does here: a Python below /root would be
unreadable for the daemon's user. An assertion that fails ends the scenario with status 1.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.harness import eventually, write_batch
from tests.support.sandbox import Sandbox

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = Path("/usr/lib/python3/dist-packages")
UNITS = Path("/etc/systemd/system")
SPOOL = Path("/var/spool/captchad")
QUICK = "[solve]\nseconds = [0.2, 0.5]\n"
SLOW = "[solve]\nseconds = [4.0, 5.0]\n"


def step(text: str) -> None:
    """Tell the reader of a failed test how far it came."""
    print(f"* {text}", flush=True)


def run(*command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; with `ok`, its failure fails the scenario, with what the journal has."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if ok and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}\n{journal()}")
    return done


def show(unit: str, name: str) -> str:
    """A property of a unit."""
    return run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()


def journal(unit: str = "captchad") -> str:
    """What the unit, and systemd about it, have logged."""
    return run("journalctl", "--no-pager", "--unit", unit, ok=False).stdout


def main_pid(unit: str) -> int:
    """The process that systemd watches. A stopped unit has none, and signals to 0 would hit ourselves."""
    pid = int(show(unit, "MainPID"))
    if pid <= 1:
        raise AssertionError(f"{unit} does not run\n{journal(unit)}")
    return pid


# --- notify.py in a unit of a few lines -------------------------------------------------------------------------------


def notify_speaks_to_systemd(directory: Path) -> None:
    unit = UNITS / "notifier.service"
    unit.write_text(
        f"[Service]\nType=notify\nExecStart=/usr/bin/python3 -m tests.system.notifier\nWorkingDirectory={ROOT}\n"
        "ExecReload=/bin/kill -HUP $MAINPID\nWatchdogSec=2s\nRestart=on-failure\nRestartSec=200ms\n"
    )
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "notifier")
    step("started: READY=1 came")
    assert show("notifier", "StatusText") == "up → 2.0"

    run("systemctl", "reload", "notifier")
    eventually(
        lambda: show("notifier", "StatusText") == "reloaded, 0 lost" and show("notifier", "SubState") == "running"
    )
    step("reloaded")

    before = main_pid("notifier")
    os.kill(before, signal.SIGUSR1)
    eventually(lambda: show("notifier", "NRestarts") == "1" and show("notifier", "SubState") == "running", 30)
    assert main_pid("notifier") != before
    assert "Watchdog timeout" in journal("notifier")
    step("restarted by the watchdog")

    run("systemctl", "stop", "notifier")
    assert show("notifier", "Result") == "success"
    assert "Failed to parse" not in journal("notifier")
    step("stopped")


# --- captchad itself --------------------------------------------------------------------------------------------------


def install() -> None:
    """Lay captchad out as a Debian package would, for the system's Python."""
    shutil.copytree(ROOT / "captchad", PACKAGES / "captchad", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("captchad", "captchactl"):
        program = Path("/usr/bin") / name
        program.write_text(f"#!/usr/bin/python3\nimport sys\nfrom captchad.cli.{name} import main\nsys.exit(main())\n")
        program.chmod(0o755)
    shutil.copy(ROOT / "systemd" / "captchad.service", UNITS)
    Path("/etc/sysusers.d").mkdir(exist_ok=True)
    shutil.copy(ROOT / "systemd" / "captchad.sysusers", "/etc/sysusers.d/captchad.conf")
    shutil.copy(ROOT / "systemd" / "captchad.tmpfiles", "/etc/tmpfiles.d/captchad.conf")
    # What the two files could not do, they say and go on: their silence counts, as with verify.
    for command in (
        ["systemd-sysusers", "/etc/sysusers.d/captchad.conf"],
        ["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/captchad.conf"],
    ):
        done = run(*command)
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("Creating ")]
        assert complaints == [], complaints
    run("systemctl", "daemon-reload")


def files_are_right(directory: Path) -> None:
    install()
    done = run("systemd-analyze", "verify", "captchad.service")
    assert (done.stdout, done.stderr) == ("", "")
    step("verify is silent")
    for path, wanted in (
        ("", "750 captchad captchad-submit"),
        ("incoming", "3730 captchad captchad-submit"),
        ("results", "2750 captchad captchad-submit"),
        ("rejected", "2750 captchad captchad-submit"),
    ):
        found = run("stat", "--format=%a %U %G", str(SPOOL / path)).stdout.strip()
        assert found == wanted, f"{path}: {found}"
    assert run("stat", "--format=%a %U", "/etc/captchad/credentials").stdout.strip() == "700 root"
    assert "captchad-submit" in run("id", "--name", "--groups", "captchad").stdout.split()
    step("the directories have their owners and modes")


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


def the_main_job(directory: Path) -> None:
    install()
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox, workers=2)
        run("systemctl", "start", "captchad")
        step(f"started: {show('captchad', 'StatusText')}")
        found = status()
        assert found["daemon"]["state"] == "running", found
        assert found["source"] == "live", found

        ids = drop("first", 20)
        wait_solved(ids)
        step("20 tasks are solved")
        assert charges(sandbox) == 20
        mode = run("stat", "--format=%a %U %G", str(SPOOL / "results" / f"{ids[0]}.json")).stdout.strip()
        assert mode == "640 captchad captchad-submit", mode
        assert sandbox.key not in journal()

        run("systemctl", "stop", "captchad")
        assert show("captchad", "Result") == "success", journal()
        assert run("captchactl", "status", ok=False).returncode == 3
        step("stopped")


def the_watchdog_restarts_a_stopped_parent(directory: Path) -> None:
    install()
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox, workers=2)
        drop_in("WatchdogSec=2s\nRestartSec=200ms\n")
        sandbox.set_scenario(SLOW)
        run("systemctl", "start", "captchad")
        before = main_pid("captchad")
        ids = drop("flight", 30)
        eventually(lambda: charges(sandbox) >= 10, 30)
        os.kill(before, signal.SIGSTOP)
        step(f"stopped the parent with {charges(sandbox)} captchas at the provider")
        eventually(lambda: show("captchad", "NRestarts") == "1" and show("captchad", "SubState") == "running", 60)
        assert main_pid("captchad") != before
        assert "Watchdog timeout" in journal()
        step("the watchdog has restarted it")

        wait_solved(ids)
        queue = status()["queue"]
        assert queue["unknown_submits"] == 0, queue
        assert charges(sandbox) == 30, sandbox.totals()
        assert queue["charges_total"] == 30, queue
        step("30 tasks, 30 charges")
        run("systemctl", "stop", "captchad")


def reload_good_and_bad(directory: Path) -> None:
    install()
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox, workers=2)
        run("systemctl", "start", "captchad")
        pid = main_pid("captchad")

        configure(sandbox, workers=3)
        run("systemctl", "reload", "captchad")
        eventually(lambda: status()["workers"]["alive"] == 3)
        step("a good configuration is taken")

        Path("/etc/captchad/captchad.toml").write_text("[daemon]\nworkers = 'many'\n")
        assert run("systemctl", "reload", "captchad", ok=False).returncode != 0
        eventually(lambda: show("captchad", "SubState") == "running")
        found = status()
        assert found["workers"]["configured"] == 3, found
        assert found["daemon"]["config"]["problem"], found
        eventually(lambda: "config" in show("captchad", "StatusText"))
        step(f"a bad one is refused: {show('captchad', 'StatusText')}")
        assert main_pid("captchad") == pid
        wait_solved(drop("after", 3))

        run("systemctl", "restart", "captchad")
        wait_solved(drop("restarted", 3))
        step("and a start with it runs on the last good one")
        run("systemctl", "stop", "captchad")


def without_a_key_it_says_so(directory: Path) -> None:
    install()
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox)
        Path("/etc/captchad/credentials/captchaai.key").unlink()
        assert run("systemctl", "start", "captchad", ok=False).returncode != 0
        assert show("captchad", "ExecMainStatus") == "78", journal()
        assert show("captchad", "NRestarts") == "0", journal()
        assert "captchaai.key" in journal()
        step("no key: status 78, no restart, and the log names the credential")


SCENARIOS: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        notify_speaks_to_systemd,
        files_are_right,
        the_main_job,
        the_watchdog_restarts_a_stopped_parent,
        reload_good_and_bad,
        without_a_key_it_says_so,
    )
}


def main() -> int:
    """Run the scenario that the command line names."""
    try:
        SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
    except AssertionError:
        step(f"how captchad was:\n{run('captchactl', 'status', ok=False).stdout}{journal()[-8000:]}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
