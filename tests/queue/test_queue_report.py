"""Reports: once for an answer, whatever becomes of the records before, and as long as they are of use."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.model.states import State
from captchad.policy.account import REPORT_S
from captchad.queue.queue import Refusal
from tests.queue.test_queue_cold import is_cold, take
from tests.queue.test_queue_dedupe import Kit

LATE = "it was submitted more than 15 minutes ago"


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path / "journal")
    yield made
    made.journal.close()


def solve(kit: Kit, task_id: str, seconds: float = 10.0, **over: object) -> None:
    """Submitted now, and solved after so many seconds."""
    take(kit, task_id, **over)
    n = kit.queue.order(kit.queue.view.tasks[task_id], "p", (1, 1), "k")
    kit.queue.submitted(n, f"77{n}")
    kit.clock.advance(seconds)
    kit.queue.solved(n, {"token": "t", "answer": None, "extra": {}}, None)
    kit.queue.commit()


def deliver(kit: Kit, task_id: str) -> None:
    kit.queue.publishing(kit.queue.view.tasks[task_id])
    kit.queue.commit()
    kit.queue.delivered(kit.queue.view.tasks[task_id])
    kit.queue.commit()


def report(kit: Kit, task_id: str) -> str:
    """Why it was refused; "" when it was not."""
    said = kit.queue.report(task_id, "bad", {"p"})
    kit.queue.commit()
    if isinstance(said, Refusal):
        return said.reason
    assert (said.provider, said.cid) == ("p", f"77{kit.queue.view.last_n}")
    return ""


def clean(kit: Kit) -> None:
    """So that nothing is left but rows."""
    kit.queue.settings = replace(kit.queue.settings, id_ttl_s=86400.0)
    kit.fill_segments(1)
    kit.queue.clean_all()


@pytest.mark.parametrize("restart", [False, True])
def test_a_delivered_answer_is_reported_once_and_stays_cold(kit: Kit, restart: bool) -> None:
    solve(kit, "a")
    deliver(kit, "a")
    assert is_cold(kit, "a")
    assert report(kit, "a") == ""
    if restart:
        kit.restart()
    assert is_cold(kit, "a")
    assert report(kit, "a") == "it is reported already, as bad; a captcha is reported once"


def test_a_report_before_the_delivery_lasts(kit: Kit) -> None:
    solve(kit, "a")
    assert report(kit, "a") == ""
    deliver(kit, "a")
    kit.restart()
    assert "already" in report(kit, "a")


def test_the_captcha_id_is_known_for_a_quarter_of_an_hour_from_the_submit(kit: Kit) -> None:
    solve(kit, "a", 60.0)
    deliver(kit, "a")
    kit.clock.advance(REPORT_S - 60.0 + 1.0)
    assert report(kit, "a") == LATE


def test_only_what_a_provider_has_answered_for_this_task_is_reported(kit: Kit) -> None:
    take(kit, "waits")
    assert report(kit, "waits") == "it is pending, not solved"
    assert report(kit, "nobody") == "no such task"
    solve(kit, "leader", dk="key")
    take(kit, "follower", dk="key")
    kit.queue.commit()
    assert kit.queue.view.tasks.state("follower") is State.SOLVED
    assert "report that one" in report(kit, "follower")
    said = kit.queue.report("leader", "good", {"another"})
    assert isinstance(said, Refusal)
    assert said.reason == "its provider p is not in the configuration any more"
    assert report(kit, "leader") == ""


@pytest.mark.parametrize("reported", [False, True])
def test_cleaning_keeps_what_a_report_needs_as_long_as_it_is_early_enough(kit: Kit, reported: bool) -> None:
    solve(kit, "a")
    deliver(kit, "a")
    if reported:
        assert report(kit, "a") == ""
    clean(kit)
    kit.restart()
    task = kit.queue.view.tasks.peek("a")
    assert task is not None
    assert task.source == ""  # a row is left of it, no more
    assert ("already" in report(kit, "a")) is reported
    assert "already" in report(kit, "a")


def test_cleaning_forgets_the_captcha_id_when_it_is_too_late(kit: Kit) -> None:
    solve(kit, "a")
    deliver(kit, "a")
    kit.clock.advance(REPORT_S + 1.0)
    clean(kit)
    task = kit.queue.view.tasks.peek("a")
    assert task is not None
    assert (task.cid, task.state) == (None, State.SOLVED)
    assert report(kit, "a") == LATE


def test_a_report_says_all_when_the_records_before_it_are_gone(kit: Kit) -> None:
    solve(kit, "a")
    deliver(kit, "a")
    kit.fill_segments(1)
    assert report(kit, "a") == ""
    kit.clean_oldest()
    kit.restart()
    assert is_cold(kit, "a")
    assert "already" in report(kit, "a")
