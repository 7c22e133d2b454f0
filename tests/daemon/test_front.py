"""The monitor's address, with a real template, real monitors and real ports: it moves, and others have it."""

import logging
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from captchad.daemon.front import MONITOR_RESTART_S, Front
from captchad.daemon.template import MODULE, body
from captchad.ipc.loop import Loop
from captchad.model.clock import SystemClock
from captchad.model.logevents import Event
from captchad.supervisor.process import become_subreaper, reap_strangers
from captchad.supervisor.template import Template

PATIENCE_S = 60.0
LOG = {"log_level": "info", "log_format": "plain"}


class Ahead(SystemClock):
    """A clock that can be put forward."""

    by_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.by_s


class Bench:
    """A front and what it stands on."""

    def __init__(self) -> None:
        become_subreaper()
        self.clock = Ahead()
        self.template = Template(body, MODULE)
        self.loop = Loop(SystemClock())
        self.faults: list[str] = []
        self.front = Front(
            self.template,
            self.loop,
            self.clock,
            lambda reason, key: self.faults.append(f"{key}: {reason}"),
            lambda: None,
            logging.getLogger("test"),
        )
        self.loop.watch(self.template.fd, readable=self.template.receive)

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"did not happen; faults: {self.faults}"
            self.loop.turn(0.1)

    def try_again(self) -> None:
        """It is tried again now."""
        self.clock.by_s += MONITOR_RESTART_S
        self.front.tick()

    def close(self) -> None:
        os.kill(self.template.child.pid, signal.SIGCONT)
        self.front.close()
        self.until(lambda: not self.front.pids and not self.template.owes)
        self.loop.unwatch(self.template.fd)
        self.template.bury()
        self.loop.close()
        reap_strangers(set())


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(host: str, port: int) -> bool:
    """Whether a monitor does. It has no snapshot, so that it says 503."""
    try:
        urllib.request.urlopen(f"http://{host}:{port}/livez", timeout=1)
    except urllib.error.HTTPError as error:
        with error:
            return error.code == 503
    except OSError:
        return False
    raise AssertionError("all is well, without a snapshot")


def test_a_monitor_that_is_still_to_be_forked_keeps_its_port_from_nobody_for_long(bench: Bench, port: int) -> None:
    # Its listener is on the way to the template when the address changes.
    os.kill(bench.template.child.pid, signal.SIGSTOP)
    bench.front.configure(("127.0.0.1", port), LOG)
    bench.front.configure(("127.0.0.2", port), LOG)
    bench.front.configure(("0.0.0.0", port), LOG)
    assert bench.faults == []
    os.kill(bench.template.child.pid, signal.SIGCONT)
    bench.until(lambda: answers("127.0.0.3", port))
    bench.until(lambda: len(bench.front.pids) == 1)
    assert bench.faults == []


def test_a_monitor_that_is_dying_keeps_its_port_from_nobody_for_long(bench: Bench, port: int) -> None:
    bench.front.configure(("127.0.0.1", port), LOG)
    bench.until(lambda: answers("127.0.0.1", port))
    for host in ["0.0.0.0", "127.0.0.1"] * 3:
        bench.front.configure((host, port), LOG)
        bench.until(lambda: answers("127.0.0.1", port) and len(bench.front.pids) == 1)
        assert answers("127.0.0.3", port) is (host == "0.0.0.0")
    assert bench.faults == []


def test_a_port_that_somebody_else_has_is_the_configurations_fault_as_soon_as_no_monitor_may_have_it(
    bench: Bench, port: int
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))
        other.listen()
        bench.front.configure(("127.0.0.1", port), LOG)
        bench.until(lambda: answers("127.0.0.1", port))
        bench.front.configure(("0.0.0.0", port), LOG)
        bench.until(lambda: bench.faults)
        assert set(bench.faults) == {f"http.listen: http.listen 0.0.0.0:{port}: Address already in use"}
        assert not bench.front.pids


def test_a_port_that_cannot_be_had_is_a_problem_as_long_as_it_lasts_and_is_said_once(
    bench: Bench, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    problem = f"http.listen 127.0.0.1:{port}: Address already in use; running without it, trying again"
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        bench.front.configure(("127.0.0.1", port), LOG)
        for _ in range(3):
            assert bench.front.problem == problem
            bench.try_again()
        assert len(bench.faults) == 4
    assert bench.front.problem == problem
    bench.try_again()
    bench.until(lambda: bench.front.pids)
    assert bench.front.problem == problem, "it may die at once"
    bench.try_again()
    assert bench.front.problem == ""
    assert answers("127.0.0.1", port)
    (failed, back) = caplog.records
    assert (failed.getMessage(), failed.fields.event) == (problem, Event.MONITOR_FAILED)
    assert (back.getMessage(), back.fields.event) == (f"monitor: it is back, after: {problem}", Event.MONITOR_BACK)


def test_the_problem_of_an_address_goes_with_it(bench: Bench, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        bench.front.configure(("127.0.0.1", port), LOG)
        assert bench.front.problem
        bench.front.configure(None, LOG)
        assert not bench.front.problem
