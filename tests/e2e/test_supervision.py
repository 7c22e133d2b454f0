"""Workers, their reserve and their template in a whole daemon: whoever dies, the tasks go on."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

SLOW = "[solve]\nseconds = 1.0\n"


def children(parent: int) -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def workers(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.status()["workers"]
    return found


def settled(daemon: Daemon) -> bool:
    """All seats and the reserve are taken by workers that beat."""
    found = workers(daemon)
    rows = [*found["list"], *found["reserve"]]
    return (
        found["alive"] == found["target"] and len(found["reserve"]) == 1 and all(r["first_beat_mono_s"] for r in rows)
    )


def template(daemon: Daemon) -> int:
    """The one child that is no worker. While one comes or goes, children and status may not agree."""

    def others() -> set[int]:
        found = workers(daemon)
        return children(daemon.pid) - {row["pid"] for part in ("list", "reserve", "leaving") for row in found[part]}

    (pid,) = eventually(lambda: found if len(found := others()) == 1 else None)
    return pid


def tasks(name: str, number: int) -> list[dict[str, str]]:
    return [
        {"id": f"{name}{each}", "sitekey": f"{name}{each}", "pageurl": "https://example.com/"} for each in range(number)
    ]


def test_who_is_in_reserve_takes_the_seat_of_one_that_is_killed(tmp_path: Path) -> None:
    with Sandbox(scenario=SLOW) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        eventually(lambda: settled(daemon))
        found = workers(daemon)
        victim, reserve = found["list"][0], found["reserve"][0]
        assert (victim["state"], reserve["state"]) == ("running", "standby")
        ids = daemon.drop(tasks("a", 30))
        eventually(lambda: daemon.status()["queue"]["in_flight"] > 0)
        killed_at = time.monotonic()
        os.kill(victim["pid"], signal.SIGKILL)
        eventually(lambda: workers(daemon)["list"][0]["pid"] == reserve["pid"])  # without a fork and a boot
        assert workers(daemon)["list"][0]["ready_mono_s"] > killed_at
        eventually(lambda: settled(daemon))

        results = daemon.wait_results(30)
        assert set(results) == set(ids)
        assert {result["status"] for result in results.values()} == {"solved"}
        assert "[move signal]" in daemon.log()
        assert "[death signal]" in daemon.log()


def test_workers_outlive_their_template_and_the_next_one_makes_more(tmp_path: Path) -> None:
    with Sandbox(scenario=SLOW) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        eventually(lambda: settled(daemon))
        before, first = daemon.worker_pids(), template(daemon)
        daemon.drop(tasks("a", 20))
        os.kill(first, signal.SIGKILL)
        eventually(lambda: first not in children(daemon.pid))
        daemon.wait_results(20)
        assert daemon.worker_pids() == before
        second = template(daemon)
        assert second != first
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: settled(daemon) and not set(before) & set(daemon.worker_pids()))
        daemon.drop(tasks("b", 10))
        assert len(daemon.wait_results(30)) == 30
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log()


def test_a_template_that_hangs_is_replaced_and_what_it_owes_is_forked(tmp_path: Path) -> None:
    with Sandbox(scenario=SLOW) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        eventually(lambda: settled(daemon))
        first = template(daemon)
        os.kill(first, signal.SIGSTOP)
        before = daemon.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        daemon.drop(tasks("a", 10))
        assert len(daemon.wait_results(10)) == 10, "by the one that was in reserve"
        eventually(lambda: settled(daemon) and first not in children(daemon.pid), 30.0)
        assert "[refork template_hung]" in daemon.log()
        assert daemon.stop() == 0


def test_a_stop_leaves_no_process(tmp_path: Path) -> None:
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, {"supervision": {"standby": 3}}) as daemon:
        eventually(lambda: len(workers(daemon)["reserve"]) == 3)
        group = daemon.pid
        assert daemon.stop() == 0
        alive = [
            path.parent.name
            for path in Path("/proc").glob("[0-9]*/stat")
            if _session(path) == group and int(path.parent.name) != group
        ]
        assert alive == []


def _session(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[3])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_a_worker_in_reserve_keeps_the_beat_that_is_configured(tmp_path: Path) -> None:
    """It has no work and no configuration yet; it is judged by `stall_s` as all others."""
    quick = {"supervision": {"heartbeat_s": 0.1, "stall_s": 0.8}}
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, quick) as daemon:

        def lives_long() -> bool:
            """Several times what a silence may take. A slow machine may hold one up for so long, but not each."""
            beats = [row["first_beat_mono_s"] for row in workers(daemon)["reserve"]]
            return any(first and time.monotonic() - first > 3.0 for first in beats)

        eventually(lives_long, 60.0)


def test_other_threads_replace_every_worker_one_at_a_time_and_no_task_is_lost(tmp_path: Path) -> None:
    with Sandbox(scenario=SLOW) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        eventually(lambda: settled(daemon))
        before = set(daemon.worker_pids())
        ids = daemon.drop(tasks("a", 30))
        daemon.write_config({"supervision": {"threads": 4}})
        assert daemon.ctl("reload").returncode == 0

        def replaced() -> bool:
            found = workers(daemon)
            assert found["alive"] >= found["target"] - 1
            assert len(found["leaving"]) <= 2, "one of the seats, and the reserve that was made before"
            return settled(daemon) and not before & set(daemon.worker_pids())

        eventually(replaced, 30.0)
        results = daemon.wait_results(30)
        assert set(results) == set(ids)
        assert {result["status"] for result in results.values()} == {"solved"}
        assert daemon.log().count("[retire reload]") >= 2
        assert "[death exit]" in daemon.log()
