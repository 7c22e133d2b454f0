"""captchactl config and reload --confirm-within, with a real daemon: what runs, where from, and back."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Sandbox(scenario="[solve]\nseconds = 0.2\n") as sandbox, Daemon(tmp_path, sandbox) as daemon:
        eventually(lambda: config(daemon)["generation"] == 1 and config(daemon)["probation_s"] is None)
        yield daemon


def config(daemon: Daemon) -> dict[str, Any]:
    return dict(daemon.status()["daemon"]["config"])


def lines(daemon: Daemon, *verb: str) -> list[str]:
    done = daemon.ctl(*verb)
    assert done.returncode == 0, done.stderr
    return list(done.stdout.splitlines())


def test_a_day_with_four_configurations(daemon: Daemon) -> None:
    assert "daemon.workers: 2 -> 3 (live)" not in lines(daemon, "config", "diff")
    daemon.write_config({"daemon": {"workers": 3}, "supervision": {"threads": 8}})
    wanted = ["daemon.workers: 2 -> 3 (live)", "supervision.threads: 16 -> 8 (as workers are replaced)"]
    assert lines(daemon, "config", "diff") == wanted
    assert lines(daemon, "reload") == [*wanted, "reloaded", "on probation for 1.0 s"]
    eventually(lambda: config(daemon)["generation"] == 2 and config(daemon)["probation_s"] is None)

    shown = lines(daemon, "config", "show", "--origin")
    (row,) = [line.split() for line in shown if " daemon.workers " in line]
    assert row[0].startswith(f"{daemon.config_file}:")
    assert row[1:] == ["daemon.workers", "3"]
    assert any(line.split() == ["default", "retry.max_attempts", "3"] for line in shown)
    assert "threads = 8" in lines(daemon, "config", "show")

    assert lines(daemon, "config", "rollback", "1") == [
        "daemon.workers: 3 -> 2 (live)",
        "supervision.threads: 8 -> 16 (as workers are replaced)",
        "rolled back; it runs as generation 3",
    ]
    eventually(lambda: daemon.status()["workers"]["alive"] == 2)
    history = json.loads("".join(lines(daemon, "config", "history", "--json")))
    assert [(each["generation"], each["running"]) for each in history["generations"]] == [
        (3, True),
        (2, False),
        (1, False),
    ]
    assert history["generations"][1]["changed"] == ["daemon.workers", "supervision.threads"]
    assert [each["reason"] for each in history["rejected"]] == ["an operator went back to generation 1"]
    assert lines(daemon, "config", "diff", "3", "1") == []

    daemon.restart(signal.SIGKILL)
    assert daemon.status()["workers"]["configured"] == 2
    assert "an operator went back to generation 1" in config(daemon)["problem"]
    daemon.stop()
    assert "GEN" in lines(daemon, "config", "history")[0], "also without a daemon"
    down = daemon.ctl("config", "show")
    assert ("workers = 3" in down.stdout, "this is what the file says" in down.stderr) == (True, True)
    assert daemon.ctl("config", "rollback", "1").returncode == 7


def test_status_says_how_long_a_configuration_is_on_probation(tmp_path: Path) -> None:
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, {"daemon": {"probation_s": 3600.0}}) as daemon:
        assert "(file, generation 1, on probation for " in "".join(lines(daemon, "status"))


def test_what_nobody_confirms_goes_and_what_somebody_confirms_stays(daemon: Daemon) -> None:
    daemon.write_config({"daemon": {"workers": 3}})
    assert lines(daemon, "reload", "--confirm-within", "1s")[-1].startswith("captchactl config confirm keeps it")
    eventually(lambda: "rolled back: nobody confirmed it within 1 s" in str(config(daemon)["problem"]))
    eventually(lambda: daemon.status()["workers"]["alive"] == 2)

    assert lines(daemon, "reload", "--confirm-within", "10m")[-2] == "reloaded"
    assert "captchactl config confirm" in "".join(lines(daemon, "status"))
    refused = daemon.ctl("reload")
    assert (refused.returncode, "not confirmed yet" in refused.stderr) == (1, True)
    daemon.restart(signal.SIGKILL)
    assert config(daemon)["confirm_by"]
    assert lines(daemon, "config", "confirm") == ["confirmed: generation 2"]
    assert daemon.ctl("config", "confirm").returncode == 1
    daemon.restart(signal.SIGKILL)
    assert (daemon.status()["workers"]["configured"], config(daemon)["generation"]) == (3, 2)


def test_a_reload_that_waits_tells_how_it_ended(daemon: Daemon) -> None:
    daemon.write_config({"daemon": {"workers": 3}})
    assert lines(daemon, "reload", "--wait")[-2:] == ["on probation for 1.0 s", "good: generation 2"]
    daemon.write_config({"daemon": {"probation_s": 600.0}})
    waited = daemon.ctl("reload", "--wait", "--timeout", "1", "--json")
    assert (waited.returncode, "still on probation" in waited.stderr) == (124, True)
    assert json.loads(waited.stdout)["config"]["generation"] == 3
    assert "on probation" in "".join(lines(daemon, "status"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon.write_config({"http": {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}})
        refused = daemon.ctl("reload")
    assert refused.returncode == 1, "that is known at once"
    assert refused.stderr.startswith("captchactl: rolled back: http.listen 127.0.0.1:")

    daemon.write_config({"http": {"listen": ""}, "daemon": {"workers": 2}})
    assert daemon.ctl("reload").returncode == 0
    (daemon.directory / "key").write_text("b" * 32)
    refused = daemon.ctl("reload", "--wait")
    assert (refused.returncode, "on probation for 10 min" in refused.stdout) == (1, True)
    assert "captchactl: rolled back: provider sandbox refuses the new key" in refused.stderr
    history = json.loads("".join(lines(daemon, "config", "history", "--json")))["generations"]
    changed = {each["generation"]: each["changed"] for each in history}
    assert changed[4] == ["http.listen"]
    assert changed[5] == ["daemon.workers"], "not against what was rolled back"
    assert changed[6] == ["a key"]


def test_words_that_make_no_sense(daemon: Daemon) -> None:
    for words in (["reload", "--confirm-within", "soon"], ["reload", "--confirm-within", "0s"], ["config"]):
        assert daemon.ctl(*words).returncode == 2
    for words in (["config", "diff", "nowhere"], ["config", "diff", "9"], ["config", "show", "--generation", "9"]):
        done = daemon.ctl(*words)
        assert (done.returncode, done.stderr.count("\n")) == (1, 2), done.stderr
    assert "at most 604800" in daemon.ctl("reload", "--confirm-within", "8d").stderr
