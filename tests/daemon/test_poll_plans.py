"""The plans that the dispatcher hands to workers, and what it learns of their answers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.daemon.poll_plans import KEPT, PollPlans
from captchad.ipc.channel import Message
from captchad.supervisor.worker import Worker
from tests.daemon.test_dispatch import PROVIDER, Bench, let_go


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def submit(bench: Bench, task_id: str, worker: Worker) -> Message:
    """A task that this worker has submitted: the order to poll it."""
    bench.accept(task_id)
    bench.turn()
    n = next(n for kind, n in bench.told(worker) if kind == "submit")
    bench.says(worker, "begin", n)
    bench.says(worker, "out", n, o="submitted", cid=str(n))
    return polls(bench, worker)[0]


def polls(bench: Bench, worker: Worker) -> list[Message]:
    """The orders to poll that it was sent since."""
    worker.channel.flush()
    return [message for message in bench.ends[worker.vital.number].receive() if message["m"] == "poll"]


def solve(bench: Bench, worker: Worker, n: int, after_s: float, waited_s: float | None) -> None:
    bench.clock.advance(after_s)
    bench.says(worker, "out", n, o="solved", token="t", answer=None, extra={}, waited_s=waited_s)


def test_the_polls_of_a_captcha_follow_the_solve_times_of_those_before(bench: Bench) -> None:
    worker = bench.worker(1)
    assert submit(bench, "first", worker)["first_in_s"] == 1.0  # as configured
    bench.dispatcher.set_providers({"p": replace(PROVIDER, first_poll_s=0.0, poll_s=5.0)})
    assert submit(bench, "second", worker)["first_in_s"] == 15.0  # by method
    for number in range(30):
        order = submit(bench, f"t{number}", worker)
        solve(bench, worker, order["n"], 4.0 + number % 3 * 0.5, waited_s=1.0)

    order = submit(bench, "last", worker)

    assert 2.5 < order["first_in_s"] < 5.0
    assert order["gaps_s"][0] < 1.5


def test_a_late_captcha_is_polled_at_once_then_slowly_and_teaches_nothing(bench: Bench) -> None:
    worker = bench.worker(1)
    n = submit(bench, "a", worker)["n"]
    bench.clock.advance(PROVIDER.timeout_s + 0.1)
    bench.turn()
    (order,) = polls(bench, worker)
    assert order["first_in_s"] == 0.0
    assert order["gaps_s"][0] == pytest.approx(4.0 * PROVIDER.poll_s, abs=0.2)
    solve(bench, worker, n, 1.0, waited_s=0.5)
    assert bench.dispatcher._poll_plans._of("p", "userrecaptcha").times.seen == 0


def test_a_captcha_that_changes_hands_is_polled_at_once_and_goes_on_with_its_plan(bench: Bench) -> None:
    first = bench.worker(1)
    order = submit(bench, "a", first)
    bench.clock.advance(order["first_in_s"] + order["gaps_s"][0] / 2.0)
    second = bench.worker(2)
    bench.dispatcher.on_death(first, "exit")
    let_go(first)
    bench.turn()

    (handed,) = polls(bench, second)

    assert handed["first_in_s"] == 0.0
    assert handed["gaps_s"][0] == pytest.approx(order["gaps_s"][0] / 2.0, abs=0.01)
    assert handed["gaps_s"][1:] == order["gaps_s"][1:]


def test_what_is_kept_is_bounded() -> None:
    plans = PollPlans()
    for number in range(KEPT + 10):
        plans.learn("p", f"method-{number}", 1.0, 2.0)
    assert len(plans._known) == KEPT
