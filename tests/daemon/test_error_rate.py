"""The error rate is of now: what failed long ago does not keep the daemon degraded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.daemon.providers import RECENT_ENDS
from captchad.policy.degradation import FEWEST_FAILURES, RATE_WINDOW_S, error_rate
from captchad.supervisor.worker import Worker
from tests.daemon.test_dispatch import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def rate(bench: Bench) -> float:
    return error_rate(bench.dispatcher.providers.recent_ends, bench.clock.monotonic())


def end(bench: Bench, worker: Worker, task_id: str, *, solved: bool) -> None:
    n = bench.submit(task_id, worker)
    if solved:
        bench.dispatcher.outcome(n, {"n": n, "o": "solved", "token": "t", "answer": None, "extra": {}})
    else:
        bench.dispatcher.outcome(n, {"n": n, "o": "failed", "code": "ERROR_CAPTCHA_UNSOLVABLE", "category": "task"})
        bench.queue.cancel(task_id)
    bench.turn()
    bench.told(worker)


def test_failures_of_long_ago_do_not_count(bench: Bench) -> None:
    worker = bench.worker(1)
    for number in range(FEWEST_FAILURES - 1):
        end(bench, worker, f"bad-{number}", solved=False)
    assert rate(bench) == 0.0
    end(bench, worker, "bad-last", solved=False)
    assert rate(bench) == 1.0
    bench.clock.advance(RATE_WINDOW_S)
    assert rate(bench) == 0.0
    bench.clock.advance(-1.0)
    assert rate(bench) == 1.0

    for _ in range(RECENT_ENDS):
        bench.dispatcher.providers.ended("p", "solved")
    assert rate(bench) == 0.0


def test_a_moment_of_failures_at_a_high_load_is_a_small_share(bench: Bench) -> None:
    providers = bench.dispatcher.providers
    for second in range(40):
        bench.clock.advance(1.0)
        for _ in range(50):
            providers.ended("p", "failed" if second == 30 else "solved")
    assert rate(bench) == 1 / 40


def test_a_captcha_that_timed_out_is_an_end_without_an_answer(bench: Bench) -> None:
    bench.submit("slow", bench.worker(1))
    bench.clock.advance(1000.0)
    bench.turn()

    assert list(bench.dispatcher.providers.recent_ends) == [(bench.clock.monotonic(), False)]
