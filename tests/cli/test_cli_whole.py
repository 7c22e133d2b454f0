"""captchactl against a whole daemon, while it runs and while it does not."""

import json

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

SCENARIO = """
[solve]
seconds = 0.1
[[rule]]
outcome = "ERROR_CAPTCHA_UNSOLVABLE"
match = {pageurl = "*/unsolvable"}
"""


def test_the_operators_day(tmp_path):
    (tmp_path / "daemon").mkdir()
    with Sandbox(scenario=SCENARIO) as sandbox, Daemon(tmp_path / "daemon", sandbox) as daemon:
        tasks = [
            {"id": "good", "sitekey": "k", "pageurl": "https://example.com/"},
            {"id": "bad", "sitekey": "k", "pageurl": "https://example.com/unsolvable"},
        ]
        (tmp_path / "tasks.json").write_text(json.dumps(tasks))
        assert daemon.ctl("submit", str(tmp_path / "tasks.json")).stdout == "good\nbad\n"
        done = daemon.ctl("wait", "good", "bad", "--timeout", "60")
        assert done.returncode == 1
        assert "bad\tfailed\tERROR_CAPTCHA_UNSOLVABLE\n" in done.stdout
        assert daemon.ctl("status").returncode == 0
        assert daemon.ctl("health").stdout.startswith("CAPTCHAD ")
        assert daemon.ctl("reload").returncode == 0
        changed = {**tasks[0], "sitekey": "other"}
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        assert daemon.ctl("submit", str(tmp_path / "changed.json")).stdout == "good\n"
        done = daemon.ctl("wait", "good", "--timeout", "60")
        assert (done.returncode, done.stdout.split("\t")[:2]) == (1, ["good", "rejected"])
        assert "other content" in done.stdout
        live = {verb: daemon.ctl(*verb.split(), "--json").stdout for verb in ("list", "dlq list")}
        assert [each["id"] for each in json.loads(live["dlq list"])["tasks"]] == ["bad"]

        daemon.stop()
        assert daemon.ctl("status").returncode == 3
        note = f"captchactl: no daemon answers; this is from the journal in {daemon.state_dir}/journal\n"
        assert daemon.ctl("list").stderr == note
        assert daemon.ctl("health").returncode == 2
        assert {verb: daemon.ctl(*verb.split(), "--json").stdout for verb in live} == live
        shown = json.loads(daemon.ctl("show", "bad", "--json").stdout)
        assert (shown["state"], shown["error"]) == ("dead", "ERROR_CAPTCHA_UNSOLVABLE")
        assert len(shown["history"]) >= 3
        missing = daemon.ctl("show", "nobody")
        assert missing.returncode == 1
        assert "rejected, with its reason" in missing.stderr
        assert (daemon.spool_dir / "results" / "bad.json").exists()
        config = daemon.config_file.read_text()
        daemon.config_file.write_text(f"{config}\noops\n")
        done = daemon.ctl("dlq", "redrive", "bad", "good")
        assert f"{daemon.config_file} is not valid: as in generation 1" in done.stderr
        daemon.config_file.write_text(config)
        assert (done.returncode, done.stdout) == (1, "bad\n")
        assert "good: " in done.stderr
        assert json.loads(daemon.ctl("show", "bad", "--json").stdout)["state"] == "pending"
        assert [path.name for path in (daemon.spool_dir / "results").iterdir()] == ["good.json"]
        assert daemon.ctl("wait", "bad", "--timeout", "0.1").returncode == 124

        daemon.start()
        eventually(lambda: json.loads(daemon.ctl("show", "bad", "--json").stdout)["state"] == "dead")
        assert sandbox.totals()["charges"] >= 3


def test_a_daemon_that_was_killed_has_died(tmp_path):
    with Sandbox(scenario=SCENARIO) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        daemon.kill()
        done = daemon.ctl("status")

    assert (done.returncode, done.stdout[:14]) == (3, "captchad  died")
    assert "slot" not in done.stdout
