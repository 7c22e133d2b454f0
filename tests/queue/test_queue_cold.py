"""Tasks of which memory holds no more than where they stand."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.journal.osio import Os
from captchad.journal.records import Entry
from captchad.journal.store import Journal
from captchad.model.errors import NewerVersion
from captchad.model.states import State
from captchad.queue.queue import Queue
from tests.queue.test_queue_dedupe import SETTINGS, Kit


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path / "journal")
    yield made
    made.journal.close()


def take(kit: Kit, task_id: str, **over: object) -> None:
    """Accept a task and leave it alone."""
    data = {
        "pr": 2, "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0,
        "m": "userrecaptcha", "h": "example.com", "dl": None, "dk": None,
    }  # fmt: skip
    kit.queue.accept(task_id, data | over, b'{"id":"%s"}' % task_id.encode())


def is_cold(kit: Kit, task_id: str) -> bool:
    return task_id in kit.queue.view.tasks and task_id not in kit.queue.view.tasks.hot


def names_in_line(kit: Kit) -> list[str]:
    found = []
    while (task := kit.queue.view.peek_ready()) is not None:
        found.append(task.id)
        kit.queue.order(task, "p", (1, 1), "k")
    return found


class Sulking(Os):
    """Takes no write while it sulks."""

    sulks = False

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.sulks:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(fd, data)


def test_a_task_is_cold_until_something_touches_it(kit: Kit) -> None:
    take(kit, "a", dl=kit.clock.time() + 100.0)
    for _ in range(2):
        assert is_cold(kit, "a")
        looked_at = kit.queue.view.tasks.peek("a")
        assert looked_at is not None
        assert (looked_at.fingerprint, looked_at.where, looked_at.source) == ("a", "ready", "f.json")
        assert kit.queue.view.lines["ready"] == kit.queue.view.states[State.PENDING] == kit.queue.view.unfinished == 1
        kit.restart()
    assert kit.queue.hold("a") is None
    assert not is_cold(kit, "a")
    assert (kit.queue.view.lines["ready"], kit.queue.view.states[State.HELD]) == (0, 1)


def test_what_was_staged_when_the_journal_went_down_is_found_where_it_comes_to_stand(kit: Kit) -> None:
    kit.journal._os = disk = Sulking()
    take(kit, "before")
    kit.queue.commit()
    kit.journal.close()
    kit.journal = Journal.open(kit.directory, segment_bytes=4096, clock=kit.clock, reserve_bytes=65536, osio=disk)
    kit.queue = Queue(kit.journal, SETTINGS, kit.clock, kit.queue._rng)
    kit.queue.replay()
    take(kit, "a")
    disk.sulks = True
    kit.queue.commit()
    assert kit.queue.down_reason
    take(kit, "b")
    assert not kit.queue.recover()
    assert kit.queue.view.tasks.peek("a").fingerprint == "a"  # type: ignore[union-attr]

    disk.sulks = False
    assert kit.queue.recover()
    kit.fill_segments(2)
    assert [kit.queue.payload(kit.queue.view.tasks[name]) for name in ("before", "a", "b")] == [
        b'{"id":"before"}',
        b'{"id":"a"}',
        b'{"id":"b"}',
    ]
    kit.restart()


def test_the_id_of_a_delivered_task_outlives_its_first_segment_and_a_restart(kit: Kit) -> None:
    task = kit.accept("a", key="")
    kit.fill_segments(2)
    kit.run(task)
    kit.deliver_all()
    assert is_cold(kit, "a")
    kit.clean_oldest()
    for _ in range(4):
        kit.restart()
        assert kit.queue.view.tasks.state("a") is State.SOLVED
        known = kit.queue.view.tasks.peek("a")
        assert known is not None
        assert (known.fingerprint, known.charges, known.delivery) == ("a", 1, "delivered")
        assert kit.queue.cancel("a") is not None  # refused, but it was looked up to be changed
        assert not is_cold(kit, "a")
        kit.fill_segments(2)
        kit.clean_oldest()
    kit.clock.advance(302.0)
    kit.queue.forget(10)
    assert "a" not in kit.queue.view.tasks
    kit.restart()


def test_a_charge_that_comes_after_delivery_is_not_lost_by_cleaning(kit: Kit) -> None:
    task = kit.accept("a", key="")
    first = kit.start(task)
    kit.queue.timed_out(kit.queue.view.captchas[first])
    second = kit.queue.order(task, "p", (1, 1), "k")
    kit.queue.solved(first, {"token": "x", "answer": None, "extra": {}})
    kit.deliver_all()
    kit.queue.submitted(second, "2")
    kit.queue.commit()
    for _ in range(3):
        kit.fill_segments(2)
        kit.clean_oldest()
        kit.restart()
    known = kit.queue.view.tasks.peek("a")
    assert known is not None
    assert (known.charges, kit.queue.view.totals.charges) == (2, 2)


def test_what_was_kept_stands_before_what_came_later(kit: Kit) -> None:
    for number in range(60):
        take(kit, f"t{number}")
        kit.clock.advance(1.0)
        if number % 5 == 0:
            kit.queue.commit()
    assert len(kit.journal.segments()) > 2
    kit.clean_oldest()
    kit.restart()
    oldest = kit.queue.view.tasks.peek("t0")
    assert oldest is not None
    assert kit.queue.view.oldest_pending_at() == oldest.queued_at
    assert names_in_line(kit) == [f"t{number}" for number in range(60)]


def test_a_journal_full_of_waiting_tasks_is_not_written_again_and_again(kit: Kit) -> None:
    for number in range(60):
        take(kit, f"t{number}")
        kit.queue.commit()
    before = (kit.journal.records, kit.journal.segments())
    for _ in range(100):
        kit.queue.clean()
        kit.queue.commit()
    assert (kit.journal.records, kit.journal.segments()) == before

    for number in range(55):
        kit.queue.cancel(f"t{number}")
    kit.deliver_all()
    for _ in range(500):
        kit.queue.clean()
        kit.queue.commit()
    assert kit.journal.size_bytes <= 2 * kit.queue.view.tasks.live_bytes + 2 * kit.journal.segment_bytes
    kit.restart()
    assert names_in_line(kit) == [f"t{number}" for number in range(55, 60)]


def test_an_ended_task_whose_record_is_lost_is_still_known_after_cleaning(kit: Kit) -> None:
    take(kit, "a")
    kit.queue.cancel("a")
    kit.deliver_all()
    kit.queue.commit()
    path = kit.directory / f"{kit.journal.active:08d}.jsonl"
    data = bytearray(path.read_bytes())
    data[data.rindex(b'"delivered"') + 2] ^= 1
    path.write_bytes(data)
    kit.fill_segments(3)
    kit.clean_oldest()
    kit.clean_oldest()
    assert kit.queue.view.tasks.state("a") is State.CANCELLED
    kit.restart()


def test_a_kind_of_record_that_is_not_known_was_written_by_a_later_captchad(kit: Kit) -> None:
    kit.journal.append("teleported", {"id": "a"})
    kit.journal.commit()
    kit.journal.close()
    before = {path: path.read_bytes() for path in kit.directory.glob("*.jsonl")}
    with pytest.raises(NewerVersion, match="teleported"):
        kit.open()
    assert {path: path.read_bytes() for path in kit.directory.glob("*.jsonl")} == before


def test_two_rows_of_one_task_count_once(kit: Kit) -> None:
    def row(task_id: str) -> list[object]:
        return [task_id, "solved", 1.0, 2.0, 1, task_id, task_id, 1]

    kit.queue.stage("ended", {"rows": [row("a"), row("b"), row("a")]})
    kit.queue.stage("ended", {"rows": [row("b"), row("c")]})
    tasks = kit.queue.view.tasks
    assert sorted(tasks) == ["a", "b", "c"]
    assert kit.queue.view.states[State.SOLVED] == 3
    for task_id in ("a", "b", "c"):
        kit.queue.stage("forget", {"id": task_id, "t": 3.0})
    assert (len(tasks), tasks.live_bytes, kit.queue.view.states[State.SOLVED]) == (0, 0, 0)


def test_a_row_that_says_no_end_is_refused(kit: Kit) -> None:
    with pytest.raises(ValueError, match="not an end of a task: 'pending'"):
        kit.queue.view.apply("ended", {"rows": [["a", "pending", 1.0, 2.0, 1, "f", "o", 1]]}, Entry(1, 2, 3))
