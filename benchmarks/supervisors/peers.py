"""The peers, each as its manual has it, with a worker that does nothing but be alive."""

__all__ = ["Circus", "Cotyledon", "Gunicorn", "Supervisord"]

import socket
import subprocess

from benchmarks.supervisors.contender import PROGRAMS, Contender, Kind
from benchmarks.supervisors.programs.note import PORT_VARIABLE

_LIMIT_S = 2


class _Peer(Contender):
    """What is installed into the environment of the benchmarks."""

    def program(self, name: str) -> str:
        """A program of that environment."""
        return str(self.place.python.with_name(name))

    def script(self, name: str) -> str:
        """The command line of one of the benchmark's own programs."""
        return f"{self.place.python} {PROGRAMS / name}"


class Supervisord(_Peer):
    """Processes of one program. It has no limit for silent ones."""

    title = "supervisord"
    package = "supervisor"

    def launch(self) -> subprocess.Popen[bytes]:
        config = self.directory / "supervisord.conf"
        config.write_text(
            "[supervisord]\n"
            "nodaemon = true\n"
            f"logfile = {self.directory}/supervisord.log\n"
            f"pidfile = {self.directory}/pid\n"
            f"childlogdir = {self.directory}\n"
            "[program:idle]\n"
            f"command = {self.script('idle_worker.py')}\n"
            f"numprocs = {self.place.workers}\n"
            "process_name = %(program_name)s_%(process_num)d\n"
        )
        return self.run([self.program("supervisord"), "--configuration", str(config)])


class Circus(_Peer):
    """A watcher. Its limit for silent processes is a plug-in, and needs a program that sends heartbeats by UDP."""

    title = "circus"
    package = "circus"

    def launch(self) -> subprocess.Popen[bytes]:
        port = _free_udp_port() if self.kind is Kind.LIMITED else None
        config = self.directory / "circus.ini"
        config.write_text(
            "[circus]\n"
            f"endpoint = ipc://{self.runtime}/endpoint\n"
            f"pubsub_endpoint = ipc://{self.runtime}/pubsub\n"
            "[watcher:idle]\n"
            f"cmd = {self.script('idle_worker.py')}\n"
            f"numprocesses = {self.place.workers}\n"
            "copy_env = True\n" + ("" if port is None else f"stop_signal = KILL\n{self._watchdog(port)}")
            # A stopped process takes no other signal.
        )
        environ = {} if port is None else {PORT_VARIABLE: str(port)}
        return self.run([self.program("circusd"), str(config)], environ)

    @staticmethod
    def _watchdog(port: int) -> str:
        looks = 4
        return (
            "[plugin:watchdog]\n"
            "use = circus.plugins.watchdog.WatchDog\n"
            f"loop_rate = {_LIMIT_S / looks}\n"
            f"max_count = {looks}\n"
            f"port = {port}\n"
            "watchers_regex = idle\n"
        )


class Gunicorn(_Peer):
    """Workers of the default class, `sync`, on a unix socket."""

    title = "gunicorn"
    package = "gunicorn"

    def launch(self) -> subprocess.Popen[bytes]:
        command = [
            self.program("gunicorn"),
            f"--config={PROGRAMS}/gunicorn_app.py",
            f"--workers={self.place.workers}",
            f"--bind=unix:{self.runtime}/http",
            # The control socket is in the home directory by default, where another gunicorn may have one.
            f"--control-socket={self.runtime}/control",
        ]
        if self.kind is Kind.LIMITED:
            command.append(f"--timeout={_LIMIT_S}")
        return self.run([*command, "gunicorn_app:app"], {"PYTHONPATH": str(PROGRAMS)})


class Cotyledon(_Peer):
    """One service. It has no limit for silent workers."""

    title = "cotyledon"
    package = "cotyledon"

    def launch(self) -> subprocess.Popen[bytes]:
        return self.run([*self.script("cotyledon_service.py").split(), str(self.place.workers)])


def _free_udp_port() -> int:
    """A port that nobody has now: the watchdog can only be told a number."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
