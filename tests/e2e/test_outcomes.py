"""How tasks end: each kind of answer of the provider, through the whole daemon, with the bill checked."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captchad.control.client import call
from captchad.model.errors import CaptchadError
from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

SCENARIO = """
[solve]
seconds = 0.2

[[rule]]
match = { sitekey = "unsolvable-*" }
outcome = "ERROR_CAPTCHA_UNSOLVABLE"

[[rule]]
match = { sitekey = "flaky-*" }
fault = "ERROR_SERVER_ERROR"
per = "sitekey"
times = 1

[[rule]]
match = { sitekey = "down-*" }
fault = "ERROR_SERVER_ERROR"

[[rule]]
match = { sitekey = "bad-*" }
fault = "ERROR_BAD_PARAMETERS"

[[rule]]
match = { sitekey = "lost-*" }
fault = "reset_after"
per = "sitekey"
times = 1

[[rule]]
match = { sitekey = "early-*" }
fault = "reset"
per = "sitekey"
times = 1

[[rule]]
match = { sitekey = "html-*" }
op = "poll"
fault = "html"
per = "sitekey"
times = 2

[[rule]]
match = { sitekey = "never-*" }
outcome = "never"

[[rule]]
match = { sitekey = "slow-*" }
solve_s = 1.5
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(scenario=SCENARIO) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def daemon(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("outcomes"), sandbox, overrides(timeout_s=60.0)) as daemon:
        yield daemon


def overrides(*, timeout_s: float) -> dict[str, Any]:
    """A quick daemon that waits for a captcha so long."""
    return {
        "provider": {"first_poll_s": 0.1, "poll_s": 0.1, "timeout_s": timeout_s, "submit_s": 20.0},
        "retry": {"base_delay_s": 0.05, "max_delay_s": 0.1},
        "breaker": {"failure_threshold": 50},
    }


def task(task_id: str, **over: Any) -> dict[str, Any]:
    return {"id": task_id, "sitekey": task_id, "pageurl": "https://example.com/login"} | over


def run(daemon: Daemon, *tasks: dict[str, Any]) -> dict[str, dict[str, Any]]:
    ids = daemon.drop(tasks)
    eventually(lambda: set(ids) <= set(daemon.results()), timeout=30.0)
    return {task_id: daemon.results()[task_id] for task_id in ids}


def charges(sandbox: Sandbox, sitekey: str) -> int:
    return sum(captcha["sitekey"] == sitekey for captcha in sandbox.captchas())


def test_a_solved_task_has_its_token_and_all_the_fields(daemon: Daemon, sandbox: Sandbox) -> None:
    result = run(daemon, task("plain-1", tags={"customer": "a"}))["plain-1"]

    assert result["status"] == "solved"
    assert sandbox.verify(result["token"])["valid"]
    assert result["attempts"] == result["charges"] == charges(sandbox, "plain-1") == 1
    assert result["tags"] == {"customer": "a"}
    assert result["provider"] == "sandbox"
    assert result["captcha_id"].isdigit()
    assert result["error"] is None
    assert result["expires_at"] > result["finished_at"] > result["queued_at"]


def test_a_structured_answer_comes_as_an_object_too(daemon: Daemon) -> None:
    result = run(
        daemon,
        {
            "id": "grid-1",
            "method": "geetest",
            "pageurl": "https://example.com/",
            "params": {"gt": "f" * 32, "challenge": "c" * 32},
        },
    )["grid-1"]

    assert result["status"] == "solved"
    assert isinstance(result["answer"], dict)
    assert json.loads(result["token"]) == result["answer"]


def test_an_unsolvable_captcha_is_tried_once_more_then_dead(daemon: Daemon, sandbox: Sandbox) -> None:
    result = run(daemon, task("unsolvable-1"))["unsolvable-1"]

    assert (result["status"], result["error"], result["category"]) == ("failed", "ERROR_CAPTCHA_UNSOLVABLE", "task")
    assert result["attempts"] == charges(sandbox, "unsolvable-1") == 2


def test_a_bad_parameter_costs_nothing(daemon: Daemon, sandbox: Sandbox) -> None:
    result = run(daemon, task("bad-1"))["bad-1"]

    assert (result["status"], result["error"], result["charges"]) == ("failed", "ERROR_BAD_PARAMETERS", 0)


def test_a_server_error_is_waited_out_and_ends_with_the_attempts(daemon: Daemon, sandbox: Sandbox) -> None:
    results = run(daemon, task("flaky-1"), task("down-1"))

    assert (results["flaky-1"]["status"], results["flaky-1"]["attempts"]) == ("solved", 2)
    down = results["down-1"]
    assert (down["status"], down["error"], down["attempts"], down["charges"]) == ("failed", "ERROR_SERVER_ERROR", 3, 0)


def test_a_lost_answer_is_an_unknown_submit_and_is_counted(daemon: Daemon, sandbox: Sandbox) -> None:
    before = daemon.status()["queue"]["unknown_submits"]
    results = run(daemon, task("lost-1"), task("early-1"))

    assert {result["status"] for result in results.values()} == {"solved"}
    assert charges(sandbox, "lost-1") == 2
    assert daemon.status()["queue"]["unknown_submits"] - before == 2


def test_rubbish_while_polling_is_polled_through(daemon: Daemon, sandbox: Sandbox) -> None:
    result = run(daemon, task("html-1"))["html-1"]

    assert (result["status"], result["charges"], charges(sandbox, "html-1")) == ("solved", 1, 1)


def test_a_late_answer_wins_and_the_second_submit_is_counted(tmp_path: Path) -> None:
    solves = "[solve]\nseconds = 0.2\n"
    holds = f'{solves}[[rule]]\nop = "poll"\nfault = "CAPCHA_NOT_READY"\n'
    with Sandbox(scenario=holds) as sandbox, Daemon(tmp_path, sandbox, overrides(timeout_s=8.0)) as daemon:
        daemon.drop([task("late-1")])
        eventually(lambda: charges(sandbox, "late-1") == 2)
        first, second = (captcha["captcha_id"] for captcha in sandbox.captchas())
        sandbox.set_scenario(f'{holds}match = {{ id = "{second}" }}\n')
        result = daemon.wait_results(1)["late-1"]

        assert (result["status"], result["captcha_id"]) == ("solved", str(first))
        assert result["charges"] == charges(sandbox, "late-1") == 2
        assert daemon.status()["queue"]["late_submits"] == 1


def test_a_captcha_that_nobody_answers_times_out(sandbox: Sandbox, tmp_path: Path) -> None:
    with Daemon(tmp_path, sandbox, overrides(timeout_s=1.0)) as daemon:
        result = run(daemon, task("never-1"))["never-1"]

    assert (result["status"], result["error"], result["category"]) == ("failed", "TIMEOUT", "transient")
    assert result["attempts"] == charges(sandbox, "never-1") == 3


def test_a_deadline_ends_the_task_wherever_it_is(daemon: Daemon) -> None:
    result = run(daemon, task("never-2", deadline_s=1))["never-2"]

    assert (result["status"], result["error"]) == ("expired", "DEADLINE")


def test_the_same_task_twice_is_one_task_and_other_content_is_refused(daemon: Daemon, sandbox: Sandbox) -> None:
    run(daemon, task("twice-1"))
    daemon.drop([task("twice-1")])
    daemon.drop([task("twice-1", pageurl="https://example.com/other")])
    rejected = daemon.spool_dir / "rejected"
    eventually(lambda: any("twice-1" in path.read_text() for path in rejected.iterdir() if path.suffix != ".reason"))

    assert charges(sandbox, "twice-1") == 1
    assert [p.name for p in (daemon.spool_dir / "results").iterdir()].count("twice-1.json") == 1


def test_a_dedupe_key_shares_one_answer(daemon: Daemon, sandbox: Sandbox) -> None:
    shared = [task(f"share-{n}", sitekey="slow-shared", dedupe_key="page-7") for n in range(5)]
    results = run(daemon, *shared)
    later = run(daemon, task("share-later", sitekey="slow-shared", dedupe_key="page-7"))

    tokens = {result["token"] for result in (results | later).values()}
    assert len(tokens) == charges(sandbox, "slow-shared") == 1
    assert sum(result["charges"] for result in results.values()) == 1


def test_if_the_first_of_a_dedupe_key_fails_the_next_one_runs(daemon: Daemon, sandbox: Sandbox) -> None:
    results = run(
        daemon,
        task("pair-1", sitekey="unsolvable-pair", dedupe_key="page-8"),
        task("pair-2", sitekey="slow-pair", dedupe_key="page-8"),
    )

    assert results["pair-1"]["status"] == "failed"
    assert (results["pair-2"]["status"], charges(sandbox, "slow-pair")) == ("solved", 1)


def test_a_dead_letter_can_be_redriven_three_times(daemon: Daemon, sandbox: Sandbox) -> None:
    run(daemon, task("bad-2"))
    path = daemon.spool_dir / "results" / "bad-2.json"
    for _ in range(3):
        path.unlink()
        assert daemon.ctl("dlq", "redrive", "bad-2").returncode == 0
        eventually(path.exists)
    refused = daemon.ctl("dlq", "redrive", "bad-2")

    assert refused.returncode == 1
    assert "max_redrives" in refused.stdout + refused.stderr


def test_a_result_that_its_consumer_removed_does_not_come_back(daemon: Daemon) -> None:
    run(daemon, task("gone-1"))
    (daemon.spool_dir / "results" / "gone-1.json").unlink()
    daemon.restart(signal.SIGKILL)
    run(daemon, task("gone-2"))

    assert "gone-1" not in daemon.results()


def test_a_task_that_kills_its_worker_again_and_again_is_poison(tmp_path: Path) -> None:
    hang = SCENARIO + '\n[[rule]]\nmatch = { sitekey = "poison" }\nfault = "hang"\n'
    overrides = {
        "daemon": {"workers": 2},
        "supervision": {"restart_max_delay_s": 0.2},
        "provider": {"first_poll_s": 0.1, "poll_s": 0.1, "submit_s": 60.0},
    }
    with Sandbox(scenario=hang) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        daemon.drop([task("poison")])
        killed: set[int] = set()

        def kill_who_has_it() -> bool:
            show = json.loads(daemon.ctl("show", "poison", "--json").stdout or "{}")
            faulted = sandbox.totals()["faults"].get("hang", 0)
            if faulted > len(killed):
                row = next((r for r in daemon.status()["workers"]["list"] if r["in_flight"] and r["pid"]), None)
                if row is not None and row["pid"] not in killed:
                    killed.add(row["pid"])
                    os.kill(row["pid"], signal.SIGKILL)
            return show.get("state") == "dead"

        eventually(kill_who_has_it, timeout=60.0)
        result = eventually(lambda: daemon.results().get("poison"))
        assert (result["status"], result["error"]) == ("failed", "POISON")
        # Once among others, three times alone.
        assert len(killed) == 4
        daemon.drop([task("after")])
        eventually(lambda: "after" in daemon.results())


def test_the_parent_has_one_thread_and_leaves_no_core(daemon: Daemon) -> None:
    assert len(os.listdir(f"/proc/{daemon.pid}/task")) == 1
    for pid in (daemon.pid, *daemon.worker_pids()):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        core = next(line for line in limits if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]


def test_show_tells_the_life_of_a_task_while_the_daemon_runs(daemon: Daemon) -> None:
    run(daemon, task("told-1"))
    shown = json.loads(daemon.ctl("show", "told-1", "--json").stdout)

    kinds = [line.split()[1] for line in shown["history"]]
    assert kinds == ["accept", "submitting", "submitted", "solved", "publishing", "delivered"]
    token = daemon.results()["told-1"]["token"]
    assert token not in json.dumps(shown)


def test_no_key_and_no_token_is_in_log_status_or_arguments(daemon: Daemon, sandbox: Sandbox) -> None:
    result = run(daemon, task("secret-1"), task("early-2"))["secret-1"]
    said = daemon.log() + json.dumps(daemon.status())
    for pid in (daemon.pid, *daemon.worker_pids()):
        said += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()

    assert sandbox.key not in said
    assert result["token"] not in said


def test_a_held_task_is_released_or_cancelled(tmp_path: Path) -> None:
    overrides = {"provider": {"first_poll_s": 0.1, "poll_s": 0.1}, "retry": {"on_unknown_submit": "hold"}}
    with Sandbox(scenario=SCENARIO) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        daemon.drop([task("lost-1"), task("lost-2")])
        eventually(lambda: daemon.status()["queue"]["held"] == 2)
        assert any("held" in line for line in daemon.status()["daemon"]["problems"])
        assert call(daemon.socket, "release", {"ids": ["lost-1", "nobody"]}) == {
            "done": ["lost-1"],
            "refused": {"nobody": "no such task"},
            "more": False,
        }
        shown = daemon.ctl("show", "lost-2")
        assert "captchactl release lost-2" in shown.stdout, shown
        assert daemon.ctl("cancel", "lost-2").returncode == 0
        results = daemon.wait_results(2)
        assert results["lost-1"]["status"] == "solved"
        assert (results["lost-2"]["status"], results["lost-2"]["error"]) == ("cancelled", "CANCELLED")
        assert "lost-1: submit" in daemon.log()


def test_all_tasks_of_a_state_are_changed_in_slices(tmp_path: Path) -> None:
    crowd = 1100  # more than one request changes
    overrides = {"provider": {"max_in_flight": 1}}
    with (
        Sandbox(scenario="[solve]\nseconds = 60.0\n") as sandbox,
        Daemon(tmp_path, sandbox, overrides) as daemon,
    ):
        daemon.drop(task(f"t{number}") for number in range(crowd))
        eventually(lambda: daemon.status()["queue"]["accepted_total"] == crowd and sandbox.totals()["created"] == 1)
        for arguments in (("hold", "--all"), ("release", "--all"), ("hold", "--all"), ("cancel", "--state", "held")):
            done = daemon.ctl(*arguments)
            assert (done.returncode, len(done.stdout.splitlines())) == (0, crowd - 1), done.stderr
            assert daemon.status()["queue"]["held"] == (crowd - 1 if arguments[0] == "hold" else 0)
        assert daemon.ctl("cancel", "t1", "--state", "held").returncode == 2
        with pytest.raises(CaptchadError, match="no such state: 'sold'"):
            call(daemon.socket, "cancel", {"state": "sold"})
