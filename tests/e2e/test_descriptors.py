"""Short of file descriptors: the daemon says so, does with less, and recovers; nothing is lost, nothing paid twice."""

import os
import resource
import signal
from pathlib import Path

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

TASKS = [{"id": f"d{number}", "sitekey": f"k{number}", "pageurl": "https://example.com/"} for number in range(40)]


#: All below are taken for as long as a daemon lives; with this limit no further one can be opened.
NONE_LEFT = 8


def test_a_parent_without_descriptors_goes_on_with_what_it_has_and_recovers(tmp_path: Path) -> None:
    overrides = {"daemon": {"workers": 2, "min_workers": 1}, "supervision": {"heartbeat_s": 0.2}}
    with Sandbox(scenario="[solve]\nseconds = 1.0\n") as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        victims = daemon.worker_pids()
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (NONE_LEFT, limits[1]))
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        eventually(lambda: "[fork fork_failed]" in daemon.log() and "[limit descriptors]" in daemon.log())
        assert daemon.running
        ids = daemon.drop(TASKS)

        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
        results = daemon.wait_results(len(TASKS), timeout=60.0)
        assert set(results) == set(ids)
        assert {result["status"] for result in results.values()} == {"solved"}
        assert sandbox.totals()["charges"] == len(TASKS)
        eventually(lambda: daemon.status()["workers"]["alive"] == 2)


def test_a_limit_that_is_too_low_for_the_load_is_named_at_the_start_and_the_load_is_lowered(tmp_path: Path) -> None:
    overrides = {"daemon": {"workers": 2, "min_workers": 1}, "supervision": {"threads": 32}}
    with Sandbox(scenario="[solve]\nseconds = 0.3\n") as sandbox:
        daemon = Daemon(tmp_path, sandbox, overrides, prefix=["prlimit", "--nofile=96:96"])
        with daemon:
            problems = daemon.status()["daemon"]["problems"]
            assert [each for each in problems if "RLIMIT_NOFILE is 96" in each and "of 32 threads" in each], problems
            ids = daemon.drop(TASKS)
            assert set(daemon.wait_results(len(TASKS))) == set(ids)
            assert sandbox.totals()["charges"] == len(TASKS)
