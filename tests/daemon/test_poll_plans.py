"""The plans that the dispatcher hands to workers, and what it learns of their answers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.daemon.poll_plans import KEPT, PollPlans
from captchad.ipc.channel import Message
from captchad.policy.poll_timing import POLLS_IN_TIME
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


SLOW = replace(PROVIDER, first_poll_s=30.0, poll_s=30.0, timeout_s=100.0)
FAST = replace(PROVIDER, first_poll_s=0.5, poll_s=0.5, timeout_s=20.0)


def test_a_captcha_in_flight_is_polled_by_the_times_of_a_reload(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.dispatcher.set_providers({"p": SLOW})
    assert submit(bench, "a", worker)["first_in_s"] == 30.0
    bench.clock.advance(1.1)
    bench.dispatcher.set_providers({"p": FAST})
    (order,) = polls(bench, worker)
    assert 0.0 < order["first_in_s"] <= 0.5  # not at once: all in flight would be polled at this moment
    assert len(order["gaps_s"]) > 10
    bench.dispatcher.set_providers({"p": replace(FAST, max_in_flight=5)})
    assert polls(bench, worker) == []


@pytest.mark.parametrize("method", ["userrecaptcha", "turnstile"])
def test_a_captcha_in_flight_times_out_by_the_times_of_a_reload(bench: Bench, method: str) -> None:
    worker = bench.worker(1)
    bench.dispatcher.set_providers({"p": SLOW})
    n = submit(bench, "a", worker)["n"]
    bench.clock.advance(50.0)
    bench.dispatcher.set_providers({"p": replace(SLOW, timeouts={method: 60.0})})
    bench.clock.advance(29.9)
    bench.turn()
    assert not bench.queue.view.captchas[n].late
    bench.clock.advance(0.1)  # RESUMED_S: it may be solved, and was to be polled later
    bench.turn()
    assert bench.queue.view.captchas[n].late is (method == "userrecaptcha")


def test_a_longer_time_out_is_that_of_captchas_in_flight_too(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.dispatcher.set_providers({"p": FAST})
    n = submit(bench, "a", worker)["n"]
    bench.clock.advance(5.0)
    bench.dispatcher.set_providers({"p": SLOW})
    bench.clock.advance(94.9)
    bench.turn()
    assert not bench.queue.view.captchas[n].late
    bench.clock.advance(0.1)
    bench.turn()
    assert bench.queue.view.captchas[n].late


def test_no_captcha_is_polled_too_often_however_often_its_times_change(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.dispatcher.set_providers({"p": FAST})
    n = submit(bench, "a", worker)["n"]
    polled = 0
    for poll_s in (1.0, 0.5, 0.25, 0.6):
        bench.clock.advance(1.0)
        for _ in range(5):
            bench.says(worker, "exec", n)
            bench.says(worker, "done", n)
            polled += 1
        bench.dispatcher.set_providers({"p": replace(FAST, poll_s=poll_s)})
        (order,) = polls(bench, worker)
        assert 1 + len(order["gaps_s"]) <= max(1, POLLS_IN_TIME - polled)
    assert order["first_in_s"] > 15.0  # the last one before its time-out, whatever it was polled already


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
