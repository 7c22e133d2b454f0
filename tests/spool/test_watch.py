"""inotify as the kernel speaks it."""

import errno
import fcntl
import os
from contextlib import closing
from pathlib import Path

import pytest

from captchad.spool.watch import (
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_MOVE_SELF,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    Watch,
    open_watch,
)


@pytest.fixture
def watched(tmp_path):
    path = tmp_path / "watched"
    path.mkdir()
    return path


@pytest.fixture
def watch(watched):
    with closing(Watch(watched)) as made:
        yield made


def seen(watch) -> list[tuple[bytes, int]]:
    return [(event.name, event.mask) for event in watch.read()]


def test_nothing_happened(watch):
    assert watch.read() == []


def test_the_descriptor_is_closed_on_exec_and_never_waits(watch):
    assert fcntl.fcntl(watch.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert fcntl.fcntl(watch.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_file_written_in_place_and_one_renamed_in(watch, watched, tmp_path):
    (watched / "a").write_text("x")
    (tmp_path / "b").touch()
    (tmp_path / "b").rename(watched / "b")

    assert seen(watch) == [(b"a", IN_CREATE), (b"a", IN_CLOSE_WRITE), (b"b", IN_MOVED_TO)]


def test_names_are_bytes(watch, watched):
    names = [b"n" * 255, b"\xff\n\x01", b"x"]
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(watched), name), os.O_CREAT | os.O_RDONLY))

    assert seen(watch) == [(name, IN_CREATE) for name in names]


def test_a_moved_and_a_removed_directory_are_told(watch, watched):
    moved = watched.rename(watched.with_name("moved"))
    assert seen(watch) == [(b"", IN_MOVE_SELF)]

    moved.rmdir()
    assert seen(watch) == [(b"", IN_DELETE_SELF), (b"", IN_IGNORED)]
    watch.clear()


def test_a_cleared_watch_can_watch_again(watch, watched):
    watch.clear()
    (watched / "a").touch()
    assert [name for name, mask in seen(watch) if mask != IN_IGNORED] == []

    watch.add(watched)
    (watched / "b").touch()
    assert (b"b", IN_CREATE) in seen(watch)


def test_an_overflow_is_told(watch, watched):
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    one, two = watched / "one", watched / "two"
    one.touch()
    for _ in range(limit // 2 + 10):
        one.rename(two)
        two.rename(one)
    masks = []
    while events := watch.read():
        masks += [event.mask for event in events]

    assert IN_Q_OVERFLOW in masks


def test_what_cannot_be_watched(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught:
        Watch(tmp_path / "missing")
    assert caught.value.errno == errno.ENOENT
    assert open_watch(tmp_path / "missing") is None


def test_closing_twice(watched):
    watch = Watch(watched)
    watch.close()
    watch.close()
