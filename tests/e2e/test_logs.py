"""The log of a whole daemon on a stderr that is no journal: plain, then JSON from a reload on, from every process."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.e2e.test_http import LISTEN, get, port_of
from tests.e2e.test_supervision import settled, template, workers
from tests.support.broken import NO_WORKER
from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

SCENARIO = '[solve]\nseconds = 0.2\n[[rule]]\nmatch = { sitekey = "bad-*" }\nfault = "ERROR_BAD_PARAMETERS"\n'


#: As long as the file $BROKEN is there, who takes a connection fails by a fault of its own.
BROKEN = """
import os, socket, sys
def refuse(event, arguments):
    if event == "socket.__new__" and arguments[1] == socket.AF_INET and os.path.exists(os.environ["BROKEN"]):
        raise RuntimeError("no socket here")
sys.addaudithook(refuse)
"""


def die(daemon: Daemon, name: str) -> None:
    """Have a task that ends in the dead-letter queue."""
    daemon.drop([{"id": name, "sitekey": name, "pageurl": "https://example.com/"}])
    eventually(lambda: name in daemon.results())


def reload(daemon: Daemon, **keys: str) -> None:
    daemon.write_config({"daemon": keys})
    done = daemon.ctl("reload")
    assert done.returncode == 0, done.stderr


def test_plain_lines_then_json_from_a_reload_on_then_only_errors(tmp_path: Path) -> None:
    no_worker = tmp_path / "no-worker"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_WORKER)
    environ = {"PYTHONPATH": str(tmp_path / "site"), "BROKEN": str(no_worker)}
    with Sandbox(scenario=SCENARIO) as sandbox, Daemon(tmp_path, sandbox, environ=environ) as daemon:
        eventually(lambda: settled(daemon))
        die(daemon, "bad-1")
        plain = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING) \S.*")
        lines = daemon.log().splitlines()
        assert [line for line in lines if not plain.fullmatch(line)] == []
        assert any("WARNING task bad-1: dead after" in line for line in lines)

        reload(daemon, log_format="json", log_level="warning")
        before = len(daemon.log().splitlines())

        def said() -> list[dict[str, Any]]:
            return [json.loads(line) for line in daemon.log().splitlines()[before:]]

        def of(event: str) -> list[dict[str, Any]]:
            return [line for line in said() if line.get("event") == event]

        die(daemon, "bad-2")
        (dead,) = of("task_dead")
        assert dead.items() >= {
            "level": "warning", "task": "bad-2", "provider": "sandbox", "reason": "ERROR_BAD_PARAMETERS",
        }.items()  # fmt: skip

        # Workers of a template that was made anew cannot boot: what they say of it, and of whom it is said.
        first = template(daemon)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: settled(daemon) and template(daemon) != first)
        no_worker.touch()
        victim = workers(daemon)["list"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: of("internal_error"))
        (killed,) = [line for line in of("worker_died") if f"(pid {victim})" in line["message"]]
        assert (killed["seat"], killed["reason"]) == ("0", "signal")
        assert re.fullmatch(r"1-\d+", killed["worker"])
        failed = of("internal_error")[0]
        assert failed["message"].startswith(f"worker {failed['worker']}: Traceback (most recent call last):\n  File ")
        assert failed["reason"] == "RuntimeError"
        assert failed["worker"] != killed["worker"]
        assert {line["level"] for line in said()} == {"warning", "error"}
        no_worker.unlink()
        eventually(lambda: settled(daemon), 30)

        reload(daemon, log_level="error")
        die(daemon, "bad-3")
        daemon.write_config({"daemon": {"workers": 0}})
        assert daemon.ctl("reload").returncode == 1
        eventually(lambda: of("config_refused"))
        assert [line["task"] for line in of("task_dead")] == ["bad-2"]
        assert sandbox.key not in daemon.log()


def test_the_monitor_logs_as_the_others_do(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BROKEN)
    environ = {"PYTHONPATH": str(tmp_path / "site"), "BROKEN": str(broken)}
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, {"http": LISTEN}, environ) as daemon:
        port = port_of(daemon)

        def said() -> list[dict[str, Any]]:
            lines = [line for line in daemon.log().splitlines() if "the body of a child fails" in line]
            return [json.loads(line) for line in lines]

        def fail(times: int) -> None:
            # Once it has answered it has read what the parent had sent.
            eventually(lambda: get(port, "/livez")[0] == 200)
            broken.touch()
            get(port, "/livez")
            eventually(lambda: len(said()) == times)
            broken.unlink()

        eventually(lambda: get(port, "/livez")[0] == 200)
        reload(daemon, log_format="json")
        fail(1)  # one that was told so by the reload
        fail(2)  # one that was so from its start
        assert all(line["event"] == "internal_error" for line in said())
        assert all(line["message"].endswith("\nRuntimeError: no socket here") for line in said())


def test_a_fault_of_the_parent_s_own_is_one_line(tmp_path: Path) -> None:
    daemon = Daemon(
        tmp_path, SimpleNamespace(url="http://127.0.0.1:1", key="a" * 32), {"daemon": {"log_format": "json"}}
    )
    code = (
        "import os, sys; from pathlib import Path; from captchad.daemon import main;"
        " main.Parent = lambda *_: 1 // 0; sys.exit(main.run(Path(sys.argv[1]), os.environ))"
    )
    environ = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, str(daemon.config_file)]
    done = subprocess.run(command, stderr=subprocess.PIPE, env=environ, check=False, timeout=30)
    daemon.__exit__(None, None, None)
    assert done.returncode == 1
    started, failed = (json.loads(line) for line in done.stderr.splitlines())
    assert started["event"] == "started"
    assert (failed["event"], failed["reason"]) == ("internal_error", "ZeroDivisionError")
    assert failed["message"].startswith("captchad ends by a fault of its own\nTraceback (most recent call last):\n")
