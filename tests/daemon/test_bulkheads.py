"""A provider that hangs takes its own share of a worker's submit threads, and no other's."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.supervisor.worker import Worker
from tests.daemon.test_dispatch import PROVIDER, THREADS, Bench

HANGS = replace(PROVIDER, name="hangs", priority=1)
OTHER = replace(PROVIDER, name="other", priority=2)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    for index in range(50):
        bench.accept(f"t-{index}")
    yield bench
    bench.close()


def under_way(bench: Bench) -> Counter[str]:
    """Submits that have no answer, by provider."""
    return Counter(attempt.provider for attempt in bench.queue.view.attempts.values())


def answer(bench: Bench, workers: list[Worker], provider: str) -> int:
    """All submits at `provider` are taken; how many those were."""
    answered = [attempt for attempt in bench.queue.view.attempts.values() if attempt.provider == provider]
    for attempt in answered:
        worker = next(worker for worker in workers if worker.key == attempt.worker)
        bench.says(worker, "begin", attempt.n)
        bench.says(worker, "out", attempt.n, o="submitted", cid=str(attempt.n))
    return len(answered)


def test_the_only_provider_has_all_threads(bench: Bench) -> None:
    bench.dispatcher.set_providers({"hangs": HANGS})
    bench.worker(1)
    bench.turn()
    assert under_way(bench) == {"hangs": THREADS}


def test_one_that_hangs_leaves_half_of_the_threads_to_the_other(bench: Bench) -> None:
    bench.dispatcher.set_providers({"hangs": HANGS, "other": OTHER})
    workers = [bench.worker(1), bench.worker(2)]
    bench.turn()
    assert under_way(bench) == {"hangs": THREADS, "other": THREADS}

    taken = 0
    while (more := answer(bench, workers, "other")) > 0:
        taken += more
        bench.turn()
    assert taken == 50 - THREADS
    assert under_way(bench) == {"hangs": THREADS}
    for worker in workers:
        assert Counter(bench.dispatcher._loads[worker.key].submits.values()) == {"hangs": THREADS // 2}
