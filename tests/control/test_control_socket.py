"""The control socket: a real server in another process, real clients, and clients that misbehave."""

import json
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

import pytest

from captchad.control import server as control
from captchad.control.client import Refused, call
from captchad.control.server import ControlServer
from captchad.control.wire import MAX_ANSWER, MAX_REQUEST, ok
from captchad.ipc.loop import Loop
from captchad.model.clock import SystemClock
from captchad.model.errors import CaptchadError, LockHeld, NeedsOperator, NotRunning, TryLater
from tests.control.stub import control_daemon


class StepClock:
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


def connect(path: Path, sent: bytes = b"") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(20)
    sock.connect(str(path))
    sock.sendall(sent)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """All that came until the other side ended, however it did."""
    got = b""
    with sock, suppress(ConnectionResetError):
        while chunk := sock.recv(1 << 16):
            got += chunk
    return got


def turn_until(loop: Loop, condition, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end
        loop.turn(0.05)


def test_an_answer_and_who_asked(path):
    with control_daemon(path):
        data = call(path, "echo", {"id": "ä"})
    assert data == {"args": {"id": "ä"}, "uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid()}


def test_the_socket_has_its_mode_and_no_leftovers(path):
    with control_daemon(path):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o660
        assert [each.name for each in path.parent.iterdir()] == ["control.sock"]


def test_a_deferred_answer_arrives_when_it_is_there(path):
    with control_daemon(path):
        assert call(path, "later") == {"after": True}
        assert call(path, "already") == {"after": False}


def test_a_deferred_answer_does_not_hold_up_others(path):
    with control_daemon(path), connect(path, b'{"verb": "never"}\n'):
        assert call(path, "echo")["args"] == {}


def test_a_refusal_carries_hint_and_code(path):
    with control_daemon(path), pytest.raises(Refused, match=r"^that is wrong$") as caught:
        call(path, "no")
    assert (caught.value.hint, caught.value.code) == ("do it right", 1)


def test_a_bug_in_a_verb_is_told_without_its_words_and_the_daemon_goes_on(path):
    with control_daemon(path):
        with pytest.raises(Refused, match=r"^internal error \(RuntimeError\)$"):
            call(path, "bug")
        assert call(path, "echo")["args"] == {}


@pytest.mark.parametrize(
    "line",
    [b"hello", b"[]", b"{}", b'{"verb": 1}', b'{"verb": "echo", "args": []}', b"[" * 100_000, b"\xff\xfe", b"\x00"],
)
def test_what_is_no_request_is_answered_and_closed(path, line):
    with control_daemon(path):
        answer = json.loads(read_all(connect(path, line + b"\n")))
    assert answer["ok"] is False
    assert answer["error"].startswith("not a request")


def test_a_request_without_end_is_cut_off(path):
    with control_daemon(path):
        sock = connect(path)
        try:
            while True:
                sock.sendall(b"x" * 4096)
        except (BrokenPipeError, ConnectionResetError):
            answer = json.loads(read_all(sock))
    assert answer["error"] == f"a request may have {MAX_REQUEST} bytes"


def test_a_long_answer_arrives_whole_and_one_that_is_too_long_not_at_all(path):
    with control_daemon(path):
        assert len(call(path, "long", {"bytes": 3_000_000})["text"]) == 3_000_000
        with pytest.raises(Refused, match="too long"):
            call(path, "long", {"bytes": MAX_ANSWER})


def test_nobody_listens(path):
    with pytest.raises(NotRunning):
        call(path, "echo")
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(NotRunning):
        call(path, "echo")


def test_a_silent_daemon_is_not_waited_for(path):
    with control_daemon(path), pytest.raises(TryLater, match="did not answer"):
        call(path, "never", timeout_s=0.1)


def test_a_daemon_that_dies_before_it_answers(path):
    with control_daemon(path), pytest.raises(NotRunning, match="went away"):
        call(path, "die")


def test_something_else_answers(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        client = os.fork()
        if client == 0:
            sock, _ = listener.accept()
            sock.sendall(b"SSH-2.0\n")
            os._exit(0)
        with pytest.raises(CaptchadError, match="does not speak"):
            call(path, "echo")
        os.waitpid(client, 0)


@pytest.mark.root
def test_permission_is_the_sockets(path):
    with control_daemon(path):
        path.parent.chmod(0o755)
        for parent in path.parents[1:4]:
            parent.chmod(0o755)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            try:
                call(path, "echo")
            except PermissionError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


# The server alone, in this process, with a clock of ours.


@pytest.fixture
def served(path):
    clock = StepClock()
    loop = Loop(clock)
    held: list[control.Pending] = []

    def handler(request):
        if request.verb == "hold":
            held.append(control.Pending())
            return held[-1]
        return ok({"text": "x" * request.args.get("bytes", 0)})

    server = ControlServer(path, loop, handler, clock=clock)
    server.start()
    yield server, loop, clock, held
    server.close()
    loop.close()


def test_a_silent_client_is_dropped(served, path):
    server, loop, clock, _held = served
    sock = connect(path, b'{"verb":')
    turn_until(loop, lambda: len(server.clients) == 1)
    clock.now += control.CLIENT_S - 0.1
    loop.turn(0)
    assert len(server.clients) == 1
    clock.now += 0.2
    turn_until(loop, lambda: not server.clients)
    assert read_all(sock) == b""


def test_a_client_that_does_not_read_is_dropped(served, path):
    server, loop, clock, _held = served
    sock = connect(path, b'{"verb":"long","args":{"bytes":5000000}}\n')
    turn_until(loop, lambda: len(server.clients) == 1)
    turn_until(loop, lambda: any(client._out for client in server.clients))
    clock.now += control.CLIENT_S + 0.1
    turn_until(loop, lambda: not server.clients)
    assert 0 < len(read_all(sock)) < 5_000_000


def test_who_waits_for_a_deferred_answer_is_not_dropped(served, path):
    server, loop, clock, held = served
    sock = connect(path, b'{"verb":"hold"}\n')
    turn_until(loop, lambda: held)
    clock.now += 100 * control.CLIENT_S
    loop.turn(0)
    assert len(server.clients) == 1
    held[0].resolve(ok({}))
    assert json.loads(read_all(sock)) == ok({})


def test_who_leaves_before_the_answer_costs_nothing(served, path):
    server, loop, _clock, held = served
    sock = connect(path, b'{"verb":"hold"}\n')
    turn_until(loop, lambda: held)
    sock.close()
    turn_until(loop, lambda: not server.clients)
    held[0].resolve(ok({}))


def test_one_client_too_many_is_told_so(served, path):
    server, loop, _clock, _held = served
    clients = [connect(path) for _ in range(control.MAX_CLIENTS)]
    turn_until(loop, lambda: len(server.clients) == control.MAX_CLIENTS)
    extra = connect(path)
    loop.turn(0)
    assert json.loads(read_all(extra))["error"] == "too many callers at the same time"
    clients.pop().close()
    turn_until(loop, lambda: len(server.clients) < control.MAX_CLIENTS)
    for client in clients:
        client.close()


def test_a_live_daemon_is_not_pushed_aside(served, path):
    second = ControlServer(path, Loop(SystemClock()), lambda _: ok({}), clock=SystemClock())
    with pytest.raises(LockHeld):
        second.start()
    second.close()
    second.loop.close()
    assert path.is_socket()


def test_a_dead_daemons_socket_is_replaced(path):
    with control_daemon(path):
        old = path.lstat().st_ino
    assert path.lstat().st_ino == old
    with control_daemon(path):
        assert call(path, "echo")["args"] == {}


def test_a_file_in_its_place_is_left_alone(path):
    path.parent.mkdir()
    path.write_text("precious")
    server = ControlServer(path, Loop(SystemClock()), lambda _: ok({}), clock=SystemClock())
    with pytest.raises(NeedsOperator, match="is no socket"):
        server.start()
    server.loop.close()
    assert path.read_text() == "precious"


def test_close_leaves_a_successors_socket(served, path):
    server, _loop, _clock, _held = served
    path.unlink()
    path.write_text("the successor's")
    server.close()
    assert path.read_text() == "the successor's"
    path.unlink()


def test_close_removes_its_own(served, path):
    served[0].close()
    assert not path.exists()


def test_a_path_that_no_socket_can_have(tmp_path):
    long = tmp_path / ("x" * 120) / "control.sock"
    with pytest.raises(NotRunning, match="too long"):
        call(long, "echo")
    server = ControlServer(long, Loop(SystemClock()), lambda _: ok({}), clock=SystemClock())
    with pytest.raises(NeedsOperator, match="too long"):
        server.start()
    server.loop.close()
