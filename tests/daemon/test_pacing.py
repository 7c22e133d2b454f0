"""No more submits go to a provider in any 3 s than it allows, and its limits are obeyed for their whole time."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.model.states import Category
from captchad.policy.breaker import state_word
from tests.daemon.test_dispatch import PROVIDER, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def test_submits_wait_for_the_window_and_the_dispatcher_wakes_up_for_it(bench: Bench) -> None:
    bench.dispatcher.set_providers({"p": replace(PROVIDER, submits_per_3s=6)})
    worker = bench.worker(1)
    times: list[float] = []
    for index in range(40):
        bench.accept(f"t-{index}")
    while len(times) < 40:
        bench.turn()
        for kind, n in bench.told(worker):
            if kind == "submit":
                times.append(bench.clock.monotonic())
                bench.says(worker, "begin", n)
                bench.says(worker, "out", n, o="submitted", cid=str(n))
        if len(times) < 40:
            wait_s = bench.dispatcher.wait_s()
            assert wait_s is not None
            assert wait_s > 0.0
            bench.clock.advance(min(wait_s, 0.4))

    assert all(later - earlier > 3.0 for earlier, later in zip(times, times[6:], strict=False))
    assert times[-1] - times[0] < 3.5 * 40 / 6


@pytest.mark.parametrize(
    ("code", "category", "pause_s"),
    [
        ("ERROR: 1001", Category.BUDGET, 600.0),
        ("ERROR: 1002", Category.BUDGET, 300.0),
        ("ERROR: 1003", Category.TRANSIENT, 30.0),
        ("ERROR: 1004", Category.PERMANENT, 600.0),
        ("ERROR: 1005", Category.TRANSIENT, 300.0),
        ("MAX_USER_TURN", Category.TRANSIENT, 10.0),
    ],
)
def test_a_limit_is_obeyed_for_its_time(bench: Bench, code: str, category: Category, pause_s: float) -> None:
    providers = bench.dispatcher.providers
    providers.fault("p", "submit", code, category)
    providers.fault("p", "submit", "HTTP_429", Category.TRANSIENT)
    providers.fault("p", "submit", "ERROR_KEY_DOES_NOT_EXIST", Category.PERMANENT)  # the bench pauses for 1 s then
    bench.accept("t")
    worker = bench.worker(1)

    bench.clock.advance(pause_s - 0.1)
    bench.turn()
    assert bench.told(worker) == []
    assert providers.why_held_back("p") == f"open after {code}, next try in 0 s"
    assert bench.dispatcher.wait_s() == pytest.approx(0.1)
    bench.clock.advance(0.1)
    bench.turn()
    assert [kind for kind, _ in bench.told(worker)] == ["submit"]
    assert state_word(providers.lanes["p"].breaker, bench.clock.monotonic()) == "half-open"
