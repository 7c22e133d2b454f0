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
from tests.support.listener import Listener
from tests.support.sandbox import Sandbox

LISTEN = {"listen": "127.0.0.1:0"}


def port_of(daemon: Daemon) -> int:
    """The port on which it listens: one of the kernel's choice, that nobody else can have taken meanwhile."""
    ours = _sockets(daemon.pid)
    (port,) = eventually(lambda: [port for inode, port in _listening() if inode in ours])
    return port


def _listening() -> list[tuple[str, int]]:
    """Inode and port of each socket that listens."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [(row[9], int(row[1].rpartition(":")[2], 16)) for row in rows if row[3] == "0A"]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def _children_that_listen(parent: int, port: int) -> list[int]:
    inodes = {inode for inode, each in _listening() if each == port}
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if _sockets(int(pid)) & inodes]


def _template(daemon: Daemon, port: int) -> int:
    """The child that is neither a worker nor the monitor."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    (pid,) = {*map(int, children)} - {*daemon.worker_pids(), *_children_that_listen(daemon.pid, port)}
    return pid


def _sockets(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open."""
    targets = (os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return {target[8:-1] for target in targets if target.startswith("socket:[")}


def test_probes_see_the_daemon_as_it_is(tmp_path: Path) -> None:
    supervision = {"standby": 0, "stall_s": 3.0}
    daemon_table = {"workers": 2, "min_workers": 2}
    overrides = {"http": LISTEN, "daemon": daemon_table, "supervision": supervision}
    with Sandbox(scenario="[solve]\nseconds = 0.2\n") as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        port = port_of(daemon)
        eventually(lambda: get(port, "/health/ready")[0] == 200)
        assert "[+]solve_rate pass nothing solved yet\n" in get(port, "/readyz?verbose")[1]
        daemon.drop([{"id": "h", "sitekey": "h", "pageurl": "https://example.com/"}])
        daemon.wait_results(1)

        def solved() -> float | None:
            families = text_string_to_metric_families(get(port, "/metrics")[1])
            samples = [sample for family in families for sample in family.samples]
            named = {(sample.name, tuple(sample.labels.items())): sample.value for sample in samples}
            return named.get(("captchad_tasks_total", (("result", "solved"),)))

        eventually(lambda: solved() == 1.0)
        eventually(lambda: "[+]solve_rate pass 100% solved\n" in get(port, "/readyz?verbose")[1])
        assert get(port, "/health")[0] == 200
        assert json.loads(get(port, "/status")[1])["queue"]["solved_total"] == 1
        assert sandbox.key not in "".join(get(port, path)[1] for path in ("/", "/status", "/metrics", "/health"))

        # A stopped worker is not judged yet, but it no longer counts once it has been: below min_workers is not ready.
        # Its successor would come within milliseconds, too soon to be seen from outside: who forks it is stopped, too.
        os.kill(_template(daemon, port), signal.SIGSTOP)
        os.kill(daemon.worker_pids()[0], signal.SIGSTOP)
        eventually(lambda: get(port, "/health/ready")[0] == 503, timeout=30.0)
        eventually(lambda: get(port, "/health/ready")[0] == 200, timeout=30.0)


def test_a_monitor_that_dies_comes_back(tmp_path: Path) -> None:
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, {"http": LISTEN}) as daemon:
        port = port_of(daemon)
        eventually(lambda: get(port, "/livez")[0] == 200)
        (monitor,) = _children_that_listen(daemon.pid, port)
        os.kill(monitor, signal.SIGKILL)
        eventually(lambda: "monitor died" in daemon.log())
        eventually(lambda: get(port, "/livez")[0] == 200, timeout=30.0)
        assert daemon.running


def test_a_port_that_others_have_is_said_everywhere_until_it_can_be_had(tmp_path: Path) -> None:
    with socket.socket() as other, Listener(tmp_path / "notify") as systemd, Sandbox() as sandbox:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = int(other.getsockname()[1])
        problem = f"http.listen 127.0.0.1:{port}: Address already in use; running without it, trying again"
        overrides = {"http": {"listen": f"127.0.0.1:{port}"}}
        with Daemon(tmp_path, sandbox, overrides, environ=systemd.environ) as daemon:
            assert daemon.status()["daemon"]["problems"] == [problem]
            eventually(lambda: any(each.startswith("READY=1") and problem in each for each in systemd.heard()))
            health = daemon.ctl("health")
            assert (health.returncode, health.stdout.split(" - ")[0]) == (1, "CAPTCHAD WARNING")
            assert f"http: {problem}" in health.stdout
            other.close()
            eventually(lambda: get(port, "/health")[0] == 200, timeout=30.0)
            eventually(lambda: not daemon.status()["daemon"]["problems"])
            assert daemon.ctl("health").returncode == 0
