"""`captchactl workers` on a whole daemon: more workers, new workers, dead workers, and what is said of them."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from captchad.cli.exits import Exit
from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

SCENARIO = "[solve]\nseconds = 2.0\n"


def workers(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.ctl("workers", "--json").stdout)["workers"]
    return found


def journal(daemon: Daemon, option: str, name: str) -> list[dict[str, Any]]:
    done = daemon.ctl("workers", option, "--json")
    assert done.returncode == Exit.OK, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)[name]
    return rows


def drop(daemon: Daemon, name: str, number: int) -> None:
    daemon.drop(
        {"id": f"{name}{each}", "sitekey": f"{name}{each}", "pageurl": "https://example.com/"} for each in range(number)
    )


def test_scale_until_the_configuration_says_another_number(tmp_path: Path) -> None:
    overrides = {"daemon": {"workers": 3, "min_workers": 2}}
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        done = daemon.ctl("workers", "scale", "5")
        assert (done.returncode, done.stdout) == (Exit.OK, "3 workers before, 5 from now on\n")
        eventually(lambda: workers(daemon)["alive"] == 5)
        assert "5 workers are wanted now; daemon.workers is 3\n" in daemon.ctl("workers").stdout
        assert "5 of 5 alive, 2 needed" in daemon.ctl("status").stdout

        refused = daemon.ctl("workers", "scale", "1")
        assert (refused.returncode, refused.stdout) == (Exit.FAILED, "")
        assert refused.stderr.startswith("captchactl: 1 is below daemon.min_workers, which is 2\nhint: lower ")
        assert workers(daemon)["target"] == 5

        daemon.write_config({"retry": {"max_attempts": 2}})
        assert daemon.ctl("reload").returncode == Exit.OK
        assert workers(daemon)["target"] == 5  # another key is no reason
        daemon.write_config({"daemon": {"workers": 2}})
        assert daemon.ctl("reload").returncode == Exit.OK
        eventually(lambda: workers(daemon)["target"] == 2 and len(daemon.worker_pids()) == 2)
        scales = [row for row in journal(daemon, "--why", "actions") if row["do"] == "scale"]
        assert (scales[0]["why"], scales[0]["seats"]) == ("operator", 5)


def test_autoscale_goes_on_from_there_and_it_is_said(tmp_path: Path) -> None:
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, {"supervision": {"autoscale_max": 8}}) as daemon:
        done = daemon.ctl("workers", "scale", "4")
        assert "autoscale is on and goes on from there" in done.stdout
        assert json.loads(daemon.ctl("workers", "scale", "4", "--json").stdout)["autoscale"] is True


def test_restart_replaces_all_one_at_a_time_and_no_captcha_is_paid_again(tmp_path: Path) -> None:
    overrides = {"daemon": {"workers": 3, "min_workers": 1}}
    with Sandbox(scenario=SCENARIO) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        eventually(lambda: workers(daemon)["alive"] == 3)
        drop(daemon, "w", 30)
        eventually(lambda: sandbox.totals()["created"] == 30)
        before = set(daemon.worker_pids())
        done = daemon.ctl("workers", "restart", "--wait")
        assert (done.returncode, done.stdout) == (Exit.OK, "all workers are new\n")
        after = set(daemon.worker_pids())
        assert len(after) == 3
        assert not after & before
        assert not any(Path(f"/proc/{pid}").exists() for pid in before)

        order = [
            (row["do"], row["seat"])
            for row in journal(daemon, "--why", "actions")
            if row["why"] == "operator" and row["do"] in ("retire", "move") and row["seat"] >= 0
        ]
        assert order == [("retire", 0), ("move", 0), ("retire", 1), ("move", 1), ("retire", 2), ("move", 2)]
        results = daemon.wait_results(30)
        assert {result["status"] for result in results.values()} == {"solved"}
        assert sandbox.totals()["charges"] == 30


def test_restart_that_takes_too_long_is_said_and_goes_on(tmp_path: Path) -> None:
    """A worker in the middle of a submit is waited for."""
    overrides = {"daemon": {"workers": 1}, "provider": {"submit_s": 60.0}}
    with Sandbox(scenario="[solve]\nseconds = 0.2\n") as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        os.kill(sandbox.pid, signal.SIGSTOP)  # until it goes on no submit ends
        drop(daemon, "h", 1)
        eventually(lambda: workers(daemon)["list"][0]["calls"] == 1)
        (old,) = daemon.worker_pids()
        done = daemon.ctl("workers", "restart", "--wait", "--timeout", "1")
        assert done.returncode == Exit.TIMED_OUT
        assert f"not replaced in time: pid {old} (draining); " in done.stderr
        assert "leaving  draining" in daemon.ctl("workers").stdout
        os.kill(sandbox.pid, signal.SIGCONT)
        eventually(lambda: not workers(daemon)["leaving"])
        assert old not in daemon.worker_pids()
        assert daemon.wait_results(1)["h0"]["status"] == "solved"


def test_a_death_and_what_was_done_stand_in_the_journal_beside_a_daemon_and_without_one(tmp_path: Path) -> None:
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox) as daemon:
        eventually(lambda: workers(daemon)["alive"] == 2 and workers(daemon)["reserve"])
        victim = daemon.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: any(row["pid"] == victim for row in journal(daemon, "--deaths", "deaths")))
        (death,) = [row for row in journal(daemon, "--deaths", "deaths") if row["pid"] == victim]
        assert (death["why"], death["code"], death["seat"]) == ("signal", -signal.SIGKILL, 0)
        eventually(lambda: any(row["why"] == "signal" for row in journal(daemon, "--why", "actions")))
        said = daemon.ctl("workers", "--why").stdout
        assert "signal: a signal that was not ours" in said
        assert eventually(lambda: workers(daemon)["list"][0]["last_death"]) == "signal"

        assert daemon.stop() == 0
        assert death in journal(daemon, "--deaths", "deaths")
        ends = [(row["do"], row["why"]) for row in journal(daemon, "--why", "actions")][-6:]
        assert ends == [("retire", "stop")] * 3 + [("death", "exit")] * 3
        table = daemon.ctl("workers")
        assert table.returncode == Exit.OK
        assert "this is from the status file" in table.stderr


def test_in_a_drain_nobody_is_added_or_replaced(tmp_path: Path) -> None:
    solves = "[solve]\nseconds = 0.2\n"
    holds = f'{solves}[[rule]]\nop = "poll"\nfault = "CAPCHA_NOT_READY"\n'
    with Sandbox(scenario=holds) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        drop(daemon, "d", 1)
        eventually(lambda: sandbox.totals()["created"] == 1)
        assert daemon.ctl("drain", "--no-wait").returncode == Exit.OK
        for arguments in (["scale", "4"], ["restart"]):
            refused: subprocess.CompletedProcess[str] = daemon.ctl("workers", *arguments)
            assert refused.returncode == Exit.FAILED
            assert "the daemon is draining" in refused.stderr
        sandbox.set_scenario(solves)
        assert daemon.wait_results(1)["d0"]["status"] == "solved"
