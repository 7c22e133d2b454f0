"""A provider that fails gets few retries, and all the first attempts. The queue and its journal are real."""

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.daemon.retry_budget import RetryBudget
from captchad.model.states import State
from captchad.policy.retry import FEWEST_RETRIES, RETRY_WINDOW_S
from captchad.supervisor.worker import Worker
from tests.daemon.test_dispatch import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def fail(bench: Bench, worker: Worker, task_id: str) -> None:
    """Once; the code is the task's, so that no breaker opens."""
    bench.accept(task_id)
    bench.turn()
    for kind, n in bench.told(worker):
        if kind == "submit":
            bench.says(worker, "begin", n)
            bench.says(worker, "out", n, o="submitted", cid=str(n))
            bench.says(worker, "out", n, o="failed", code="ERROR_CAPTCHA_UNSOLVABLE", category="task")
    bench.turn()
    bench.told(worker)


def leave_few(bench: Bench) -> None:
    """Of the least number of retries all but ten have been given."""
    for _ in range(FEWEST_RETRIES - 10):
        bench.dispatcher.providers.lanes["p"].retries.ordered(bench.clock.monotonic(), again=True)


def under_way(bench: Bench) -> list[str]:
    return [attempt.task_id for attempt in bench.queue.view.attempts.values()]


def test_retries_beyond_the_budget_wait_and_first_attempts_go_on(bench: Bench) -> None:
    worker = bench.worker(1)
    for number in range(30):
        fail(bench, worker, f"t{number}")
    bench.worker(2)
    bench.worker(3)
    bench.accept("first")
    # All of them are due: 30 first attempts pay for no more than the least that is allowed.
    bench.clock.advance(11.0)
    leave_few(bench)
    bench.turn()
    assert "first" in under_way(bench)
    assert len(under_way(bench)) == 1 + 10
    assert bench.queue.view.lines["delayed"] == 30 - 10
    assert bench.dispatcher.wait_s() != 0.0

    bench.clock.advance(RETRY_WINDOW_S + 5.0)
    bench.turn()
    assert len(under_way(bench)) == 1 + 30


def test_when_the_provider_is_well_again_all_retries_go(bench: Bench) -> None:
    worker = bench.worker(1)
    for number in range(30):
        fail(bench, worker, f"t{number}")
    leave_few(bench)
    for number in range(4):
        bench.clock.advance(12.0)
        bench.worker(2 + number)
        bench.turn()
        for n in list(bench.queue.view.attempts):
            bench.dispatcher.outcome(n, {"n": n, "o": "submitted", "cid": str(n)})
            bench.dispatcher.outcome(n, {"n": n, "o": "solved", "token": "t", "answer": None, "extra": {}})
    assert bench.queue.view.states[State.SOLVED] == 30


@pytest.mark.parametrize("share", [0.7, 1.0])
def test_over_any_minute_retries_are_a_fifth_of_first_attempts(share: float) -> None:
    """Ten first attempts a second at a provider that fails most, each failure tried again as soon as allowed."""
    rng, budget = random.Random(1), RetryBudget()
    orders: deque[tuple[float, bool]] = deque()
    waiting = 0
    for tenth in range(6000):
        now = tenth / 10.0
        retries = 1 if waiting and budget.allows(now) else 0
        waiting -= retries
        for again in [True] * retries + [False]:
            budget.ordered(now, again=again)
            orders.append((now, again))
            solved = rng.random() >= share
            budget.ended(solved=solved)
            waiting += not solved
        while orders and orders[0][0] < now - RETRY_WINDOW_S:
            orders.popleft()
        if now > 2.0 * RETRY_WINDOW_S:
            given = sum(again for _, again in orders)
            assert 0.15 < given / (len(orders) - given) < 0.22


def test_who_fails_now_and_then_is_not_held_back() -> None:
    budget = RetryBudget()
    for second in range(1000):
        budget.ordered(second, again=second % 2 == 0)
        budget.ended(solved=second % 6 != 0)  # at most two of ten
        assert budget.allows(second)


def test_without_first_attempts_some_retries_are_allowed_and_a_recovery_ends_it() -> None:
    budget = RetryBudget()
    for _ in range(20):
        budget.ended(solved=False)
    for _ in range(FEWEST_RETRIES):
        assert budget.allows(0.0)
        budget.ordered(0.0, again=True)
    assert not budget.allows(0.0)
    assert not budget.allows(RETRY_WINDOW_S - 1.0)
    budget.begin_anew()
    assert budget.allows(RETRY_WINDOW_S - 1.0)
