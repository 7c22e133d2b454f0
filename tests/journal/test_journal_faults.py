"""Errors of the disk: said, never swallowed, and nothing promised is lost by them."""

import errno
import fcntl
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from captchad.journal.lock import lock_holder, own_identity
from captchad.journal.osio import Os
from captchad.journal.records import Entry
from captchad.journal.store import Journal
from captchad.model.errors import CaptchadError, JournalDamaged, JournalDown, LockHeld
from tests.journal.kit import App, Clock, FailingOs, HookOs, Promises, padding, reopen

ROOT = Path(__file__).resolve().parents[2]
READY = ["prepare"] * 3
PLAN = ["1", "3", "drop", "2", "4", "drop", "1"]
PREPARED = ["1", "4", *READY, "2", "4", "prepare", "1", "drop", "6", *READY, "1"]


@pytest.fixture
def place(fast_dir):
    return fast_dir / "journal"


def opened(place, osio=None, **options):
    clock = Clock()
    options = {"segment_bytes": 2500, "reserve_bytes": 4096, "lock_wait_s": 0.0, **options}
    journal = Journal.open(place, clock=clock, osio=osio or HookOs(), **options)
    return journal, [record.fields["n"] for record in journal.replay()], clock


def replayed(place, osio=None):
    """The numbers that a new life finds."""
    journal, found, _ = opened(place, osio)
    journal.close()
    return found


def run_with_errors(directory, osio, promises, plan):
    """A life under errors: what was asked is asked again after a recovery, a few times. How often it was refused."""
    refused = 0
    try:
        app = App(directory, promises.tell, osio)
    except CaptchadError:
        return 1
    for step in [*plan, "1"]:
        for _ in range(3):
            try:
                if app.journal.state == "down":
                    app.run(["recover"])
                app.run([step])
                break
            except JournalDown:
                refused += 1
    app.close()
    return refused


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("plan", [PLAN, PREPARED], ids=["plain", "prepared"])
def test_an_error_at_any_call_loses_nothing_promised(fast_dir, error, for_good, plan):
    calls = 0
    for at in count(1):
        directory = fast_dir / str(at) / "journal"
        promises = Promises()
        osio = FailingOs(error, at, for_good=for_good)
        run_with_errors(directory, osio, promises, plan)
        assert promises.breach(reopen(directory)) == ""
        shutil.rmtree(fast_dir / str(at))
        if not osio.failed:
            break
        calls += 1
    assert calls > 70


def test_while_it_is_down_nothing_is_tried(place):
    journal, _, _ = opened(place, osio := FailingOs(errno.EIO, 1, only=("fdatasync",)))
    journal.append("add", {"n": 0})
    with pytest.raises(JournalDown, match="EIO"):
        journal.commit()
    assert (journal.state, journal.takes_intake, journal.room, journal.staged) == ("down", False, 0, 1)
    assert "EIO" in journal.reason
    osio.only, osio.count, osio.at = ("write", "open", "fdatasync", "fsync", "stat"), 0, 1
    with pytest.raises(JournalDown):
        journal.commit()
    assert osio.count == 0
    journal.close()


def test_a_file_whose_sync_failed_is_never_touched_again(place):
    touched = []

    class Watching(FailingOs):
        def around(self, name, args, call):
            if self.failed and name in ("write", "fsync", "fdatasync", "ftruncate"):
                touched.append(os.readlink(f"/proc/self/fd/{args[0]}"))
            return super().around(name, args, call)

    journal, _, _ = opened(place, Watching(errno.EIO, 2, only=("fdatasync",)))
    first = journal.append("add", {"n": 0})
    journal.commit()
    second = journal.append("add", {"n": 1})
    with pytest.raises(JournalDown):
        journal.commit()
    assert journal.read(second).fields["n"] == 1  # staged still
    third = journal.append("add", {"n": 2})  # allowed while it is down
    journal.recover()
    assert (journal.state, journal.reason, journal.segments(), journal.staged) == ("ok", "", [1, 2], 0)
    assert [journal.read(entry).fields["n"] for entry in (first, second, third)] == [0, 1, 2]
    assert (second.segment, third.segment) == (2, 2)
    journal.append("add", {"n": 3})
    journal.commit()
    assert touched
    assert str(place / "00000001.jsonl") not in touched
    journal.close()
    assert replayed(place) == [0, 1, 2, 3]


def test_a_recovery_that_fails_leaves_nothing_confusing(place):
    osio = FailingOs(errno.EIO, 2, for_good=True, only=("fdatasync", "fsync"))
    osio.at = 10_000
    journal, _, _ = opened(place, osio)
    journal.append("add", {"n": 0})
    journal.commit()
    osio.at = osio.count + 1
    journal.append("add", {"n": 1})
    with pytest.raises(JournalDown):
        journal.commit()
    for _ in range(3):
        with pytest.raises(JournalDown):
            journal.recover()
    assert sorted(path.name for path in place.glob("*.jsonl")) == ["00000001.jsonl"]
    osio.at = 10_000
    osio.for_good = False
    journal.recover()
    assert journal.segments() == [1, 5]
    journal.close()
    assert replayed(place) == [0, 1]


def test_a_failed_attempt_that_cannot_be_removed_is_ignored_and_goes_before_a_drop(place):
    class Sticky(FailingOs):
        sticky = True

        def around(self, name, args, call):
            if name == "unlink" and self.sticky:
                raise OSError(errno.EIO, "stuck")
            return super().around(name, args, call)

    osio = Sticky(errno.EIO, 1, for_good=True, only=("fdatasync",))
    journal, _, _ = opened(place, osio)
    journal.append("add", {"n": 0})
    with pytest.raises(JournalDown):
        journal.commit()
    osio.at, osio.count, osio.only = 2, 0, ("fsync",)  # the file is synced, its name is not
    with pytest.raises(JournalDown):
        journal.recover()
    osio.for_good = False
    journal.recover()
    assert sorted(path.name for path in place.glob("*.jsonl")) == [f"0000000{number}.jsonl" for number in (1, 2, 3)]
    assert journal.segments() == [1, 3]
    osio.sticky = False
    journal.append("add", {"n": 1}, b"1" * 3000)
    journal.commit()
    journal.append("add", {"n": 2})
    journal.commit()
    journal.drop_oldest()
    journal.drop_oldest()
    assert sorted(path.name for path in place.glob("*.jsonl")) == ["00000004.jsonl"]
    journal.close()
    assert replayed(place) == [2]


@pytest.mark.parametrize("error", [errno.EIO, errno.EDQUOT, errno.ENOSPC])
@pytest.mark.parametrize("at", range(1, 7))
def test_a_segment_that_cannot_be_made_ahead_does_no_harm(place, error, at):
    osio = FailingOs(error, 10_000, for_good=True, only=("free_bytes", "open", "fallocate", "fsync"))
    app = App(place, lambda what, value: None, osio)
    app.run(["5"])
    osio.at = osio.count + at
    for _ in range(6):
        app.journal.prepare()
    assert osio.failed
    assert app.journal.state == "ok"
    assert app.journal.unprepared.startswith(errno.errorcode[error])
    assert sorted(path.name for path in place.glob("*.jsonl")) == ["00000001.jsonl"]
    calls = osio.count
    app.journal.prepare()
    assert osio.count == calls  # not tried again within this second
    osio.for_good = False
    app.clock.now += 1.1
    app.run([*READY, "1"])
    assert (app.journal.unprepared, len(app.journal.segments())) == ("", 2)
    app.close()
    assert reopen(place) == list(range(6))


def test_a_recovery_uses_the_segment_made_ahead(place):
    osio = FailingOs(errno.EIO, 10_000, only=("fdatasync",))
    app = App(place, lambda what, value: None, osio, segment_bytes=7000)
    app.run(["4", *READY])
    assert (app.journal.segments(), (place / "00000002.jsonl").stat().st_size) == ([1], 0)
    osio.at = osio.count + 1
    with pytest.raises(JournalDown):
        app.run(["1"])
    app.journal.prepare()  # nothing is made while it is down
    osio.only, osio.count = ("open", "fsync"), 0
    app.run(["recover"])
    assert (osio.count, app.journal.segments()) == (0, [1, 2])
    app.close()
    assert reopen(place) == list(range(5))


def test_an_interrupt_in_a_commit_does_not_pass_for_success(place):
    class Interrupted(HookOs):
        armed = False

        def around(self, name, args, call):
            if self.armed and name == "fdatasync":
                raise KeyboardInterrupt
            return call()

    journal, _, _ = opened(place, osio := Interrupted())
    journal.append("add", {"n": 0})
    osio.armed = True
    with pytest.raises(KeyboardInterrupt):
        journal.commit()
    assert (journal.state, journal.staged) == ("down", 1)
    osio.armed = False
    journal.recover()
    journal.close()
    assert replayed(place) == [0]


def test_an_interrupt_in_a_recovery_leaves_no_file(place):
    class Interrupted(FailingOs):
        armed = False

        def around(self, name, args, call):
            if self.armed and name == "fsync":
                raise KeyboardInterrupt
            return super().around(name, args, call)

    journal, _, _ = opened(place, osio := Interrupted(errno.EIO, 1, only=("fdatasync",)))
    journal.append("add", {"n": 0})
    with pytest.raises(JournalDown):
        journal.commit()
    osio.armed = True
    with pytest.raises(KeyboardInterrupt):
        journal.recover()
    assert [path.name for path in place.glob("*.jsonl")] == ["00000001.jsonl"]
    assert (journal.state, journal.staged) == ("down", 1)
    osio.armed = False
    journal.recover()
    journal.close()
    assert replayed(place) == [0]


@pytest.mark.parametrize("harm", ["gone", "replaced", "written", "moved"])
def test_a_file_that_is_not_what_it_was_takes_no_record(place, harm):
    journal, _, _ = opened(place)
    journal.append("add", {"n": 0})
    journal.commit()
    path = place / "00000001.jsonl"
    if harm == "gone":
        path.unlink()
    elif harm == "replaced":
        path.rename(place / "other")
        shutil.copy(place / "other", path)
    elif harm == "written":
        with path.open("ab") as file:
            file.write(b"by hand\n")
    else:
        place.rename(place.with_name("moved"))
    journal.append("add", {"n": 1})
    with pytest.raises(JournalDown):
        journal.commit()
    if harm == "moved":
        with pytest.raises(JournalDown, match="ENOENT"):
            journal.recover()
        place.with_name("moved").rename(place)
    journal.recover()
    assert [record.fields["n"] for record in [journal.read(Entry(2, *found(place, 2, b'"n":1')))]] == [1]
    journal.close()
    if harm == "written":
        assert path.read_bytes().endswith(b"by hand\n")
    if harm != "gone":
        assert replayed(place) == [0, 1]


def found(place, number, text):
    """Where the line with `text` stands in a segment: offset and length."""
    data = (place / f"{number:08d}.jsonl").read_bytes()
    begin = data.rindex(b"\n", 0, data.index(text)) + 1
    return begin, data.index(b"\n", begin) + 1 - begin


def test_a_record_that_has_gone_bad_is_not_read(place):
    journal, _, _ = opened(place)
    entry = journal.append("add", {"n": 0}, padding(0))
    journal.commit()
    for wrong in (Entry(1, entry.offset, entry.length - 1), Entry(1, entry.offset + 1, 20), Entry(1, 10**6, 5)):
        with pytest.raises(JournalDamaged):
            journal.read(wrong)
    data = bytearray((place / "00000001.jsonl").read_bytes())
    data[entry.offset + 50] ^= 1
    (place / "00000001.jsonl").write_bytes(data)
    with pytest.raises(JournalDamaged) as caught:
        journal.read(entry)
    assert caught.value.hint
    with pytest.raises(ValueError, match="no record"):
        journal.read(Entry())
    journal.close()


def test_mending_that_cannot_be_written_is_put_off(place):
    app = App(place, lambda what, value: None, HookOs())
    app.run(["2", "1"])
    app.close()
    with (place / "00000001.jsonl").open("ab") as file:
        file.write(b"torn")
    (place / "lock").write_bytes(b"")  # its text is written anew: the first write
    osio = FailingOs(errno.ENOSPC, 2, for_good=True, only=("write",))
    journal, records, _ = opened(place, osio)
    assert (records, journal.state, journal.torn) == ([0, 1, 2], "down", 0)
    assert "ENOSPC" in journal.reason
    entry = journal.append("add", {"n": 3})
    with pytest.raises(JournalDown, match="ENOSPC"):
        journal.recover()
    osio.at, osio.for_good = 10_000, False
    journal.recover()
    assert entry.segment == journal.active == 3
    journal.close()
    assert (place / "00000001.jsonl").read_bytes().endswith(b"torn")
    assert replayed(place) == [0, 1, 2, 3]


def test_damage_that_could_not_be_set_aside_keeps_its_segment(place):
    app = App(place, lambda what, value: None, HookOs())
    app.run(["2", "2", "1", "1"])
    app.close()
    path = place / "00000001.jsonl"
    data = bytearray(path.read_bytes())
    data[app.entries[1].offset + 60] ^= 1
    path.write_bytes(data)

    class NoQuarantine(HookOs):
        armed = True

        def around(self, name, args, call):
            if self.armed and name == "mkdir" and args[0].name == "quarantine":
                raise OSError(errno.ENOSPC, "full")
            return call()

    journal, records, _ = opened(place, watching := NoQuarantine())
    assert (1 in records, journal.quarantined, journal.state) == (False, 1, "ok")
    journal.append("add", {"n": 6}, b"1" * 3000)
    journal.commit()
    journal.append("add", {"n": 7})
    journal.commit()
    with pytest.raises(JournalDown, match="ENOSPC"):
        journal.drop_oldest()
    assert path.exists()
    watching.armed = False
    journal.drop_oldest()
    assert not path.exists()
    assert len(list((place / "quarantine").iterdir())) == 1
    journal.close()


def test_a_short_write_to_the_byte(place):
    """RLIMIT_FSIZE stops a write in the middle, as a full disk does."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            status = write_up_to_a_limit(place)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert replayed(place) == [0, 1]


def write_up_to_a_limit(place):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal, _, _ = opened(place)
    journal.append("add", {"n": 0}, padding(0))
    journal.commit()
    size = (place / "00000001.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    journal.append("add", {"n": 1}, padding(3))
    try:
        journal.commit()
        return 2
    except JournalDown as error:
        if "EFBIG" not in str(error) or (place / "00000001.jsonl").stat().st_size != size:
            return 3
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.recover()
    journal.close()
    return 0


# Disks that are full, bad, or read-only.


@pytest.fixture(params=["tmpfs", "ext4"])
def full_disk(request, tmp_path):
    """The mount point of a small real file system."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if request.param == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", "size=16m", "captchad-test", mount)
    else:
        with (tmp_path / "image").open("wb") as file:
            file.truncate(24 << 20)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=4", tmp_path / "image")
        run("mount", "-o", "loop", tmp_path / "image", mount)
    if not mount.is_mount():
        raise RuntimeError("the test would fill the real disk")
    yield mount
    run("umount", "-l", mount)


def run(*command):
    """What the command printed. Raises CalledProcessError."""
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.strip()


class BadDisk:
    """An ext4 on a disk that has less than it says: a sync fails with EIO. Or one that the kernel makes read-only.

    It is mended as an operator would: unmounted under the open journal, given what it lacked, and mounted again.
    """

    def __init__(self, root, kind):
        self.mount = root / "disk"
        self._thin = root / "thin"
        self._image = self._thin / "image"
        self._loops = []
        for path in (self.mount, self._thin):
            path.mkdir()
        size = "3m" if kind == "EIO" else "64m"
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "captchad-test", self._thin)
        with self._image.open("wb") as file:
            file.truncate(32 << 20)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", "-J", "size=4", self._image)
        self._attach()

    def make_read_only(self):
        """What the kernel does to an ext4 with errors=remount-ro when it meets a fault."""
        name = Path(self._loops[-1]).name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("captchad-test")

    def mend(self):
        fd = os.open(self.mount, os.O_RDONLY)
        with suppress(OSError):  # it has shut down by itself
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", 2))  # nothing of the old mount reaches the image any more
        os.close(fd)
        run("umount", "-l", self.mount)
        run("mount", "-o", "remount,size=64m", self._thin)
        self._attach()

    def close(self):
        run("umount", "-l", self.mount)
        for loop in self._loops:
            run("losetup", "-d", loop)
        run("umount", "-l", self._thin)

    def _attach(self):
        self._loops.append(run("losetup", "-f", "--show", self._image))
        run("mount", "-o", "errors=remount-ro", self._loops[-1], self.mount)
        if not self.mount.is_mount():
            raise RuntimeError("the test would use the real disk")


_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN


@pytest.fixture(params=["EIO", "EROFS"])
def bad_disk(request, tmp_path):
    disk = BadDisk(tmp_path, request.param)
    disk.says = request.param
    yield disk
    disk.close()


def put_until_down(journal, number):
    """The number of the record that did not get through, and why."""
    for each in range(number, number + 400):
        try:
            put(journal, each, 100_000)
        except JournalDown as error:
            return each, str(error)
    raise AssertionError("the disk has taken 40 MB")


@pytest.mark.root
@pytest.mark.debian("mount", "e2fsprogs")
def test_a_disk_that_goes_bad_is_waited_for(bad_disk):
    place = bad_disk.mount / "journal"
    journal, _, _ = opened(place, Os(), segment_bytes=64 << 20)
    number = put(journal, put(journal, 0, 1000), 1000)
    if bad_disk.says == "EROFS":
        bad_disk.make_read_only()
    first = number
    number, reason = put_until_down(journal, number)
    assert bad_disk.says in reason
    journal.append("add", {"n": number + 1}, b"1")  # what is paid is staged meanwhile
    for _ in range(3):
        with pytest.raises(JournalDown, match=r"EIO|EROFS"):
            journal.recover()
    assert (journal.state, journal.takes_intake, journal.staged) == ("down", False, 2)
    bad_disk.mend()
    journal.recover()
    assert (journal.state, journal.staged) == ("ok", 0)
    assert journal.active > 1
    assert number > first or bad_disk.says == "EROFS"
    number = put(journal, number + 2, 1000)
    with pytest.raises(LockHeld):  # the lock is held on the disk that is there now
        opened(place, Os())
    journal.close()
    assert replayed(place, Os()) == list(range(number))


def test_a_directory_that_was_removed_and_brought_back(place, fast_dir):
    journal, _, _ = opened(place)
    entry = journal.append("add", {"n": 0})
    journal.commit()
    backup = fast_dir / "backup"
    shutil.copytree(place, backup)
    shutil.rmtree(place)
    journal.append("add", {"n": 1})
    for call in (journal.commit, journal.recover, journal.recover):
        with pytest.raises(JournalDown, match="ENOENT"):
            call()
    backup.rename(place)
    journal.recover()
    assert journal.read(entry).fields == {"n": 0}
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in journal.fileno_to_close_after_fork()]
    assert not [path for path in held if path.endswith("(deleted)")]  # nothing is read from what is gone
    with pytest.raises(LockHeld):
        opened(place)
    journal.append("add", {"n": 2})
    journal.commit()
    journal.close()
    assert replayed(place) == [0, 1, 2]


def test_a_lock_file_that_was_removed_is_made_and_held_anew(place):
    osio = FailingOs(errno.EIO, 1, only=("fdatasync",))
    journal, _, _ = opened(place, osio)
    (place / "lock").unlink()
    journal.append("add", {"n": 0})
    with pytest.raises(JournalDown):
        journal.commit()
    journal.recover()
    with pytest.raises(LockHeld) as caught:
        opened(place)
    assert caught.value.pid == os.getpid()
    assert lock_holder(place) == own_identity()
    journal.close()
    assert replayed(place) == [0]


#: A program that opens the journal named by its argument, adds record 1, and holds the lock until it reads a line.
ANOTHER = """
import sys
from pathlib import Path
from captchad.journal.store import Journal
from tests.journal.kit import Clock

journal = Journal.open(Path(sys.argv[1]), segment_bytes=2500, clock=Clock())
found = len(list(journal.replay()))
journal.append("add", {"n": 1})
journal.commit()
print(f"found {found}, added 1", flush=True)
input()
"""


def test_somebody_else_has_taken_the_lock_meanwhile(place):
    """His records would not count in a segment that we begin: so we stay down, also when he has gone."""
    journal, _, _ = opened(place)
    journal.append("add", {"n": 0})
    journal.commit()
    (place / "lock").unlink()
    command = [sys.executable, "-c", ANOTHER, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as other:
        assert other.stdout.readline() == "found 1, added 1\n"
        journal.append("add", {"n": 99})
        with pytest.raises(JournalDown, match="ESTALE"):
            journal.commit()
        with pytest.raises(JournalDown, match=f"locked by process {other.pid}"):
            journal.recover()
        other.communicate("\n")
    for _ in range(2):
        with pytest.raises(JournalDown, match=f"process {other.pid} took the lock") as caught:
            journal.recover()
    assert caught.value.hint == "restart captchad"
    assert journal.state == "down"
    journal.close()
    assert replayed(place) == [0, 1]


def fill(mount):
    """Take every block that is left."""
    with (mount / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@pytest.mark.root
@pytest.mark.debian("mount", "e2fsprogs")
def test_the_reserve_serves_outcomes_on_a_full_disk(full_disk):
    reserve = 256 << 10
    journal, _, clock = opened(full_disk / "journal", Os(), segment_bytes=1 << 20, reserve_bytes=reserve)
    journal.append("add", {"n": 0})
    journal.commit()
    assert journal.takes_intake
    fill(full_disk)
    number = 1
    while journal.takes_intake:  # new work is taken until only the reserve is left
        number = put(journal, number, 20_000)
    assert reserve - 25_000 < journal.room <= reserve
    while journal.room > 25_000:  # what is paid goes on being written
        number = put(journal, number, 20_000)
        assert not journal.takes_intake
    assert number > 12
    (full_disk / "filler").unlink()
    assert not journal.takes_intake  # it has looked within this second
    clock.now += 1.1
    assert journal.takes_intake
    number = put(journal, number, 20_000)
    journal.close()
    assert replayed(full_disk / "journal", Os()) == list(range(number))


@pytest.mark.root
@pytest.mark.debian("mount", "e2fsprogs")
def test_a_reserve_that_does_not_fit_takes_nothing_from_others(full_disk):
    fill(full_disk)
    with (full_disk / "filler").open("r+b") as file:
        file.truncate((full_disk / "filler").stat().st_size - (1 << 20))
    journal, _, _ = opened(full_disk / "journal", Os(), reserve_bytes=2 << 20)
    assert not journal.takes_intake
    free = os.statvfs(full_disk)
    assert free.f_bavail * free.f_frsize > 900 << 10
    put(journal, 0, 1000)
    journal.close()


def put(journal, number, size):
    journal.append("add", {"n": number}, b"1" * size)
    journal.commit()
    return number + 1


@pytest.mark.root
@pytest.mark.debian("mount", "e2fsprogs")
def test_a_batch_that_does_not_fit_waits_for_space(full_disk):
    journal, _, _ = opened(full_disk / "journal", Os(), segment_bytes=64 << 20, reserve_bytes=64 << 10)
    number = put(journal, 0, 1000)
    fill(full_disk)
    for _ in range(12):
        journal.append("add", {"n": number}, b"1" * (1 << 20))
        number += 1
    with pytest.raises(JournalDown, match="ENOSPC"):
        journal.commit()
    with pytest.raises(JournalDown, match="ENOSPC"):
        journal.recover()
    assert journal.staged == 12
    (full_disk / "filler").unlink()
    journal.recover()
    assert journal.state == "ok"
    journal.close()
    assert replayed(full_disk / "journal", Os()) == list(range(number))


@pytest.mark.root
@pytest.mark.debian("mount", "e2fsprogs")
def test_a_full_disk_puts_the_next_segment_off(full_disk):
    journal, _, clock = opened(full_disk / "journal", Os(), segment_bytes=10_000, reserve_bytes=64 << 10)
    fill(full_disk)
    number = 0
    for _ in range(5):
        number = put(journal, number, 5000)
    assert journal.segments() == [1]
    assert sorted(path.name for path in (full_disk / "journal").glob("*.jsonl")) == ["00000001.jsonl"]
    (full_disk / "filler").unlink()
    clock.now += 1.1
    number = put(journal, number, 5000)
    assert journal.segments() == [1, 2]
    journal.close()
    assert replayed(full_disk / "journal", Os()) == list(range(number))


@pytest.mark.root
@pytest.mark.debian("mount", "e2fsprogs")
def test_on_a_full_disk_the_segment_made_ahead_serves_before_the_reserve(full_disk):
    reserve = 64 << 10
    journal, _, clock = opened(full_disk / "journal", Os(), segment_bytes=64 << 10, reserve_bytes=reserve)
    number = 0
    while journal.size_bytes < 50 << 10:
        number = put(journal, number, 5000)
    with (full_disk / "filler").open("wb") as file:
        file.truncate(0)
        os.posix_fallocate(file.fileno(), 0, free_bytes(full_disk) - (9 << 20))
    journal.prepare()
    assert journal.unprepared.startswith("ENOSPC")  # what is scarce serves the active one
    (full_disk / "filler").unlink()
    clock.now += 1.1
    for _ in READY:
        journal.prepare()
    assert journal.unprepared == ""
    fill(full_disk)
    journal._segment_bytes = 1 << 30  # only the lack of space moves it on
    while journal.segments() == [1]:
        number = put(journal, number, 50_000)
        assert journal.takes_intake or journal.room > reserve - 60_000
    assert journal.takes_intake
    journal.close()
    assert replayed(full_disk / "journal", Os()) == list(range(number))


def free_bytes(place):
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


@pytest.mark.root
@pytest.mark.debian("mount", "e2fsprogs")
def test_a_start_on_a_full_disk_still_has_the_reserve(full_disk):
    journal, _, _ = opened(full_disk / "journal", Os(), segment_bytes=1 << 20, reserve_bytes=256 << 10)
    number = put(journal, 0, 1000)
    fill(full_disk)
    journal.close()
    journal, records, _ = opened(full_disk / "journal", Os(), segment_bytes=1 << 20, reserve_bytes=256 << 10)
    assert (records, journal.state) == ([0], "ok")
    assert journal.room > 256 << 10
    put(journal, number, 200_000)
    journal.close()


def test_without_fallocate_the_free_space_counts(place):
    osio = FailingOs(errno.EOPNOTSUPP, 1, for_good=True, only=("fallocate",))
    journal, _, clock = opened(place, osio)
    assert journal.takes_intake
    assert journal.room > 1 << 20
    free = {"bytes": 5000}

    class Shrinking(FailingOs):
        def free_bytes(self, fd):
            return free["bytes"]

    journal.close()
    journal, _, clock = opened(place, Shrinking(errno.EOPNOTSUPP, 1, for_good=True, only=("fallocate",)))
    clock.now += 1.1
    free["bytes"] = 4000
    put(journal, 0, 10)
    clock.now += 1.1
    put(journal, 1, 10)
    assert not journal.takes_intake
    free["bytes"] = 10 << 20
    clock.now += 1.1
    assert journal.takes_intake
    journal.close()


def test_what_is_staged_counts_against_the_room(place):
    journal, _, _ = opened(place)
    before = journal.room
    journal.append("add", {"n": 0}, b"1" * 2000)
    assert before - 2200 < journal.room < before - 2000
    journal.commit()
    journal.close()
