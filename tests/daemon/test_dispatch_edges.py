"""Corners of the dispatcher: wake-ups, restarts, wards, and workers that say what makes no sense."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.daemon.publish import Publisher
from captchad.model.states import Category, State
from captchad.spool.dirs import SpoolDirs
from captchad.spool.results import Results
from tests.daemon.test_dispatch import Bench, let_go


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


def test_a_captcha_that_is_older_than_its_time_is_polled_once_more_after_a_start(bench: Bench) -> None:
    worker = bench.worker(1)
    n = bench.submit("a", worker)
    bench.clock.advance(1000.0)
    bench.dispatcher._timeouts.clear()
    bench.dispatcher._poller.clear()
    bench.dispatcher.resume()
    bench.turn()

    assert bench.queue.view.tasks["a"].state is State.SUBMITTED
    assert ("poll", n) in bench.told(worker)
    bench.clock.advance(31.0)
    bench.turn()
    assert bench.queue.view.captchas[n].late


def test_an_id_that_is_said_twice_does_not_end_the_slow_polls(bench: Bench) -> None:
    n = bench.submit("a", bench.worker(1))
    bench.dispatcher.outcome(n, {"n": n, "o": "submitted", "cid": str(1000 + n)})
    bench.clock.advance(60.0)
    bench.turn()

    assert bench.queue.view.captchas[n].late
    bench.clock.advance(200.0)
    bench.turn()
    assert n in bench.queue.view.captchas


def test_a_worker_keeps_its_answer_until_that_is_on_disk(bench: Bench) -> None:
    worker = bench.worker(1)
    n = bench.submit("a", worker)
    bench.dispatcher.on_message(worker, {"m": "out", "n": n, "o": "solved", "token": "t", "answer": None, "extra": {}})
    bench.dispatcher.turn()
    assert bench.told(worker) == []

    bench.queue.commit()
    assert bench.told(worker) == [("ack", n), ("drop", n)]


def test_a_delayed_task_that_is_due_wakes_nobody_up_while_nothing_may_be_ordered(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.accept("a")
    bench.turn()
    ((_, n),) = bench.told(worker)
    bench.says(worker, "out", n, o="not_sent", reason="connect")
    assert bench.queue.view.tasks["a"].where == "delayed"
    bench.queue.no_room = "the disk is full"
    bench.clock.advance(20.0)
    bench.turn()

    assert bench.dispatcher.wait_s() != 0.0


def test_the_only_worker_polls_on_while_a_suspect_has_no_provider(bench: Bench) -> None:
    first = bench.worker(1)
    other = bench.submit("other", first)
    bench.accept("a")
    bench.turn()
    ((_, n),) = bench.told(first)
    bench.says(first, "begin", n)
    bench.dispatcher.on_death(first, "crash")
    let_go(first)
    assert bench.queue.view.tasks["a"].where == "ready"
    bench.dispatcher.providers.fault("p", "submit", "ERROR_ZERO_BALANCE", Category.BUDGET)
    second = bench.worker(2)
    bench.turn()

    assert ("poll", other) in bench.told(second)


def test_an_outcome_of_an_unknown_kind_leaves_the_submit_to_the_death_of_its_worker(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.accept("a")
    bench.turn()
    ((_, n),) = bench.told(worker)
    bench.says(worker, "begin", n)
    with pytest.raises(ValueError, match="unknown kind"):
        bench.says(worker, "out", n, o="sold")
    bench.dispatcher.on_death(worker, "crash")
    let_go(worker)

    task = bench.queue.view.tasks["a"]
    assert (task.state, task.unknown_submits) == (State.PENDING, 1)


def test_results_that_wait_for_the_journal_wake_nobody_up(bench: Bench, tmp_path: Path) -> None:
    worker = bench.worker(1)
    n = bench.submit("a", worker)
    bench.says(worker, "out", n, o="solved", token="t")
    dirs = SpoolDirs(tmp_path / "spool")
    publisher = Publisher(bench.queue, Results(dirs, bench.clock), bench.clock, logging.getLogger("test"))
    publisher.turn()  # there is no spool
    assert publisher.down_reason
    bench.queue.down_reason = "the disk is full"
    bench.clock.advance(5.0)
    publisher.turn()
    assert publisher.wait_s() is None

    bench.queue.down_reason = ""
    dirs.make()
    publisher.turn()
    assert publisher.down_reason == ""
