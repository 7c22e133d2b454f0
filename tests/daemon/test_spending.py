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
