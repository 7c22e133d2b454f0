"""The service: start, work, watchdog, reload, and what it says when it cannot start."""

import os
import re
import shutil
import signal
from pathlib import Path

from tests.support.harness import eventually
from tests.support.sandbox import Sandbox
from tests.system.kit import (
    QUICK,
    ROOT,
    SLOW,
    SPOOL,
    UNITS,
    charges,
    configure,
    drop,
    drop_in,
    install,
    journal,
    main_pid,
    run,
    scenario,
    show,
    status,
    step,
    wait_solved,
)


@scenario
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
    eventually(lambda: show("notifier", "NRestarts") != "0" and show("notifier", "SubState") == "running", 30)
    assert main_pid("notifier") != before
    assert "Watchdog timeout" in journal("notifier")
    step("restarted by the watchdog")

    run("systemctl", "stop", "notifier")
    assert show("notifier", "Result") == "success"
    assert "Failed to parse" not in journal("notifier")
    step("stopped")


@scenario
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


@scenario
def a_spool_elsewhere(directory: Path) -> None:
    install()
    spool = Path("/srv/captchad")
    (recipe,) = re.findall(r"(?s)\*\*A spool elsewhere\*\*.*?```\n(.*?)```", (ROOT / "docs/operations.md").read_text())
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox, workers=2, spool_dir=str(spool))
        spool.mkdir()
        shutil.chown(spool, "captchad", "captchad-submit")
        drop_in(f"ReadWritePaths={spool}\n")
        assert run("systemctl", "start", "captchad", ok=False).returncode != 0
        assert (show("captchad", "ExecMainStatus"), show("captchad", "NRestarts")) == ("78", "0"), journal()
        assert f"{spool}/incoming: captchad may not give a directory its mode here" in journal()
        assert list(spool.iterdir()) == []
        step("a directory that the sandbox lets nobody make is not left half made, and the log says what to do")

        (UNITS / "captchad.service.d" / "test.conf").unlink()
        run("sh", "-ec", recipe)
        run("systemctl", "start", "captchad")
        task = Path("/srv/task.json")  # nobody may read it there
        task.write_text(
            '{"id": "a", "sitekey": "6Lc_aCMTAAAAABx7u2W0WPXnVbI_v6ZdbM6rYf16", "pageurl": "https://example.com/"}'
        )
        run("setpriv", "--reuid=nobody", "--regid=captchad-submit", "--clear-groups", "captchactl", "submit", str(task))
        assert run("captchactl", "wait", "a", "--timeout", "60").stdout.startswith("a\tsolved\t")
        assert (spool / "results" / "a.json").stat().st_mode & 0o777 == 0o640
        step("with what the manual says it works, for a submitter, too")
        run("systemctl", "stop", "captchad")


@scenario
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


@scenario
def the_watchdog_restarts_a_stopped_parent(directory: Path) -> None:
    install()
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox, workers=2)
        drop_in("WatchdogSec=4s\nRestartSec=200ms\n")
        sandbox.set_scenario(SLOW)
        run("systemctl", "start", "captchad")
        before = main_pid("captchad")
        ids = drop("flight", 30)
        eventually(lambda: charges(sandbox) >= 10, 30)
        os.kill(before, signal.SIGSTOP)
        step(f"stopped the parent with {charges(sandbox)} captchas at the provider")
        eventually(lambda: show("captchad", "NRestarts") != "0" and show("captchad", "SubState") == "running", 60)
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


@scenario
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

        file = Path("/etc/captchad/captchad.toml")
        file.write_text(file.read_text().replace("workers = 3", "workers = 'many'"))
        assert run("systemctl", "reload", "captchad", ok=False).returncode != 0
        eventually(lambda: show("captchad", "SubState") == "running")
        found = status()
        assert found["workers"]["configured"] == 3, found
        assert found["daemon"]["config"]["problem"], found
        eventually(lambda: "config" in show("captchad", "StatusText"))
        step(f"a bad one is refused: {show('captchad', 'StatusText')}")
        assert main_pid("captchad") == pid
        wait_solved(drop("after", 3))
        eventually(lambda: status()["daemon"]["config"]["probation_s"] is None)

        # As a boot would: what is enabled comes with its target.
        run("systemctl", "enable", "captchad")
        run("systemctl", "stop", "captchad")
        run("systemctl", "start", "multi-user.target")
        eventually(lambda: show("captchad", "SubState") == "running", 30)
        found = status()
        assert found["daemon"]["config"]["origin"] == "last_known_good", found
        assert found["workers"]["configured"] == 3, found
        told = run("captchactl", "status").stdout
        assert "last_known_good" in told, told
        assert "captchad.toml:3: daemon.workers" in told, told
        eventually(lambda: "captchad.toml:3: daemon.workers" in show("captchad", "StatusText"))
        assert run("systemctl", "reload", "captchad", ok=False).returncode != 0
        wait_solved(drop("booted", 3))
        step(f"and a boot with it runs on the last good one: {show('captchad', 'StatusText')}")

        configure(sandbox, workers=2)
        run("systemctl", "reload", "captchad")
        found = status()
        assert (found["daemon"]["config"]["origin"], found["daemon"]["config"]["problem"]) == ("file", None), found
        step("until the file is mended")
        run("systemctl", "stop", "captchad")


@scenario
def without_a_key_it_says_so(directory: Path) -> None:
    install()
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox)
        Path("/etc/captchad/credentials/captchaai.key").unlink()
        assert run("systemctl", "start", "captchad", ok=False).returncode != 0
        assert show("captchad", "ExecMainStatus") == "78", journal()
        assert show("captchad", "NRestarts") == "0", journal()
        assert "there is no API key yet" in journal()
        assert "captchactl setup --provider sandbox stores it" in journal()
        told = run("captchactl", "status", ok=False)
        assert told.returncode == 3
        assert "the service has failed (exit-code, status 78): not started: " in told.stderr, told.stderr
        step("no key: status 78, no restart, and the log says what stores one")
