"""A worker that is stopped with a hundred captchas: found, its stack in the log, its captchas polled by the others."""

import os
import signal
from collections import Counter
from pathlib import Path

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

SOLVES = "[solve]\nseconds = 0.2\n"
#: The same while nothing is solved, however long it takes to look.
HOLDS = f'{SOLVES}[[rule]]\nop = "poll"\nfault = "CAPCHA_NOT_READY"\n'

CAPTCHAS = 100
STALL_S = 2.0


def _in_flight(daemon: Daemon) -> dict[int, int]:
    return {row["pid"]: row["in_flight"] for row in daemon.status()["workers"]["list"] if row["pid"]}


def test_a_stopped_worker_is_found_and_its_captchas_finish_under_their_ids(tmp_path: Path) -> None:
    overrides = {
        "daemon": {"workers": 2},
        "supervision": {"heartbeat_s": 0.2, "stall_s": STALL_S},
        "provider": {"first_poll_s": 0.3, "poll_s": 0.3},
    }
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        tasks = [
            {"id": f"s{number}", "sitekey": f"k{number}", "pageurl": "https://example.com/"}
            for number in range(2 * CAPTCHAS)
        ]
        daemon.drop(tasks)
        eventually(lambda: sandbox.totals()["created"] == 2 * CAPTCHAS and sum(_in_flight(daemon).values()) >= 200)
        before = {captcha["fields"]["googlekey"]: captcha["captcha_id"] for captcha in sandbox.captchas()}
        victim, load = max(_in_flight(daemon).items(), key=lambda row: row[1])
        assert load >= CAPTCHAS
        os.kill(victim, signal.SIGSTOP)

        eventually(lambda: victim not in daemon.worker_pids(), 30.0)
        log = daemon.log()
        assert f"(pid {victim}): no heartbeat" in log
        assert "most recent call first" in log  # its stack, by faulthandler

        sandbox.set_scenario(SOLVES)
        results = daemon.wait_results(2 * CAPTCHAS)
        assert {result["status"] for result in results.values()} == {"solved"}
        charges = Counter(captcha["fields"]["googlekey"] for captcha in sandbox.captchas())
        assert set(charges.values()) == {1}
        for number in range(2 * CAPTCHAS):
            assert results[f"s{number}"]["captcha_id"] == str(before[f"k{number}"])
        assert daemon.status()["queue"]["unknown_submits"] == 0


def test_one_worker_holds_five_hundred_captchas_with_few_threads(tmp_path: Path) -> None:
    overrides = {
        "daemon": {"workers": 1, "min_workers": 1},
        "supervision": {"heartbeat_s": 0.5},
        "provider": {"first_poll_s": 9.0, "poll_s": 2.0},
    }
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        daemon.drop(
            {"id": f"m{number}", "sitekey": f"k{number}", "pageurl": "https://example.com/"} for number in range(500)
        )
        eventually(lambda: sandbox.totals()["created"] == 500 and max(_in_flight(daemon).values()) == 500, 60.0)
        threads = len(os.listdir(f"/proc/{daemon.worker_pids()[0]}/task"))
        assert threads <= 64
        sandbox.set_scenario(SOLVES)
        results = daemon.wait_results(500)
        assert {result["status"] for result in results.values()} == {"solved"}
        assert sandbox.totals()["charges"] == 500


def test_an_orphan_that_does_not_end_is_killed_and_its_submit_is_unknown(tmp_path: Path) -> None:
    hang = '[solve]\nseconds = 0.2\n[[rule]]\nmatch = { sitekey = "hang" }\nfault = "hang"\ntimes = 1\n'
    overrides = {"daemon": {"workers": 1}, "provider": {"submit_s": 1.0}, "retry": {"base_delay_s": 0.1}}
    with Sandbox(scenario=hang) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        daemon.drop([{"id": "h1", "sitekey": "hang", "pageurl": "https://example.com/"}])
        eventually(lambda: sandbox.totals()["faults"].get("hang"))
        (orphan,) = daemon.worker_pids()
        os.kill(orphan, signal.SIGSTOP)
        daemon.kill()
        daemon.start()
        assert daemon.status()["daemon"]["orphans"] == 1

        eventually(lambda: daemon.status()["daemon"]["orphans"] == 0, timeout=40.0)
        assert f"(pid {orphan}) did not end: killed" in daemon.log()
        assert daemon.wait_results(1)["h1"]["status"] == "solved"
        assert daemon.status()["queue"]["unknown_submits"] == 1
