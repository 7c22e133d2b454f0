"""What probes see of a whole daemon: health, metrics, status, and the answer when it cannot do its work."""

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def _children_that_listen(parent: int, port: int) -> list[int]:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if _sockets(pid) & inodes]


def _template(daemon: Daemon, port: int) -> int:
    """The child that is neither a worker nor the monitor."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    (pid,) = {*map(int, children)} - {*daemon.worker_pids(), *_children_that_listen(daemon.pid, port)}
    return pid


def _sockets(pid: str) -> set[str]:
    """Inodes of the sockets that a process has open."""
    targets = (os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return {target[8:-1] for target in targets if target.startswith("socket:[")}


def test_probes_see_the_daemon_as_it_is(tmp_path: Path) -> None:
    port = _free_port()
    supervision = {"standby": 0, "stall_s": 3.0}
    daemon_table = {"workers": 2, "min_workers": 2}
    overrides = {"http": {"listen": f"127.0.0.1:{port}"}, "daemon": daemon_table, "supervision": supervision}
    with Sandbox(scenario="[solve]\nseconds = 0.2\n") as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        eventually(lambda: _get(port, "/health/ready")[0] == 200)
        assert "[+]solve_rate pass nothing solved yet\n" in _get(port, "/readyz?verbose")[1]
        daemon.drop([{"id": "h", "sitekey": "h", "pageurl": "https://example.com/"}])
        daemon.wait_results(1)

        def solved() -> float:
            families = text_string_to_metric_families(_get(port, "/metrics")[1])
            samples = [sample for family in families for sample in family.samples]
            named = {(sample.name, tuple(sample.labels.items())): sample.value for sample in samples}
            return named[("captchad_tasks_total", (("result", "solved"),))]

        eventually(lambda: solved() == 1.0)
        eventually(lambda: "[+]solve_rate pass 100% solved\n" in _get(port, "/readyz?verbose")[1])
        assert _get(port, "/health")[0] == 200
        assert json.loads(_get(port, "/status")[1])["queue"]["solved_total"] == 1
        assert sandbox.key not in "".join(_get(port, path)[1] for path in ("/", "/status", "/metrics", "/health"))

        # A stopped worker is not judged yet, but it no longer counts once it has been: below min_workers is not ready.
        # Its successor would come within milliseconds, too soon to be seen from outside: who forks it is stopped, too.
        os.kill(_template(daemon, port), signal.SIGSTOP)
        os.kill(daemon.worker_pids()[0], signal.SIGSTOP)
        eventually(lambda: _get(port, "/health/ready")[0] == 503, timeout=30.0)
        eventually(lambda: _get(port, "/health/ready")[0] == 200, timeout=30.0)


def test_a_monitor_that_dies_comes_back(tmp_path: Path) -> None:
    port = _free_port()
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, {"http": {"listen": f"127.0.0.1:{port}"}}) as daemon:
        eventually(lambda: _get(port, "/livez")[0] == 200)
        (monitor,) = _children_that_listen(daemon.pid, port)
        os.kill(monitor, signal.SIGKILL)
        eventually(lambda: "monitor died" in daemon.log())
        eventually(lambda: _get(port, "/livez")[0] == 200, timeout=30.0)
        assert daemon.running
