"""A provider that fails, through the whole daemon: what waits, what goes on, and that all of it ends well."""

from pathlib import Path
from typing import Any

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

SCENARIO = """
[solve]
seconds = 0.05

[[rule]]
match = { sitekey = "hard-*" }
outcome = "ERROR_CAPTCHA_UNSOLVABLE"
"""


def task(task_id: str, priority: str) -> dict[str, Any]:
    return {"id": task_id, "sitekey": task_id, "pageurl": "https://example.com/", "priority": priority}


def test_in_an_emergency_only_critical_tasks_are_submitted_until_captchas_are_solved_again(tmp_path: Path) -> None:
    overrides = {"degradation": {"hold_s": 0.3}, "provider": {"first_poll_s": 0.05, "poll_s": 0.05}}
    with Sandbox(scenario=SCENARIO) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:

        def mode() -> str:
            return str(daemon.status()["daemon"]["mode"])

        assert mode() == "normal"
        failing = daemon.drop(task(f"hard-{number}", "normal") for number in range(10))
        eventually(lambda: mode() == "emergency")
        status = daemon.status()["daemon"]
        assert status["mode_reasons"] == ["100% of the captchas end without an answer"]
        assert any("only critical tasks are submitted" in problem for problem in status["problems"])

        held_back = daemon.drop([task("first", "high"), task("second", "normal")])
        # Normal is below 0.16: with 10 to 20 failed, after 53 to 105 are solved.
        solved = daemon.drop(task(f"urgent-{number}", "critical") for number in range(120))
        results = daemon.wait_results(len(solved) + len(held_back) + len(failing))

        enough = sorted(results[task_id]["finished_at"] for task_id in solved)[50]
        assert all(results[task_id]["finished_at"] > enough for task_id in held_back)
        assert {results[task_id]["status"] for task_id in (*solved, *held_back)} == {"solved"}
        assert mode() == "normal"
        assert "mode: normal -> emergency" in daemon.log()
