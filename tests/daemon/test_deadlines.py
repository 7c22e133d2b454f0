"""A deadline ends a task wherever it is; one that cannot be made costs nothing. The queue and its journal are real."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.model.states import State
from captchad.queue.queue import STEADY_S
from captchad.supervisor.worker import Worker
from tests.daemon.test_dispatch import PROVIDER, Bench, let_go


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def how(bench: Bench, task_id: str) -> tuple[State, str | None, int]:
    task = bench.queue.view.tasks[task_id]
    return task.state, task.error, task.charges


def test_who_cannot_make_the_deadline_is_not_submitted(bench: Bench) -> None:
    first_poll_s = PROVIDER.first_poll_s
    worker = bench.worker(1)
    bench.accept("late", deadline_s=first_poll_s)
    bench.accept("in-time", deadline_s=first_poll_s + 0.1)
    bench.turn()
    assert how(bench, "late") == (State.EXPIRED, "DEADLINE", 0)
    assert how(bench, "in-time") == (State.SUBMITTING, None, 0)
    assert [kind for kind, _ in bench.told(worker)] == ["submit"]


def test_what_counts_is_the_fastest_provider(bench: Bench) -> None:
    bench.dispatcher.set_providers({"p": PROVIDER, "q": replace(PROVIDER, name="q", first_poll_s=0.1)})
    bench.worker(1)
    bench.accept("a", deadline_s=0.2)
    bench.turn()
    assert how(bench, "a") == (State.SUBMITTING, None, 0)


def test_a_submit_that_a_worker_did_not_begin_in_time_is_not_begun(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.accept("a", deadline_s=3.0)
    bench.accept("b")
    bench.turn()
    worker.channel.flush()
    leases = [message["lease_s"] for message in bench.ends[1].receive() if message["m"] == "submit"]
    assert leases == [pytest.approx(3.0), 5.0]


def test_nobody_waits_behind_a_crowd_that_is_too_late(bench: Bench) -> None:
    bench.dispatcher.set_providers({"p": replace(PROVIDER, first_poll_s=5.0)})
    bench.worker(1)
    for number in range(40):
        bench.accept(f"late-{number}", deadline_s=2.0)
    bench.accept("good")
    bench.turn()
    assert bench.queue.view.tasks["good"].state is State.SUBMITTING
    assert bench.queue.view.states[State.EXPIRED] == 40


def restart(bench: Bench, tmp_path: Path, down_s: float) -> tuple[Bench, Worker]:
    bench.close()
    bench.clock.advance(down_s)
    again = Bench(tmp_path / "journal", bench.clock)
    return again, again.worker(1)


def test_after_a_start_who_seems_too_late_waits_until_the_clock_is_steady(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    bench.accept("late", deadline_s=20.0)
    bench.accept("good", deadline_s=200.0)
    bench, worker = restart(bench, tmp_path, 30.0)
    try:
        bench.turn()
        assert [kind for kind, _ in bench.told(worker)] == ["submit"]
        assert how(bench, "good") == (State.SUBMITTING, None, 0)
        assert how(bench, "late") == (State.PENDING, None, 0)
        assert bench.queue.view.oldest_pending_at() == bench.queue.view.tasks["late"].queued_at

        bench.clock.advance(STEADY_S)
        bench.turn()
        assert how(bench, "late") == (State.EXPIRED, "DEADLINE", 0)
    finally:
        bench.close()


@pytest.mark.parametrize("where", ["ready", "delayed", "held", "submitting", "submitted", "late"])
def test_a_deadline_ends_it_wherever_it_is_and_what_is_paid_is_counted(bench: Bench, where: str) -> None:
    worker = bench.worker(1)
    bench.dispatcher.draining = where in ("ready", "held")
    bench.accept("a", deadline_s=100.0)
    bench.turn()
    n = bench.queue.view.last_n
    if where == "held":
        bench.queue.hold("a")
    elif where == "delayed":
        bench.says(worker, "begin", n)
        bench.says(worker, "out", n, o="refused", code="ERROR_SERVER_ERROR", category="transient")
    elif where in ("submitted", "late"):
        bench.says(worker, "begin", n)
        bench.says(worker, "out", n, o="submitted", cid="17")
    if where == "late":
        bench.clock.advance(PROVIDER.timeout_s)
        bench.dispatcher.draining = True
        bench.turn()
    bench.told(worker)
    bench.clock.advance(100.0)
    bench.queue.expire()
    bench.turn()

    paid = int(where in ("submitted", "late"))
    assert how(bench, "a") == (State.EXPIRED, "DEADLINE", paid)
    assert bench.told(worker) == [("drop", n)] * paid
    if where == "submitting":
        bench.says(worker, "out", n, o="submitted", cid="17")
        bench.turn()
        assert how(bench, "a") == (State.EXPIRED, "DEADLINE", 1)
        assert bench.told(worker) == [("ack", n)]  # nobody polls it


def test_a_method_has_a_time_out_of_its_own(bench: Bench) -> None:
    bench.dispatcher.set_providers({"p": replace(PROVIDER, timeouts={"userrecaptcha": 20.0, "turnstile": 5.0})})
    n = bench.submit("a", bench.worker(1))
    bench.clock.advance(19.0)
    bench.turn()
    assert not bench.queue.view.captchas[n].late

    bench.clock.advance(2.0)
    bench.turn()
    assert bench.queue.view.captchas[n].late
    # It is given up after five times its own time-out, as others are.
    bench.dispatcher.draining = True
    bench.clock.advance(78.0)
    bench.turn()
    assert n in bench.queue.view.captchas
    bench.clock.advance(3.0)
    bench.turn()
    assert n not in bench.queue.view.captchas


def test_a_time_out_that_a_reload_makes_shorter_polls_nobody_at_the_same_moment(bench: Bench) -> None:
    worker = bench.worker(1)
    for number in range(10):
        bench.submit(f"t{number}", worker)
    bench.clock.advance(50.0)
    worker.channel.flush()
    bench.ends[1].receive()
    bench.dispatcher.set_providers({"p": replace(PROVIDER, timeout_s=10.0)})
    worker.channel.flush()
    waits = [message["first_in_s"] for message in bench.ends[1].receive() if message["m"] == "poll"]
    assert (len(waits), len(set(waits))) == (10, 10)
    assert max(waits) < PROVIDER.poll_s


def test_a_suspect_that_is_too_late_is_not_run(bench: Bench) -> None:
    first = bench.worker(1)
    bench.accept("a", deadline_s=10.0)
    bench.turn()
    ((_, n),) = bench.told(first)
    bench.says(first, "begin", n)
    bench.dispatcher.on_death(first, "crash")
    let_go(first)
    bench.clock.advance(9.5)
    second = bench.worker(2)
    bench.turn()
    assert how(bench, "a")[:2] == (State.EXPIRED, "DEADLINE")
    assert bench.told(second) == []
