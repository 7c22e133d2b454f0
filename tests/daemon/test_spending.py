"""Caps on charges in the dispatcher: what is beyond them waits, other providers go on, and no restart forgets one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.policy.spend import Caps
from tests.daemon.test_dispatch import PROVIDER, Bench

HOUR = 3600.0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def ordered(bench: Bench) -> list[str]:
    """Who gets a submit in this turn: providers."""
    before = bench.queue.view.last_n
    bench.turn()
    return [attempt.provider for n, attempt in bench.queue.view.attempts.items() if n > before]


def charge_all(bench: Bench) -> int:
    """Every submit under way is taken by its provider."""
    numbers = list(bench.queue.view.attempts)
    for n in numbers:
        bench.queue.submitted(n, str(1000 + n))
    for load in bench.dispatcher._loads.values():
        load.submits.clear()
    bench.queue.commit()
    return len(numbers)


def test_submits_under_way_never_exceed_the_cap_together(bench: Bench) -> None:
    bench.worker(1)
    bench.dispatcher.spending.configure(Caps(hour=3), {})
    for number in range(5):
        bench.accept(f"t{number}")
    assert len(ordered(bench)) == 3
    assert ordered(bench) == []
    assert list(bench.dispatcher.spending.problems()) == [], "they may still turn out not to be charged"

    assert charge_all(bench) == 3
    assert ordered(bench) == []
    assert bench.queue.view.lines["ready"] == 2, "they wait, they are not refused"
    (problem,) = bench.dispatcher.spending.problems()
    assert problem.startswith("limits.charges_per_hour = 3 is reached, room again at 20")
    wait_s = bench.dispatcher.wait_s()
    assert wait_s is not None
    assert HOUR < wait_s <= HOUR + 60.0

    bench.clock.advance(wait_s)
    assert len(ordered(bench)) >= 2
    assert list(bench.dispatcher.spending.problems()) == []


def test_what_is_not_charged_gives_its_room_back(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.dispatcher.spending.configure(Caps(day=1), {})
    for task_id in ("a", "b"):
        bench.accept(task_id)
    bench.turn()
    ((_, n),) = bench.told(worker)
    bench.says(worker, "out", n, o="not_sent", reason="recall")
    assert len(ordered(bench)) == 1


def test_a_submit_that_may_be_charged_takes_its_room(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.dispatcher.spending.configure(Caps(day=1), {})
    for task_id in ("a", "b"):
        bench.accept(task_id)
    bench.turn()
    ((_, n),) = bench.told(worker)
    bench.says(worker, "begin", n)
    bench.says(worker, "out", n, o="unknown", reason="reset")
    bench.clock.advance(30.0)
    assert ordered(bench) == []


def test_a_provider_at_its_cap_leaves_the_tasks_to_the_others(bench: Bench) -> None:
    bench.worker(1)
    bench.dispatcher.set_providers({"p": PROVIDER, "q": replace(PROVIDER, name="q", priority=5)})
    bench.dispatcher.spending.configure(Caps(), {"p": Caps(hour=2), "q": Caps(hour=1)})
    for number in range(5):
        bench.accept(f"t{number}")
    assert ordered(bench) == ["p", "p", "q"]
    charge_all(bench)
    assert ordered(bench) == []
    assert [problem.split(" = ")[0] for problem in bench.dispatcher.spending.problems()] == [
        "provider p: charges_per_hour",
        "provider q: charges_per_hour",
    ]
    bench.dispatcher.spending.configure(Caps(), {"p": Caps(hour=3)})
    assert ordered(bench) == ["p", "q"]


def accept_of(bench: Bench, customer: str, *ids: str) -> None:
    """Tasks of one customer."""
    for task_id in ids:
        data = {
            "pr": 2, "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0, "m": "userrecaptcha",
            "h": "example.com", "tg": f'{{"customer":"{customer}"}}',
        }  # fmt: skip
        payload = b'{"id":"%s","sitekey":"k","pageurl":"https://example.com/"}' % task_id.encode()
        bench.queue.accept(task_id, data, payload)
    bench.queue.commit()


def ordered_ids(bench: Bench) -> list[str]:
    before = bench.queue.view.last_n
    bench.turn()
    return [attempt.task_id for n, attempt in bench.queue.view.attempts.items() if n > before]


def test_a_tag_at_its_cap_lets_the_others_go_past(bench: Bench) -> None:
    bench.worker(1)
    bench.dispatcher.spending.configure(Caps(), {}, "customer", Caps(day=2))
    accept_of(bench, "x", "x1", "x2", "x3", "x4")
    accept_of(bench, "y", "y1")
    bench.accept("none")
    assert ordered_ids(bench) == ["x1", "x2", "y1", "none"]
    assert list(bench.dispatcher.spending.problems()) == []
    charge_all(bench)
    assert ordered_ids(bench) == []
    (problem,) = bench.dispatcher.spending.problems()
    assert problem.startswith("limits.tag_charges_per_day = 2 is reached for customer x; their tasks wait; room again")
    assert bench.queue.view.lines == {"ready": 0, "delayed": 2, "waiting": 0}

    bench.clock.advance(25 * HOUR)
    assert ordered_ids(bench) == ["x3", "x4"]


def test_room_of_a_submit_that_is_not_charged_goes_to_the_next_one_soon(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.dispatcher.spending.configure(Caps(), {}, "customer", Caps(day=1))
    accept_of(bench, "x", "x1", "x2")
    bench.turn()
    ((_, n),) = bench.told(worker)
    bench.queue.cancel("x1")
    bench.says(worker, "out", n, o="not_sent", reason="recall")
    bench.clock.advance(6.0)
    assert ordered_ids(bench) == ["x2"]


def test_a_cap_that_is_taken_away_lets_the_tasks_go_at_once(bench: Bench) -> None:
    bench.worker(1)
    bench.dispatcher.spending.configure(Caps(), {}, "customer", Caps(day=1))
    accept_of(bench, "x", "x1", "x2")
    assert ordered_ids(bench) == ["x1"]
    charge_all(bench)
    assert ordered_ids(bench) == []
    bench.dispatcher.spending.configure(Caps(), {}, "customer", Caps(day=2))
    assert ordered_ids(bench) == ["x2"]
