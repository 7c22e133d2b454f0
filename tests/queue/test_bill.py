"""The bill: every charge and every answer once, whatever is restarted, cleaned away or taken from an index."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.journal.records import Entry
from captchad.queue.bill import DAYS, OTHER, Bill, Columns, Row
from captchad.queue.task import Task
from tests.queue.test_spent import IndexedKit

DAY_S = 86400.0


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[IndexedKit]:
    made = IndexedKit(tmp_path / "journal")
    yield made
    made.journal.close()


def run(kit: IndexedKit, task: Task, price: int | None) -> None:
    """One charge, one answer, delivered."""
    kit.queue.solved(kit.start(task), {"token": "x", "answer": None, "extra": {}}, price)
    kit.deliver_all()
    kit.queue.commit()


def sum_of(bill: Bill) -> Columns:
    total = Columns()
    for _, rows in bill.days():
        for columns in rows.values():
            total.add(columns)
    return total


def test_what_is_counted_where(kit: IndexedKit) -> None:
    run(kit, kit.accept("a", key="", tg='{"customer":"x"}'), 850)
    run(kit, kit.accept("b", key="", tg='{"customer":"x"}'), 850)
    run(kit, kit.accept("c", key="", h="other.example"), None)
    kit.bury(kit.accept("d", key=""))
    kit.queue.unknown(kit.queue.order(kit.accept("e", key=""), "q", (1, 1), "k"), "reset", by_crash=False)
    ((day, rows),) = kit.queue.view.bill.days()
    assert day == "2027-01-15"
    assert rows == {
        Row("userrecaptcha", "example.com", "p", '{"customer":"x"}'): Columns(charges=2, solved=2, cost=1700),
        Row("userrecaptcha", "other.example", "p", ""): Columns(charges=1, solved=1, unpriced=1),
        Row("userrecaptcha", "example.com", "p", ""): Columns(failed=1),
        Row("userrecaptcha", "example.com", "q", ""): Columns(unknown_submits=1),
    }


def test_a_shared_answer_costs_nothing_and_is_no_charge(kit: IndexedKit) -> None:
    leader = kit.accept("leader")
    kit.accept("follower")
    run(kit, leader, 850)
    assert sum_of(kit.queue.view.bill) == Columns(charges=1, solved=2, cost=850)


def test_days_outlive_the_records_that_made_them(kit: IndexedKit) -> None:
    """Through many cleanings: days that are over, and one that goes on."""
    rng = random.Random(3)
    expected = Columns()
    for number in range(60):
        price = rng.choice([None, 0, 850])
        run(kit, kit.accept(f"t{number}", key="", h=rng.choice(["a.example", "b.example"])), price)
        expected.add(Columns(charges=1, solved=1, cost=price or 0, unpriced=price is None))
        kit.clock.advance(rng.choice([1.0, 700.0, DAY_S / 3]))
        kit.queue.forget(100)
        kit.queue.commit()
        if number % 7 == 6:
            kit.fill_segments(2)
            kit.queue.clean_all()
            assert len(kit.journal.segments()) <= 2
            kit.restart()
        if number % 11 == 10:
            kit.queue.save_index(least=0)
            kit.restart()
            assert kit.from_index
    assert len(dict(kit.queue.view.bill.days())) > 3
    assert sum_of(kit.queue.view.bill) == expected


def test_only_the_latest_days_are_known() -> None:
    bill = Bill()
    for day in range(DAYS + 5):
        bill.row(DAY_S * day, Row("m", "h", "p", "")).charges += 1
    assert next(iter(dict(bill.days()))) == "1970-01-06"
    bill.row(0.0, Row("m", "h", "p", "")).charges += 1
    assert len(dict(bill.days())) == DAYS


def test_too_many_combinations_lose_tags_first_then_hosts_and_no_charge() -> None:
    bill = Bill()
    for number in range(5000):
        bill.row(0.0, Row("m", f"h{number}.example", "p", f'{{"order":"{number}"}}')).charges += 1
    ((_, rows),) = bill.days()
    assert sum(columns.charges for columns in rows.values()) == 5000
    assert Row("m", "h0.example", "p", '{"order":"0"}') in rows
    assert rows[Row("m", OTHER, "p", OTHER)].charges > 100
    assert any(row.tags == OTHER and row.host != OTHER for row in rows)
    (record,) = bill.records_for(1)
    again = Bill()
    again.take(record, Entry(2, 0, 10))
    assert again.plain() == bill.plain()


@pytest.mark.parametrize("index", [False, True])
def test_a_charge_whose_task_was_kept_meanwhile_is_not_lost(kit: IndexedKit, index: bool) -> None:
    """Its record stands before the `keep` of its task and behind the last record of its day: no replay applies it."""
    run(kit, kit.accept("a", key=""), 850)
    kit.fill_segments(1)
    task = kit.accept("b", key="")
    kit.queue.commit()
    accepted_in = kit.journal.active
    kit.fill_segments(1)
    while kit.journal.oldest < accepted_in:
        kit.clean_oldest()
    assert kit.queue.view.bill.live_bytes > 0
    kit.start(task)
    kit.queue.commit()
    if index:
        kit.queue.save_index(least=0)
        kit.restart()
        assert kit.from_index
    assert not kit.queue.view.bill.lives_in(kit.journal.oldest)
    kit.clean_oldest()
    kit.journal.index.remove()
    kit.restart()
    assert sum_of(kit.queue.view.bill) == Columns(charges=2, solved=1, cost=850)
