"""Answers shared by a dedupe key: who leads, who waits, and what is left of it after the end and after a restart."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captchad.journal.store import Journal
from captchad.model.states import Category, State
from captchad.policy.retry import RetrySettings
from captchad.queue.queue import Queue, QueueSettings
from captchad.queue.task import Task
from tests.support.clock import FakeClock

SETTINGS = QueueSettings(
    capacity=50, id_ttl_s=300.0, dead_ttl_s=600.0, max_redrives=2, hold_unknown=False, retry=RetrySettings(3, 1.0, 10.0)
)


class Kit:
    """A queue that can be restarted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FakeClock()
        self.open()

    def open(self) -> None:
        self.journal = Journal.open(self.directory, segment_bytes=4096, clock=self.clock, reserve_bytes=65536)
        self.queue = Queue(self.journal, SETTINGS, self.clock, random.Random(7))
        self.queue.replay()

    def restart(self) -> None:
        self.queue.commit()
        before = self.queue.view.fingerprint()
        self.journal.close()
        self.open()
        assert self.queue.view.fingerprint() == before
        self.queue.settle_all_followers()
        self.queue.commit()

    def accept(self, task_id: str, key: str = "k", **over: Any) -> Task:
        data: dict[str, Any] = {
            "pr": 2, "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0,
            "m": "userrecaptcha", "h": "example.com", "dl": None, "dk": key,
        }  # fmt: skip
        self.queue.accept(task_id, data | over, b'{"id":"%s"}' % task_id.encode())
        return self.queue.view.tasks[task_id]

    def run(self, task: Task) -> None:
        self.start(task)
        self.queue.solved(self.queue.view.last_n, {"token": f"of-{task.id}", "answer": None, "extra": {}})
        self.queue.commit()

    def start(self, task: Task) -> int:
        n = self.queue.order(task, "p", (1, 1), "k")
        self.queue.submitted(n, str(n))
        return n

    def bury(self, task: Task) -> None:
        for _ in range(2):
            n = self.queue.order(task, "p", (1, 1), "k")
            self.queue.refused(n, "ERROR_BAD_PARAMETERS", Category.TASK, "", outage=False)
        assert task.state is State.DEAD

    def deliver_all(self) -> None:
        for task_id in list(self.queue.view.undelivered):
            self.queue.publishing(self.queue.view.tasks[task_id])
            self.queue.delivered(self.queue.view.tasks[task_id])

    def fill_segments(self, number: int) -> None:
        """Write until that many more segments are there."""
        until = self.journal.active + number
        while self.journal.active < until:
            self.queue.stage("beat", {"t": self.clock.time(), "pad": "x" * 1000})
            self.queue.commit()

    def clean_oldest(self) -> None:
        oldest = self.journal.oldest
        while self.journal.oldest == oldest:
            self.queue.clean(thorough=True)
            self.queue.commit()


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path / "journal")
    yield made
    made.journal.close()


def test_a_restart_after_the_ids_of_leader_and_followers_were_forgotten(kit: Kit) -> None:
    leader = kit.accept("a")
    kit.accept("b")
    kit.run(leader)
    kit.deliver_all()
    assert kit.queue.view.followers == {}
    kit.clock.advance(301.0)
    kit.queue.forget(1)
    kit.restart()
    kit.queue.forget(10)
    kit.restart()

    assert len(kit.queue.view.tasks) == 0
    assert kit.accept("c").where == "ready"


def test_a_follower_that_has_ended_is_never_made_the_leader(kit: Kit) -> None:
    leader = kit.accept("a")
    gone = kit.accept("b", dl=kit.clock.time() + 5.0)
    kit.accept("c")
    kit.clock.advance(6.0)
    kit.queue.expire()
    assert gone.state is State.EXPIRED
    kit.deliver_all()
    kit.clock.advance(301.0)
    kit.queue.forget(10)
    kit.bury(leader)

    third = kit.queue.view.tasks["c"]
    assert (third.where, third.waits_for) == ("ready", None)
    kit.restart()


def test_a_new_leader_takes_over_when_the_old_answer_is_stale(kit: Kit) -> None:
    kit.run(kit.accept("a"))
    kit.clock.advance(121.0)
    second = kit.accept("b")
    third = kit.accept("c")

    assert second.where == "ready"
    assert third.waits_for == "b"
    kit.restart()


def test_who_leads_outlives_the_cleaning_of_both_segments(kit: Kit) -> None:
    kit.run(kit.accept("a"))
    kit.deliver_all()
    kit.clock.advance(121.0)
    kit.fill_segments(1)
    kit.accept("b")
    kit.queue.commit()
    first = kit.journal.active
    kit.fill_segments(3)
    while kit.journal.oldest <= first:
        kit.clean_oldest()
        kit.fill_segments(1)
    kit.restart()

    assert kit.accept("c").waits_for == "b"


def test_only_one_of_the_followers_runs_when_the_answer_is_stale_after_a_restart(kit: Kit) -> None:
    leader = kit.accept("a")
    kit.accept("b")
    kit.accept("c")
    n = kit.start(leader)
    kit.queue.commit()
    # The last commit was cut behind the leader's own record: its followers were not told.
    solved = {"id": "a", "t": kit.clock.time(), "n": n, "prov": "p", "cid": "1", "exp": kit.clock.time() + 120.0}
    kit.journal.append("solved", solved, b'{"token":"x"}')
    kit.journal.commit()
    kit.journal.close()
    kit.clock.advance(200.0)
    kit.open()
    kit.queue.settle_all_followers()

    tasks = kit.queue.view.tasks
    assert (tasks["b"].where, tasks["c"].waits_for) == ("ready", "b")
    kit.restart()


def test_a_redriven_task_leads_again(kit: Kit) -> None:
    first = kit.accept("a")
    kit.bury(first)
    kit.deliver_all()
    assert kit.queue.redrive("a") is None

    assert kit.accept("b").waits_for == "a"
    kit.restart()
