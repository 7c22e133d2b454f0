"""A provider that has no slot: its limit is lowered and grows, no task is charged for it, no breaker opens."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.model.states import State
from captchad.supervisor.worker import Worker
from tests.daemon.test_dispatch import PROVIDER, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    bench.dispatcher.set_providers({"p": replace(PROVIDER, pause_s=60.0, max_in_flight=20)})
    yield bench
    bench.close()


def ordered(bench: Bench, worker: Worker) -> list[int]:
    """The submits that go to `worker` in the next turn."""
    bench.turn()
    return [n for kind, n in bench.told(worker) if kind == "submit"]


def fill(bench: Bench, worker: Worker, slots: int, more: int) -> list[int]:
    """A provider with `slots` that are all taken, and the submits of `more` tasks."""
    for index in range(slots):
        bench.submit(f"in-{index}", worker)
    for index in range(more):
        bench.accept(f"more-{index}")
    return ordered(bench, worker)


def refuse(bench: Bench, worker: Worker, n: int) -> None:
    bench.says(worker, "begin", n)
    bench.says(worker, "out", n, o="refused", code="ERROR_NO_SLOT_AVAILABLE", category="budget", text="")


def test_no_slot_lowers_the_limit_for_seconds_and_opens_no_breaker(bench: Bench) -> None:
    worker = bench.worker(1)
    for n in fill(bench, worker, 10, 2):
        refuse(bench, worker, n)
    providers = bench.dispatcher.providers

    assert ordered(bench, worker) == []
    assert not providers.outage("p")
    assert providers.limit("p") == 8
    assert providers.why_held_back("p") == "it had no free slot, next try in 5 s"
    assert [(task.state, task.attempts) for task in map(bench.queue.view.tasks.get, ("more-0", "more-1")) if task] == [
        (State.PENDING, 0),
        (State.PENDING, 0),
    ]


def test_the_limit_grows_with_time_and_the_dispatcher_wakes_up_for_it(bench: Bench) -> None:
    worker = bench.worker(1)
    (n,) = fill(bench, worker, 10, 1)
    refuse(bench, worker, n)
    providers = bench.dispatcher.providers

    assert bench.dispatcher.wait_s() == pytest.approx(5.0)
    bench.clock.advance(5.0)
    assert ordered(bench, worker) == []
    assert providers.why_held_back("p") == "10 captchas are in flight of at most 8, as it was found to take"

    wait_s = bench.dispatcher.wait_s()
    assert wait_s == pytest.approx(3.0, abs=0.01)
    bench.clock.advance(wait_s - 0.01)
    assert ordered(bench, worker) == []
    bench.clock.advance(0.01)
    assert len(ordered(bench, worker)) == 1


def test_a_captcha_that_ends_makes_room_below_the_limit(bench: Bench) -> None:
    worker = bench.worker(1)
    (n,) = fill(bench, worker, 10, 1)
    refuse(bench, worker, n)
    bench.clock.advance(5.0)
    for each in list(bench.queue.view.captchas)[:3]:
        bench.says(worker, "out", each, o="solved", token="t", answer=None, extra={})
    assert len(ordered(bench, worker)) == 1


def test_threads_of_the_account_are_a_ceiling(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.dispatcher.providers.threads("p", 4, working=1)
    assert len(fill(bench, worker, 2, 5)) == 1  # one thread is another program's
    bench.dispatcher.providers.threads("p", 5, working=2)
    assert len(ordered(bench, worker)) == 2
    bench.dispatcher.providers.threads("p", 500, working=2)
    assert bench.dispatcher.providers.limit("p") == 20
    bench.dispatcher.providers.threads("gone", 5, working=2)
