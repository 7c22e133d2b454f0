"""How often a captcha is polled, counted by the provider: real daemon, real practice provider."""

from pathlib import Path

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox


def tasks(count: int) -> list[dict[str, str]]:
    return [{"id": f"t{i}", "sitekey": f"site-{i}", "pageurl": "https://example.com/"} for i in range(count)]


def test_one_that_is_never_solved_is_polled_twenty_times_at_most(tmp_path: Path) -> None:
    overrides = {
        "provider": {"first_poll_s": 0.05, "poll_s": 0.02, "timeout_s": 3.0},
        "retry": {"max_attempts": 2, "base_delay_s": 3.0, "max_delay_s": 3.0},
    }
    with (
        Sandbox(scenario="[outcomes]\nnever = 1.0\n") as sandbox,
        Daemon(tmp_path, sandbox, overrides) as daemon,
    ):
        daemon.drop(tasks(3))
        assert {result["error"] for result in daemon.wait_results(3).values()} == {"TIMEOUT"}
        polls = [captcha["polls"] for captcha in sandbox.captchas()]
        assert len(polls) == 6
        assert max(polls) <= 20
        assert min(polls) >= 5


def test_with_batch_polls_a_call_asks_about_many_captchas(tmp_path: Path) -> None:
    overrides = {"provider": {"first_poll_s": 0.5, "poll_s": 0.5, "batch_polls": True}}
    with (
        Sandbox(scenario="[solve]\nseconds = [1.0, 4.0]\n") as sandbox,
        Daemon(tmp_path, sandbox, overrides) as daemon,
    ):
        daemon.drop(tasks(60))
        results = daemon.wait_results(60)
        assert {result["status"] for result in results.values()} == {"solved"}
        totals, asked = sandbox.totals(), sum(captcha["polls"] for captcha in sandbox.captchas())
        assert all(sandbox.verify(result["token"])["valid"] for result in results.values())
        assert totals["polls"] < 0.7 * asked, "each call asked about one"
        assert totals["polls"] < 2 * 60
        assert totals["charges"] == 60


def test_a_reload_of_the_poll_times_is_live_for_captchas_in_flight(tmp_path: Path) -> None:
    slow = {"first_poll_s": 300.0, "poll_s": 300.0, "timeout_s": 900.0}
    with (
        Sandbox(scenario="[solve]\nseconds = 0.2\n") as sandbox,
        Daemon(tmp_path, sandbox, {"provider": slow}) as daemon,
    ):
        daemon.drop(tasks(3))
        eventually(lambda: daemon.status()["queue"]["in_flight"] == 3 and sandbox.totals()["created"] == 3)
        daemon.write_config({"provider": {"first_poll_s": 0.2, "poll_s": 0.2}})
        assert daemon.ctl("reload").returncode == 0
        assert {result["status"] for result in daemon.wait_results(3).values()} == {"solved"}
        assert sandbox.totals()["charges"] == 3
