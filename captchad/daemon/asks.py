"""Questions that workers put to providers: balance, threads, reports. Notes only; nothing here is in the journal.

Each question is answered once: by its worker, or by a fault when that dies or says nothing in time. It is never put
twice.
"""

__all__ = ["ASK_S", "Asks", "Fault", "Told"]

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from captchad.ipc.channel import Message
from captchad.model.clock import Clock
from captchad.model.states import Category
from captchad.queue.task import WorkerKey
from captchad.supervisor.worker import Worker

#: One deadline over a question: the wait for a thread, name, connection, TLS and body.
ASK_S = 20.0

#: So much later the parent stops waiting for what the worker should have said by then.
GRACE_S = 5.0

What = Literal["balance", "threads", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A question without an answer: what the provider said instead, or what went wrong on the way."""

    code: str
    category: Category
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider has said. Of a report neither is set: it is recorded."""

    balance: float | None = None
    threads: tuple[int, int] | None = None  # of the plan, and working


@dataclass(frozen=True, slots=True)
class _Question:
    worker: WorkerKey
    until: float
    done: Callable[[Told | Fault], None]


class Asks:
    """All questions that wait for their answers. `workers` gives those that can be asked now."""

    def __init__(self, clock: Clock, workers: Callable[[], Iterable[Worker]]) -> None:
        self._clock = clock
        self._workers = workers
        self._open: dict[int, _Question] = {}
        self._last_q = 0

    @property
    def able(self) -> bool:
        """Whether there is a worker to ask."""
        return any(True for _ in self._workers())

    def ask(self, provider: str, key_id: str, what: What, done: Callable[[Told | Fault], None], cid: str = "") -> None:
        """Have a worker ask `provider`; `done` is called once, later or, when there is no worker, now."""
        waiting = [question.worker for question in self._open.values()]
        worker = min(self._workers(), key=lambda each: waiting.count(each.key), default=None)
        if worker is None:
            done(_fault("not asked: no worker"))
            return
        self._last_q += 1
        self._open[self._last_q] = _Question(worker.key, self._clock.monotonic() + ASK_S + GRACE_S, done)
        worker.send(
            {
                "m": "ask",
                "q": self._last_q,
                "provider": provider,
                "key": key_id,
                "what": what,
                "cid": cid,
                "within_s": ASK_S,
            }
        )

    def told(self, message: Message) -> None:
        """A worker has answered. One that comes too late is dropped."""
        question = self._open.pop(message["q"], None)
        if question is None:
            return
        if "code" in message:
            question.done(Fault(message["code"], Category(message["category"]), message["text"]))
        elif "threads" in message:
            question.done(Told(threads=(message["threads"], message["working"])))
        else:
            question.done(Told(balance=message.get("balance")))

    def worker_died(self, worker: WorkerKey) -> None:
        """What it was to ask may have been asked."""
        self._fail(lambda question: question.worker == worker, "the worker died while it asked")

    def expire(self) -> None:
        """Wait no longer for what nobody has answered in time."""
        now = self._clock.monotonic()
        self._fail(lambda question: now >= question.until, "no answer in time")

    def _fail(self, over: Callable[[_Question], bool], reason: str) -> None:
        for q in [q for q, question in self._open.items() if over(question)]:
            self._open.pop(q).done(_fault(reason))


def _fault(reason: str) -> Fault:
    return Fault("INTERNAL", Category.TRANSIENT, reason)
