"""The queue on the journal: verbs that stage records, one commit a turn, effects only after it.

A verb changes the view at once and stages the record; nothing outside may see the effect before `commit` has returned.
What must wait is given to `after_commit`. While the journal is down the staged records stay, in order, and so do the
effects that wait for them; `accepts_work` is then False and the callers take no new task and order no submit.
"""

__all__ = ["Queue", "QueueSettings", "Refusal", "each"]

import json
import logging
import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from captchad.journal.osio import error_text
from captchad.journal.records import Bulk, Entry, Place, draft_encoded
from captchad.journal.store import Journal
from captchad.model.clock import Clock
from captchad.model.codes import lookup
from captchad.model.compact import to_json
from captchad.model.errors import JournalDamaged, JournalDown
from captchad.model.logevents import Event, fields
from captchad.model.states import Category, State
from captchad.policy import retry
from captchad.policy.account import report_refusal
from captchad.policy.freshness import token_life_s
from captchad.policy.lifecycle import Kind, NotAllowed, next_state
from captchad.policy.retry import Again, Bury, RetrySettings
from captchad.queue import checkpoint
from captchad.queue.cleaning import LOOKED_AT_A_SLICE, Cleaner
from captchad.queue.task import Attempt, Captcha, Task, WorkerKey, accept_head, final_state
from captchad.queue.view import PLAIN_ACCEPT, View

#: A suspect that kills its worker so often while it runs alone is poison (design, promise 3).
POISON_CRASHES = 3

#: Wall-clock deadlines are not acted on until the clock has been steady for so long (design, section 3).
STEADY_S = 60.0

#: Retries for which there is no budget are looked at again after this time, and their back-off, at the earliest.
RETRY_WAIT_S = 1.0

#: An answer beyond this would not fit into a record (captchad.journal.records.MAX_RECORD) with what goes with it.
ANSWER_BYTES_MAX = 2_000_000

#: Tasks that one call ends because their deadline has passed: a slice, so that a crowd does not hold up heartbeats.
EXPIRE_A_CALL = 2000

#: Tasks of an index that one call loads: about a millisecond.
LOADED_A_CALL = checkpoint.BLOCK

#: A captcha is polled when its time is over. Its task is not submitted again before that answer can be there.
LAST_POLL_S = 2.0

#: A wall clock that departs from the monotonic one by more than this has jumped.
JUMP_S = 2.0


_log = logging.getLogger(__name__)

_ACCEPT = str(Kind.ACCEPT)
_SNAPSHOTS = frozenset({Kind.KEEP, Kind.KEEP_ANSWER})
_NEEDS_NO_TASK = frozenset({Kind.ACCEPT, Kind.FORGET})


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What the queue takes from the configuration; may be replaced while it runs."""

    capacity: int
    id_ttl_s: float
    dead_ttl_s: float
    max_redrives: int
    hold_unknown: bool
    retry: RetrySettings


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a verb was not carried out."""

    reason: str


def each(verb: Callable[[str], Refusal | None], ids: list[str]) -> tuple[list[str], dict[str, str]]:
    """Carry `verb` out on every id: those that it was done on, and why it was not on the others."""
    done: list[str] = []
    refused: dict[str, str] = {}
    for task_id in ids:
        refusal = verb(task_id)
        if refusal is None:
            done.append(task_id)
        else:
            refused[task_id] = refusal.reason
    return done, refused


class Queue:
    """All tasks of one state directory. Made by the only process that writes its journal."""

    def __init__(self, journal: Journal, settings: QueueSettings, clock: Clock, rng: random.Random) -> None:
        self.journal = journal
        self.settings = settings
        self.clock = clock
        self.view = View(journal.read)
        self.down_reason = ""
        self.no_room = ""  # why no new work is taken although the journal writes; set from outside
        self.broken: set[str] = set()  # tasks with a record that does not fit the ones before it
        self._rng = rng
        self._effects: list[Callable[[], None]] = []
        self._born_wall = clock.time()
        self._born_mono = clock.monotonic()
        self._jumped_at: float | None = None
        self._offset = self._born_wall - self._born_mono
        self._doubtful: list[str] = []  # their deadline has passed by a clock that cannot be trusted yet
        self._doubtful_until = 0.0
        self._cleaner = Cleaner(self)

    # ---------------------------------------------------------------- start, commit

    def replay(self, progress: Callable[[int, int], None] | None = None, *, from_index: bool = False) -> int:
        """Apply every record of the journal; returns how many. `progress` is told what `Journal.replay` tells.

        With `from_index` those that a trustworthy index knows of are not read; then `load_some` is to be called.
        """
        count, since = 0, Place(0, 0)
        if from_index and (found := checkpoint.load(self.journal)) is not None:
            self.view, since = found
        bulk = Bulk(PLAIN_ACCEPT, self.view.take_plain)
        for record in self.journal.replay(View.LAZY, bulk, progress, since):
            count += 1
            try:
                self.view.replay(record)
            except NotAllowed:
                self.broken.add(record.fields["id"])
            if self.broken and record.kind == Kind.KEEP:
                self.broken.discard(record.fields["id"])  # written by somebody who knew of it
        return count + self.view.taken

    @property
    def loading(self) -> bool:
        """Whether part of an index is not loaded yet. Until then `expire`, `forget` and `clean` do nothing."""
        return self.view.tasks.shelf is not None

    def load_some(self, budget: int = LOADED_A_CALL) -> None:
        """Load about `budget` tasks more of the index that the queue was started from."""
        if self.view.tasks.shelf is not None:
            self.view.tasks.shelf.take_some(budget)

    def save_index(self, *, least: int = checkpoint.LEAST, block: int = checkpoint.BLOCK) -> None:
        """At a clean stop: have the next start be quick, if there are `least` tasks. Nothing may be staged.

        What goes wrong is logged and does no harm: the journal says all of it.
        """
        if self.loading:
            return  # the one that this queue was started from says nearly all
        try:
            for task_id in self._doubtful:
                if (task := self.view.tasks.peek(task_id)) is not None:
                    self.view.watch_deadline(task)
            why = checkpoint.save(self.view, self.journal, broken=bool(self.broken), least=least, block=block)
        except OSError as error:
            why = error_text(error)
        except JournalDown as error:
            why = str(error)
        if not why:
            _log.info("the index is written: %d tasks", len(self.view.tasks))
        elif len(self.view.tasks) >= least:
            _log.warning("no index is written, the next start reads the whole journal: %s", why)

    def hold_broken(self) -> int:
        """Hold the tasks whose history has a hole (a damaged line): run again they might be paid for twice."""
        held = 0
        for task_id in self.broken:
            task = self.view.tasks.get(task_id)
            if task is not None and task.state is State.PENDING:
                self.stage(Kind.HOLD, {"id": task_id, "t": self.clock.time(), "why": "its history has a hole"})
                held += 1
        return held

    def stage(self, kind: str, data: Mapping[str, Any], payload: bytes | None = None) -> Task | None:
        """Stage one record and apply it. Raises NotAllowed, RecordTooLarge: then nothing has changed."""
        task_id = data.get("id")
        if task_id is not None and kind not in _SNAPSHOTS:
            # Before anything is staged: to make a task hot it may have to be read.
            known = None if kind in _NEEDS_NO_TASK else self.view.tasks.get(task_id)
            next_state(known.state if known else self.view.tasks.state(task_id), kind)
        entry = self.journal.append(kind, data, payload)
        task = self.view.apply(kind, data, entry)
        if task is not None and task.state.ended and task.id in self.view.followers:
            self._settle_followers(task.id)
        return task

    def after_commit(self, effect: Callable[[], None]) -> None:
        """Run `effect` once everything staged so far is durable; in order."""
        self._effects.append(effect)

    @property
    def busy(self) -> bool:
        """Whether a commit has something to do."""
        return bool(self._effects or self.journal.staged) and not self.down_reason

    @property
    def takes_tasks(self) -> bool:
        """Whether new tasks may be staged: as `accepts_work`, and all that is known is loaded."""
        return not self.loading and self.accepts_work

    @property
    def accepts_work(self) -> bool:
        """Whether new tasks and new submits may be staged: the journal writes and has room beyond its reserve."""
        return not self.down_reason and not self.no_room and self.journal.takes_intake

    def commit(self) -> None:
        """Make all that is staged durable, then run the effects that waited for it.

        A journal that takes no write is no exception here: `down_reason` says why, everything is kept.
        """
        if self.down_reason:
            return
        # It may have gone down outside of a commit: then this one says so, and the caller tries to recover.
        if self.journal.staged or self.journal.state == "down":
            try:
                self.journal.commit()
            except JournalDown as error:
                self.went_down(error)
                return
            finally:
                self._follow_moves()
        self._run_effects()

    def recover(self) -> bool:
        """Try to write again, on a fresh segment. True when the journal is up; the effects have run then."""
        if self.down_reason:
            try:
                self.journal.recover()
            except JournalDown as error:
                self.down_reason = str(error)
                return False
            finally:
                self._follow_moves()
            self.down_reason = ""
            self._run_effects()
        return True

    def went_down(self, error: JournalDown) -> None:
        """The journal takes no write: nothing more is staged that could wait."""
        self.down_reason = str(error)

    def _follow_moves(self) -> None:
        moves = self.journal.take_moves()
        if moves:
            self.view.moved(moves)

    def _run_effects(self) -> None:
        effects, self._effects = self._effects, []
        for effect in effects:
            effect()

    # ---------------------------------------------------------------- time

    def now(self) -> float:
        """UTC that does not jump: the wall clock at the start plus what the monotonic clock has counted since."""
        return self._born_wall + (self.clock.monotonic() - self._born_mono)

    def _deadlines_count(self, task: Task) -> bool:
        """Whether wall-clock deadlines may be acted on: a clock that has just jumped or just started may be wrong."""
        mono = self.clock.monotonic()
        offset = self.clock.time() - mono
        if abs(offset - self._offset) > JUMP_S:
            self._offset, self._jumped_at = offset, mono
        if self._jumped_at is not None and mono - self._jumped_at < STEADY_S:
            return False
        # What this process accepted itself has a deadline that it measured itself.
        return task.queued_at >= self._born_wall or mono - self._born_mono >= STEADY_S

    def _steady_at(self) -> float:
        """When the clock will have been steady for long enough (monotonic)."""
        return max(self._born_mono, self._jumped_at or 0.0) + STEADY_S

    # ---------------------------------------------------------------- intake

    def accept(self, task_id: str, data: Mapping[str, Any], payload: bytes) -> None:
        """Stage a new task. The caller has checked the id, the capacity and `accepts_work`.

        Raises RecordTooLarge, and NotAllowed for an id that is known: then nothing has changed.
        """
        if task_id in self.view.tasks:
            next_state(self.view.tasks.state(task_id), _ACCEPT)  # raises: an id is accepted once
        now = f"{self.clock.time():.3f}"
        dedupe_key, deadline_at = data.get("dk"), data.get("dl")
        if dedupe_key is None and deadline_at is None:
            ready = draft_encoded(_ACCEPT, accept_head(task_id, now, data), payload)
            self.view.accepted(task_id, data["pr"], self.journal.append_ready(ready))
            return
        leader_id = self._usable_leader(dedupe_key) if dedupe_key else None
        matters = {"wait": leader_id, "dk": dedupe_key, "dl": deadline_at}
        matters = {key: value for key, value in matters.items() if value is not None}
        ready = draft_encoded(_ACCEPT, accept_head(task_id, now, data, matters), payload)
        entry = self.journal.append_ready(ready)
        self.view.apply(_ACCEPT, {"id": task_id, "t": float(now), **data, **matters}, entry)
        if leader_id is not None and self.view.tasks[leader_id].state.ended:
            self._settle_followers(leader_id)

    def _usable_leader(self, dedupe_key: str) -> str | None:
        """Whose answer a new task with this key shares."""
        leader_id = self.view.leaders.get(dedupe_key)
        state = self.view.tasks.state(leader_id) if leader_id else None
        if leader_id is None or state is None:
            return None
        if not state.ended:
            return leader_id
        return leader_id if self._has_fresh_answer(self.view.tasks[leader_id]) else None

    def _has_fresh_answer(self, task: Task) -> bool:
        fresh = task.expires_at is None or task.expires_at > self.clock.time()
        return task.state is State.SOLVED and task.answer is not None and fresh

    # ---------------------------------------------------------------- attempts

    def order(self, task: Task, provider: str, worker: WorkerKey, key_id: str, tag: str = "") -> int:
        """Stage `submitting`; returns the attempt's number. The worker may be told after the commit.

        `key_id` names the API key that it is submitted with, and tells nothing of it. A charge counts for `tag`.
        """
        n = self.view.last_n + 1
        record = {"id": task.id, "t": self.clock.time(), "n": n, "prov": provider, "key": key_id, "w": list(worker)}
        if tag:
            record["tag"] = tag
        self.stage(Kind.SUBMITTING, record)
        return n

    def submitted(self, n: int, cid: str) -> None:
        """The provider took attempt `n` as `cid`. Said again (pipe and side file) it changes nothing."""
        attempt = self.view.attempts.get(n)
        if attempt is not None:
            record = {"id": attempt.task_id, "t": self.clock.time(), "n": n, "cid": cid}
            self.stage(Kind.SUBMITTED, record | {"prov": attempt.provider, "key": attempt.key_id})

    def not_sent(self, n: int, why: str, *, backoff: bool = True) -> None:
        """Nothing of attempt `n` reached the provider."""
        current = self._current(n)
        if current is None:
            self._late_end(n, why)
            return
        task = current
        delay_s = (
            retry.after_not_sent(faults=task.faults + 1, settings=self.settings.retry, rng=self._rng).delay_s
            if backoff
            else 0.0
        )
        self.stage(Kind.NOT_SENT, {**self._head(task, n), "why": why, "due": self._due(delay_s), "free": True})

    def refused(self, n: int, code: str, category: Category, text: str, *, outage: bool) -> None:
        """in.php answered attempt `n` with an error code."""
        self._fail(Kind.REFUSED, n, code, category, text, outage=outage)

    def failed(self, n: int, code: str, category: Category, text: str) -> None:
        """res.php ended attempt `n` with an error code."""
        self._fail(Kind.FAILED, n, code, category, text, outage=False)

    def timed_out(self, captcha: Captcha) -> None:
        """The attempt has outlived its time: it is polled on slowly, the task may be submitted again."""
        self._fail(Kind.TIMEOUT, captcha.n, "TIMEOUT", Category.TRANSIENT, "", outage=False, not_within_s=LAST_POLL_S)

    def give_up_late(self, captcha: Captcha) -> None:
        """A superseded attempt is too old to be worth another poll."""
        self._late_end(captcha.n, "TIMEOUT")

    def bury_damaged(self, task: Task, why: str) -> None:
        """Its own record in the journal cannot be read any more: it cannot run."""
        self._bury(task, 0, "JOURNAL_DAMAGED", Category.TASK, why)

    def unknown(self, n: int, why: str, *, by_crash: bool, outage: bool = False) -> None:
        """Attempt `n` began and nobody knows what came of it: perhaps charged."""
        task = self._current(n)
        if task is None:
            self._late_end(n, why, unknown=True)
            return
        broken = task.id in self.broken
        if broken:
            why = "its history has a hole"
        head = {**self._head(task, n), "why": why}
        about = fields(Event.SUBMIT_UNKNOWN, task=task.id, provider=self._provider(n))
        _log.warning("task %s: submit %d began and has no answer, it may be charged: %s", task.id, n, why, extra=about)
        if self.settings.hold_unknown or broken:
            self.stage(Kind.UNKNOWN_HOLD, head)
            text = "task %s: held: captchactl release runs it again, captchactl cancel ends it"
            _log.warning(text, task.id, extra=fields(Event.TASK_HELD, task=task.id))
            return
        match retry.after_unknown(
            attempts=task.attempts, by_crash=by_crash, settings=self.settings.retry, rng=self._rng, outage=outage
        ):
            case Bury():
                self._bury(task, n, "UNKNOWN_SUBMIT", Category.TRANSIENT, why, unknown=True)
            case Again(delay_s, free):
                self.stage(Kind.UNKNOWN, {**head, "due": self._due(delay_s), "free": free})

    def solved(self, n: int, answer: Mapping[str, Any], price: int | None = None) -> None:
        """Captcha `n` has its answer: {"token", "answer", "extra"}. The first answer of a task wins.

        `price`: what it costs, in millionths; None: not known.
        """
        captcha = self.view.captchas.get(n)
        if captcha is None:
            return
        task = self.view.tasks[captcha.task_id]
        now = self.clock.time()
        life_s = token_life_s(task.method)
        payload = to_json(dict(answer)).encode("ascii")
        if len(payload) > ANSWER_BYTES_MAX:
            self.failed(n, "UNPARSEABLE", Category.TRANSIENT, f"the answer has {len(payload)} bytes")
            return
        self.stage(
            Kind.SOLVED,
            {
                **self._head(task, n),
                "prov": captcha.provider,
                "cid": captcha.cid,
                "secs": round(max(0.0, now - captcha.submitted_at), 3),
                "exp": None if life_s is None else now + life_s,
                "price": price,
            },
            payload,
        )

    def _fail(
        self,
        kind: Kind,
        n: int,
        code: str,
        category: Category,
        text: str,
        *,
        outage: bool,
        not_within_s: float = 0.0,
    ) -> None:
        task = self._current(n)
        if task is None:
            self._late_end(n, code)
            return
        task_errors = task.task_errors + (1 if category is Category.TASK else 0)
        verdict = retry.after_failure(
            category,
            attempts=task.attempts,
            task_errors=task_errors,
            settings=self.settings.retry,
            rng=self._rng,
            outage=outage,
            hopeless=lookup(code).hopeless,
        )
        match verdict:
            case Bury():
                self._bury(task, n, code, category, text)
            case Again(delay_s, free):
                due = self._due(max(delay_s, not_within_s))
                record = {**self._head(task, n), "code": code, "cat": category, "due": due}
                if text:
                    record["text"] = text
                if free:
                    record["free"] = True
                self.stage(kind, record)

    def _bury(self, task: Task, n: int, code: str, category: Category, text: str, *, unknown: bool = False) -> None:
        record = {**self._head(task, n), "code": code, "cat": category, "text": text}
        if unknown:
            record["unknown"] = True
        about = fields(Event.TASK_DEAD, task=task.id, provider=self._provider(n), reason=code)
        self.stage(Kind.DEAD, record)
        _log.warning("task %s: dead after %d attempts: %s (%s)", task.id, task.attempts, code, category, extra=about)

    def _late_end(self, n: int, code: str, *, unknown: bool = False) -> None:
        """A superseded attempt is over; its task goes on as it is."""
        known = self._known(n)
        if known is not None and known.task_id in self.view.tasks:
            record = {"id": known.task_id, "t": self.clock.time(), "n": n, "code": code}
            if unknown:
                record["unknown"] = True
            self.stage(Kind.LATE_END, record)

    def _known(self, n: int) -> Attempt | Captcha | None:
        return self.view.attempts.get(n) or self.view.captchas.get(n)

    def _provider(self, n: int) -> str:
        """Who has attempt `n`, for the log; "" when it is over."""
        known = self._known(n)
        return known.provider if known else ""

    def _current(self, n: int) -> Task | None:
        """The task whose current attempt is `n`, if it is still under way."""
        known = self._known(n)
        task = self.view.tasks.get(known.task_id) if known else None
        if task is None or task.n != n or task.state not in (State.SUBMITTING, State.SUBMITTED):
            return None
        return task

    def _head(self, task: Task, n: int) -> dict[str, Any]:
        return {"id": task.id, "t": self.clock.time(), "n": n}

    def _due(self, delay_s: float) -> float:
        return round(self.now() + delay_s, 3) if delay_s > 0.0 else 0.0

    # ---------------------------------------------------------------- crashes

    def crashed(self, task_id: str, *, alone: bool, stall: bool) -> None:
        """A worker died, or hung, while it executed this task. Alone for the third time: poison."""
        task = self.view.tasks.get(task_id)
        if task is None or task.state.ended:
            return
        self.stage(Kind.CRASH, {"id": task_id, "t": self.clock.time(), "alone": alone, "stall": stall})
        if task.alone_crashes >= POISON_CRASHES:
            self._bury(
                task, 0, "POISON", Category.TASK, f"killed a worker {task.alone_crashes} times while alone in it"
            )

    # ---------------------------------------------------------------- answers shared by a dedupe key

    def _settle_followers(self, leader_id: str) -> None:
        """The leader has ended, or is not known: each gets its answer, or the first runs and the others wait for it."""
        leader = self.view.tasks.get(leader_id)
        payload = None if leader is None else self._fresh_answer(leader)
        for follower in list(self.view.followers.get(leader_id, ())):
            task = self.view.tasks[follower]
            if leader is not None and payload is not None:
                self._share_answer(task, leader, payload)
            elif task.waits_for == leader_id and task.state is State.PENDING:
                self.stage(Kind.RELEASE, {"id": task.id, "t": self.clock.time()})

    def _fresh_answer(self, leader: Task) -> bytes | None:
        if not self._has_fresh_answer(leader):
            return None
        try:
            return self.answer_bytes(leader)
        except (JournalDamaged, JournalDown):
            return None  # what cannot be read cannot be shared: the next one runs itself

    def _share_answer(self, task: Task, leader: Task, payload: bytes) -> None:
        self.stage(
            Kind.SOLVED,
            {
                "id": task.id,
                "t": self.clock.time(),
                "n": 0,
                "of": leader.id,
                "prov": leader.provider,
                "cid": leader.cid,
                "secs": leader.solve_time,
                "exp": leader.expires_at,
                "price": 0,
            },
            payload,
        )

    def settle_all_followers(self) -> None:
        """After a start: those whose leader ended in the last commit, and who were not told in it."""
        for leader_id in list(self.view.followers):
            leader = self.view.tasks.get(leader_id)
            if leader is None or leader.state.ended:
                self._settle_followers(leader_id)

    # ---------------------------------------------------------------- operators

    def redrive(self, task_id: str) -> Refusal | None:
        """A new run of a dead task; its deadline, which has passed or will, no longer counts."""
        task = self.view.tasks.get(task_id)
        if task is None:
            return Refusal("no such task")
        if task.state is not State.DEAD:
            return Refusal(f"it is {task.state}, not dead")
        if task.delivery == "publishing":
            return Refusal("its result is being delivered; try again in a moment")
        if task.redrives >= self.settings.max_redrives:
            return Refusal(
                f"it has been redriven {task.redrives} times; queue.max_redrives is {self.settings.max_redrives}"
            )
        if self.view.unfinished >= self.settings.capacity:
            return Refusal(f"the queue is full (queue.capacity is {self.settings.capacity})")
        self.stage(Kind.REDRIVE, {"id": task_id, "t": self.clock.time(), "dl": None})
        return None

    def redrive_many(self, ids: list[str] | None) -> tuple[list[str], dict[str, str]]:
        """Redrive `ids`, or the whole dead-letter queue: what was, and why the others were not."""
        if ids is None:
            ids = self.view.tasks.ids(State.DEAD)
        return each(self.redrive, ids)

    def hold(self, task_id: str) -> Refusal | None:
        """Keep a pending task from being submitted until it is released."""
        return self._move(task_id, Kind.HOLD, (State.PENDING,))

    def release(self, task_id: str) -> Refusal | None:
        """Let a held task run: at once, as soon as a provider takes it."""
        return self._move(task_id, Kind.RELEASE, (State.HELD,))

    def cancel(self, task_id: str) -> Refusal | None:
        """End a task that has not ended. What is at the provider already stays paid for; its answer is not fetched."""
        return self._move(task_id, Kind.CANCELLED, tuple(state for state in State if not state.ended))

    def _move(self, task_id: str, kind: Kind, allowed: tuple[State, ...]) -> Refusal | None:
        task = self.view.tasks.get(task_id)
        if task is None:
            return Refusal("no such task")
        if task.state not in allowed:
            return Refusal(f"it is {task.state}")
        record: dict[str, Any] = {"id": task_id, "t": self.clock.time()}
        if kind is Kind.CANCELLED:
            record |= {"code": "CANCELLED", "cat": Category.TASK}
        self.stage(kind, record)
        return None

    # ---------------------------------------------------------------- delivery

    def publishing(self, task: Task) -> None:
        self.stage(Kind.PUBLISHING, {"id": task.id, "t": self.clock.time()})

    def delivered(self, task: Task) -> None:
        """Its result is in place. If no more can come of it, the record says all that is remembered of the task."""
        needed = task.state is State.DEAD or self.view.leads(task) or any(self.view.attempts_of(task))
        said = {"id": task.id} if needed else final_state(task)
        self.stage(Kind.DELIVERED, {**said, "t": self.clock.time()})

    def report(self, task_id: str, verdict: str, providers: Container[str]) -> Task | Refusal:
        """Stage that the answer of a task is reported as `good` or `bad`: to be sent after the commit, and never again.

        `providers` are those that can be told.
        """
        task = self.view.tasks.peek(task_id)
        if task is None:
            return Refusal("no such task")
        submitted_at = None if task.finished_at is None else task.finished_at - (task.solve_time or 0.0)
        why = report_refusal(task.state, task.cid, task.charges, task.reported, submitted_at, self.clock.time())
        if not why and task.provider not in providers:
            why = f"its provider {task.provider} is not in the configuration any more"
        if why:
            return Refusal(why)
        needed = task.delivery != "delivered" or self.view.leads(task) or any(self.view.attempts_of(task))
        said = {"id": task.id} if needed else final_state(task)
        self.stage(Kind.REPORTED, {**said, "t": self.clock.time(), "reported": verdict})
        return task

    # ---------------------------------------------------------------- time passes

    def expire(self) -> None:
        """End tasks whose deadline has passed; a bounded number a call."""
        if self.loading:
            return
        if self._doubtful and self.clock.monotonic() >= self._doubtful_until:
            doubtful, self._doubtful = self._doubtful, []
            for task_id in doubtful:
                if task_id in self.view.tasks:
                    self.view.watch_deadline(self.view.tasks[task_id])
        for task in islice(self.view.due_deadlines(self.clock.time()), EXPIRE_A_CALL):
            if self._deadlines_count(task):
                self._expire(task)
            else:
                self._doubtful.append(task.id)
                self._doubtful_until = self._steady_at()

    def give_up(self, task: Task) -> None:
        """End a ready task that cannot make its deadline any more. While the clock may be wrong it only waits."""
        if self._deadlines_count(task):
            self._expire(task)
        else:
            self.view.postpone(task, self.now() + self._steady_at() - self.clock.monotonic())

    def wait_for_budget(self, task: Task) -> None:
        """A ready retry waits: its provider fails and has had enough of them. After a restart it is ready."""
        delay_s = RETRY_WAIT_S + retry.backoff_s(task.attempts, self.settings.retry, self._rng)
        self.view.postpone(task, self.now() + delay_s)

    def _expire(self, task: Task) -> None:
        self.stage(Kind.EXPIRED, {"id": task.id, "t": self.clock.time(), "code": "DEADLINE", "cat": Category.TASK})

    def forget(self, budget: int) -> None:
        """Free the ids whose time has passed; at most `budget` a call."""
        if self.loading:
            return
        now = self.clock.time()
        for task_id in self.view.forgettable(now - self.settings.id_ttl_s, now - self.settings.dead_ttl_s):
            task = self.view.tasks.hot.get(task_id)
            # A submit that is still under way will have to be counted.
            if task is None or (task.delivery == "delivered" and not any(self.view.attempts_of(task))):
                self.stage(Kind.FORGET, {"id": task_id, "t": now})
            else:
                self.view.postpone_forgetting(task, now)
            budget -= 1
            if budget <= 0:
                return

    # ---------------------------------------------------------------- reading

    def payload(self, task: Task) -> bytes:
        """The task object as it was dropped, compact JSON. JournalDamaged when its record is bad."""
        return self._read(task.payload) or b"{}"

    def answer_bytes(self, task: Task) -> bytes | None:
        """The answer of a solved task as it was recorded. JournalDamaged when its record is bad."""
        return self._read(task.answer)

    def _read(self, entry: Entry | None) -> bytes | None:
        return None if entry is None else self.journal.read(entry).payload

    def answer(self, task: Task) -> dict[str, Any]:
        """{"token", "answer", "extra"} of a solved task."""
        raw = self.answer_bytes(task)
        return json.loads(raw) if raw else {}

    # ---------------------------------------------------------------- cleaning

    def clean(self, budget: int = LOOKED_AT_A_SLICE, *, thorough: bool = False) -> None:
        """One slice of cleaning, if more than half of the directory is of no use (`thorough`: whatever it gains)."""
        if not self.loading:
            self._cleaner.slice(budget, thorough=thorough)

    def clean_all(self) -> None:
        """Clean every segment but the newest, and commit, however long that takes; ends when the journal goes down."""
        last = self.journal.active
        while (
            self.journal.oldest < last
            and not self.down_reason
            and self._cleaner.slice(LOOKED_AT_A_SLICE, thorough=True)
        ):
            self.commit()

    def may_forget(self, finished_at: float) -> bool:
        """Whether the id of a task that ended then is free. Not for dead ones."""
        return finished_at <= self.clock.time() - self.settings.id_ttl_s

    def is_over(self, task: Task) -> bool:
        """Whether no more need be known of a task than its row."""
        return (
            task.state.ended
            and task.state is not State.DEAD
            and task.delivery == "delivered"
            and not any(self.view.attempts_of(task))
            and not (self.view.leads(task) and self._has_fresh_answer(task))
        )

    def keep(self, task: Task) -> bool:
        """Write all that must be known of `task` to the head. Its older records then say nothing new.

        False when they cannot be read at this moment. What the disk has lost is not kept: whoever needs it is told so.
        """
        delivered = task.state.ended and task.state is not State.DEAD and task.delivery == "delivered"
        try:
            payload = None if delivered else self._readable(task.payload)
            answer = self._readable(task.answer)
        except JournalDown:
            return False
        record = self.view.snapshot(task)
        if answer is not None:
            record["ans"] = True
        self.stage(Kind.KEEP, record, payload)
        if answer is not None:
            self.stage(Kind.KEEP_ANSWER, {"id": task.id}, answer)
        return True

    def _readable(self, entry: Entry | None) -> bytes | None:
        try:
            return self._read(entry)
        except JournalDamaged:
            return None
