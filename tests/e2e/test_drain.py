"""`captchactl drain`: captchas that are paid for are waited for, nothing new is taken, the daemon stops."""

import json
import os
import pty
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from captchad.cli.exits import Exit
from tests.support.harness import Daemon, eventually
from tests.support.listener import Listener
from tests.support.sandbox import Sandbox

SOLVES = "[solve]\nseconds = 0.2\n"
#: The same while nothing is solved, however long a look at it takes.
HOLDS = f'{SOLVES}[[rule]]\nop = "poll"\nfault = "CAPCHA_NOT_READY"\n'


def tasks(name: str, number: int) -> list[dict[str, str]]:
    return [
        {"id": f"{name}{each}", "sitekey": f"{name}{each}", "pageurl": "https://example.com/"} for each in range(number)
    ]


def in_flight(daemon: Daemon, sandbox: Sandbox, number: int) -> None:
    """Drop so many tasks and wait until each is recorded as submitted."""
    created = sandbox.totals()["created"]
    daemon.drop(tasks(f"d{created}-", number))
    eventually(lambda: sandbox.totals()["created"] == created + number)
    listed = ["list", "--state", "submitted", "--json"]
    eventually(lambda: len(json.loads(daemon.ctl(*listed).stdout)["tasks"]) == number)


def command(daemon: Daemon, *arguments: str) -> list[str]:
    return [daemon.program("captchactl"), "--config", str(daemon.config_file), *arguments]


def exit_status(daemon: Daemon, timeout: float = 0.5) -> int | None:
    """Of the daemon. Whoever waited for its end finds it at once."""
    eventually(lambda: not daemon.running, timeout)
    return daemon.process.returncode if daemon.process else None


def draining(daemon: Daemon) -> bool:
    return daemon.status()["daemon"]["state"] == "draining"


def eta(daemon: Daemon) -> dict[str, Any]:
    done = daemon.ctl("drain", "--eta", "--json")
    assert done.returncode == Exit.OK, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_all_that_is_under_way_ends_and_nothing_new_is_taken(tmp_path: Path) -> None:
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        in_flight(daemon, sandbox, 20)
        with subprocess.Popen(command(daemon, "drain"), stdout=subprocess.PIPE, text=True) as drain:
            eventually(lambda: draining(daemon))
            daemon.drop(tasks("late", 5))
            sandbox.set_scenario(SOLVES)
            said, _ = drain.communicate(timeout=30)
        assert drain.returncode == Exit.OK
        assert said.startswith("draining: 20 captchas are under way; ")
        assert said.endswith("\nthe daemon has stopped\n")
        assert exit_status(daemon) == 0  # captchactl has waited for its end

        results = daemon.results()
        assert len(results) == 20
        assert {result["status"] for result in results.values()} == {"solved"}
        assert (sandbox.totals()["created"], sandbox.totals()["charges"]) == (20, 20)
        assert [path.name for path in (daemon.spool_dir / "incoming").iterdir()] == ["batch-2.jsonl"]

        daemon.start()
        assert len(daemon.wait_results(25)) == 25
        assert sandbox.totals()["charges"] == 25


def test_tasks_that_were_accepted_and_not_submitted_wait_for_the_next_start(tmp_path: Path) -> None:
    overrides = {"provider": {"max_in_flight": 3}}
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        daemon.drop(tasks("d", 5))
        eventually(lambda: sandbox.totals()["created"] == 3 and daemon.status()["queue"]["pending"] == 2)
        with subprocess.Popen(command(daemon, "drain"), stdout=subprocess.DEVNULL) as drain:
            eventually(lambda: draining(daemon))
            sandbox.set_scenario(SOLVES)
        assert drain.returncode == Exit.OK
        assert len(daemon.results()) == sandbox.totals()["created"] == 3
        daemon.start()
        assert len(daemon.wait_results(5)) == 5
        assert sandbox.totals()["charges"] == 5


def test_answers_that_cannot_be_delivered_are_waited_for_too(tmp_path: Path) -> None:
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        in_flight(daemon, sandbox, 3)
        results, away = daemon.spool_dir / "results", daemon.spool_dir / "away"
        results.rename(away)
        assert daemon.ctl("drain", "--no-wait").returncode == Exit.OK
        sandbox.set_scenario(SOLVES)
        eventually(lambda: eta(daemon)["in_flight"] == 0)
        assert eta(daemon)["undelivered"] == 3
        assert daemon.ctl("drain", "--eta").stdout.startswith("nothing is under way; 3 results wait to be delivered\n")
        away.rename(results)
        assert exit_status(daemon, 20.0) == 0
        assert len(daemon.results()) == 3


def test_with_nothing_under_way_it_stops_at_once(tmp_path: Path) -> None:
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox) as daemon:
        assert eta(daemon) | {"pid": 0} == {
            "schema": 1, "pid": 0, "state": "running", "in_flight": 0, "undelivered": 0, "half_s": 0.0, "most_s": 0.0,
            "latest_s": 0.0, "stop_s": 10.0, "known": True,
        }  # fmt: skip
        done = daemon.ctl("drain", "--json")
        assert (done.returncode, json.loads(done.stdout)["in_flight"]) == (Exit.OK, 0)
        assert exit_status(daemon) == 0
        assert daemon.ctl("drain").returncode == Exit.NOT_RUNNING


def test_ctrl_c_leaves_the_drain_going_on(tmp_path: Path) -> None:
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        in_flight(daemon, sandbox, 3)
        drain = subprocess.Popen(command(daemon, "drain"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with drain:
            eventually(lambda: draining(daemon))
            assert drain.stdout is not None
            drain.stdout.readline()
            drain.send_signal(signal.SIGINT)
            _, errors = drain.communicate(timeout=30)
        assert (drain.returncode, errors.startswith("captchactl: the drain goes on; ")) == (Exit.INTERRUPTED, True)
        assert daemon.running
        with subprocess.Popen(command(daemon, "drain"), stdout=subprocess.PIPE, text=True) as again:
            assert again.stdout is not None
            assert again.stdout.readline().startswith("draining: 3 captchas are under way; ")
            sandbox.set_scenario(SOLVES)
            again.communicate(timeout=30)
        assert again.returncode == Exit.OK  # it has waited for the same drain
        assert (len(daemon.results()), sandbox.totals()["charges"]) == (3, 3)
        assert daemon.log().count("nothing new is taken") == 1


def test_a_stop_meanwhile_waits_for_no_captcha_and_the_next_start_polls_it(tmp_path: Path) -> None:
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        in_flight(daemon, sandbox, 4)
        drain = subprocess.Popen(command(daemon, "drain"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with drain:
            eventually(lambda: draining(daemon))
            assert daemon.stop() == 0
            _, errors = drain.communicate(timeout=30)
        assert drain.returncode == Exit.FAILED
        assert "stopped before all had ended: 4 captchas are left" in errors
        assert "SIGTERM: draining" in daemon.log()
        assert "is killed" not in daemon.log()
        assert daemon.results() == {}
        sandbox.set_scenario(SOLVES)
        daemon.start()
        assert len(daemon.wait_results(4)) == 4
        assert sandbox.totals()["charges"] == 4


def test_the_second_stop_kills_as_ever(tmp_path: Path) -> None:
    hang = '[solve]\nseconds = 0.2\n[[rule]]\nmatch = { sitekey = "hang" }\nfault = "hang"\n'
    overrides = {"provider": {"submit_s": 60.0}, "supervision": {"drain_s": 60.0, "stall_s": 100.0}}
    with Sandbox(scenario=hang) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        daemon.drop([{"id": "h", "sitekey": "hang", "pageurl": "https://example.com/"}])
        eventually(lambda: sandbox.totals()["faults"].get("hang"))
        assert daemon.ctl("drain", "--no-wait").returncode == Exit.OK
        os.kill(daemon.pid, signal.SIGTERM)
        eventually(lambda: "SIGTERM: draining" in daemon.log())
        assert daemon.running
        assert daemon.stop() == 0  # in half of the time that either limit gives
        assert "SIGTERM again: what has not ended is killed" in daemon.log()


def test_a_daemon_that_dies_in_a_drain_is_no_success(tmp_path: Path) -> None:
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        in_flight(daemon, sandbox, 1)
        with subprocess.Popen(command(daemon, "drain"), stderr=subprocess.PIPE, text=True) as drain:
            eventually(lambda: draining(daemon))
            daemon.kill()
            _, errors = drain.communicate(timeout=30)
        assert drain.returncode == Exit.FAILED
        assert "the daemon died before all had ended" in errors


def test_on_a_terminal_it_shows_how_far_it_is(tmp_path: Path) -> None:
    progress = "2 captchas are under way; all have ended in "
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        in_flight(daemon, sandbox, 2)
        master, slave = pty.openpty()
        with subprocess.Popen(command(daemon, "drain"), stdout=slave, stderr=slave) as drain:
            os.close(slave)
            said = ""
            while said.count(f"\n{progress}") < 2:
                said += os.read(master, 4096).decode()
            sandbox.set_scenario(SOLVES)
            with suppress(OSError):  # the other side is closed
                while True:
                    said += os.read(master, 4096).decode()
        os.close(master)
        assert drain.returncode == Exit.OK
        lines = said.split("\r\n")
        assert lines[-2] == "the daemon has stopped"


def test_systemd_is_told_how_many_are_waited_for_and_of_the_stop_at_its_end(tmp_path: Path) -> None:
    with (
        Listener(tmp_path / "notify") as systemd,
        Sandbox(scenario=HOLDS) as sandbox,
        Daemon(tmp_path, sandbox, environ=systemd.environ) as daemon,
    ):
        in_flight(daemon, sandbox, 3)
        begun = len(systemd.heard())
        assert daemon.ctl("drain", "--no-wait").returncode == Exit.OK
        waits = "STATUS=draining: waits for 3 captchas; "
        eventually(lambda: any(each.startswith(waits) for each in systemd.heard()[begun:]))
        sandbox.set_scenario(SOLVES)
        eventually(lambda: "STOPPING=1" in systemd.heard(), timeout=20.0)
        heard = systemd.heard()
        meanwhile = heard[begun : heard.index("STOPPING=1")]
        assert not [each for each in meanwhile if each.startswith("EXTEND_TIMEOUT")]
        assert exit_status(daemon, 10.0) == 0


def test_the_forecast_comes_from_solve_times_and_time_outs(tmp_path: Path) -> None:
    solve_s, timeout_s = 2.0, 40.0
    solves = f"[solve]\nseconds = {solve_s}\n"
    holds = HOLDS.replace(SOLVES, solves)
    overrides = {"provider": {"timeout_s": timeout_s}}
    with Sandbox(scenario=holds) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        in_flight(daemon, sandbox, 5)
        unknown = eta(daemon)
        assert (unknown["in_flight"], unknown["known"]) == (5, False)
        assert unknown["half_s"] == pytest.approx(unknown["latest_s"], abs=0.2)
        assert "solve times are not known" in daemon.ctl("drain", "--eta").stdout
        sandbox.set_scenario(solves)
        daemon.drop(tasks("more", 30))
        daemon.wait_results(35)

        sandbox.set_scenario(holds)
        begun = time.monotonic()
        in_flight(daemon, sandbox, 5)
        found = eta(daemon)
        oldest_s = time.monotonic() - begun  # at most: that much of the forecast is over
        assert (found["in_flight"], found["known"], found["state"]) == (5, True, "running")
        assert solve_s - 1.0 - oldest_s < found["half_s"] <= found["most_s"] < timeout_s / 2
        assert timeout_s - 0.1 - oldest_s < found["latest_s"] <= timeout_s
        assert found["stop_s"] == 10.0
        sandbox.set_scenario(solves)
        assert len(daemon.wait_results(40)) == 40  # it changes nothing
