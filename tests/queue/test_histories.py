"""Random histories against the real journal: after every commit and every restart, replay equals live."""

import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from captchad.journal.places import RecordFiles
from captchad.journal.store import Journal, read_all
from captchad.model.states import Category, State
from captchad.policy.retry import RetrySettings
from captchad.queue.crewlog import DEATHS
from captchad.queue.queue import Queue, QueueSettings
from captchad.queue.task import Task
from captchad.queue.view import View
from tests.support.clock import FakeClock

SETTINGS = QueueSettings(
    capacity=50, id_ttl_s=300.0, dead_ttl_s=600.0, max_redrives=2, hold_unknown=False, retry=RetrySettings(3, 1.0, 10.0)
)


def accept(queue: Queue, task_id: str, **over: Any) -> None:
    data: dict[str, Any] = {
        "pr": 2, "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0,
        "m": "userrecaptcha", "h": "example.com", "dl": None,
    }  # fmt: skip
    queue.accept(task_id, data | over, b'{"id":"%s"}' % task_id.encode())


def replayed(directory: Path) -> dict[str, Any]:
    view = View(RecordFiles(directory).read)
    for record in read_all(directory, lazy=View.LAZY):
        view.replay(record)
    return view.fingerprint()


def every_ready_task_stands_in_line(view: View) -> bool:
    """What is counted as ready is found by whoever takes from the lines; without taking anything."""
    lines = view._lines
    lines.oldest_pending_at()
    return len({task_id for line in lines._ready.values() for task_id in lines._standing(line)}) == view.lines["ready"]


class Histories(RuleBasedStateMachine):
    """Acts as parent and workers do; the model is what was acknowledged."""

    @initialize()
    def begin(self) -> None:
        self.root = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.directory = Path(self.root.name) / "journal"
        self.clock = FakeClock()
        self.rng = random.Random(7)
        self.count = 0
        self.staffed = 0
        self.died: list[int] = []
        self.charges = 0
        self.accepted: set[str] = set()
        self.ends: dict[str, State] = {}
        self.ended_at: dict[str, float] = {}
        self.charged: dict[str, int] = {}
        self.reported: set[str] = set()
        self.open()

    def open(self) -> None:
        self.journal = Journal.open(self.directory, segment_bytes=4096, clock=self.clock, reserve_bytes=65536)
        self.queue = Queue(self.journal, SETTINGS, self.clock, self.rng)
        self.queue.replay()
        self.queue.stage("epoch", {"epoch": self.queue.view.epoch + 1, "t": self.clock.time()})

    def commit(self) -> None:
        self.queue.commit()
        assert self.queue.down_reason == ""
        self.note_ends()

    def note_ends(self) -> None:
        for task in self.queue.view.tasks.values():
            if task.state.ended:
                self.ends.setdefault(task.id, task.state)
                self.ended_at[task.id] = task.finished_at or 0.0

    def pick(self, choice: int, states: tuple[State, ...]) -> Task | None:
        tasks = [task for task in self.queue.view.tasks.values() if task.state in states]
        return tasks[choice % len(tasks)] if tasks else None

    # ------------------------------------------------------------ what happens

    @rule(key=st.sampled_from([None, None, "k1", "k2"]), deadline=st.sampled_from([None, None, 20.0]))
    def take(self, key: str | None, deadline: float | None) -> None:
        if self.queue.view.unfinished >= SETTINGS.capacity:
            return
        self.count += 1
        over: dict[str, Any] = {"dl": None if deadline is None else self.clock.time() + deadline}
        if key:
            over["dk"] = key
        accept(self.queue, f"t{self.count}", **over)
        self.accepted.add(f"t{self.count}")

    @rule()
    def order(self) -> None:
        self.queue.view.ripen(self.queue.now())
        task = self.queue.view.peek_ready()
        if task is not None:
            self.queue.order(task, "p", (self.queue.view.epoch, 1), "k")

    @rule(wait_s=st.sampled_from([0.0, 5.0, 100.0]))
    def postpone(self, wait_s: float) -> None:
        task = self.queue.view.peek_ready()
        if task is not None:
            self.queue.view.postpone(task, self.queue.now() + wait_s)

    @rule(choice=st.integers(0, 50), what=st.sampled_from(["ok", "ok", "refused", "money", "lost", "not_sent"]))
    def answer(self, choice: int, what: str) -> None:
        attempts = list(self.queue.view.attempts.values())
        if not attempts:
            return
        attempt = attempts[choice % len(attempts)]
        match what:
            case "ok":
                self.queue.submitted(attempt.n, str(1000 + attempt.n))
                self.charges += 1
                self.charged[attempt.task_id] = self.charged.get(attempt.task_id, 0) + 1
            case "refused":
                self.queue.refused(attempt.n, "ERROR_BAD_PARAMETERS", Category.TASK, "", outage=False)
            case "money":
                self.queue.refused(attempt.n, "ERROR_ZERO_BALANCE", Category.BUDGET, "", outage=False)
            case "lost":
                self.queue.unknown(attempt.n, "reset", by_crash=choice % 2 == 0)
            case "not_sent":
                self.queue.not_sent(attempt.n, "connect")

    @rule(choice=st.integers(0, 50), what=st.sampled_from(["solved", "solved", "failed", "timeout", "give_up"]))
    def poll(self, choice: int, what: str) -> None:
        captchas = list(self.queue.view.captchas.values())
        if not captchas:
            return
        captcha = captchas[choice % len(captchas)]
        match what:
            case "solved":
                price = [None, 0, 850][captcha.n % 3]
                self.queue.solved(captcha.n, {"token": f"tok-{captcha.n}", "answer": None, "extra": {}}, price)
            case "failed":
                self.queue.failed(captcha.n, "ERROR_CAPTCHA_UNSOLVABLE", Category.TASK, "")
            case "timeout" if not captcha.late:
                self.queue.timed_out(captcha)
            case "give_up" if captcha.late:
                self.queue.give_up_late(captcha)

    @rule(choice=st.integers(0, 50), alone=st.booleans())
    def crash(self, choice: int, alone: bool) -> None:
        task = self.pick(choice, (State.PENDING, State.SUBMITTING, State.SUBMITTED))
        if task is not None:
            self.queue.crashed(task.id, alone=alone, stall=False)

    @rule(choice=st.integers(0, 50))
    def redrive(self, choice: int) -> None:
        task = self.pick(choice, (State.DEAD,))
        if task is not None and self.queue.redrive(task.id) is None:
            self.ends.pop(task.id, None)

    @rule(choice=st.integers(0, 50))
    def report(self, choice: int) -> None:
        task = self.pick(choice, (State.SOLVED,))
        if task is not None and isinstance(self.queue.report(task.id, "bad", ["p"]), Task):
            assert task.id not in self.reported, "reported twice"
            self.reported.add(task.id)

    @rule(do=st.sampled_from(["start", "move", "death"]))
    def do_about_a_worker(self, do: str) -> None:
        self.staffed += 1
        self.queue.stage("crew", {"t": self.clock.time(), "do": do, "why": "signal", "w": self.staffed})
        self.died += [self.staffed] * (do == "death")

    @rule()
    def publish(self) -> None:
        view = self.queue.view
        for task_id in list(view.undelivered):
            task = view.tasks[task_id]
            if task.delivery == "publishing":
                self.queue.delivered(task)
            else:
                if task.state is State.SOLVED:
                    self.commit()
                    assert self.queue.answer(task)["token"].startswith("tok-")
                self.queue.publishing(task)

    @rule(seconds=st.sampled_from([0.5, 5.0, 61.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.queue.expire()
        self.commit()  # notes how tasks ended, before they may be forgotten
        self.queue.forget(100)
        self.note_forgotten()

    @rule()
    def clean(self) -> None:
        self.note_ends()
        self.queue.clean(5, thorough=True)
        self.note_forgotten()  # those whose last submit had still been under way when their time came

    def note_forgotten(self) -> None:
        for task_id in set(self.ends) - set(self.queue.view.tasks):
            assert self.clock.time() - self.ended_at[task_id] >= SETTINGS.id_ttl_s
            del self.ends[task_id]
            self.accepted.discard(task_id)
            self.reported.discard(task_id)

    # ------------------------------------------------------------ what must hold

    @rule()
    def look(self) -> None:
        self.commit()
        assert replayed(self.directory) == self.queue.view.fingerprint()

    @rule()
    def restart(self) -> None:
        """Killed between turns: what was committed comes back, and nothing else."""
        self.commit()
        before = self.queue.view.fingerprint()
        self.journal.close()
        self.open()
        after = self.queue.view.fingerprint()
        assert after == before
        self.queue.settle_all_followers()

    @invariant()
    @precondition(lambda self: hasattr(self, "queue"))
    def nothing_is_lost_and_nothing_ends_twice(self) -> None:
        view = self.queue.view
        assert self.accepted <= set(view.tasks)
        for task_id, end in self.ends.items():
            assert view.tasks.state(task_id) is end
        for task in view.tasks.values():
            assert task.charges == self.charged.get(task.id, 0)
        assert view.totals.charges == self.charges
        assert sum(view.states.values()) == len(view.tasks)
        assert view.lines["ready"] + view.lines["delayed"] + view.lines["waiting"] == view.states[State.PENDING]
        assert view.in_flight.get("p", 0) == len(view.attempts) + len(view.captchas)
        assert every_ready_task_stands_in_line(view)
        assert [row["w"] for row in view.crew.deaths()] == self.died[-DEATHS:]

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.journal.close()
            self.root.cleanup()


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=60, suppress_health_check=list(HealthCheck))
TestHistories = Histories.TestCase
