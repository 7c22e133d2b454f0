"""What the journal promises when nothing goes wrong, and how it treats what an earlier life left."""

import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest

from captchad.journal import lock, store
from captchad.journal.lock import Holder, lock_holder, own_identity, process_start, take_lock
from captchad.journal.osio import Os
from captchad.journal.records import MAX_RECORD, Entry, Place, draft, encode
from captchad.journal.store import Journal, ReadReport, read_all
from captchad.model.errors import JournalDamaged, JournalDown, LockHeld, NewerVersion, RecordTooLarge
from tests.journal.kit import App, Clock, HookOs, padding, reopen


def silent(what, value):
    """Nobody listens."""


@pytest.fixture
def place(fast_dir):
    return fast_dir / "journal"


def opened(place, **options):
    journal = Journal.open(place, segment_bytes=2500, reserve_bytes=4096, clock=Clock(), lock_wait_s=0.0, **options)
    assert list(journal.replay()) == []
    return journal


def numbers(place):
    return [record.fields["n"] for record in read_all(place)]


def segment(place, number):
    return place / f"{number:08d}.jsonl"


class Counting(HookOs):
    def __init__(self):
        super().__init__()
        self.names = []

    def around(self, name, args, call):
        self.names.append(name)
        return call()


def test_a_record_comes_back_as_it_was(place):
    journal = opened(place)
    entry = journal.append("add", {"a": [1, {"p": "ä"}]}, b'{"x":1}')
    assert journal.staged == 1
    for write in (lambda: None, journal.commit):  # staged, it is read as it will be
        write()
        record = journal.read(entry)
        assert (record.kind, record.fields, record.payload, record.entry) == (
            "add",
            {"a": [1, {"p": "ä"}]},
            b'{"x":1}',
            entry,
        )
    assert entry.segment == 1
    assert (journal.staged, journal.commits, journal.records, journal.state) == (0, 1, 1, "ok")
    journal.close()
    assert [each.payload for each in read_all(place)] == [b'{"x":1}']


def test_a_commit_is_one_write_and_one_sync(place):
    osio = Counting()
    journal = opened(place, osio=osio)
    for _ in range(10):
        journal.append("add", {})
    osio.names.clear()
    journal.commit()
    assert osio.names == ["stat", "write", "fdatasync"]
    osio.names.clear()
    journal.commit()
    assert osio.names == []
    journal.close()


def test_appending_does_no_input_or_output(place):
    osio = Counting()
    journal = opened(place, osio=osio)
    osio.names.clear()
    journal.append("add", {}, padding(3))
    assert osio.names == []
    journal.close()


def test_a_record_that_is_too_large_leaves_nothing_behind(place):
    journal = opened(place)
    with pytest.raises(RecordTooLarge):
        journal.append("add", {}, b"1" * MAX_RECORD)
    assert journal.staged == 0
    journal.close()


def test_segments_follow_each_other_and_the_oldest_can_go(place):
    app = App(place, silent, HookOs())
    app.run(["5", "1", "5", "1"])
    journal = app.journal
    assert journal.segments() == [1, 2, 3]
    assert (journal.oldest, journal.active) == (1, 3)
    assert journal.size_bytes == sum(segment(place, number).stat().st_size for number in (1, 2, 3))
    head = json.loads(segment(place, 2).read_bytes().splitlines()[0])
    assert (head["k"], head["v"], head["prev"], head["prev_len"]) == ("head", 1, 1, segment(place, 1).stat().st_size)
    entries = list(app.entries.values())
    assert [journal.read(entry).fields["n"] for entry in entries] == list(range(12))
    journal.drop_oldest()
    assert journal.segments() == [2, 3]
    with pytest.raises(ValueError, match="no record"):
        journal.read(entries[0])
    journal.drop_oldest()
    with pytest.raises(ValueError, match="active"):
        journal.drop_oldest()
    app.close()
    assert reopen(place) == [11]


# The segment that is made ahead.


def nearly_full(place, osio=None):
    """An application whose next commit rotates, and nothing is made ahead yet."""
    app = App(place, silent, osio or HookOs())
    app.run(["5"])
    return app


def prepared(place, osio=None):
    app = nearly_full(place, osio)
    app.run(["prepare"] * 3)
    return app


def files(place):
    return sorted(path.name for path in place.glob("*.jsonl"))


def test_a_rotation_into_a_segment_made_ahead_is_one_write_and_one_sync(place):
    app = prepared(place, osio := Counting())
    assert (app.journal.segments(), files(place)) == ([1], ["00000001.jsonl", "00000002.jsonl"])
    osio.names.clear()
    app.run(["1"])
    assert osio.names == ["stat", "stat", "write", "fdatasync", "ftruncate"]
    assert app.journal.segments() == [1, 2]
    app.close()
    assert reopen(place) == list(range(6))


def test_a_step_ahead_costs_one_sync_and_the_rest_nothing(place):
    app = App(place, silent, osio := Counting())
    app.run(["1"])
    osio.names.clear()
    app.journal.prepare()
    assert osio.names == []  # there is no need yet
    app.run(["2", "2"])
    steps = []
    for _ in range(5):
        osio.names.clear()
        app.journal.prepare()
        steps.append([name for name in osio.names if name in ("open", "fallocate", "fsync", "fdatasync", "write")])
    assert steps == [["open", "fallocate"], ["fsync"], ["open", "fsync"], [], []]
    assert osio.names == []
    app.close()


def test_a_segment_is_made_ahead_when_three_quarters_are_full(place):
    journal = opened(place)
    sizes = []
    while not segment(place, 2).exists():
        journal.append("add", {}, b"1" * 100)
        journal.commit()
        sizes.append(journal.size_bytes)
        journal.prepare()
    assert sizes[-2] < 1875 <= sizes[-1] < 2500
    journal.close()


def test_a_segment_made_ahead_has_its_space_and_no_byte(place):
    journal = Journal.open(place, segment_bytes=1, clock=Clock(), reserve_bytes=1 << 20)
    list(journal.replay())
    fds = len(journal.fileno_to_close_after_fork())
    for _ in range(3):
        journal.prepare()
    found = segment(place, 2).stat()
    assert found.st_size == 0
    assert found.st_blocks * 512 > 2 << 20
    assert len(journal.fileno_to_close_after_fork()) == fds + 1
    journal.append("add", {})
    journal.commit()
    assert journal.room > 2 << 20
    journal.close()


def test_a_close_takes_an_unused_segment_away(place):
    app = prepared(place)
    app.close()
    assert files(place) == ["00000001.jsonl"]


def test_readers_and_the_next_life_do_not_mind_an_unused_segment(place):
    prepared(place).close()
    segment(place, 2).touch()
    report = ReadReport()
    assert [record.fields["n"] for record in read_all(place, report=report)] == list(range(5))
    assert (report.segments, report.missing, report.holes) == (1, [], [])
    app = App(place, silent, HookOs())
    assert (app.found, app.journal.state, app.journal.torn) == (list(range(5)), "ok", 0)
    assert (files(place), kept(place)) == (["00000001.jsonl"], [])
    app.run(["1", "drop"])
    app.close()
    assert reopen(place) == [5]


@pytest.mark.parametrize("harm", ["gone", "replaced", "written"])
def test_a_segment_made_ahead_that_was_touched_is_not_used(place, harm):
    app = prepared(place)
    if harm != "written":
        segment(place, 2).unlink()
    if harm != "gone":
        segment(place, 2).write_bytes(b"by hand\n")
    app.run(["1"])
    assert (app.journal.state, app.journal.segments()) == ("ok", [1, 3])
    assert harm == "gone" or segment(place, 2).read_bytes() == b"by hand\n"
    assert numbers(place) == list(range(6))
    app.run(["5", "1", "drop", "drop"])  # the foreign file must not look like the far side of a gap
    assert files(place) == ["00000004.jsonl"]
    app.close()
    assert reopen(place) == [11]


def test_a_foreign_file_where_the_next_segment_goes_is_passed_over(place):
    app = nearly_full(place)
    segment(place, 2).write_bytes(b"by hand\n")
    app.journal.prepare()
    assert (app.journal.state, app.journal.unprepared) == ("ok", "EEXIST (File exists)")
    app.clock.now += 1.1
    app.run([*["prepare"] * 3, "1"])
    assert (app.journal.segments(), app.journal.unprepared) == ([1, 3], "")
    segment(place, 4).write_bytes(b"by hand\n")
    app.run(["5"])
    with pytest.raises(JournalDown, match="EEXIST"):
        app.run(["1"])
    app.run(["recover"])
    assert app.journal.segments() == [1, 3, 5]
    app.close()
    assert reopen(place) == list(range(12))


def test_when_the_numbers_are_used_up_the_last_segment_goes_on(place, monkeypatch):
    monkeypatch.setattr(store, "_LAST_NUMBER", 2)
    app = App(place, silent, HookOs())
    app.run(["5", "1", "5", "prepare", "1"])
    assert (app.journal.state, app.journal.segments()) == ("ok", [1, 2])
    assert app.journal.unprepared.startswith("EOVERFLOW")
    app.close()
    assert reopen(place) == list(range(12))


def test_a_segment_that_cannot_be_followed_never_grows_beyond_what_is_read(place, monkeypatch):
    monkeypatch.setattr(store, "SEGMENT_BYTES_MAX", 7000)
    monkeypatch.setattr(store, "_LAST_NUMBER", 1)
    app = App(place, silent, HookOs())
    app.run(["4"])  # 5.6 kB
    with pytest.raises(JournalDown, match="EFBIG"):
        app.run(["7"])
    assert segment(place, 1).stat().st_size < 7000
    monkeypatch.setattr(store, "_LAST_NUMBER", 2)
    app.run(["recover"])
    app.close()
    assert reopen(place) == list(range(11))


def test_many_segments_are_read_with_few_descriptors(place):
    app = App(place, silent, HookOs(), segment_bytes=1)
    app.run(["1"] * 20)
    for number, entry in app.entries.items():
        assert app.journal.read(entry).fields["n"] == number
    assert len(app.journal.fileno_to_close_after_fork()) <= 10
    app.close()


def test_old_segments_keep_no_reserve(place):
    journal = Journal.open(place, segment_bytes=1, clock=Clock())
    list(journal.replay())
    for _ in range(2):
        journal.append("add", {})
        journal.commit()
    assert segment(place, 1).stat().st_blocks * 512 < 64 << 10
    assert segment(place, journal.active).stat().st_blocks * 512 > 2 << 20
    journal.close()


def test_replay_must_have_run_and_runs_once(place):
    journal = Journal.open(place, segment_bytes=1, clock=Clock(), osio=HookOs())
    for call in (lambda: journal.append("add", {}), journal.commit, journal.recover, journal.drop_oldest):
        with pytest.raises(RuntimeError, match="replay"):
            call()
    list(journal.replay())
    with pytest.raises(RuntimeError, match="once"):
        list(journal.replay())
    journal.close()
    with pytest.raises(RuntimeError, match="open"):
        journal.append("add", {})


@pytest.mark.parametrize("options", [{"segment_bytes": 0}, {"segment_bytes": 5 << 30}, {"reserve_bytes": -1}])
def test_sizes_are_checked(place, options):
    with pytest.raises(ValueError, match="segment_bytes"):
        Journal.open(place, clock=Clock(), **{"segment_bytes": 1, **options})


# The lock.


def test_one_process_writes(place):
    journal = opened(place)
    with pytest.raises(LockHeld) as caught:
        opened(place)
    assert caught.value.pid == os.getpid()
    assert lock_holder(place) == own_identity()
    journal.close()
    opened(place).close()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff{",
        b'{"pid": 1, "start": 1, "boot": "another"}',
        b'{"pid": 4194303, "start": 1, "boot": "of a process that is gone"}',
    ],
)
def test_the_holder_is_named_also_when_its_text_is_old_or_unreadable(place, text):
    """The kernel knows who holds the lock; a start on a full disk leaves an earlier daemon's text."""
    place.mkdir()
    (place / "lock").write_bytes(text)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(place / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(LockHeld, match=f"locked by process {holder.pid}$") as caught:
            opened(place)
        assert caught.value.pid == holder.pid
        holder.communicate(b"\n")
    assert (place / "lock").read_bytes() == text
    opened(place).close()


def test_a_text_is_believed_only_if_its_process_lives(place, monkeypatch):
    """Where the kernel does not list the lock."""
    monkeypatch.setattr(lock, "_KERNEL_LOCK", re.compile("(?!)"))
    journal = opened(place)
    with pytest.raises(LockHeld) as caught:
        opened(place)
    assert caught.value.pid == os.getpid()
    me = asdict(own_identity())
    for old in ({"start": me["start"] + 1}, {"boot": "another"}, {"pid": 2**22 + 1}):
        (place / "lock").write_text(json.dumps(me | old))
        with pytest.raises(LockHeld, match="cannot be told") as caught:
            opened(place)
        assert caught.value.pid == 0
    journal.close()


def test_a_lock_is_waited_for(place):
    journal = opened(place)
    waits, told = [], []

    class Waiting(Os):
        def sleep(self, seconds):
            assert told == [(os.getpid(), f"{place} is locked by process {os.getpid()}", 10.0)]  # at once, and once
            waits.append(seconds)
            if len(waits) == 3:
                journal.close()

    options = {"lock_wait_s": 10.0, "lock_awaited": lambda held, wait_s: told.append((held.pid, str(held), wait_s))}
    Journal.open(place, segment_bytes=1, clock=Clock(), osio=Waiting(), **options).close()
    assert len(waits) == 3
    told.clear()
    Journal.open(place, segment_bytes=1, clock=Clock(), **options).close()
    assert told == []


def test_a_lock_that_stays_is_waited_for_so_long_only(place):
    journal = opened(place)
    waits = []

    class Waiting(Os):
        def sleep(self, seconds):
            waits.append(seconds)

    with pytest.raises(LockHeld):
        Journal.open(place, segment_bytes=1, clock=Clock(), osio=Waiting(), lock_wait_s=1.0)
    assert 0.9 < sum(waits) < 1.2
    journal.close()


def test_a_child_that_closes_its_copies_leaves_the_lock_with_the_parent(place):
    journal = opened(place)
    pid = os.fork()
    if not pid:
        for fd in journal.fileno_to_close_after_fork():
            os.close(fd)
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(LockHeld):
        opened(place)
    journal.append("add", {})
    journal.commit()
    journal.close()
    opened_again = Journal.open(place, segment_bytes=1, clock=Clock(), lock_wait_s=0.0)
    opened_again.close()


def test_another_program_inherits_nothing(place):
    journal = opened(place)
    fds = journal.fileno_to_close_after_fork()
    code = f"import os\nfor fd in {fds}:\n try: os.fstat(fd)\n except OSError: print('closed')"
    done = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["closed"] * len(fds)
    journal.close()


def test_a_lock_file_that_was_replaced_is_not_enough(place):
    journal = opened(place)
    (place / "lock").unlink()
    replaced = []

    class Replacing(Os):
        def flock(self, fd, operation):
            super().flock(fd, operation)
            if not replaced:
                (place / "lock").unlink()
                replaced.append(fd)

    fd = take_lock(Replacing(), place, 1.0)
    assert os.path.samestat(os.fstat(fd), (place / "lock").stat())
    os.close(fd)
    journal.close()


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 160, b"[]", b'{"pid":1}', b'{"pid":1e999,"start":1,"boot":""}', b"\xff"]
)
def test_a_lock_file_may_hold_anything(place, text):
    place.mkdir()
    (place / "lock").write_bytes(text)
    assert lock_holder(place) is None
    opened(place).close()
    assert lock_holder(place) == own_identity()


def test_a_process_is_named_by_its_start():
    assert process_start(os.getpid()) == own_identity().start > 0
    assert process_start(2**22 + 1) is None
    assert own_identity() == Holder(os.getpid(), own_identity().start, own_identity().boot)


def test_directories_are_made_private(place):
    opened(place).close()
    assert place.stat().st_mode & 0o777 == 0o750 & ~current_umask()
    assert segment(place, 1).stat().st_mode & 0o007 == 0


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# What an earlier life left.


def filled(place, plan=("1", "1", "1")):
    """A journal with the commits of `plan`, closed."""
    app = App(place, silent, HookOs())
    app.run(plan)
    app.close()
    return app


def replayed(place):
    """The numbers found by a new life, and the life itself, closed."""
    app = App(place, silent, HookOs())
    app.close()
    return app.found, app.journal


def kept(place):
    return sorted((place / "quarantine").iterdir()) if (place / "quarantine").is_dir() else []


def test_a_torn_tail_is_kept_aside_and_cut_off(place):
    filled(place)
    whole = segment(place, 1).read_bytes()
    segment(place, 1).write_bytes(whole + b'{"c":"0000')
    found, journal = replayed(place)
    assert found == [0, 1, 2]
    assert (journal.torn, journal.quarantined, journal.state) == (1, 0, "ok")
    assert segment(place, 1).read_bytes() == whole
    assert [path.read_bytes() for path in kept(place)] == [b'{"c":"0000']
    assert replayed(place)[1].torn == 0


def test_the_tail_is_synced_and_read_from_the_disk_before_it_is_believed(place):
    """After a failed sync the page cache shows what the disk has not, so the cache is dropped first."""
    filled(place)
    seen = []

    class Watching(HookOs):
        def around(self, name, args, call):
            if name in ("fsync", "drop_cache", "pread") and segment(place, 1).samefile(f"/proc/self/fd/{args[0]}"):
                seen.append(name)
            return call()

    app = App(place, silent, Watching())
    app.close()
    assert seen[seen.index("fsync") : seen.index("fsync") + 3] == ["fsync", "drop_cache", "pread"]
    assert seen.count("pread") >= 4  # header, then again from the disk, then all of it
    assert "fsync" not in seen[seen.index("fsync") + 1 :]


def test_zeros_are_a_legal_tail(place):
    filled(place)
    whole = segment(place, 1).read_bytes()
    segment(place, 1).write_bytes(whole + bytes(100_000))
    found, journal = replayed(place)
    assert (found, journal.torn, kept(place)) == ([0, 1, 2], 1, [])
    assert segment(place, 1).read_bytes() == whole


def test_bad_bytes_that_may_be_an_unfinished_commit_end_the_journal(place):
    app = filled(place, ["1", "3"])
    entry = app.entries[1]
    damage(segment(place, 1), entry.offset + 20)
    found, journal = replayed(place)
    assert (found, journal.torn, journal.quarantined) == ([0], 1, 0)


def damage(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x55
    path.write_bytes(data)


def test_synced_bytes_that_are_bad_are_set_aside_once_and_never_rewritten(place):
    app = filled(place, ["2", "2"])
    entry = app.entries[1]
    damage(segment(place, 1), entry.offset + 20)
    before = segment(place, 1).read_bytes()
    written_at = {}
    for _ in range(2):
        found, journal = replayed(place)
        assert found == [0, 2, 3]
        assert (journal.torn, journal.quarantined) == (0, 1)
        assert segment(place, 1).read_bytes() == before
        (path,) = kept(place)
        assert path.stat().st_mtime_ns == written_at.setdefault(path, path.stat().st_mtime_ns)
        note = json.loads(path.read_bytes())
        assert (note["segment"], note["offset"], note["length"]) == (1, entry.offset, entry.length)
    (hole,) = journal.holes
    assert (hole.segment, hole.offset, hole.length) == (1, entry.offset, entry.length)


def overwrite(path, offset, data):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def end_of(entry):
    """Where the newline of a record is."""
    return entry.offset + entry.length - 1


@pytest.mark.parametrize("lost", [[1], [1, 2], [0, 1, 2, 3], [4], [5]])
def test_a_newline_that_has_gone_bad_costs_no_record(place, lost):
    app = filled(place, ["2", "2", "1", "1"])
    assert [entry.segment for entry in app.entries.values()] == [1, 1, 1, 1, 2, 2]
    for entry in (app.entries[number] for number in lost):
        damage(segment(place, entry.segment), end_of(entry))
    report = ReadReport()
    assert [record.fields["n"] for record in read_all(place, report=report)] == list(range(6))
    assert report.holes == []
    app = App(place, silent, HookOs())
    assert app.found == list(range(6))
    assert (app.journal.quarantined, app.journal.torn) == (0, 0)
    for number, entry in app.entries.items():
        for known in (entry, Entry(entry.segment, entry.offset)):
            assert app.journal.read(known).fields["n"] == number
    app.run(["5"])
    app.close()
    assert reopen(place) == list(range(11))


def test_a_record_behind_a_bad_end_is_found_by_its_place(place):
    app = filled(place, ["2", "2", "1"])
    bad = app.entries[1]
    overwrite(segment(place, 1), end_of(bad) - 10, b"#" * 11)
    found, journal = replayed(place)
    assert (found, journal.quarantined) == ([0, 2, 3, 4], 1)
    assert (journal.holes[0].offset, journal.holes[0].length) == (bad.offset, bad.length)


def test_the_newline_before_the_last_commit_may_be_bad_and_it_still_vouches_for_what_was_before(place):
    app = filled(place, ["1", "1", "1"])
    overwrite(segment(place, 1), end_of(app.entries[1]) - 10, b"#" * 11)
    found, journal = replayed(place)
    assert (found, journal.quarantined, journal.torn) == ([0, 2], 1, 0)


@pytest.mark.parametrize(
    ("opening", "closing"), [(b'{"x":', b"}"), (b'{"x": ', b"}"), (b"[", b"]"), (b"[1,", b"]"), (b"[1,\t", b"]")]
)
def test_what_looks_like_a_record_in_a_payload_is_none(place, opening, closing):
    """A task file may hold anything, also an object that says where it stands; damage must not bring it to life."""
    filled(place)
    at = Place(1, segment(place, 1).stat().st_size)
    start = len(encode(draft("add", {}, opening), at, at)) - len(b"}\n")
    forged = encode(draft("add", {"n": 99}, b"1}" + closing), Place(1, at.offset + start))
    line = encode(draft("add", {}, opening + forged.removesuffix(b"}\n")), at, at)
    assert line[start:] == forged
    json.loads(line)
    behind = Place(1, at.offset + len(line))
    overwrite(segment(place, 1), at.offset, line + encode(draft("add", {"n": 3}, padding(3)), behind, behind))
    damage(segment(place, 1), at.offset + 60)
    app = App(place, silent, HookOs())
    app.close()
    assert (app.found, app.journal.quarantined) == ([0, 1, 2, 3], 1)


def test_a_middle_segment_that_is_too_short_is_damage(place):
    app = filled(place, ["5", "1", "5", "1"])
    middle = segment(place, 2)
    last = app.entries[10]
    assert last.segment == 2
    middle.write_bytes(middle.read_bytes()[: last.offset + 10])
    found, journal = replayed(place)
    assert found == [number for number in range(12) if number != 10]
    assert (journal.quarantined, journal.holes[0].length) == (1, last.length)


def test_a_missing_middle_segment_needs_an_operator(place):
    filled(place, ["5", "1", "5", "1"])
    segment(place, 2).unlink()
    before = snapshot(place)
    with pytest.raises(JournalDamaged) as caught:
        replayed(place)
    assert "captchactl journal repair" in caught.value.hint
    assert snapshot(place) == before


def snapshot(place):
    return {path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [1, 2])
def test_an_unreadable_header_of_an_older_segment_needs_an_operator(place, number):
    filled(place, ["5", "1", "5", "1"])
    damage(segment(place, number), 30)
    with pytest.raises(JournalDamaged):
        replayed(place)


def test_a_damaged_header_of_the_last_segment_is_not_taken_for_a_torn_one(place):
    filled(place, ["1", "1"])
    damage(segment(place, 1), 30)
    with pytest.raises(JournalDamaged, match="header"):
        replayed(place)


@pytest.mark.parametrize(("left", "aside"), [(b"", 0), (bytes(500), 0), (b'{"c":"12', 1)])
def test_a_last_segment_without_a_whole_header_is_reset(place, left, aside):
    filled(place, ["5", "1"])
    segment(place, 3).write_bytes(left)
    app = App(place, silent, HookOs())
    assert app.found == [0, 1, 2, 3, 4, 5]
    assert app.journal.segments() == [1, 2]
    assert not segment(place, 3).exists()
    assert (app.journal.torn, len(kept(place))) == (aside, aside)
    app.run(["5", "1"])
    app.close()
    assert reopen(place) == list(range(12))


def test_a_segment_that_no_header_names_is_ignored_and_removed(place):
    filled(place, ["5", "1"])
    head = {"v": 1, "prev": 1, "prev_len": 0}
    segment(place, 2).rename(segment(place, 4))
    (place / "00000004.jsonl").unlink()
    stray = encode(draft("head", head), Place(2, 0)) + b"whatever"
    segment(place, 2).write_bytes(stray)
    length = segment(place, 1).stat().st_size
    tail = encode(draft("head", {"v": 1, "prev": 1, "prev_len": length}), Place(3, 0), Place(1, length))
    segment(place, 3).write_bytes(tail)
    app = App(place, silent, HookOs())
    assert app.found == [0, 1, 2, 3, 4]
    assert app.journal.segments() == [1, 3]
    assert not segment(place, 2).exists()
    app.close()


def test_bytes_beyond_the_length_that_the_next_header_names_do_not_count(place):
    filled(place, ["5", "1"])
    size = segment(place, 1).stat().st_size
    extra = encode(draft("add", {"n": 99}, padding(99)), Place(1, size), Place(1, size))
    with segment(place, 1).open("ab") as file:
        file.write(extra + b"garbage")
    found, journal = replayed(place)
    assert (found, journal.torn, journal.quarantined) == ([0, 1, 2, 3, 4, 5], 0, 0)
    assert numbers(place) == found


def test_a_later_version_is_refused_and_left_alone(place):
    filled(place, ["5", "1"])
    segment(place, 2).write_bytes(encode(draft("head", {"v": 2, "more": 1}), Place(2, 0)) + b"torn")
    before = snapshot(place)
    with pytest.raises(NewerVersion):
        replayed(place)
    with pytest.raises(NewerVersion):
        list(read_all(place))
    assert snapshot(place) == before


def test_a_replay_that_its_reader_gives_up_changes_nothing(place):
    """As he does when he meets a kind of record that only a later captchad knows."""
    app = filled(place, ["5", "1", "1"])
    damage(segment(place, 1), app.entries[1].offset + 40)
    with segment(place, 2).open("ab") as file:
        file.write(b"torn")
    segment(place, 3).write_bytes(b"stray")
    before = snapshot(place)
    for given_up_at in range(6):
        journal = Journal.open(place, segment_bytes=2500, clock=Clock(), lock_wait_s=0.0)
        replay = journal.replay()
        for _ in range(given_up_at + 1):
            next(replay)
        replay.close()
        journal.close()
        assert snapshot(place) == before


def test_a_line_moved_to_another_place_is_bad(place):
    app = filled(place, ["3", "1"])
    data = segment(place, 1).read_bytes()
    one, two = app.entries[0], app.entries[1]
    first = data[one.offset : one.offset + one.length]
    segment(place, 1).write_bytes(
        data[: one.offset] + data[two.offset : two.offset + two.length] + first + data[app.entries[2].offset :]
    )
    found, journal = replayed(place)
    assert (found, journal.quarantined) == ([2, 3], 1)


# Reading without the lock.


def test_reading_takes_no_lock_and_writes_nothing(place):
    app = App(place, silent, HookOs())
    app.run(["5", "1", "1"])
    with segment(place, 2).open("ab") as file:
        file.write(b'{"c":"an append under way')
    before = snapshot(place)
    report = ReadReport()
    assert [record.fields["n"] for record in read_all(place, report=report)] == list(range(7))
    assert snapshot(place) == before
    assert (report.segments, report.records, report.holes, report.missing) == (2, 7, [], [])
    assert report.unfinished_bytes == 25
    app.close()


def test_reading_skips_damage_and_counts_it(place):
    app = filled(place, ["5", "1", "5", "1"])
    damage(segment(place, 1), app.entries[1].offset + 40)
    segment(place, 2).unlink()
    report = ReadReport()
    assert [record.fields["n"] for record in read_all(place, report=report)] == [0, 2, 3, 4, 11]
    assert (report.missing, [hole.offset for hole in report.holes]) == ([2], [app.entries[1].offset])


def test_reading_shows_what_counted_when_it_began(place):
    app = App(place, silent, HookOs())
    app.run(["5", "1"])
    reader = read_all(place)
    assert next(reader).fields["n"] == 0
    app.run(["1", "5", "1", "drop", "drop"])
    assert [record.fields["n"] for record in reader] == list(
        range(1, 12)
    )  # to the end of the segment that was the last
    assert numbers(place) == [12]
    app.close()


def test_reading_while_a_segment_is_given_up(place):
    class Refusing(HookOs):
        def around(self, name, args, call):
            if name == "fdatasync" and journal.staged and journal.commits:
                raise OSError(errno.EIO, "broken")
            return call()

    class Reading(Os):
        def pread(self, fd, size, offset):
            data = super().pread(fd, size, offset)
            if size > 4096 and journal.state == "down":
                journal.recover()  # the bytes just read hold a record that is now in the next segment too
            return data

    journal = opened(place, osio=Refusing())
    for number in range(2):
        journal.append("add", {"n": number})
        if number:
            with pytest.raises(JournalDown):
                journal.commit()
        else:
            journal.commit()
    assert [record.fields["n"] for record in read_all(place, Reading())] == [0, 1]
    assert journal.segments() == [1, 2]
    journal.close()


def test_reading_nothing(tmp_path):
    assert list(read_all(tmp_path / "missing")) == []
    assert list(read_all(tmp_path)) == []


def test_grep_and_jq_work(place):
    filled(place, ["2"])
    lines = [json.loads(line) for line in segment(place, 1).read_text().splitlines()]
    assert [line.get("n") for line in lines] == [None, 0, 1]
    if shutil.which("jq"):
        done = subprocess.run(["jq", "-c", ".p.n", segment(place, 1)], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["null", "0", "1"]


def test_flock_is_what_holds_it(place):
    journal = opened(place)
    fd = os.open(place / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    journal.close()
