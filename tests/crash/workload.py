"""Some lives of a daemon and its workers, seeded: every kind of record, rotations, cleaning, last words, a full disk.

All processes do their system calls on one `Disk`, and what the world is told goes to a `World`. Every run of a seed is
the same run, up to the call at which a `Fate` ends it.
"""

__all__ = ["KINDS", "Lost", "Story"]

import random
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from captchad.journal.sidefile import remove_side_files, side_files
from captchad.policy.lifecycle import Kind
from captchad.queue.task import Task
from tests.crash.cast import SETTINGS, Parent, Worker
from tests.crash.disk import Disk, Fate, Mortal
from tests.crash.world import World, known_payload
from tests.journal.kit import Killed
from tests.support.clock import FakeClock

#: Every kind of record that the queue writes.
KINDS = {*map(str, Kind), "epoch", "beat", "totals", "bill", "crew", "crew_log"}

Scene = Generator[None, None, Any]


class Lost(AssertionError):
    """A life found what no run of the staged records makes."""


class Story:
    """All lives of one seed, below the directory `root`, which it makes."""

    def __init__(self, root: Path, seed: int, fate: Fate | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.directory = root / "journal"
        self.fate = fate or Fate()
        self.disk = Disk(root)
        self.world = World()
        self.parent: Parent
        self.operations = 0
        self.downs = 0
        self.rotations = 0
        self.cleaned = 0
        self.absorbed = 0
        self.kinds: set[str] = set()
        self.payloads: dict[tuple[str, str], set[bytes]] = {}
        self._rng = random.Random(seed)
        self._clock = FakeClock(1_800_000_000.0 + 1e6 * seed)
        self._tasks = 0
        self._processes = 0
        self._large = 9000  # bytes of one payload: it takes some blocks
        self._parent_os = Mortal(self.fate, self.disk)
        self._workers: list[Worker] = []
        self._scenes: list[Scene] = []
        self._program: list[Any] = []

    def tell(self, what: str, value: Any) -> None:
        """Tell the world, and note that it was told."""
        self.disk.tell(what, value)
        self.world.tell(what, value)
        if what == "staged":
            self.kinds.add(value.kind)
            record = value.record()
            if record.payload is not None:
                self.payloads.setdefault(known_payload(record), set()).add(record.payload)

    # ---------------------------------------------------------------- lives

    def run(self, *, last_words: bool = True) -> None:
        """All lives; or until one process is killed. Its siblings then say their last words, or die as well."""
        self._until_killed(self._live, last_words)

    def revive(self, fate: Fate | None = None) -> None:
        """One more start after a kill, which may be killed, too; without new tasks."""
        self.fate = fate or Fate()
        self.disk.left, self.disk.failing_next = None, 0
        self._clock.advance(1000.0)
        self._until_killed(self._short_life, last_words=False)

    def _until_killed(self, live: Callable[[], None], last_words: bool) -> None:
        try:
            live()
        except Killed:
            speak = last_words and self._parent_os.dead
            for worker in self._workers:
                if speak and not worker.osio.dead:
                    worker.last_words()
        finally:
            self._parent_os.end()
            for worker in self._workers:
                worker.osio.end()

    def _short_life(self) -> None:
        self._begin_life()
        self._stop()

    def _live(self) -> None:
        self._begin_life()
        self._act(18)
        self._leave_work_undone(self._workers[0])
        self._parent_os.end()
        self._workers[0].last_words()
        self._workers[1].osio.end()

        self._begin_life()
        self._act(8)
        self._fill_disk()
        self._act(4)
        self._fail_syncs()
        self._act(3)
        self._stop()

        self._begin_life()
        self._act(12)
        while not self.kinds >= KINDS:
            self._act(5)
        self._leave_work_undone(self._workers[1])
        self.disk.failing_next = 1
        self._commit()  # and then the page cache shows what the disk has not
        self.disk.failing_next = 0
        self._parent_os.end()
        self._workers[1].last_words()
        self._workers[0].osio.end()

        self._begin_life()
        self._act(5)
        self._stop()

    def _begin_life(self) -> None:
        self._clock.advance(1.0)
        self._workers.clear()
        self._scenes.clear()
        self._parent_os = Mortal(self.fate, self.disk)
        self.parent = Parent(self.directory, self._parent_os, self._clock, self._rng)
        position = self.world.position(self.parent.seen())
        if position is None:
            raise Lost("a life found what no run of the staged records makes")
        self.tell("replayed", position)
        kept = sorted(self.directory.glob("quarantine/*"))
        self.tell("kept", {f"journal/quarantine/{path.name}": path.read_bytes() for path in kept})
        self.parent.journal.tell = self.tell
        found = len(side_files(self.directory))
        self.parent.start()
        self._commit()
        self.absorbed += found
        for number in (1, 2):
            osio = Mortal(self.fate, self.disk)
            self._workers.append(Worker((self.parent.epoch, number), self.directory, osio, self.world, self.tell))
        self._scenes.append(self._leftovers())

    def _stop(self) -> None:
        """A clean end: everything is confirmed, the side files go, and an index is written for the next start."""
        self._must_be_up()
        for worker in self._workers:
            worker.osio.end()
        remove_side_files([worker.path for worker in self._workers], self._parent_os)
        self.parent.queue.save_index(least=0, block=4)
        self.parent.journal.close()
        self._parent_os.end()

    # ---------------------------------------------------------------- turns

    def _act(self, turns: int) -> None:
        """Scenes go on, time passes, and most turns have something to commit."""
        for _ in range(turns):
            self._clock.advance(self._rng.choice([0.1, 1.0, 3.0]))
            while len(self._scenes) < 6:
                self._scenes.append(self._next_scene())
            for _ in range(self._rng.choice([1, 2, 3])):
                self._go_on(self._rng.choice(self._scenes))
            self._chores()
            self._must_be_up()

    def _next_scene(self) -> Scene:
        if not self._program:
            quick = [
                self._solved, self._not_sent, self._unknown, self._late_answer, self._late_end, self._expired,
                self._cancelled, self._poison, self._shared, self._passed_on, self._replaced,
            ]  # fmt: skip
            self._rng.shuffle(quick)
            self._program = [self._refused, self._held, self._failed, *quick]
        return self._program.pop(0)()

    def _go_on(self, scene: Scene) -> None:
        with suppress(StopIteration):
            next(scene)
            return
        if scene in self._scenes:
            self._scenes.remove(scene)

    def _chores(self) -> None:
        """What the parent does in a turn or in a tick, besides."""
        journal = self.parent.journal
        self.parent.queue.load_some(3)
        for task_id in sorted(self.parent.queue.view.undelivered)[: self._rng.choice([0, 1, 3])]:
            task = self._task(task_id)
            self._do("delivered" if task.delivery == "publishing" else "publishing", task)
        if self._rng.random() < 0.3:
            self._do("expire")
            self._do("forget", 10)
        if self._rng.random() < 0.1:
            self._do("stage", "beat", {"t": self._clock.time()})
        oldest = journal.oldest
        self.parent.queue.clean(self._rng.choice([1, 8, 50]), thorough=self._rng.random() < 0.6)
        self.parent.queue.after_commit(lambda: self._count_cleaned(journal.oldest > oldest))

    def _count_cleaned(self, dropped: bool) -> None:
        self.cleaned += dropped

    def _commit(self) -> bool:
        """As the parent's turn ends. False when the journal is down."""
        before = self.parent.journal.active
        self.parent.queue.after_commit(partial(self.tell, "acked", len(self.world.log)))
        self.parent.queue.commit()
        self.rotations += self.parent.journal.active > before
        self.parent.journal.prepare()
        self.downs += bool(self.parent.queue.down_reason)
        return not self.parent.queue.down_reason

    def _must_be_up(self) -> None:
        if not self._commit():
            raise AssertionError(self.parent.queue.down_reason)

    def _do(self, verb: str, *args: Any, **options: Any) -> Any:
        self.operations += 1
        return getattr(self.parent.queue, verb)(*args, **options)

    def _task(self, task_id: str) -> Task:
        return self.parent.queue.view.tasks[task_id]

    def _is(self, task_id: str, state: str) -> bool:
        return self.parent.queue.view.tasks.state(task_id) == state

    # ---------------------------------------------------------------- faults

    def _fill_disk(self) -> None:
        """The write of a commit is short, the next one is refused; answers of what is paid for are staged on."""
        captchas = [self._put_in_flight(worker) for worker in self._workers]
        self.disk.left = 100
        self._do("stage", "beat", {"t": self._clock.time(), "why": "a record that is longer than what is left"})
        self._commit()
        for worker, n in zip(self._workers, captchas, strict=True):
            self._say(worker, self._answer(n))
        self._do("recover")
        self.disk.left = None
        self._recover()

    def _fail_syncs(self) -> None:
        """A commit is written, and its sync fails. Then one fails, and that of the recovery, too."""
        for syncs in (1, 2):
            n = self._put_in_flight(self._workers[0])
            self.disk.failing_next = syncs
            self._say(self._workers[0], self._answer(n))
            self._commit()
            self._do("stage", "beat", {"t": self._clock.time()})
            if syncs > 1:
                self._do("recover")
            self.disk.failing_next = 0
            self._recover()

    def _make_room(self) -> None:
        """Begin a segment, so that the next commit is no rotation: a segment that fails at once is taken away."""
        active = self.parent.journal.active
        while self.parent.journal.active == active:
            self._do("stage", "beat", {"t": self._clock.time(), "why": "x" * 500})
            self._must_be_up()

    def _recover(self) -> None:
        self.parent.queue.after_commit(partial(self.tell, "acked", len(self.world.log)))
        if not self.parent.queue.recover():
            raise AssertionError(self.parent.queue.down_reason)

    def _put_in_flight(self, worker: Worker) -> int:
        """A new task is at the provider."""
        n = self._order(self._accept(), worker)
        self._must_be_up()
        worker.begin(n)
        self._say(worker, worker.pay(n))
        self._must_be_up()
        return n

    def _leave_work_undone(self, speaker: Worker) -> None:
        """What a parent may leave: answers that it has not committed, orders that have begun, orders that have not.

        `speaker` has much to say, in more than one block of its side file.
        """
        captchas = [self._put_in_flight(worker) for worker in self._workers]
        for index in range(6):
            self._order(self._accept(), self._workers[index % 2])
        self._must_be_up()
        for worker in self._workers:
            for n in list(worker.orders)[:-1]:
                worker.begin(n)
        self._make_room()
        speaker.say(speaker.pay(next(iter(speaker.orders))))  # the parent has not read it
        for worker, n in zip(self._workers, captchas, strict=True):
            self._say(worker, self._answer(n, "long" * 1100 if worker is speaker else "tok"))

    # ---------------------------------------------------------------- scenes

    def _accept(self, size: int = 0, **over: Any) -> str:
        self._tasks += 1
        task_id = f"t{self._tasks}"
        payload = b'{"id":"%b","sitekey":"%b"}' % (task_id.encode(), b"k" * (size or 60 + self._tasks % 40))
        data = {
            "pr": self._tasks % 4, "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0,
            "m": "userrecaptcha", "h": "example.com", "dl": None,
        }  # fmt: skip
        self._do("accept", task_id, data | over, payload)
        return task_id

    def _order(self, task_id: str, worker: Worker) -> int:
        n: int = self._do("order", self._task(task_id), "p", worker.key, "k")
        self.parent.queue.after_commit(partial(worker.orders.__setitem__, n, task_id))
        return n

    def _say(self, worker: Worker, outcome: dict[str, Any]) -> None:
        """An outcome goes through the pipe, and is confirmed when it is on disk."""
        self.operations += 1
        worker.say(outcome)
        self.parent.dispatcher.outcome(outcome["n"], outcome)
        self.parent.queue.after_commit(partial(worker.unconfirmed.remove, outcome))

    def _answer(self, n: int, text: str = "tok") -> dict[str, Any]:
        return {"n": n, "o": "solved", "token": f"{text}-{n}", "answer": None, "extra": {}}

    def _refusal(self, n: int, o: str, code: str) -> dict[str, Any]:
        return {"n": n, "o": o, "code": code, "category": "task", "text": "so it is"}

    def _submit(self, task_id: str) -> Generator[None, None, tuple[Worker, int]]:
        """Order it, if it is still pending; wait for the commit; let the worker begin."""
        while not self._is(task_id, "pending"):
            yield
        worker = self._rng.choice(self._workers)
        n = self._order(task_id, worker)
        while n not in worker.orders:
            yield
        worker.begin(n)
        yield
        return worker, n

    def _pay(self, task_id: str) -> Generator[None, None, tuple[Worker, int]]:
        worker, n = yield from self._submit(task_id)
        outcome = worker.pay(n)
        self._say(worker, outcome)
        while outcome in worker.unconfirmed:
            yield
        return worker, n

    def _solve(self, task_id: str) -> Scene:
        worker, n = yield from self._pay(task_id)
        self._say(worker, self._answer(n))
        yield

    def _solved(self) -> Scene:
        """Solved, and its consumer says whether the answer was good."""
        task_id = self._accept()
        yield from self._solve(task_id)
        self._do("report", task_id, "good", {"p"})
        yield

    def _refused(self) -> Scene:
        """Refused until it is dead, then redriven."""
        task_id = self._accept()
        while not self._is(task_id, "dead"):
            worker, n = yield from self._submit(task_id)
            self._say(worker, self._refusal(n, "refused", "ERROR_BAD_PARAMETERS"))
            yield
        while self._is(task_id, "dead") and self._do("redrive", task_id) is not None:
            yield
        yield from self._solve(task_id)

    def _not_sent(self) -> Scene:
        task_id = self._accept()
        worker, n = yield from self._submit(task_id)
        self._say(worker, {"n": n, "o": "not_sent", "reason": "connect"})
        yield from self._solve(task_id)

    def _unknown(self) -> Scene:
        task_id = self._accept()
        worker, n = yield from self._submit(task_id)
        self._say(worker, {"n": n, "o": "unknown", "reason": "reset"})
        yield from self._solve(task_id)

    def _held(self) -> Scene:
        """Held by an operator; then held because nobody knows what came of its submit."""
        task_id = self._accept()
        yield
        self._do("hold", task_id)
        yield
        self._do("release", task_id)
        worker, n = yield from self._submit(task_id)
        queue = self.parent.queue
        queue.settings = replace(SETTINGS, hold_unknown=True)
        self._say(worker, {"n": n, "o": "unknown", "reason": "reset"})
        queue.settings = SETTINGS
        yield
        self._do("release", task_id)
        yield from self._solve(task_id)

    def _failed(self) -> Scene:
        task_id = self._accept()
        worker, n = yield from self._pay(task_id)
        self._say(worker, self._refusal(n, "failed", "ERROR_CAPTCHA_UNSOLVABLE"))
        yield from self._solve(task_id)

    def _outlived(self, task_id: str) -> Generator[None, None, tuple[Worker, int]]:
        worker, n = yield from self._pay(task_id)
        captcha = self.parent.queue.view.captchas.get(n)
        if captcha is not None:
            self._do("timed_out", captcha)
        yield
        return worker, n

    def _late_answer(self) -> Scene:
        """Two are charged, and the late one answers first."""
        task_id = self._accept()
        worker, n = yield from self._outlived(task_id)
        yield from self._pay(task_id)
        self._say(worker, self._answer(n))
        yield

    def _late_end(self) -> Scene:
        task_id = self._accept()
        _, n = yield from self._outlived(task_id)
        captcha = self.parent.queue.view.captchas.get(n)
        if captcha is not None:
            self._do("give_up_late", captcha)
        yield from self._solve(task_id)

    def _expired(self) -> Scene:
        task_id = self._accept(dl=self._clock.time() + 8.0)
        yield from self._pay(task_id)

    def _cancelled(self) -> Scene:
        """Once while it waits, once while it is at the provider."""
        size, self._large = self._large, 0
        task_id, other = self._accept(size), self._accept()
        yield
        self._do("cancel", task_id)
        worker, n = yield from self._submit(other)
        self._do("cancel", other)
        yield
        self._say(worker, worker.pay(n))

    def _poison(self) -> Scene:
        task_id = self._accept()
        yield
        self._do("crashed", task_id, alone=False, stall=True)
        while not self._is(task_id, "dead"):
            yield
            self._do("crashed", task_id, alone=True, stall=False)

    def _shared(self) -> Scene:
        """Followers get the answer of their leader; one that comes later, too."""
        key = f"k{self._tasks}"
        task_id = self._accept(dk=key)
        self._accept(dk=key)
        yield
        self._accept(dk=key)
        yield from self._solve(task_id)
        self._accept(dk=key)

    def _passed_on(self) -> Scene:
        """The leader ends without an answer: the first of those who wait runs, and another one waits for it."""
        key = f"k{self._tasks}"
        task_id, second, third = self._accept(dk=key), self._accept(dk=key), self._accept(dk=key)
        yield
        self._do("cancel", task_id)
        yield from self._solve(second)
        while self._is(third, "pending"):
            yield

    def _replaced(self) -> Scene:
        """A worker starts, and dies with a task on its hands; one of the reserve takes its seat."""
        self._processes += 1
        who = {"seat": self._processes % 2, "w": self._processes, "pid": 1000 + self._processes}
        self._write({"do": "start", "why": "start", **who})
        yield
        last = {"phase": "working", "in_flight": 1, "rss": 1 << 25, "tasks": [f"t{self._tasks}"]}
        self._write({"do": "death", "why": "signal", **who, "code": -9, "lived": 0.5, **last})
        self._write({"do": "move", "why": "signal", **who, "w": 500 + self._processes})
        yield

    def _write(self, fields: dict[str, Any]) -> None:
        self.operations += 1
        self.parent.office.write(fields)

    def _leftovers(self) -> Scene:
        """What the last life has left: captchas are polled on, what is ready runs."""
        view = self.parent.queue.view
        for n in list(view.captchas):
            yield
            self._say(self._workers[0], self._answer(n))
        for _ in range(6):
            yield
            view.ripen(self.parent.queue.now())
            task = view.peek_ready()
            if task is not None:
                yield from self._solve(task.id)
