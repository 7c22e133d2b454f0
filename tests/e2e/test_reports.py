"""Answers that are reported to a real provider: once, whatever dies and whatever is lost on the way."""

import signal
import subprocess
from pathlib import Path

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

AT_ONCE = "[solve]\nseconds = 0\n"


def solve(daemon: Daemon, *names: str) -> None:
    daemon.drop({"id": name, "sitekey": name, "pageurl": "https://example.com/"} for name in names)
    daemon.wait_results(len(names))


def reported(sandbox: Sandbox) -> dict[str, str]:
    return {captcha["sitekey"]: captcha["reported"] for captcha in sandbox.captchas()}


def test_answers_are_reported_once_each(tmp_path: Path) -> None:
    with Sandbox(scenario=AT_ONCE) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        solve(daemon, "a", "b", "c")
        good = daemon.ctl("report", "a", "good")
        assert (good.returncode, good.stdout) == (0, "a: reported as good\n")
        assert daemon.ctl("report", "b", "bad").returncode == 0
        assert reported(sandbox) == {"a": "good", "b": "bad", "c": ""}

        again = daemon.ctl("report", "a", "bad")
        assert (again.returncode, again.stdout) == (1, "")
        assert "it is reported already, as good" in again.stderr
        assert daemon.ctl("report", "nobody", "bad").returncode == 1
        assert daemon.ctl("report", "a", "fair").returncode == 2
        assert sandbox.totals()["reports"] == 2

        sandbox.set_scenario(AT_ONCE + "[switches]\nreport_life_s = 0\n")
        late = daemon.ctl("report", "c", "bad")
        assert late.returncode == 1
        assert "provider sandbox has not recorded it: ERROR_REPORT_NOT_RECORDED" in late.stderr


def test_a_report_whose_answer_is_lost_is_not_sent_again(tmp_path: Path) -> None:
    lost = AT_ONCE + "[faults.report]\nreset_after = 1.0\n"
    with Sandbox(scenario=lost) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        solve(daemon, "a")
        first = daemon.ctl("report", "a", "bad")
        assert first.returncode == 1
        assert "it is not known whether provider sandbox has recorded it: NETWORK" in first.stderr
        assert "it is reported already" in daemon.ctl("report", "a", "bad").stderr
        assert sandbox.totals()["reports"] == 1


def test_a_report_is_not_sent_again_after_a_kill(tmp_path: Path) -> None:
    hangs = AT_ONCE + "[faults.report]\nhang_after = 1.0\n"
    with Sandbox(scenario=hangs) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        solve(daemon, "a")
        command = [daemon.program("captchactl"), "--config", str(daemon.config_file), "report", "a", "bad"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as asking:
            eventually(lambda: sandbox.totals()["reports"])
            daemon.restart(signal.SIGKILL)
            assert asking.wait(30.0) == 7
        assert "it is reported already, as bad" in daemon.ctl("report", "a", "bad").stderr
        assert sandbox.totals()["reports"] == 1
