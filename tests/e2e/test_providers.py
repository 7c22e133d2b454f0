"""A provider that left the configuration while it had captchas, and a restart."""

import signal
from pathlib import Path

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

SOLVES = "[solve]\nseconds = 0.2\n"
#: The same while nothing is solved, however long a restart takes.
HOLDS = f'{SOLVES}[[rule]]\nop = "poll"\nfault = "CAPCHA_NOT_READY"\n'


def test_captchas_of_a_provider_that_left_are_polled_after_a_restart(tmp_path: Path) -> None:
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        daemon.drop([{"id": "a", "sitekey": "a", "pageurl": "https://example.com/"}])
        eventually(lambda: sandbox.captchas())
        daemon.write_config({"provider": {"name": "another"}})
        daemon.restart(signal.SIGKILL)
        sandbox.set_scenario(SOLVES)
        eventually(lambda: "a" in daemon.results(), timeout=20.0)
        result = daemon.results()["a"]

        assert (result["status"], result["provider"], result["charges"]) == ("solved", "sandbox", 1)
        assert len(sandbox.captchas()) == 1


def test_a_provider_that_leaves_by_reload_is_polled_out_and_then_gone(tmp_path: Path) -> None:
    with Sandbox(scenario=HOLDS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        daemon.drop([{"id": "a", "sitekey": "a", "pageurl": "https://example.com/"}])
        eventually(lambda: sandbox.captchas())
        daemon.write_config({"provider": {"name": "another"}})
        assert daemon.ctl("reload").returncode == 0
        assert {row["name"]: row["leaving"] for row in daemon.status()["providers"]} == {
            "sandbox": True,
            "another": False,
        }
        sandbox.set_scenario(SOLVES)
        eventually(lambda: "a" in daemon.results(), timeout=20.0)
        assert daemon.results()["a"]["provider"] == "sandbox"
        eventually(lambda: [row["name"] for row in daemon.status()["providers"]] == ["another"])
