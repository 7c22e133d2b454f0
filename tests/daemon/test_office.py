"""The books and the watchdog: what is recorded, and when the journal counts as alive."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.daemon.office import Office
from captchad.journal.osio import Os
from captchad.notify import Notify
from tests.queue.test_checkpoint import Kit


class Disk(Os):
    """Takes no write while it is full."""

    full = False

    def write(self, fd: int, data: bytes) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(fd, data)


class Room:
    """An office with a journal on that disk; `retry` says whether a journal that is down will be tried again."""

    def __init__(self, directory: Path) -> None:
        self.disk = Disk()
        self.kit = Kit(directory, self.disk, 1 << 20)
        self.retry = True
        self.told_down = 0
        queue = self.kit.queue
        self.office = Office(queue, Notify({}, self.kit.clock, 1), self.kit.clock, self._note, lambda: self.retry)

    def _note(self) -> None:
        self.told_down += bool(self.kit.queue.down_reason)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "journal")
    yield made
    made.kit.journal.close()


def test_a_journal_that_nobody_has_written_to_shows_that_it_still_takes_a_write(room: Room) -> None:
    room.office.journal_lives()
    before = room.kit.journal.commits
    assert room.office.journal_lives()
    assert room.kit.journal.commits == before + 1


def test_one_that_was_written_to_meanwhile_has_shown_it(room: Room) -> None:
    room.office.journal_lives()
    room.kit.queue.stage("beat", {"t": 1.0})
    room.kit.queue.commit()
    before = room.kit.journal.commits
    assert room.office.journal_lives()
    assert room.kit.journal.commits == before


def test_one_that_is_down_counts_as_alive_while_it_is_going_to_be_tried_again(room: Room) -> None:
    room.office.journal_lives()
    room.disk.full = True
    assert room.office.journal_lives()
    assert room.told_down == 1
    assert room.office.journal_lives()
    room.retry = False
    assert not room.office.journal_lives()
    room.disk.full = False
    assert room.kit.queue.recover()
    assert room.office.journal_lives()


def test_on_a_journal_that_is_down_deaths_are_recorded_and_nothing_else(room: Room) -> None:
    room.disk.full = True
    room.office.journal_lives()
    room.office.journal_lives()
    assert room.kit.queue.down_reason
    for do in ("start", "death", "move"):
        room.office.write({"do": do, "why": "signal", "seat": 0, "w": 1, "e": 1})
    log = room.kit.queue.view.crew
    assert [row["do"] for row in log.plain()] == ["death"]
    room.disk.full = False
    assert room.kit.queue.recover()
    room.office.write({"do": "start", "why": "signal", "seat": 0, "w": 2, "e": 1})
    assert [row["do"] for row in log.actions()] == ["start"]
