"""What was charged lately comes out of the records: after a restart, and when the records of the charges are gone."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.journal.store import Journal
from captchad.policy.spend import ALL, Caps, tag_of
from captchad.queue.queue import Queue
from tests.queue.test_queue_dedupe import SETTINGS, Kit


class IndexedKit(Kit):
    """Starts from the index if there is one."""

    def open(self) -> None:
        self.journal = Journal.open(self.directory, segment_bytes=4096, clock=self.clock, reserve_bytes=65536)
        self.queue = Queue(self.journal, SETTINGS, self.clock, random.Random(7))
        self.from_index = self.queue.replay(from_index=True) == 0


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[IndexedKit]:
    made = IndexedKit(tmp_path / "journal")
    yield made
    made.journal.close()


def run_and_forget(kit: Kit, number: int) -> None:
    """So many charged captchas, of which the journal knows no more than their number in the end."""
    for index in range(number):
        task = kit.accept(f"t{index}", key="")
        kit.run(task)
        kit.queue.publishing(task)
        kit.queue.delivered(task)
    kit.clock.advance(601.0)
    kit.queue.forget(100)
    kit.fill_segments(3)
    kit.queue.clean_all()
    assert len(kit.queue.view.tasks) == 0
    assert not any(b'"k":"submitted"' in path.read_bytes() for path in kit.directory.glob("*.jsonl"))


def test_a_cap_holds_when_the_records_of_the_charges_are_gone(kit: IndexedKit) -> None:
    run_and_forget(kit, 5)
    kit.restart()
    view, now = kit.queue.view, kit.clock.time()
    assert view.spent.count("p", "day", now) == view.spent.count(ALL, "hour", now) == 5
    held = view.spent.held(ALL, Caps(day=5), 0, now)
    assert held is not None
    kit.clock.advance(held.until - now)
    kit.restart()
    assert kit.queue.view.spent.held(ALL, Caps(day=5), 0, kit.clock.time()) is None


def test_a_tag_counts_after_a_restart_also_of_a_submit_that_was_under_way(kit: IndexedKit) -> None:
    """`keep` says the tag of a submit whose own record is gone."""
    n = kit.queue.order(kit.accept("a", key=""), "p", (1, 1), "k", tag_of("x"))
    kit.queue.commit()
    kit.fill_segments(3)
    kit.queue.clean_all()
    kit.restart()
    kit.queue.submitted(n, "1")
    kit.restart()
    assert kit.queue.view.spent.count(tag_of("x"), "day", kit.clock.time()) == 1


def test_an_index_knows_the_charges(kit: IndexedKit) -> None:
    run_and_forget(kit, 3)
    kit.run(kit.accept("one-more", key=""))
    kit.queue.commit()
    kit.queue.save_index(least=0)
    kit.restart()
    assert kit.from_index
    assert kit.queue.view.spent.count("p", "hour", kit.clock.time()) == 4
