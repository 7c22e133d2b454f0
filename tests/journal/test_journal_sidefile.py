"""Side files: whole or not at all, silent while their worker lives, and hostile bytes harm nobody."""

import errno
import os
import signal
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captchad.journal.osio import Os
from captchad.journal.records import Place, draft, encode
from captchad.journal.sidefile import SideFile, SidePath, SideReport, read_side_file, remove_side_files, side_files
from captchad.model.errors import JournalDown, LockHeld, NewerVersion, RecordTooLarge
from tests.journal.kit import FailingOs, HookOs, KillingOs

OUTCOMES = [{"n": 4, "o": "submitted", "cid": "77"}, {"n": 5, "o": "solved", "answer": {"a": 1, "p": [2]}}]


def written(directory, outcomes=OUTCOMES, osio=None):
    side = SideFile.create(directory, 3, 1, osio=osio)
    try:
        side.finish(outcomes)
    finally:
        side.close()
    return directory / "workers" / "3-1.jsonl"


def test_a_worker_that_lives_says_nothing(tmp_path):
    side = SideFile.create(tmp_path, 3, 1)
    path = tmp_path / "workers" / "3-1.jsonl"
    assert side_files(tmp_path) == [SidePath(3, 1, path)]
    assert read_side_file(path) is None
    side.finish(OUTCOMES)
    assert read_side_file(path) is None
    side.close()
    assert read_side_file(path) == SideReport(3, 1, OUTCOMES, ended=True)


def test_space_is_reserved_without_making_the_file_longer(tmp_path):
    side = SideFile.create(tmp_path, 3, 1, preallocate=1 << 20)
    status = os.fstat(side.fileno())
    assert side.reserved
    assert status.st_size < 200
    assert status.st_blocks * 512 >= 1 << 20
    side.close()


def test_without_an_end_it_is_not_known_what_was_missing(tmp_path):
    side = SideFile.create(tmp_path, 3, 1)
    side.close()
    assert read_side_file(tmp_path / "workers" / "3-1.jsonl") == SideReport(3, 1, [], ended=False)


def test_every_cut_and_every_missing_line_takes_the_end_away(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        report = read_side_file(path)
        assert report.outcomes == OUTCOMES[: len(report.outcomes)]
        assert not report.ended
    lines = whole.splitlines(keepends=True)
    for index in (1, 2):
        path.write_bytes(b"".join([*lines[:index], b" " * (len(lines[index]) - 1) + b"\n", *lines[index + 1 :]]))
        report = read_side_file(path)
        assert (len(report.outcomes), report.ended) == (1, False)


def test_another_workers_words_are_not_taken(tmp_path):
    path = written(tmp_path)
    for name in ("4-1.jsonl", "3-2.jsonl"):
        os.link(path, path.with_name(name))
        assert not read_side_file(path.with_name(name)).ended
    assert read_side_file(path.with_name("3-2.jsonl")).outcomes == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(st.data())
def test_damage_never_raises_and_never_makes_up_an_outcome(fast_dir, data):
    path = fast_dir / "workers" / "3-1.jsonl"
    if not path.exists():
        written(fast_dir)
        path.with_suffix(".good").write_bytes(path.read_bytes())
    content = bytearray(path.with_suffix(".good").read_bytes())
    begin = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(begin, len(content)))
    content[begin:end] = data.draw(st.binary(max_size=200))
    path.write_bytes(content)
    report = read_side_file(path)
    assert all(outcome in OUTCOMES for outcome in report.outcomes)
    assert not report.ended or report.outcomes == OUTCOMES


def test_a_kill_at_any_call_leaves_no_false_end(fast_dir):
    for at in count(1):
        directory = fast_dir / str(at)
        directory.mkdir()
        pid = os.fork()
        if not pid:
            try:
                written(directory, osio=KillingOs(at, "inside", really=True))
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for side in side_files(directory):
            report = read_side_file(side.path)
            assert report.outcomes == OUTCOMES[: len(report.outcomes)]
            assert not report.ended or report.outcomes == OUTCOMES
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert at > 12


def test_an_error_at_any_call_is_said_plainly(fast_dir):
    for at in count(1):
        osio = FailingOs(errno.EIO, at)
        directory = fast_dir / str(at)
        directory.mkdir()
        message = ""
        try:
            written(directory, osio=osio)
        except JournalDown as error:
            message = str(error)
        except OSError:
            message = "EIO" if osio.failed == ["close"] else ""
        assert "EIO" in message or not osio.failed
        if not osio.failed:
            break
    assert at > 12


def test_a_worker_boots_on_a_full_disk(tmp_path):
    side = SideFile.create(tmp_path, 3, 1, osio=FailingOs(errno.ENOSPC, 1, for_good=True, only=("write", "fallocate")))
    assert not side.reserved
    with pytest.raises(JournalDown, match="ENOSPC"):
        side.finish(OUTCOMES)
    side.close()
    assert read_side_file(tmp_path / "workers" / "3-1.jsonl") == SideReport(3, 1, [], ended=False)


def test_when_the_disk_has_room_again_the_last_words_are_whole(tmp_path):
    side = SideFile.create(tmp_path, 3, 1, osio=FailingOs(errno.ENOSPC, 1, only=("write",)))
    side.finish(OUTCOMES)
    side.close()
    assert read_side_file(tmp_path / "workers" / "3-1.jsonl") == SideReport(3, 1, OUTCOMES, ended=True)


def test_a_failed_sync_is_not_tried_again(tmp_path):
    side = SideFile.create(tmp_path, 3, 1, osio=FailingOs(errno.EIO, 4, only=("fsync",)))
    for _ in range(2):
        with pytest.raises(JournalDown):
            side.finish(OUTCOMES)
    side.close()


def test_one_outcome_that_cannot_be_written_does_not_take_the_others_along(tmp_path):
    side = SideFile.create(tmp_path, 3, 1)
    with pytest.raises(RecordTooLarge):
        side.finish([OUTCOMES[0], {"n": 9, "token": "x" * (3 << 20)}, OUTCOMES[1]])
    side.close()
    assert read_side_file(tmp_path / "workers" / "3-1.jsonl") == SideReport(3, 1, OUTCOMES, ended=False)


def test_a_number_is_used_once(tmp_path):
    written(tmp_path)
    with pytest.raises(JournalDown, match="EEXIST"):
        SideFile.create(tmp_path, 3, 1)
    assert read_side_file(tmp_path / "workers" / "3-1.jsonl").ended


def test_a_reader_that_is_quicker_with_the_lock_is_told_apart(tmp_path):
    class Slow(HookOs):
        def around(self, name, args, call):
            if name == "flock":
                raise BlockingIOError(errno.EAGAIN, "held")
            return call()

    with pytest.raises(LockHeld):
        SideFile.create(tmp_path, 3, 1, osio=Slow())
    assert side_files(tmp_path) == []


def test_a_later_version_is_refused(tmp_path):
    path = written(tmp_path)
    path.write_bytes(encode(draft("side", {"v": 2, "epoch": 3, "pid": 1}), Place(1, 0)))
    with pytest.raises(NewerVersion):
        read_side_file(path)


def test_files_are_listed_in_order_and_removed_for_good(tmp_path):
    assert side_files(tmp_path) == []
    for epoch, number in ((10, 2), (9, 11), (10, 1)):
        SideFile.create(tmp_path, epoch, number).close()
    (tmp_path / "workers" / "other").write_text("")
    found = side_files(tmp_path)
    assert [(side.epoch, side.number) for side in found] == [(9, 11), (10, 1), (10, 2)]
    syncs = []

    class Watching(Os):
        def fsync(self, fd):
            syncs.append(fd)
            super().fsync(fd)

    remove_side_files([found[0].path], Watching())
    remove_side_files([found[0].path])
    assert [side.number for side in side_files(tmp_path)] == [1, 2]
    assert len(syncs) == 1
    with pytest.raises(JournalDown, match="ENOENT"):
        read_side_file(found[0].path)


def test_a_name_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a side file"):
        SideFile.create(tmp_path, 1, 100_000_000)
    with pytest.raises(ValueError, match="not a side file"):
        read_side_file(tmp_path / "x.jsonl")
