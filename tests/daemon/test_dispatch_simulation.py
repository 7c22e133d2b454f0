"""Whole lives of dispatcher, queue and journal under a seeded script: workers die and parents are killed at any point.

Real are the dispatcher, the queue, the journal and the side files; the workers are objects that follow the protocol of
docs/architecture.md, and the provider is a ledger. Every run of a seed is the same run.
"""

import errno
import logging
import os
import random
import tempfile
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from captchad.daemon.dispatch import Dispatcher
from captchad.daemon.orphans import Orphans
from captchad.daemon.providers import Providers, ProviderSettings
from captchad.journal.osio import Os
from captchad.journal.places import RecordFiles
from captchad.journal.sidefile import SideFile, remove_side_files, side_files
from captchad.journal.store import Journal, read_all
from captchad.model.key import Key
from captchad.policy.breaker import BreakerSettings
from captchad.policy.retry import RetrySettings
from captchad.queue.queue import Queue, QueueSettings
from captchad.queue.view import View
from captchad.supervisor.worker import Worker
from tests.support.clock import FakeClock

SEEDS = 15
TURNS = 150
PATIENCE = 4000

SETTINGS = QueueSettings(
    capacity=100, id_ttl_s=1e9, dead_ttl_s=1e9, max_redrives=2, hold_unknown=False, retry=RetrySettings(4, 1.0, 5.0)
)

Message = dict[str, Any]


class Disk(Os):
    """A disk whose syncs can fail."""

    broken = False

    def fdatasync(self, fd: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@dataclass
class Ledger:
    """The provider: what it has taken, by attempt, and how each captcha will end."""

    rng: random.Random
    clock: FakeClock
    taken: dict[int, str] = field(default_factory=dict)  # attempt -> task
    answers: dict[str, tuple[float, str]] = field(default_factory=dict)  # captcha -> when, how

    def take(self, n: int, task_id: str) -> str:
        assert n not in self.taken, f"attempt {n} was sent twice"
        self.taken[n] = task_id
        how = self.rng.choices(["solved", "failed"], [6, 1])[0]
        self.answers[str(n)] = (self.clock.time() + self.rng.choice([0.0, 2.0, 15.0, 60.0]), how)
        return str(n)


class FakeWorker:
    """One worker process: an inbox, a pipe to the parent, and what it would have in memory."""

    def __init__(self, sim: "Simulation", number: int) -> None:
        self.sim = sim
        self.key = (sim.epoch, number)
        self.usable = True
        self.inbox: deque[Message] = deque()
        self.pipe: deque[Message] = deque()
        self.threads = 16
        self.orders: dict[int, tuple[str, int]] = {}  # attempt -> task, how far it is
        self.polls: dict[int, str] = {}
        self.polling: int | None = None
        self.unacked: list[Message] = []
        self.side = SideFile.create(sim.directory, *self.key, preallocate=4096)

    def send(self, *messages: Message) -> None:
        if self.usable:
            self.inbox.extend(messages)

    def say(self, n: int, o: str, **fields: Any) -> None:
        self.unacked.append({"n": n, "o": o, **fields})
        self.pipe.append({"m": "out", "n": n, "o": o, **fields})

    def step(self) -> None:
        moves = [self.obey] * 3 * bool(self.inbox) + [self.submit] * 2 * bool(self.orders) + [self.poll]
        self.sim.rng.choice(moves)()

    def obey(self) -> None:
        message = self.inbox.popleft()
        n = message.get("n", 0)
        match message["m"]:
            case "submit":
                self.orders[n] = (message["fields"]["googlekey"], 0)
            case "poll":
                if not any(each["n"] == n and each["o"] in ("solved", "failed") for each in self.unacked):
                    self.polls[n] = message["cid"]
            case "drop":
                self.polls.pop(n, None)
                self.unacked = [
                    each for each in self.unacked if each["n"] != n or each["o"] not in ("solved", "failed")
                ]
            case "ack":
                first = next((each for each in self.unacked if each["n"] == n), None)
                if first is not None:
                    self.unacked.remove(first)
            case "recall":
                for each in [each for each, (_, phase) in self.orders.items() if phase == 0]:
                    del self.orders[each]
                    self.say(each, "not_sent", reason="recall")

    def submit(self) -> None:
        """One step of one submit: the note, the call, the outcome."""
        n = self.sim.rng.choice(list(self.orders))
        task_id, phase = self.orders[n]
        if phase == 0:
            self.pipe.append({"m": "begin", "n": n})
            self.orders[n] = (task_id, 1)
            return
        if phase == 1:
            self.orders[n] = (task_id, 2)
            if task_id.startswith("killer") and self.sim.rng.random() < 0.9 and self.sim.faults:
                self.sim.kill(self)
                return
            self.end_submit(n, task_id)

    def end_submit(self, n: int, task_id: str) -> None:
        what = self.sim.rng.choices(["ok", "refused", "lost", "gone"], [9, 1, 1, 1])[0] if self.sim.faults else "ok"
        if what in ("ok", "lost"):
            cid = self.sim.ledger.take(n, task_id)
        if self.sim.faults and self.sim.rng.random() < 0.03:
            self.sim.kill(self)  # taken, and nobody was told
            return
        del self.orders[n]
        match what:
            case "ok":
                self.say(n, "submitted", cid=cid)
            case "refused":
                self.say(n, "refused", code="ERROR_NO_SLOT_AVAILABLE", category="budget", text="")
            case "lost":
                self.say(n, "unknown", reason="reset")
            case "gone":
                self.say(n, "not_sent", reason="connect")

    def poll(self) -> None:
        """Begin a poll, or end the one that runs."""
        if self.polling is None:
            if self.polls:
                self.polling = self.sim.rng.choice(list(self.polls))
                self.pipe.append({"m": "exec", "n": self.polling})
            return
        n, self.polling = self.polling, None
        cid = self.polls.get(n)
        if cid is None:
            return  # dropped meanwhile: nothing is said
        when, how = self.sim.ledger.answers[cid]
        if self.sim.clock.time() < when:
            self.pipe.append({"m": "done", "n": n})
            return
        del self.polls[n]
        if how == "solved":
            self.say(n, "solved", token=f"t-{cid}", answer=None, extra={})
        else:
            self.say(n, "failed", code="ERROR_CAPTCHA_UNSOLVABLE", category="task", text="")

    def lose_parent(self) -> None:
        self.usable = False
        self.inbox.clear()
        self.pipe.clear()
        for n in [n for n, (_, phase) in self.orders.items() if phase == 0]:
            del self.orders[n]
            self.say(n, "not_sent", reason="orphan")

    def last_words(self) -> None:
        """What an orphan does when it has the time: its submits end, then everything is written down."""
        for n, (task_id, phase) in list(self.orders.items()):
            if phase == 1:
                self.sim.ledger.take(n, task_id)
                self.say(n, "submitted", cid=str(n))
            elif phase == 2:
                self.say(n, "unknown", reason="orphaned")
        self.side.finish(self.unacked)
        self.side.close()


class Simulation:
    """One seed's world."""

    def __init__(self, seed: int, root: Path) -> None:
        self.rng = random.Random(seed)
        self.clock = FakeClock()
        self.directory = root / "journal"
        self.ledger = Ledger(self.rng, self.clock)
        self.faults = True
        self.accepted = 0
        self.orphaned: list[FakeWorker] = []
        self.size = self.rng.choice([1, 1, 2, 3])
        self.max_in_flight = self.rng.choice([2, 5, 100])
        self.start()

    def start(self) -> None:
        self.disk = Disk()
        self.journal = Journal.open(
            self.directory, segment_bytes=16384, reserve_bytes=65536, clock=self.clock, osio=self.disk
        )
        self.queue = Queue(self.journal, SETTINGS, self.clock, self.rng)
        self.queue.replay()
        assert not self.queue.broken
        self.epoch = max([self.queue.view.epoch, *(side.epoch for side in side_files(self.directory))]) + 1
        self.queue.stage("epoch", {"epoch": self.epoch, "t": self.clock.time()})
        self.queue.commit()
        self.dispatcher = Dispatcher(
            self.queue,
            self.clock,
            Providers(self.clock, BreakerSettings(5, 3.0, 2), lambda reason: None, logging.getLogger("test")),
            20.0,
            lambda: {"m": "config"},
            lambda key: remove_side_files([self.directory / "workers" / f"{key[0]}-{key[1]}.jsonl"]),
            logging.getLogger("test"),
        )
        names = ["a", "b"] if self.max_in_flight == 100 else ["a"]
        self.dispatcher.set_providers(
            {
                name: ProviderSettings(name, Key("http://x", "k"), self.max_in_flight, 1, 1.0, 1.0, 30.0, 10.0, 2.0)
                for name in names
            }
        )
        self.dispatcher.resume()
        self.orphans = Orphans(
            self.directory,
            self.queue,
            self.dispatcher.outcome,
            lambda path: remove_side_files([path]),
            logging.getLogger("test"),
        )
        self.orphans.start(self.epoch, submit_s=1e9)
        self.queue.settle_all_followers()
        self.queue.commit()
        self.numbers = 0
        self.workers: list[FakeWorker] = []
        self.doomed: list[FakeWorker] = []

    def spawn(self) -> None:
        while len(self.workers) < self.size:
            self.numbers += 1
            worker = FakeWorker(self, self.numbers)
            self.workers.append(worker)
            self.dispatcher.on_ready(cast(Worker, worker))

    def kill(self, worker: FakeWorker) -> None:
        """SIGKILL: it does nothing more; the parent reads its pipe dry in the next turn."""
        worker.usable = False
        if worker in self.workers:
            self.workers.remove(worker)
            self.doomed.append(worker)

    def drop_task(self) -> None:
        self.accepted += 1
        name = self.rng.choices(["task", "killer"], [15, 1])[0]
        task_id = f"{name}-{self.accepted}"
        data: dict[str, Any] = {
            "pr": self.rng.randrange(4), "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0,
            "m": "userrecaptcha", "h": "example.com", "dl": None,
        }  # fmt: skip
        if self.rng.random() < 0.2:
            data["dk"] = self.rng.choice(["k1", "k2"])
        if self.rng.random() < 0.1:
            data["dl"] = self.clock.time() + 20.0
        raw = f'{{"id":"{task_id}","sitekey":"{task_id}","pageurl":"https://example.com/"}}'
        self.queue.accept(task_id, data, raw.encode())

    # --- a turn

    def turn(self) -> None:
        self.clock.advance(self.rng.choice([0.05, 0.5, 2.0]))
        self.spawn()
        for worker in self.rng.choices(self.workers, k=6):
            if worker.usable:
                worker.step()
        if self.faults and self.workers and self.rng.random() < 0.03:
            self.kill(self.rng.choice(self.workers))
        for worker in self.workers:
            for _ in range(min(len(worker.pipe), self.rng.randrange(4))):
                self.dispatcher.on_message(cast(Worker, worker), worker.pipe.popleft())
        self.bury()
        if not self.queue.down_reason:
            self.queue.expire()
            self.queue.clean(self.rng.choice([1, 100]), thorough=True)
            self.orphans.absorb()
        self.dispatcher.turn()
        if self.faults and self.rng.random() < 0.02:
            self.kill_parent()
            return
        self.queue.commit()
        if self.queue.down_reason and not self.disk.broken:
            assert self.queue.recover()
        self.end_orphans(self.rng.random() < 0.2)

    def bury(self) -> None:
        for worker in self.doomed:
            for message in worker.pipe:
                self.dispatcher.on_message(cast(Worker, worker), message)
            self.dispatcher.on_death(cast(Worker, worker), self.rng.choice(["crash", "stall"]))
            worker.side.close()
        self.doomed.clear()

    def end_orphans(self, some: bool) -> None:
        while some and self.orphaned:
            worker = self.orphaned.pop()
            if self.faults and self.rng.random() < 0.3:
                worker.side.close()  # killed as well: no last words
            else:
                worker.last_words()
            some = self.rng.random() < 0.5

    def kill_parent(self) -> None:
        """At the worst time: nothing of this turn is on disk, or a part, or all of it, and no effect has run."""
        if not self.queue.down_reason:
            lines = self.journal._batch._lines
            del lines[self.rng.randint(0, len(lines)) :]
            self.disk.broken = False
            self.journal.commit()
        self.journal.close()
        for worker in self.doomed:
            worker.side.close()
        for worker in self.workers:
            worker.lose_parent()
            self.orphaned.append(worker)
        self.workers.clear()
        self.start()

    def run(self) -> None:
        for _ in range(TURNS):
            if self.rng.random() < 0.25 and self.queue.accepts_work:
                self.drop_task()
            self.disk.broken = self.rng.random() < (0.8 if self.disk.broken else 0.02)
            self.turn()
        self.faults = self.disk.broken = False
        for _ in range(PATIENCE):
            if not self.queue.view.unfinished and not self.orphaned and not self.queue.view.attempts:
                return
            self.turn()
        left = [task for task in self.queue.view.tasks.values() if not task.state.ended]
        raise AssertionError(f"never ends: {left or self.queue.view.attempts}")

    # --- what must hold

    def check(self) -> None:
        self.queue.commit()
        view = self.queue.view
        replayed = View(RecordFiles(self.directory).read)
        ends: Counter[str] = Counter()
        for record in read_all(self.directory):
            task_id = record.fields.get("id", "")
            before = replayed.tasks.state(task_id)
            replayed.replay(record)
            after = replayed.tasks.state(task_id)
            if before is not None and after is not None and after.ended and not before.ended:
                ends[task_id] += record.kind != "keep"
        assert replayed.fingerprint() == view.fingerprint()
        assert all(count <= 1 for count in ends.values())
        totals = view.totals
        assert totals.solved + totals.dead + totals.expired == sum(task.state.ended for task in view.tasks.values())
        paid = Counter(self.ledger.taken.values())
        for task in view.tasks.values():
            unseen = paid[task.id] - task.charges
            assert 0 <= unseen <= task.unknown_submits, f"{task.id}: paid {paid[task.id]} times, {task}"
        assert totals.charges <= len(self.ledger.taken) <= totals.charges + totals.unknown_submits
        assert view.in_flight.keys() <= {"a", "b"}
        assert not any(view.in_flight.values())
        assert view.followers == {}
        assert all(task.alone_crashes >= 3 for task in view.tasks.values() if task.error == "POISON")


def live(seed: int) -> Simulation:
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as root:
        simulation = Simulation(seed, Path(root))
        try:
            simulation.run()
            simulation.check()
        finally:
            simulation.journal.close()
        return simulation


FIRST = int(os.environ.get("CAPTCHAD_SIMULATION_SEED", "0"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + int(os.environ.get("CAPTCHAD_SIMULATIONS", SEEDS))))
def test_every_task_ends_once_and_every_charge_is_counted(seed: int) -> None:
    live(seed)
