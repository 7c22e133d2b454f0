"""Cleaning under way, commits that are cut short, disks that refuse: what the queue must not lose then."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.journal.osio import Os
from captchad.model.states import Category, State
from captchad.queue.queue import EXPIRE_A_CALL, STEADY_S
from tests.queue.test_queue_dedupe import Kit


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path / "journal")
    yield made
    made.journal.close()


class Stubborn(Os):
    """A disk that keeps what is to be removed, for as long as it is told to."""

    keep = True

    def unlink(self, path: Path) -> None:
        if self.keep:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().unlink(path)


def test_cleaning_does_not_end_the_polls_of_what_it_keeps(kit: Kit) -> None:
    n = kit.start(kit.accept("a", key=""))
    kit.queue.commit()
    kit.fill_segments(3)
    kit.queue.view.closed.clear()
    kit.clean_oldest()

    assert list(kit.queue.view.captchas) == [n]
    assert kit.queue.view.closed == []
    kit.restart()
    assert n not in kit.queue.view.closed


def test_a_postponed_task_is_ready_again_when_cleaning_has_kept_it(kit: Kit) -> None:
    task = kit.accept("a", key="")
    kit.queue.view.postpone(task, kit.queue.now() + 100.0)
    assert kit.queue.view.peek_ready() is None
    assert (kit.queue.view.lines["ready"], kit.queue.view.lines["delayed"]) == (0, 1)
    kit.fill_segments(3)
    kit.clean_oldest()

    assert (kit.queue.view.lines["ready"], kit.queue.view.lines["delayed"]) == (1, 0)
    ready = kit.queue.view.peek_ready()
    assert ready is not None
    assert ready.id == "a"
    kit.restart()


def test_a_postponed_task_stands_in_line_again_when_its_time_has_come(kit: Kit) -> None:
    task = kit.accept("a", key="")
    kit.queue.view.postpone(task, kit.queue.now() + 100.0)
    kit.queue.view.ripen(kit.queue.now() + 99.0)
    assert kit.queue.view.peek_ready() is None
    kit.queue.view.ripen(kit.queue.now() + 100.0)
    assert kit.queue.view.peek_ready() is task
    kit.restart()


def test_an_answer_outlives_a_commit_that_is_cut_between_keep_and_its_answer(kit: Kit) -> None:
    kit.run(kit.accept("a", key=""))
    kit.fill_segments(3)
    kit.queue.clean(thorough=True)
    # A crash has cut the commit right behind `keep`.
    lines = kit.journal._batch._lines
    kept = next(index for index, line in enumerate(lines) if b'"k":"keep"' in line)
    del lines[kept + 1 :]
    kit.journal.commit()
    kit.journal.close()
    kit.open()

    assert kit.queue.answer(kit.queue.view.tasks["a"])["token"] == "of-a"


def test_a_segment_that_cannot_be_dropped_puts_the_journal_down_and_is_cleaned_later(kit: Kit) -> None:
    kit.run(kit.accept("a", key=""))
    kit.fill_segments(3)
    kit.journal._os = disk = Stubborn()
    seen: list[str] = []
    while not kit.queue.down_reason:
        kit.queue.clean(thorough=True)
        kit.queue.after_commit(lambda: seen.append("ran"))
        kit.queue.commit()
    assert seen  # what waited for the same commit was done all the same

    disk.keep = False
    assert kit.queue.recover()
    kit.clean_oldest()
    kit.restart()
    assert kit.queue.answer(kit.queue.view.tasks["a"])["token"] == "of-a"


def test_a_journal_that_went_down_outside_of_a_commit_is_noticed_and_recovers(kit: Kit) -> None:
    kit.queue.commit()
    kit.journal._go_down(OSError(errno.EIO, "broken"))
    kit.queue.commit()

    assert kit.queue.down_reason
    assert kit.queue.recover()
    assert kit.queue.accepts_work


def test_a_bad_record_does_not_stop_the_cleaning(kit: Kit) -> None:
    task = kit.accept("a", key="")
    kit.queue.commit()
    assert task.payload is not None
    path = kit.directory / f"{task.payload.segment:08d}.jsonl"
    data = bytearray(path.read_bytes())
    data[task.payload.offset + task.payload.length - 5] ^= 1
    path.write_bytes(data)
    kit.fill_segments(3)
    kit.clean_oldest()

    assert kit.queue.payload(kit.queue.view.tasks["a"]) == b"{}"
    kit.restart()


def test_a_submit_beside_an_answer_that_came_first_is_counted(kit: Kit) -> None:
    task = kit.accept("a", key="")
    first = kit.start(task)
    kit.queue.timed_out(kit.queue.view.captchas[first])
    second = kit.queue.order(task, "p", (1, 1), "k")
    kit.queue.solved(first, {"token": "x", "answer": None, "extra": {}})
    kit.queue.submitted(second, "2")

    assert (task.state, task.charges, task.late_submits) == (State.SOLVED, 2, 1)
    assert kit.queue.view.totals.late_submits == 1
    kit.restart()


def test_a_charge_is_counted_although_the_id_of_its_task_could_be_free(kit: Kit) -> None:
    task = kit.accept("a", key="", dl=kit.clock.time() + 1.0)
    n = kit.queue.order(task, "p", (1, 1), "k")
    kit.clock.advance(2.0)
    kit.queue.expire()
    kit.deliver_all()
    kit.clock.advance(301.0)
    kit.queue.forget(10)
    kit.queue.submitted(n, "1")
    assert kit.queue.view.totals.charges == 1

    kit.clock.advance(301.0)
    kit.queue.forget(10)
    assert len(kit.queue.view.tasks) == 0
    kit.restart()


def test_an_answer_beyond_the_limit_of_a_record_fails_the_attempt(kit: Kit) -> None:
    task = kit.accept("a", key="")
    n = kit.start(task)
    kit.queue.solved(n, {"token": "\U0001f600" * (1 << 18), "answer": None, "extra": {}})

    assert (task.state, task.error) == (State.PENDING, "UNPARSEABLE")
    kit.restart()


def test_deadlines_are_acted_on_in_slices_once_the_clock_is_steady(kit: Kit) -> None:
    kit.queue.settings = kit.queue.settings.__class__(
        EXPIRE_A_CALL * 2, 300.0, 600.0, 2, hold_unknown=False, retry=kit.queue.settings.retry
    )
    for number in range(EXPIRE_A_CALL + 10):
        kit.accept(f"t{number}", key="", dl=kit.clock.time() + 1.0)
    kit.queue.commit()
    kit.clock.advance(2.0)
    kit.restart()
    view = kit.queue.view
    for _ in range(3):
        kit.queue.expire()
    assert view.states[State.EXPIRED] == 0

    kit.clock.advance(STEADY_S)
    kit.queue.expire()
    assert view.states[State.EXPIRED] == EXPIRE_A_CALL
    kit.queue.expire()
    assert view.states[State.EXPIRED] == EXPIRE_A_CALL + 10


def test_a_failed_late_captcha_leaves_its_task_alone(kit: Kit) -> None:
    task = kit.accept("a", key="")
    first = kit.start(task)
    kit.queue.timed_out(kit.queue.view.captchas[first])
    kit.start(task)
    kit.queue.failed(first, "ERROR_CAPTCHA_UNSOLVABLE", Category.TASK, "")

    assert task.state is State.SUBMITTED
    kit.restart()
