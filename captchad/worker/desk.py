"""What a worker has to do and has done: the one state that its threads share, under one lock.

Methods take the time and give back the messages to send; nothing here writes, waits or calls out. Work loop and HTTP
threads call them; each is short.

A submit waits here as an order. A thread takes it (`take_submit`), asks `begin` just before it sends, and tells what
came of it (`settle`). Until `begin` has said yes a submit can be taken back by recall, drain, lease or the end of the
parent; from then on only its own thread says what became of it. `last_words` closes the desk: what has not begun by
then never will.
"""

__all__ = ["Ask", "Call", "Desk", "Order", "Poll", "Submit"]

import math
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from captchad.ipc.channel import Message
from captchad.model.states import Category
from captchad.provider.answers import Failed, Pending, Solved
from captchad.provider.client import Fault
from captchad.worker.schedule import PollSchedule, Watched
from captchad.worker.unconfirmed import Outcome, Unconfirmed

#: `ok` says that polls are answered properly; one a second for each provider is enough for a breaker.
OK_EVERY_S = 1.0


class Abortable(Protocol):
    """A client whose call can be ended from another thread."""

    def abort(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Order:
    """A submit that the parent has ordered. Not begun after `expires`, monotonic seconds."""

    n: int
    provider: str
    key_id: str
    fields: Mapping[str, str] = field(repr=False)
    expires: float


class Call:
    """What one thread is doing. The work loop may abort its HTTP call, never the next one of the same client."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.deadline: float | None = None
        self._lock = threading.Lock()
        self._client: Abortable | None = None
        self._aborted = False

    def connect(self, client: Abortable, deadline: float) -> None:
        """The thread is about to call `client`, up to `deadline`."""
        with self._lock:
            self._client, self.deadline = client, deadline

    def disconnect(self) -> bool:
        """The call is over. True when it was aborted: the client is not to be used again."""
        with self._lock:
            self._client = self.deadline = None
            return self._aborted

    def overdue(self, now: float) -> bool:
        """Whether the HTTP call should have ended by itself."""
        deadline = self.deadline
        return deadline is not None and now >= deadline

    def beyond_s(self, now: float) -> float:
        """How far it is beyond its deadline; 0 for one that has none yet."""
        deadline = self.deadline
        return 0.0 if deadline is None else now - deadline

    def abort(self) -> None:
        """End the HTTP call, if there is one."""
        with self._lock:
            if self._client is not None:
                self._aborted = True
                self._client.abort()


class Submit(Call):
    """A submit in a thread's hands."""

    def __init__(self, order: Order, started: float) -> None:
        super().__init__(started)
        self.order = order
        self.begun = False
        self.recalled = ""  # the reason why it must not begin any more


class Poll(Call):
    """A poll in a thread's hands."""

    def __init__(self, watched: Watched, started: float) -> None:
        super().__init__(started)
        self.watched = watched


class Ask(Call):
    """A question of the parent's about an account or a captcha, answered once. Over at `expires`, monotonic seconds."""

    def __init__(
        self, q: int, provider: str, key_id: str, what: str, cid: str, *, started: float, expires: float
    ) -> None:
        super().__init__(started)
        self.q = q
        self.provider = provider
        self.key_id = key_id
        self.what = what
        self.cid = cid
        self.expires = expires


class Desk:
    """Orders, schedule, running calls and unconfirmed outcomes of one worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: deque[Order] = deque()
        self._schedule = PollSchedule()
        self._unconfirmed = Unconfirmed()
        self._submits: dict[int, Submit] = {}
        self._polls: set[Poll] = set()
        self._questions: deque[Ask] = deque()
        self._asking: set[Ask] = set()
        self._stopped = ""  # the reason why nothing new is taken
        self._closed = False
        self._next_ok: dict[str, float] = {}
        self.poll_share = math.inf  # polls at once of one provider
        self._completed = 0
        self._polled = 0
        self._submitted = 0

    # What the work loop does.

    def order(self, order: Order) -> list[Message]:
        """Take an order; give it back at once if nothing new is taken. A second one for the same attempt is ignored."""
        with self._lock:
            if (
                order.n in self._submits
                or order.n in self._unconfirmed
                or any(each.n == order.n for each in self._orders)
            ):
                return []
            if self._stopped:
                return [self._keep(order.n, _not_sent(self._stopped))]
            self._orders.append(order)
            return []

    def refuse(self, n: int, reason: str) -> list[Message]:
        """Give an order back that cannot even be queued."""
        with self._lock:
            return [self._keep(n, _not_sent(reason))]

    def recall(self, reason: str) -> list[Message]:
        """Give back every submit that has not begun; one in a thread's hands is given back by that thread."""
        with self._lock:
            orders, self._orders = self._orders, deque()
            for submit in self._submits.values():
                if not submit.begun:
                    submit.recalled = submit.recalled or reason
            return [self._keep(order.n, _not_sent(reason)) for order in orders]

    def expire(self, now: float) -> list[Message]:
        """Give back the orders whose lease has ended."""
        with self._lock:
            over = [order for order in self._orders if now >= order.expires]
            if over:
                self._orders = deque(order for order in self._orders if now < order.expires)
            return [self._keep(order.n, _not_sent("lease")) for order in over]

    def watch(
        self,
        n: int,
        provider: str,
        key_id: str,
        cid: str,
        *,
        first_in_s: float,
        gaps_s: Sequence[float] = (),
        every_s: float,
        now: float,
    ) -> None:
        """Poll `cid`, or take its new timing; nothing if its answer is here already or nothing new is taken."""
        with self._lock:
            if not self._stopped and not self._unconfirmed.answered(n):
                self._schedule.watch(
                    n, provider, key_id, cid, first_in_s=first_in_s, gaps_s=gaps_s, every_s=every_s, now=now
                )

    def question(self, ask: Ask) -> list[Message]:
        """Take a question; answer it at once if nothing new is taken."""
        with self._lock:
            if self._stopped:
                return [_untold(ask, self._stopped)]
            self._questions.append(ask)
            return []

    def ack(self, n: int) -> None:
        """The parent has committed the oldest outcome of `n`."""
        with self._lock:
            self._unconfirmed.ack(n)

    def drop(self, n: int) -> None:
        """Nobody wants the answer of `n` any more."""
        with self._lock:
            self._schedule.drop(n)
            self._unconfirmed.drop(n)

    def stop(self, reason: str) -> list[Message]:
        """Take nothing new from now on, stop polling, and give back what has not begun."""
        with self._lock:
            self._stopped = reason
            self._schedule.clear()
            questions, self._questions = self._questions, deque()
        return [*self.recall(reason), *(_untold(ask, reason) for ask in questions)]

    def ripen(self, now: float) -> int:
        """Make ready what is due to be polled; how many captchas that were."""
        with self._lock:
            return self._schedule.ripen(now)

    def next_due(self) -> float | None:
        """When the next poll is due."""
        with self._lock:
            return self._schedule.next_due()

    @property
    def orders(self) -> int:
        """Orders that wait for a thread."""
        return len(self._orders)

    @property
    def ready(self) -> int:
        """Captchas that wait for a thread."""
        return self._schedule.ready

    @property
    def busy(self) -> bool:
        """Something runs or waits for a thread."""
        return bool(self.orders or self.ready or self.calling or self._questions or self._asking)

    @property
    def calling(self) -> int:
        """Submits and polls in threads' hands."""
        return len(self._submits) + len(self._polls)

    @property
    def quiet(self) -> bool:
        """Nothing runs, nothing waits for a thread, and every outcome is confirmed."""
        with self._lock:
            return not (self._orders or self._submits or self._polls or self._asking or self._unconfirmed)

    def running(self) -> list[Call]:
        """The calls in threads' hands."""
        with self._lock:
            return [*self._submits.values(), *self._polls, *self._asking]

    def last_submit_ends(self) -> float | None:
        """The latest deadline of the submits that run; None when none does."""
        with self._lock:
            return max((submit.deadline or 0.0 for submit in self._submits.values()), default=None)

    def beat(self, now: float, lag_s: float) -> Message:
        """The heartbeat, without what the desk does not know. `completed`, `polls`, `submitted` count from the start.

        `beyond_s` says how far the call that is least so is beyond its deadline, `oldest_beyond_s` the one that is most
        so. Calls are aborted at their deadlines, so that one that is far beyond has a thread that does not come back.
        """
        with self._lock:
            submits = len(self._orders) + len(self._submits)
            in_flight = submits + len(self._schedule)
            calls = (*self._submits.values(), *self._polls)
            oldest = min((call.started for call in calls), default=now)
            beyond = [round(call.beyond_s(now), 3) for call in calls]
            return {
                "m": "beat",
                "phase": self._stopped or ("working" if in_flight else "idle"),
                "in_flight": in_flight,
                "submits": submits,
                "calls": len(calls),
                "beyond_s": min(beyond, default=None),
                "oldest_beyond_s": max(beyond, default=None),
                "oldest_s": round(now - oldest, 3),
                "lag_s": round(lag_s, 3),
                "completed": self._completed,
                "polls": self._polled,
                "submitted": self._submitted,
            }

    def last_words(self, reason: str) -> list[Outcome]:
        """Close the desk: everything that nobody has confirmed, each with its `n`. No submit can begin after this."""
        with self._lock:
            self._closed = True
            left = [{"n": n, "o": "unknown", "reason": reason} for n, submit in self._submits.items() if submit.begun]
            return self._unconfirmed.all() + left

    # What HTTP threads do.

    def take_submit(self, now: float) -> Submit | None:
        """The oldest order, now in the caller's hands."""
        with self._lock:
            if not self._orders:
                return None
            submit = Submit(self._orders.popleft(), now)
            self._submits[submit.order.n] = submit
            return submit

    def refusal(self, submit: Submit, now: float) -> str:
        """Why `submit` must not begin; "" if it may."""
        with self._lock:
            return self._refusal(submit, now)

    def begin(self, submit: Submit, now: float) -> str:
        """Ask to send. "" is a yes: the submit has begun. Else the reason why not."""
        with self._lock:
            reason = self._refusal(submit, now)
            submit.begun = not reason
            return reason

    def settle(self, submit: Submit, outcome: Outcome) -> list[Message]:
        """What came of a submit: kept until it is acknowledged, and to be sent now."""
        with self._lock:
            del self._submits[submit.order.n]
            self._submitted += outcome["o"] == "submitted"
            return [self._keep(submit.order.n, outcome)]

    def take_poll(self, now: float) -> Poll | None:
        """The captcha that has been due for longest, now in the caller's hands."""
        with self._lock:
            watched = self._schedule.take(self.poll_share)
            if watched is None:
                return None
            poll = Poll(watched, now)
            self._polls.add(poll)
            self._polled += 1
            return poll

    def take_question(self) -> Ask | None:
        """The oldest question, now in the caller's hands."""
        with self._lock:
            if not self._questions:
                return None
            ask = self._questions.popleft()
            self._asking.add(ask)
            return ask

    def end_question(self, ask: Ask) -> None:
        """Its answer is sent. Not before: a worker that drains may go when nothing is asked any more."""
        with self._lock:
            self._asking.discard(ask)

    def company(self, poll: Poll, now: float) -> list[Watched]:
        """Captchas that the same call may ask about; `asked` is to be called with what came of it."""
        with self._lock:
            return [] if self._stopped else self._schedule.company(poll.watched, now)

    def asked(self, others: Sequence[Watched], unready: Sequence[bool] | None, now: float) -> None:
        """What a call has said of its company; None: nothing. Those that may be ready are due at once."""
        with self._lock:
            self._schedule.asked(others, unready, now)

    def end_poll(self, poll: Poll, answer: Pending | Solved | Failed | Fault, now: float) -> list[Message]:
        """What came of a poll: the messages to send. None at all for a captcha that was dropped meanwhile."""
        watched = poll.watched
        with self._lock:
            self._polls.discard(poll)
            if isinstance(answer, Solved | Failed):
                if not self._schedule.end(watched):
                    return []
                self._completed += 1
                return [self._keep(watched.n, _answer(answer, watched, now))]
            if not self._wait_again(watched, answer, now):
                return []
            done: Message = {"m": "done", "n": watched.n}
            if isinstance(answer, Pending):
                return [*self._ok(watched, now), done]
            # A worker that stops ends its polls itself; the provider is not to be blamed for that.
            return [done] if self._stopped else [_fault(watched, answer), done]

    def _wait_again(self, watched: Watched, answer: Pending | Fault, now: float) -> bool:
        """Put a captcha back into the schedule. False when nobody wants it any more."""
        if self._stopped:
            return self._schedule.end(watched)
        if isinstance(answer, Fault):
            return self._schedule.back_off(watched, now)
        return self._schedule.again(watched, now)

    def _ok(self, watched: Watched, now: float) -> Iterable[Message]:
        if now < self._next_ok.get(watched.provider, now):
            return
        self._next_ok[watched.provider] = now + OK_EVERY_S
        yield {"m": "ok", "provider": watched.provider, "n": watched.n}

    def _refusal(self, submit: Submit, now: float) -> str:
        if self._closed:
            return "closed"
        if submit.recalled:
            return submit.recalled
        return "lease" if now >= submit.order.expires else ""

    def _keep(self, n: int, outcome: Outcome) -> Message:
        self._unconfirmed.add(n, outcome)
        return {"m": "out", "n": n, **outcome}


def _not_sent(reason: str) -> Outcome:
    return {"o": "not_sent", "reason": reason}


def _answer(answer: Solved | Failed, watched: Watched, now: float) -> Outcome:
    if isinstance(answer, Solved):
        # How long at most it was ready before it was fetched: what the parent learns poll times from.
        waited_s = None if watched.answered_at is None else round(now - watched.answered_at, 3)
        said = {"token": answer.token, "answer": answer.answer, "extra": dict(answer.extra)}
        return {"o": "solved", **said, "waited_s": waited_s}
    return {"o": "failed", "code": answer.code, "category": answer.category, "text": answer.text}


def _untold(ask: Ask, reason: str) -> Message:
    blame = {"code": "INTERNAL", "category": Category.TRANSIENT}
    return {"m": "told", "q": ask.q, **blame, "text": f"not asked: {reason}"}


def _fault(watched: Watched, fault: Fault) -> Message:
    blame = {"code": fault.code, "category": fault.category}
    return {"m": "fault", "provider": watched.provider, "op": "poll", **blame, "n": watched.n}
