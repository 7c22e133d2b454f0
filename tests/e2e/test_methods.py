"""A method that no provider offers, through the whole daemon: its tasks wait, status says so, a reload frees them."""

from pathlib import Path

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox


def test_tasks_of_a_method_that_nobody_offers_wait_and_are_counted(tmp_path: Path) -> None:
    with (
        Sandbox(scenario="[solve]\nseconds = 0.05\n") as sandbox,
        Daemon(tmp_path, sandbox, {"provider": {"methods": ["userrecaptcha"], "first_poll_s": 0.05}}) as daemon,
    ):
        page = {"sitekey": "k", "pageurl": "https://example.com/"}
        daemon.drop([{"id": f"waits-{number}", "method": "turnstile", **page} for number in range(3)])
        daemon.drop([{"id": "goes", **page}])
        assert daemon.wait_results(1).keys() == {"goes"}
        problem = "3 tasks wait for a provider that offers turnstile"
        eventually(lambda: problem in daemon.status()["daemon"]["problems"])
        monitored = daemon.ctl("health")
        assert (monitored.returncode, problem in monitored.stdout) == (1, True)
        eventually(lambda: warnings(daemon) == 1)

        daemon.restart()
        eventually(lambda: problem in daemon.status()["daemon"]["problems"])
        eventually(lambda: warnings(daemon) == 2)

        daemon.write_config({"provider": {"methods": ["userrecaptcha", "turnstile"]}})
        assert daemon.ctl("reload").returncode == 0
        assert len(daemon.wait_results(4)) == 4
        assert daemon.status()["daemon"]["problems"] == []
        eventually(lambda: f"INFO over: {problem}" in daemon.log())
        assert warnings(daemon) == 2


def warnings(daemon: Daemon) -> int:
    """How often the log has said that tasks wait for it, beside the line of each start."""
    lines = daemon.log().splitlines()
    return sum("WARNING" in line and "for a provider that offers turnstile" in line for line in lines)
