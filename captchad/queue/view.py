"""The view: what the journal says, in memory. Changed by `apply` alone, at start and live, so replay equals live.

It holds an index, not payloads: tasks point to where their payload and their answer stand in the journal, and of most
of them memory holds no more than that (`captchad.queue.tasks`).
"""

__all__ = ["PLAIN_ACCEPT", "Totals", "View"]

import heapq
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from captchad.journal.records import Entry, Place, Record, run_pattern
from captchad.model.errors import NewerVersion
from captchad.model.states import Category, Priority, State
from captchad.policy.lifecycle import Kind, next_state
from captchad.policy.spend import Spent
from captchad.queue.bill import Bill, Columns, Row
from captchad.queue.crewlog import CrewLog
from captchad.queue.due import Due
from captchad.queue.lines import Block, Lines, Takes
from captchad.queue.shelf import Times
from captchad.queue.task import Attempt, Captcha, Task, of_accept, of_snapshot, refresh, snapshot
from captchad.queue.tasks import Tasks

# An `accept` record of which nothing matters before the task is run: what may matter stands where `ex` stands here.
PLAIN_ACCEPT = run_pattern(Kind.ACCEPT, rb',"id":"([^"\\]+)","t":[0-9.]+,"pr":([0-3]),"ex":')

_Changing = Callable[[Task, int, Mapping[str, Any], Entry], None]

# Looking a member up in its enum takes longer than most of what is done with it here.
_ACCEPT, _REDRIVE = str(Kind.ACCEPT), str(Kind.REDRIVE)
_FINAL = frozenset({str(Kind.DELIVERED), str(Kind.REPORTED)})
_PENDING = State.PENDING
_MOVE = frozenset({Kind.SOLVED, Kind.SUBMITTING, Kind.DEAD})
_ENDS = frozenset(state for state in State if state.ended)
_UNFINISHED = tuple(state for state in State if not state.ended)


@dataclass(slots=True)
class Totals:
    """Counters over the journal's whole life; they survive cleaning."""

    accepted: int = 0
    solved: int = 0
    dead: int = 0
    expired: int = 0
    cancelled: int = 0
    redriven: int = 0
    charges: int = 0
    unknown_submits: int = 0
    late_submits: int = 0
    crashes: int = 0
    stalls: int = 0
    cost: int = 0  # of all answers whose price is known, in millionths


class View:
    """All tasks, and the lines in which the pending ones wait. `read` gets a record from where it stands."""

    #: Kinds of records whose fields need not be parsed by who reads them for `replay`.
    LAZY = frozenset({str(Kind.ACCEPT)})

    def __init__(self, read: Callable[[Entry], Record]) -> None:
        self.tasks = Tasks(read, self._warmed)
        self.attempts: dict[int, Attempt] = {}
        self.captchas: dict[int, Captcha] = {}
        self.totals = Totals()
        self.spent = Spent()
        self.bill = Bill()
        self.crew = CrewLog()
        self._hot_states: dict[State, int] = dict.fromkeys(State, 0)
        self.leaders: dict[str, str] = {}  # dedupe key -> task whose answer the others share
        self.followers: dict[str, list[str]] = {}  # leader's id -> those who wait for it
        self.last_n = 0
        self.epoch = 0
        self.orphan_ids: set[str] = set()  # named by a record, their first one cleaned away; a `keep` must follow
        self.in_flight: dict[str, int] = {}  # per provider: submits ordered and captchas not answered
        self.closed: list[int] = []  # captchas that need no more polls; whoever has them polled empties this
        self.undelivered: dict[str, None] = {}  # ended, without `delivered`
        self.taken = 0  # records that `take_plain` has applied
        self._lines = Lines(self.tasks)
        self._doors = tuple(map(self._lines.door, Priority))
        self._stand = {b"%d" % priority: self._doors[priority] for priority in Priority}
        self._deadlines: list[tuple[float, str]] = []
        self._endings = Due()
        self._deaths = Due()
        self._other: dict[str, Callable[[Mapping[str, Any], Entry], Task | None]] = {
            "epoch": self._start_epoch,
            "beat": self._beat,
            "totals": self._take_totals,
            "bill": self._take_bill,
            "crew": self._take_crew,
            "crew_log": self._take_crew_log,
            Kind.ACCEPT: self._accept,
            Kind.KEEP: self._keep,
            Kind.KEEP_ANSWER: self._keep_answer,
            Kind.ENDED: self._remember_rows,
            Kind.FORGET: self._forget,
        }
        self._changing: dict[str, _Changing] = {
            kind: getattr(self, f"_on_{kind}") for kind in Kind if kind not in self._other
        }

    # ---------------------------------------------------------------- records

    def replay(self, record: Record) -> None:
        """Apply a record as it was read. Raises as `apply` does."""
        self.apply(record.kind, record.fields, record.entry)

    def apply(self, kind: str, data: Mapping[str, Any], entry: Entry) -> Task | None:
        """Apply one record; returns the task that it changed. A record of a task that is not known (its first records
        were cleaned away, a `keep` follows further on) is noted and skipped.

        Raises NotAllowed when the lifecycle table forbids it; NewerVersion for a kind of record that is not known.
        """
        changing = self._changing.get(kind)
        if changing is not None:
            task = self.tasks.get(data["id"])
            if task is None and kind in _FINAL and "state" in data:
                self._remember_delivered(data, entry)
            elif task is None:
                self._note_orphan(data)
            else:
                self._change(task, kind, changing, data, entry)
            return task
        other = self._other.get(kind)
        if other is None:
            raise NewerVersion(
                f"the journal has a record of kind {kind!r}, which this captchad does not know",
                hint="run the captchad that wrote it, or a later one",
            )
        return other(data, entry)

    def take_plain(self, task_id: bytes, priority: bytes, segment: int, offset: int, length: int) -> bool:
        """The same as `apply` for an `accept` record that PLAIN_ACCEPT matches; False for an id that is known."""
        word = task_id.decode("ascii")
        if not self.tasks.take_pending(word, segment, offset, length):
            return False
        self.totals.accepted += 1
        self.taken += 1
        self._stand[priority](word)
        return True

    def accepted(self, task_id: str, priority: int, entry: Entry) -> None:
        """The same as `apply` for an `accept` record of which no more matters before the task is run."""
        self._add_cold(task_id, priority, entry.segment, entry.offset, entry.length)

    def moved(self, moves: Mapping[Place, Place]) -> None:
        """Records that were staged stand elsewhere than was promised."""
        self.tasks.moved(moves)

    def _add_cold(self, task_id: str, priority: int, segment: int, offset: int, size: int) -> None:
        """A new task of which its `accept` record says all."""
        if not self.tasks.take_pending(task_id, segment, offset, size):
            next_state(self.tasks.state(task_id), _ACCEPT)  # raises: an id is accepted once
        self.totals.accepted += 1
        self._doors[priority](task_id)

    def _accept(self, data: Mapping[str, Any], entry: Entry) -> None:
        task_id = data["id"]
        if data.get("wait") is not None:
            if task_id in self.tasks:
                next_state(self.tasks.state(task_id), _ACCEPT)
            self.totals.accepted += 1
            self._add(of_accept(data, entry))
            return
        self._add_cold(task_id, Priority(data["pr"]), entry.segment, entry.offset, entry.length)
        if (deadline_at := data.get("dl")) is not None:
            heapq.heappush(self._deadlines, (deadline_at, task_id))
        if dedupe_key := data.get("dk"):
            self.leaders[dedupe_key] = task_id  # whoever led before has no answer to share any more

    def _start_epoch(self, data: Mapping[str, Any], entry: Entry) -> None:
        self.epoch = max(self.epoch, int(data["epoch"]))

    def _beat(self, data: Mapping[str, Any], entry: Entry) -> None:
        """It only shows that the journal takes a write."""

    def _take_totals(self, data: Mapping[str, Any], entry: Entry) -> None:
        self.last_n = max(self.last_n, int(data.get("n", 0)))
        self.totals = Totals(**{field.name: int(data.get(field.name, 0)) for field in fields(Totals)})
        self.spent = Spent.of_record(data.get("spent", {}))

    def _take_bill(self, data: Mapping[str, Any], entry: Entry) -> None:
        self.bill.take(data, entry)

    def _take_crew(self, data: Mapping[str, Any], entry: Entry) -> None:
        self.crew.take(data, entry.segment)

    def _take_crew_log(self, data: Mapping[str, Any], entry: Entry) -> None:
        self.crew.take_all(data, entry.segment)

    def _keep_answer(self, data: Mapping[str, Any], entry: Entry) -> Task | None:
        task = self.tasks.get(data["id"])
        if task is not None:
            task.answer = entry
        return task

    def _remember_delivered(self, data: Mapping[str, Any], entry: Entry) -> None:
        """A task that is over; the records before this one were cleaned away, since this one says all."""
        self.orphan_ids.discard(data["id"])
        self._endings.add(data["finished_at"], data["id"])
        self.tasks.put_cold(State(data["state"]), data["id"], entry.segment, entry.offset, entry.length)

    def _forget(self, data: Mapping[str, Any], entry: Entry) -> None:
        task_id = data["id"]
        state = self.tasks.state(task_id)
        self.orphan_ids.discard(task_id)
        if state is None:
            return
        next_state(state, Kind.FORGET)
        hot = self.tasks.hot.get(task_id)
        if hot is not None:
            self._remove(hot)
        else:
            self.tasks.drop_cold(task_id)

    def _note_orphan(self, data: Mapping[str, Any]) -> None:
        self.orphan_ids.add(data["id"])
        if "n" in data:
            self.last_n = max(self.last_n, int(data["n"]))

    def _warmed(self, task: Task) -> None:
        self._hot_states[task.state] += 1
        if task.where:
            self._lines.warmed()

    def _cool(self, task: Task, entry: Entry) -> None:
        """The record at `entry` says all of a hot task."""
        self._hot_states[task.state] -= 1
        if task.where:
            self._lines.cooled(task)
        self.tasks.cool(task, entry)

    def _keep(self, data: Mapping[str, Any], entry: Entry) -> Task | None:
        task_id = data["id"]
        self.orphan_ids.discard(task_id)
        if task_id not in self.tasks.hot:
            state = self.tasks.state(task_id)
            if state is not None and state == data["state"] and _says_all(data):
                self.tasks.move_cold(state, task_id, entry)
                return None
        closed = len(self.closed)
        task = self._kept(self.tasks.get(task_id), data, entry)
        if task.dedupe_key and data.get("lead"):
            self.leaders[task.dedupe_key] = task.id
        self._open_all(task, data)
        # Whoever polls them goes on.
        self.closed[closed:] = [n for n in self.closed[closed:] if n not in self.captchas]
        if _says_all(data):
            self._cool(task, entry)
            return None
        return task

    def _open_all(self, task: Task, data: Mapping[str, Any]) -> None:
        """What is under way for `task`, as a snapshot says."""
        for n, provider, cid, submitted_at, key_id, late in data.get("captchas", ()):
            self._open_captcha(task, Captcha(n, task.id, provider, cid, submitted_at, key_id, late))
        for n, provider, worker, *rest in data.get("open", ()):
            self._open_attempt(task, Attempt(n, task.id, provider, (worker[0], worker[1]), *rest))

    def _kept(self, known: Task | None, data: Mapping[str, Any], entry: Entry) -> Task:
        """The task of a snapshot, hot. One that is known keeps its place in its line."""
        task = of_snapshot(data, entry)
        if known is not None:
            if data.get("ans"):
                task.answer = known.answer  # until `keep_answer` comes: a crash may cut it off
            if _standing(known) == _standing(task):
                self._close_all(known)
                refresh(known, data)
                known.payload, known.answer = entry, task.answer
                return known
            self._remove(known)
        self._add(task, first=True)
        return task

    def _remember_rows(self, data: Mapping[str, Any], entry: Entry) -> None:
        """Of these tasks no more is known from now on than their rows say."""
        rows = data["rows"]
        for row in rows:
            task_id, finished_at = row[0], row[3]
            known = self.tasks.state(task_id)
            if known is not None:
                hot = self.tasks.hot.get(task_id)
                if hot is not None:
                    self._remove(hot)
                else:
                    self.tasks.drop_cold(task_id)
            elif self.orphan_ids:
                self.orphan_ids.discard(task_id)
            if known is None or not known.ended:
                self._endings.add(finished_at, task_id)
        self.tasks.put_rows(rows, entry)

    def snapshot(self, task: Task) -> dict[str, Any]:
        """The fields of a `keep` record for `task`, as it is now."""
        data = snapshot(task)
        if self.leads(task):
            data["lead"] = True
        data["captchas"] = [[c.n, c.provider, c.cid, c.submitted_at, c.key_id, c.late] for c in self.captchas_of(task)]
        data["open"] = [[a.n, a.provider, a.worker, a.ordered_at, a.key_id, a.tag] for a in self.attempts_of(task)]
        return data

    def leads(self, task: Task) -> bool:
        """Whether others with the same dedupe key may share its answer."""
        return bool(task.dedupe_key) and self.leaders.get(task.dedupe_key or "") == task.id

    def totals_record(self) -> dict[str, int]:
        return asdict(self.totals)

    def sums(self) -> dict[str, Any]:
        """The fields of a `totals` record: what stands in no other record once the old ones are gone."""
        return {**self.totals_record(), "n": self.last_n, "spent": self.spent.record()}

    # ---------------------------------------------------------------- an index

    @property
    def times(self) -> Times:
        """What becomes due."""
        return Times(self._deadlines, self._endings, self._deaths)

    def in_order(self) -> dict[Priority, list[str]]:
        """The ids in each ready line."""
        return self._lines.in_order()

    def append_block(self, priority: Priority, block: Block) -> None:
        """Ids of an index stand at the end of a ready line."""
        self._lines.append_block(priority, block)

    def put_back(self, data: Mapping[str, Any], payload: Entry | None, answer: Entry | None) -> None:
        """Know a hot task as `snapshot` said it. What refers to it is the caller's matter."""
        task = of_snapshot(data, payload)
        task.answer = answer
        self.tasks.hot[task.id] = task
        self._hot_states[task.state] += 1
        self._open_all(task, data)
        if task.state is State.PENDING:
            self._lines.put_back(task, data["where"])

    # ---------------------------------------------------------------- one change

    def _change(self, task: Task, kind: str, changing: _Changing, data: Mapping[str, Any], entry: Entry) -> None:
        after = next_state(task.state, kind)
        n = int(data.get("n", 0))
        if n > self.last_n:
            self.last_n = n
        moved = n == 0 or n == task.n or kind in _MOVE
        was_ended = task.state in _ENDS
        changing(task, n, data, entry)
        if after is None or not moved or (was_ended and kind != _REDRIVE):
            return
        if after is not task.state or after is _PENDING:
            self._lines.leave(task)
            self._hot_states[task.state] -= 1
            task.state = after
            self._hot_states[after] += 1
            if after is _PENDING:
                self._lines.join(task)
        if after in _ENDS and not was_ended:
            self._ended(task, data)

    def _on_submitting(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        task.n = n
        task.provider = data["prov"]
        task.cid = None
        task.attempts += 1
        worker = data["w"]
        attempt = Attempt(n, task.id, data["prov"], (worker[0], worker[1]), data["t"], data["key"], data.get("tag", ""))
        self._open_attempt(task, attempt)

    def _on_submitted(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        attempt = self._close_attempt(n)
        if n in self.captchas:
            return  # said twice (on the pipe and in a side file): counted once
        provider = attempt.provider if attempt else data["prov"]
        task.charges += 1
        self.totals.charges += 1
        self.spent.add(data["t"], provider, attempt.tag if attempt else "")
        self._columns(task, provider, data).charges += 1
        current = n == task.n
        # The other one is polled slowly, or has brought the answer, or came in beside this one.
        beside = task.state is State.SOLVED or not (current or task.state.ended)
        if beside or any(captcha.late for captcha in self.captchas_of(task)):
            task.late_submits += 1
            self.totals.late_submits += 1
        if task.state.ended:
            return
        task.faults = 0
        self._open_captcha(task, Captcha(n, task.id, provider, data["cid"], data["t"], data["key"], late=not current))
        if current:
            task.provider, task.cid = provider, data["cid"]

    def _on_not_sent(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        self._attempt_over(task, n, data)
        task.faults += 1

    def _on_refused(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        self._attempt_over(task, n, data)
        task.faults = 0
        self._note_error(task, data)

    def _on_unknown(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        self._count_unknown(task, self.attempts.get(n), data)
        self._attempt_over(task, n, data)
        self._note_error(task, {"code": "UNKNOWN_SUBMIT", "cat": Category.TRANSIENT, "text": data.get("why", "")})

    _on_unknown_hold = _on_unknown

    def _on_failed(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        self._close_captcha(n)
        self._attempt_over(task, n, data)
        self._note_error(task, data)

    def _on_timeout(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        captcha = self.captchas.get(n)
        if captcha is not None:
            captcha.late = True
        task.n = 0
        task.due_at = data["due"]
        self._note_error(task, data)

    def _on_late_end(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        self._close_captcha(n)
        attempt = self._close_attempt(n)
        if attempt is not None and data.get("unknown"):
            self._count_unknown(task, attempt, data)

    def _on_solved(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        self._close_captcha(n)
        self._close_attempt(n)
        if task.state.ended:
            return
        task.provider, task.cid = data.get("prov"), data.get("cid")
        task.solve_time = data.get("secs")
        task.expires_at = data.get("exp")
        task.error = task.category = None
        task.text = ""
        task.answer = entry
        task.cost = data.get("price")
        self.totals.solved += 1
        self.totals.cost += task.cost or 0
        columns = self._columns(task, task.provider, data)
        columns.solved += 1
        columns.cost += task.cost or 0
        columns.unpriced += task.cost is None

    def _on_dead(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        attempt = self._close_attempt(n)
        if data.get("unknown"):
            self._count_unknown(task, attempt, data)
        self._note_error(task, data)
        self.totals.dead += 1

    def _on_expired(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        self._note_error(task, data)
        self.totals.expired += 1

    def _on_cancelled(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        self._note_error(task, data)
        self.totals.cancelled += 1

    def _on_hold(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        task.text = data.get("why", "")

    def _on_release(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        task.due_at = 0.0
        task.text = ""
        leader = self.tasks.state(task.waits_for or "")
        if task.waits_for is not None and (leader is None or leader.ended):
            self._lead(task)

    def _on_crash(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        task.crashes += 1
        self.totals.crashes += 1
        if data.get("stall"):
            task.stalls += 1
            self.totals.stalls += 1
        if data.get("alone"):
            task.alone_crashes += 1

    def _on_publishing(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        task.delivery = "publishing"

    def _on_delivered(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        task.delivery = "delivered"
        self.undelivered.pop(task.id, None)
        if "state" in data:
            self._cool(task, entry)

    def _on_reported(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        task.reported = data["reported"]
        if "state" in data:
            self._cool(task, entry)

    def _on_redrive(self, task: Task, n: int, data: Mapping[str, Any], entry: Entry) -> None:
        task.redrives += 1
        self.totals.redriven += 1
        task.attempts = task.faults = task.task_errors = task.alone_crashes = task.n = 0
        task.due_at = 0.0
        task.finished_at = task.solve_time = task.expires_at = task.cost = None
        task.error = task.category = task.provider = task.cid = None
        task.text = task.delivery = ""
        task.deadline_at = data.get("dl")
        self.undelivered.pop(task.id, None)
        if task.dedupe_key:
            self.leaders.setdefault(task.dedupe_key, task.id)

    # ---------------------------------------------------------------- pieces of changes

    def _open_attempt(self, task: Task, attempt: Attempt) -> None:
        self.attempts[attempt.n] = attempt
        self._note_number(task, attempt.n, attempt.provider)

    def _open_captcha(self, task: Task, captcha: Captcha) -> None:
        self.captchas[captcha.n] = captcha
        self._note_number(task, captcha.n, captcha.provider)

    def _note_number(self, task: Task, n: int, provider: str) -> None:
        open_ones = [each for each in task.numbers if each != n and (each in self.captchas or each in self.attempts)]
        task.numbers = (*open_ones, n)
        self.in_flight[provider] = self.in_flight.get(provider, 0) + 1
        self.last_n = max(self.last_n, n)

    def _close_attempt(self, n: int) -> Attempt | None:
        attempt = self.attempts.pop(n, None)
        if attempt is not None:
            self.in_flight[attempt.provider] -= 1
        return attempt

    def _close_captcha(self, n: int) -> None:
        captcha = self.captchas.pop(n, None)
        if captcha is not None:
            self.in_flight[captcha.provider] -= 1
            self.closed.append(n)

    def _count_unknown(self, task: Task, attempt: Attempt | None, data: Mapping[str, Any]) -> None:
        """A submit that may be charged: caps count it as if it were."""
        task.unknown_submits += 1
        self.totals.unknown_submits += 1
        provider = attempt.provider if attempt else task.provider or ""
        self.spent.add(data["t"], provider, attempt.tag if attempt else "")
        self._columns(task, provider, data).unknown_submits += 1

    def _columns(self, task: Task, provider: str | None, data: Mapping[str, Any]) -> Columns:
        """Where on the bill something counts that a record says of `task`."""
        return self.bill.row(data["t"], Row(task.method, task.host, provider or "", task.tags))

    def _attempt_over(self, task: Task, n: int, data: Mapping[str, Any]) -> None:
        self._close_attempt(n)
        if n != task.n:
            return
        task.n = 0
        task.due_at = data.get("due", 0.0)
        if data.get("free"):
            task.attempts = max(0, task.attempts - 1)

    def _note_error(self, task: Task, data: Mapping[str, Any]) -> None:
        task.error = data.get("code")
        task.category = Category(data["cat"]) if data.get("cat") else None
        task.text = data.get("text", "")
        if task.category is Category.TASK and not data.get("free"):
            task.task_errors += 1

    def _ended(self, task: Task, data: Mapping[str, Any]) -> None:
        task.finished_at = data["t"]
        task.n = 0
        self._remember_end(task)
        self._wait_no_more(task)
        for captcha in list(self.captchas_of(task)):
            self._close_captcha(captcha.n)
        self.undelivered[task.id] = None
        if task.state is not State.SOLVED:
            self._columns(task, task.provider, data).failed += 1
        # Its followers have records of their own: whether the answer is fresh is a matter of time.
        if task.state is not State.SOLVED:
            self._lead_no_more(task)

    def _lead(self, task: Task) -> None:
        """One of those who waited runs itself; the others wait for it."""
        others = [other for other in self.followers.pop(task.waits_for or "", []) if other != task.id]
        task.waits_for = None
        if task.dedupe_key:
            self.leaders[task.dedupe_key] = task.id
        if others:
            self.followers[task.id] = others
        for other in others:
            self.tasks[other].waits_for = task.id

    def _lead_no_more(self, task: Task) -> None:
        if task.dedupe_key and self.leaders.get(task.dedupe_key) == task.id:
            del self.leaders[task.dedupe_key]

    def _wait_no_more(self, task: Task) -> None:
        waiting = self.followers.get(task.waits_for or "", [])
        if task.id in waiting:
            waiting.remove(task.id)
            if not waiting:
                del self.followers[task.waits_for or ""]
        task.waits_for = None

    # ---------------------------------------------------------------- keeping the indexes

    def _add(self, task: Task, *, first: bool = False) -> None:
        """A hot task that was not known; `first`: older than those whose first record is there."""
        self.tasks.hot[task.id] = task
        self._hot_states[task.state] += 1
        if task.waits_for is not None:
            self.followers.setdefault(task.waits_for, []).append(task.id)
        if task.state.ended:
            if task.delivery != "delivered":
                self.undelivered[task.id] = None
            self._remember_end(task)
        elif task.deadline_at is not None:
            heapq.heappush(self._deadlines, (task.deadline_at, task.id))
        if task.state is State.PENDING:
            if first and _ready(task):
                self._lines.stand_first(task)
            else:
                self._lines.join(task)

    def _remove(self, task: Task) -> None:
        self._lines.leave(task)
        self._hot_states[task.state] -= 1
        del self.tasks.hot[task.id]
        self.undelivered.pop(task.id, None)
        self._wait_no_more(task)
        self._lead_no_more(task)
        self._close_all(task)

    def _close_all(self, task: Task) -> None:
        for captcha in list(self.captchas_of(task)):
            self._close_captcha(captcha.n)
        for attempt in list(self.attempts_of(task)):
            self._close_attempt(attempt.n)

    def _remember_end(self, task: Task) -> None:
        due = self._deaths if task.state is State.DEAD else self._endings
        due.add(task.finished_at or 0.0, task.id)

    # ---------------------------------------------------------------- questions

    @property
    def lines(self) -> Mapping[str, int]:
        """How many pending tasks are `ready`, `delayed`, or `waiting` for another one's answer."""
        return self._lines.counts

    def ripen(self, now: float) -> None:
        """Move delayed tasks that are due at `now` into the ready lines."""
        self._lines.ripen(now)

    def postpone(self, task: Task, until: float) -> None:
        """A ready task waits until then (UTC). Not recorded: after a restart it is ready."""
        self._lines.postpone(task, until)

    def bring_back(self) -> None:
        """Those that were postponed are ready again."""
        self._lines.bring_back()

    def next_due(self) -> float | None:
        """UTC time at which the next delayed task is due (or a little earlier: stale places count)."""
        return self._lines.next_due()

    def peek_ready(
        self, suspects: Container[str] = (), bar: Priority = Priority.LOW, takes: Takes | None = None
    ) -> Task | None:
        """The next ready task, by priority, then by how long it has been ready; `suspects` lose their place.

        Those of a lower priority than `bar` wait, and so do those whose method `takes` says no to. None with `unseen`:
        ask again, there may be one.
        """
        return self._lines.peek(suspects, bar, takes)

    def peek_aged(self, before: float, suspects: Container[str] = (), takes: Takes | None = None) -> Task | None:
        """Of the next ready tasks of all priorities the one queued first, if that was before `before` (UTC)."""
        return self._lines.peek_aged(before, suspects, takes)

    @property
    def unseen(self) -> bool:
        """Whether `peek_ready` gave None before it had seen all lines to their ends."""
        return self._lines.unseen

    @property
    def aside(self) -> Mapping[str, int]:
        """How many ready tasks have been passed over because nobody took their method, by method."""
        return self._lines.aside

    def oldest_pending_at(self) -> float | None:
        """When the oldest pending task was queued (UTC)."""
        return self._lines.oldest_pending_at()

    def first(self, state: State | None, limit: int) -> list[Task]:
        """At most `limit` tasks, of one state or of all, in the order in which they were queued; to look at only."""
        tasks = self.tasks
        hot = [task for task in tasks.hot.values() if state is None or task.state is state]
        ids = [task_id for each in (State if state is None else [state]) for task_id in tasks.first_cold(each, limit)]
        cold = [task for task_id in ids if (task := tasks.peek(task_id)) is not None]
        return sorted(hot + cold, key=lambda task: task.queued_at)[:limit]

    def captchas_of(self, task: Task) -> Iterator[Captcha]:
        """Captchas of `task` that may still be polled."""
        return (self.captchas[n] for n in task.numbers if n in self.captchas)

    def attempts_of(self, task: Task) -> Iterator[Attempt]:
        """Submits of `task` that are ordered and have no outcome yet."""
        return (self.attempts[n] for n in task.numbers if n in self.attempts)

    @property
    def states(self) -> dict[State, int]:
        """How many tasks are in each state."""
        return {state: hot + self.tasks.count_cold(state) for state, hot in self._hot_states.items()}

    @property
    def unfinished(self) -> int:
        """How many tasks have not ended."""
        hot = self._hot_states
        return self.tasks.count_cold(_PENDING) + sum(hot[state] for state in _UNFINISHED)

    def due_deadlines(self, now: float) -> Iterator[Task]:
        """Unfinished tasks whose deadline has passed; each is given once."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, task_id = heapq.heappop(self._deadlines)
            state = self.tasks.state(task_id)
            if state is None or state.ended:
                continue
            task = self.tasks[task_id]
            if task.deadline_at is not None and task.deadline_at <= now:
                yield task

    def forgettable(self, ended_before: float, dead_before: float) -> Iterator[str]:
        """Ended tasks that finished before `ended_before` (dead ones before `dead_before`), each given once."""
        for due, limit in ((self._endings, ended_before), (self._deaths, dead_before)):
            while (task_id := due.pop(limit)) is not None:
                state = self.tasks.state(task_id)
                if state is None or not state.ended or (state is State.DEAD) != (due is self._deaths):
                    continue
                if task_id in self.tasks.hot or state is State.DEAD:
                    task = self.tasks.peek(task_id)
                    if task is None or (task.finished_at or 0.0) > limit:
                        continue  # redriven meanwhile: it has another place
                yield task_id

    def postpone_forgetting(self, task: Task, until: float) -> None:
        """Ask again a whole time to live after `until`: its result is not delivered yet."""
        (self._deaths if task.state is State.DEAD else self._endings).add(until, task.id)

    def watch_deadline(self, task: Task) -> None:
        """Ask for the task's deadline (again): a redriven task has a new one."""
        if task.deadline_at is not None:
            heapq.heappush(self._deadlines, (task.deadline_at, task.id))

    def fingerprint(self) -> dict[str, Any]:
        """All of it as plain values: two views of the same records are equal here."""
        return {
            "tasks": {task.id: self.snapshot(task) for task in self.tasks.values()},
            "totals": self.totals_record(),
            "spent": self.spent.record(),
            "bill": self.bill.plain(),
            "crew": self.crew.plain(),
            "last_n": self.last_n,
            "states": {str(state): count for state, count in self.states.items()},
            "leaders": dict(self.leaders),
            "followers": {leader: list(ids) for leader, ids in self.followers.items()},
            "undelivered": sorted(self.undelivered),
        }


def _ready(task: Task) -> bool:
    return task.waits_for is None and task.due_at <= 0.0


def _standing(task: Task) -> tuple[object, ...]:
    """What decides in which line a task stands, and where it is counted."""
    return task.state, task.priority, task.due_at, task.waits_for, task.finished_at, task.delivery


def _says_all(data: Mapping[str, Any]) -> bool:
    """Whether a `keep` record says all of its task, so that memory need not hold more: it waits, ready, or is dead."""
    if data.get("captchas") or data.get("open") or data.get("lead") or data.get("ans") or data.get("waits_for"):
        return False
    if data["state"] == State.PENDING:
        return not data.get("due_at")
    return data["state"] == State.DEAD and data.get("delivery") == "delivered"
