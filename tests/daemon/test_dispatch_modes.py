"""What the dispatcher submits when: by mode, priority and age. The queue and its journal are real."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.model.states import Priority, State
from captchad.policy.degradation import Degradation, Mode
from captchad.policy.turns import AGED_EVERY, AGED_S
from tests.daemon.test_dispatch import Bench, let_go

WORDS = ("critical", "high", "normal", "low")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def set_bar(bench: Bench, bar: Priority) -> None:
    bench.dispatcher.degradation = Degradation(mode=Mode.DEGRADED, bar=bar)
    bench.turn()


def waiting(bench: Bench) -> list[str]:
    return [word for word in WORDS if bench.queue.view.tasks[word].state is State.PENDING]


def test_lower_priorities_wait_and_come_when_they_may(bench: Bench) -> None:
    bench.worker(1)
    bench.worker(2)
    set_bar(bench, Priority.CRITICAL)
    for number, word in reversed(list(enumerate(WORDS))):
        bench.accept(word, priority=number)
    bench.turn()
    assert waiting(bench) == ["high", "normal", "low"]

    set_bar(bench, Priority.HIGH)
    assert waiting(bench) == ["normal", "low"]
    assert bench.dispatcher.wait_s() is None  # they wake nobody up

    set_bar(bench, Priority.LOW)
    assert waiting(bench) == []


def test_a_paid_captcha_is_polled_on_and_its_retry_waits(bench: Bench) -> None:
    worker = bench.worker(1)
    n = bench.submit("a", worker)
    set_bar(bench, Priority.CRITICAL)
    second = bench.worker(2)
    bench.dispatcher.on_death(worker, "crash")
    let_go(worker)
    bench.turn()
    assert bench.told(second) == [("poll", n)]

    bench.says(second, "out", n, o="failed", code="ERROR_CAPTCHA_UNSOLVABLE", category="task")
    bench.clock.advance(30.0)
    bench.turn()
    assert bench.queue.view.tasks["a"].state is State.PENDING

    set_bar(bench, Priority.LOW)
    assert bench.queue.view.tasks["a"].state is State.SUBMITTING


def test_a_suspect_of_a_lower_priority_waits_too(bench: Bench) -> None:
    first = bench.worker(1)
    bench.accept("a")
    bench.turn()
    ((_, n),) = bench.told(first)
    bench.says(first, "begin", n)
    bench.dispatcher.on_death(first, "crash")
    let_go(first)
    set_bar(bench, Priority.HIGH)
    bench.worker(2)
    bench.turn()
    assert bench.queue.view.tasks["a"].state is State.PENDING
    assert not bench.dispatcher.suspects_wait

    set_bar(bench, Priority.LOW)
    assert bench.queue.view.tasks["a"].state is State.SUBMITTING


def order(bench: Bench) -> list[str]:
    """The tasks in the order in which they were submitted."""
    return [attempt.task_id for attempt in bench.queue.view.attempts.values()]


def wait_behind_urgent_ones(bench: Bench, waited_s: float) -> list[str]:
    """Four low tasks that have waited, one a second later than the other, and 20 high ones that have not."""
    for number in range(4):
        bench.accept(f"low-{number}", priority=3)
        bench.clock.advance(1.0)
    bench.clock.advance(waited_s)
    for number in range(20):
        bench.accept(f"high-{number}", priority=1)
    for number in range(8):
        bench.worker(number)
    bench.turn()
    return [task_id for task_id in order(bench) if task_id.startswith("low")]


def test_one_turn_in_a_few_goes_to_who_has_waited_long(bench: Bench) -> None:
    assert wait_behind_urgent_ones(bench, AGED_S) == [f"low-{number}" for number in range(4)]
    places = [order(bench).index(f"low-{number}") for number in range(4)]
    assert places == [AGED_EVERY * turn - 1 for turn in range(1, 5)]


def test_who_has_not_waited_long_comes_last(bench: Bench) -> None:
    wait_behind_urgent_ones(bench, 0.0)
    assert order(bench)[-4:] == [f"low-{number}" for number in range(4)]


def test_age_lifts_nobody_over_the_bar_nor_in_a_full_queue(bench: Bench) -> None:
    bench.dispatcher.degradation = Degradation(mode=Mode.DEGRADED, bar=Priority.HIGH)
    assert wait_behind_urgent_ones(bench, 10 * AGED_S) == []

    for number in range(20, 30):
        bench.accept(f"high-{number}", priority=1)
    bench.dispatcher.degradation = Degradation(mode=Mode.DEGRADED)
    bench.turn()
    assert order(bench)[-4:] == [f"low-{number}" for number in range(4)]
