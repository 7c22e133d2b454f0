"""Reading beside a writer: whatever he does between two system calls of the reader, it sees a consistent journal."""

import errno
import mmap
import os
import random
import signal
import struct
import time
from contextlib import suppress
from itertools import count

import pytest

from captchad.journal import reader
from captchad.journal.store import ReadReport, read_all
from captchad.model.errors import JournalDown
from tests.journal.kit import App, HookOs, Promises

READY = ["prepare"] * 3


class Failing(HookOs):
    """Each call of the names in `fail` fails; a write has then written a part."""

    fail = ()

    def around(self, name, args, call):
        if name in self.fail:
            if name == "write":
                self.do(name, (args[0], bytes(args[1])[: len(args[1]) * 2 // 3]))
            raise OSError(errno.EIO, "broken")
        return call()


class Meddling(HookOs):
    """Lets the writer do something right before call number `at` of the reader."""

    def __init__(self, at, meddle):
        super().__init__()
        self.at, self.meddle = at, meddle
        self.count = 0

    def around(self, name, args, call):
        self.count += 1
        if self.count == self.at:
            self.meddle()
        return call()


class Writer(App):
    """The application with a disk that fails when it is told, and what it has promised."""

    def __init__(self, directory, promises):
        self.osio = Failing()
        super().__init__(directory, promises.tell, self.osio)

    def fail(self, *names, recover=True):
        """A commit that fails, then a recovery; with `recover` false one that fails."""
        self.osio.fail = names
        with suppress(JournalDown):
            self.run(["2"])
        if not recover:
            with suppress(JournalDown):
                self.run(["recover"])
        self.osio.fail = ()


MEDDLING = {
    "commits": lambda writer: writer.run(["2", "1"]),
    "rotates": lambda writer: writer.run(["5", "1"]),
    "rotates thrice": lambda writer: writer.run(["7", "7", *READY, "7", "1"]),
    "prepares": lambda writer: writer.run(["5", *READY]),
    "drops": lambda writer: writer.run(["drop"]),
    "rotates and drops all": lambda writer: writer.run(["7", "7", "1", *["drop"] * 9]),
    "fails to sync": lambda writer: writer.fail("fdatasync"),
    "fails to sync, recovers": lambda writer: (writer.fail("fdatasync"), writer.run(["recover", "2"])),
    "fails to write, recovers": lambda writer: (writer.fail("write", "ftruncate"), writer.run(["recover", "2"])),
    "fails to sync, recovers late": lambda writer: (
        writer.fail("fdatasync", "fsync", recover=False),
        writer.run(["recover", "2", "5", "1"]),
    ),
    "fails, leaves the attempt": lambda writer: (
        writer.fail("fdatasync", "fsync", "unlink", recover=False),
        writer.run(["recover", "2", "5", "1"]),
    ),
}

BEFORE = {
    "in one segment": ["1", "2"],
    "nearly full": ["1", "4", *READY],
    "in three segments": ["1", "4", "1", "6", *READY, "2", "1"],
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
@pytest.mark.parametrize("meddle", MEDDLING.values(), ids=MEDDLING.keys())
def test_a_reader_sees_a_consistent_journal_whatever_the_writer_does(fast_dir, before, meddle):
    for at in count(1):
        promises = Promises()
        writer = Writer(fast_dir / str(at) / "journal", promises)
        writer.run(before)
        promised = promises.promised
        watching = Meddling(at, lambda writer=writer: meddle(writer))
        check_read(writer.journal._directory, promised, lambda promises=promises: promises, watching)
        check_read(writer.journal._directory, promises.promised, lambda promises=promises: promises)
        writer.close()
        if watching.count < at:
            break
    assert at > 6


def check_read(directory, promised, promises_after, osio=None):
    """One read: a run of numbers through all that was `promised` before, without a word of damage. How many."""
    report = ReadReport()
    found = [record.fields["n"] for record in read_all(directory, osio, report=report)]
    after = promises_after()
    assert (report.holes, report.missing) == ([], [])
    assert Promises(after.staged, promised, after.droppable).breach(found) == ""
    return len(found)


def test_a_segment_that_was_dropped_too_early_is_said(fast_dir, monkeypatch):
    """More segments than can be held, and a writer who is faster than the reader."""
    monkeypatch.setattr(reader, "_HELD", 2)
    writer = Writer(fast_dir / "journal", Promises())
    writer.run(["5"] * 7)
    fds = len(os.listdir("/proc/self/fd"))
    assert {len(os.listdir("/proc/self/fd")) - fds for _ in read_all(fast_dir / "journal")} == {1, 2}
    reading = read_all(fast_dir / "journal")
    assert next(reading).fields["n"] == 0
    writer.run(["5", "5", *["drop"] * 4])
    with pytest.raises(JournalDown, match="00000003 went away"):
        list(reading)
    writer.close()


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_segment_that_the_disk_has_lost_is_said(fast_dir, call):
    writer = Writer(fast_dir / "journal", Promises())
    writer.run(["5", "6", "5"])
    lost = str(fast_dir / "journal" / "00000002.jsonl")

    class Losing(HookOs):
        def around(self, name, args, call_it):
            target = (
                str(args[0]) if name == "open" else os.readlink(f"/proc/self/fd/{args[0]}") if name == "pread" else ""
            )
            if name == call and target == lost:
                raise OSError(errno.EIO, "broken")
            return call_it()

    report = ReadReport()
    found = [record.fields["n"] for record in read_all(fast_dir / "journal", Losing(), report=report)]
    assert (found, report.missing) == ([*range(5), *range(11, 16)], [2])
    writer.close()


def test_a_reader_that_stops_early_leaves_nothing_open(fast_dir):
    writer = Writer(fast_dir / "journal", Promises())
    writer.run(["5"] * 4)
    before = len(os.listdir("/proc/self/fd"))
    reading = read_all(fast_dir / "journal")
    next(reading)
    assert len(os.listdir("/proc/self/fd")) > before
    reading.close()
    assert len(os.listdir("/proc/self/fd")) == before
    writer.close()


# The same with two processes.


class Shared:
    """Promises that another process can read."""

    def __init__(self):
        self._memory = mmap.mmap(-1, 24)

    def tell(self, what, value):
        begin = ("staged", "promised", "droppable").index(what) * 8
        self._memory[begin : begin + 8] = struct.pack(
            "q", max(value, struct.unpack("q", self._memory[begin : begin + 8])[0])
        )

    def now(self):
        return Promises(*struct.unpack("qqq", self._memory[:]))


def write_for_ever(directory, shared, seed):
    """Appends, prepares, rotates, fails, recovers, drops; until it is killed."""
    chance = random.Random(seed)
    writer = Writer(directory, shared)
    while True:
        writer.run([chance.choice("1234"), "prepare"])
        if chance.random() < 0.2:
            writer.fail(*chance.sample(["fdatasync", "write", "fsync", "unlink"], 2), recover=chance.random() < 0.5)
            writer.run(["recover"])
        while len(writer.journal.segments()) > 8:
            writer.run(["drop"])


def test_a_reader_beside_a_busy_writer(fast_dir):
    directory, shared = fast_dir / "journal", Shared()
    pid = os.fork()
    if not pid:
        try:
            write_for_ever(directory, shared, seed=5)
        except BaseException as error:  # noqa: BLE001 - a forked child must never run on into pytest
            os.write(2, repr(error).encode())
            os._exit(1)
    try:
        deadline = time.monotonic() + 100
        reads = 0
        while shared.now().droppable < 2000 or reads < 500:
            check_read(directory, shared.now().promised, shared.now)
            reads += 1
            assert time.monotonic() < deadline
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
