"""captchad/logs.py: what reaches a journald (a real datagram socket in its place), and what a stderr."""

import errno
import json
import logging
import os
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from captchad import logs
from captchad.model.logevents import Event, fields
from captchad.supervisor.process import EXIT_BUG, reap
from tests.support.fork import fork_child

HOSTILE = "a\x1b[31m b\r\x00\u202e\ud800 é"
SEEN = "a\\x1b[31m b\n\\x00\\u202e\\ud800 é"  # a carriage return ends a line


def record(text, *args, level=logging.WARNING, exc_info=None, **about):
    made = logging.LogRecord("captchad.test", level, __file__, 1, text, args, exc_info)
    made.__dict__.update(fields(**about))
    return made


def decode(datagram):
    """The pairs of an entry, read as journald does: a line with `=`, or a name, eight bytes of length, the value."""
    pairs = []
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(datagram[:8], "little")
            value, rest = datagram[8 : 8 + length], datagram[8 + length :]
            assert rest[:1] == b"\n"
            datagram = rest[1:]
        pairs.append((name.decode("ascii"), value.decode()))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.fixture
def address(tmp_path):
    return str(tmp_path / "socket")


@contextmanager
def journald(address):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(10)
        yield lambda: decode(receiver.recv(1 << 20))
    os.unlink(address)


@contextmanager
def stderr_is(fd):
    """For as long, descriptor 2 is `fd`."""
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@contextmanager
def stream():
    """A stderr like that of a unit, a stream to journald; yields what has arrived there."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with stderr_is(theirs.fileno()):
            yield ours


def fill(end):
    """Until it takes nothing more; returns what went in."""
    count = 0
    while True:
        try:
            count += end.send(b"x" * 1000, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return count


def drained(end):
    got = b""
    while True:
        try:
            got += end.recv(1 << 20)
        except BlockingIOError:
            return got


# --- journald


def test_an_entry_has_its_fields(address):
    with journald(address) as received:
        about = {"task": "t-1", "worker": "3-17", "seat": 0, "provider": "p", "reason": "signal"}
        logs.JournalHandler(address).handle(record("worker %d died", 0, event=Event.WORKER_DIED, **about))
        assert received() == {
            "MESSAGE": "worker 0 died",
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "captchad",
            "MESSAGE_ID": Event.WORKER_DIED.message_id,
            "CAPTCHAD_EVENT": "worker_died",
            "CAPTCHAD_TASK": "t-1",
            "CAPTCHAD_WORKER": "3-17",
            "CAPTCHAD_SEAT": "0",
            "CAPTCHAD_PROVIDER": "p",
            "CAPTCHAD_REASON": "signal",
        }


def test_what_has_no_fields_is_an_entry_too(address):
    with journald(address) as received:
        made = logging.LogRecord("urllib3", logging.ERROR, __file__, 1, "100 %", None, None)
        made.fields = "a library's own"
        logs.JournalHandler(address).handle(made)
        assert received() == {"MESSAGE": "100 %", "PRIORITY": "3", "SYSLOG_IDENTIFIER": "captchad"}


def test_a_text_of_several_lines_is_one_entry_and_forges_nothing(address):
    with journald(address) as received:
        handler = logs.JournalHandler(address)
        handler.handle(record("%s", "all is well\nMESSAGE_ID=0\nPRIORITY=0\n", reason="X\nPRIORITY=0\x1b"))
        assert received() == {
            "MESSAGE": "all is well\nMESSAGE_ID=0\nPRIORITY=0",
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "captchad",
            "CAPTCHAD_REASON": "X\\nPRIORITY=0\\x1b",
        }
        handler.handle(record(HOSTILE))
        assert received()["MESSAGE"] == SEEN
        try:
            raise ValueError("no\ngood")
        except ValueError:
            handler.handle(record("it failed", exc_info=sys.exc_info()))
        lines = received()["MESSAGE"].split("\n")
        assert lines[:2] == ["it failed", "Traceback (most recent call last):"]
        assert lines[-2:] == ["ValueError: no", "good"]


def test_a_long_text_loses_its_middle_and_a_long_field_its_end(address):
    with journald(address) as received:
        logs.JournalHandler(address).handle(record("begin" + "é" * 10_000_000 + "end", reason="r" * 1000))
        got = received()
        assert len(got["MESSAGE"]) <= logs.LONGEST
        assert got["MESSAGE"].startswith("begin")
        assert got["MESSAGE"].endswith("end")
        assert " … 9988108 characters are left out … " in got["MESSAGE"]
        assert got["CAPTCHAD_REASON"] == "r" * 256


def test_a_journald_that_comes_and_goes_loses_nothing(address):
    handler = logs.JournalHandler(address)
    with stream() as said:
        handler.handle(record("nobody\nthere", event=Event.READY))
        assert drained(said) == b"<4>nobody | there\n"
        for text in ("first", "second"):
            with journald(address) as received:
                handler.handle(record(text))
                assert received()["MESSAGE"] == text
        assert drained(said) == b""


def test_a_full_queue_holds_nobody_up_and_what_is_lost_is_counted(address):
    handler = logs.JournalHandler(address)
    with journald(address) as received, stream() as said:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            queued = 0
            while True:
                try:
                    other.sendto(b"MESSAGE=x\n", socket.MSG_DONTWAIT, address)
                except BlockingIOError:
                    break
                queued += 1
        handler.handle(record("by stderr"))
        assert drained(said) == b"<4>by stderr\n"

        with socket.socket(fileno=os.dup(2)) as stderr:
            fill(stderr)
        handler.handle(record("lost"))
        handler.handle(record("lost, too"))
        assert set(drained(said)) == {ord("x")}

        for _ in range(queued):
            assert received()["MESSAGE"] == "x"
        handler.handle(record("again"))
        assert received()["MESSAGE"] == "lines of the log that were lost, since journald did not take them: 2"
        assert received()["MESSAGE"] == "again"
        assert drained(said) == b""


def test_a_line_that_stderr_took_in_part_gets_its_end(address):
    handler = logs.JournalHandler(address)
    with stream() as said:
        with socket.socket(fileno=os.dup(2)) as stderr:
            stderr.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for _ in range(100):
                handler.handle(record("y" * 11_000))
        taken = drained(said)
        assert len(taken) % 11_004 > 0, "no line was torn: nothing was tried"
        handler.handle(record("next"))
        lines = (taken + drained(said)).splitlines()
        assert lines[-1] == b"<4>next"
        assert all(line.startswith(b"<4>") and line.count(b"<") == 1 for line in lines)


def test_what_neither_of_them_takes_is_counted(address, tmp_path):
    handler = logs.JournalHandler(address)
    with (tmp_path / "stderr").open("wb") as out, stderr_is(out.fileno()):
        handler.handle(record("there is no socket at all"))
        assert out.tell() == 0
    with journald(address) as received:
        handler.handle(record("again"))
        assert received()["MESSAGE"].endswith("did not take them: 1")
        assert received()["MESSAGE"] == "again"


def test_without_descriptors_it_goes_to_stderr(address):
    code = (
        "import logging, resource, sys\nfrom captchad import logs\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        f"logs.JournalHandler({address!r}).handle(logging.makeLogRecord({{'levelno': 30, 'msg': 'none left'}}))\n"
    )
    ours, theirs = socket.socketpair()
    with journald(address), ours, theirs:
        subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, timeout=30)
        theirs.close()
        assert ours.recv(1000) == b"<4>none left\n"


# --- lines


@pytest.fixture
def written(tmp_path):
    """What lines on stderr look like: handles a record and returns the bytes."""

    def write(made, *, as_json=False):
        handler = logs.LineHandler()
        handler.as_json = as_json
        path = tmp_path / "stderr"
        with path.open("wb") as out, stderr_is(out.fileno()):
            handler.handle(made)
        return path.read_bytes()

    return write


def test_a_plain_line_is_one_line(written):
    made = record(f"{HOSTILE}\nx\u2028y", event=Event.READY)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    said = SEEN.replace("\n", " | ")
    assert written(made).decode() == f"2023-11-14T22:13:20.250Z WARNING {said} | x | y\n"


def test_a_line_of_json_has_what_is_known(written):
    made = record("%s\nb", HOSTILE, event=Event.TASK_DEAD, task="t", provider="p", reason="R\x1b")
    made.created, made.msecs = 1_700_000_000.25, 250.0
    line = written(made, as_json=True)
    assert line.count(b"\n") == 1
    assert line[:-1].decode("ascii").isprintable()
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "message": f"{SEEN}\nb",
        "event": "task_dead",
        "task": "t",
        "provider": "p",
        "reason": "R\x1b",
    }


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EAGAIN])
def test_a_stderr_that_takes_nothing_hurts_nobody(number, capsys):
    read, write = os.pipe()
    if number == errno.EPIPE:
        os.close(read)
    elif number == errno.ENOSPC:
        os.dup2(os.open("/dev/full", os.O_WRONLY), write)
    else:
        os.set_blocking(write, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * 4096)
    with stderr_is(write):
        with pytest.raises(OSError, match=os.strerror(number)):
            os.write(2, b"x")
        logs.LineHandler().handle(record("anybody there?"))
    assert capsys.readouterr().err == "", "nor is it said there"


def test_a_child_that_fails_says_so_in_one_line(capfd):
    child, channel = fork_child(lambda _: 1 // 0)
    assert reap(child) == EXIT_BUG
    child.close()
    channel.close()
    (line,) = capfd.readouterr().err.splitlines()
    assert " ERROR the body of a child fails | Traceback (most recent call last): | " in line
    assert line.endswith(" | ZeroDivisionError: integer division or modulo by zero")


# --- which of them, and from which level on


def said_by(code, **environ):
    """What a program with this logging says on a pipe."""
    program = f"import logging, os\nfrom captchad.logs import *\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, env=os.environ | environ, text=True, check=True
    )
    return done.stderr


def test_level_and_format_may_change():
    said = said_by(
        "log = logging.getLogger('captchad')\nstart_logging({})\nlog.debug('a'); log.info('b')\n"
        "set_logging('error', 'json'); log.warning('c'); log.error('d')\n"
        "set_logging('debug', 'plain'); log.debug('e')\n"
    ).splitlines()
    assert [said[0].split(" ", 1)[1], json.loads(said[1])["message"], said[2].split(" ", 1)[1]] == [
        "INFO b",
        "d",
        "DEBUG e",
    ]


@pytest.mark.parametrize("stream", ["1:1", "", "x:y", "1"])
def test_a_journal_stream_that_is_another_s_does_not_count(stream):
    said = said_by("start_logging(os.environ); logging.warning('plain')", JOURNAL_STREAM=stream)
    assert said.endswith(" WARNING plain\n")


def test_a_wrong_log_call_ends_nobody():
    said = said_by("start_logging({}); logging.warning('%d', 'x'); logging.warning('on')")
    assert "Logging error" in said
    assert said.endswith(" WARNING on\n")
