"""What HTTP threads do: one submit, one poll or one question at a time, with notes to the parent before and after.

A submit sends nothing before its `begin` has left this process whole and the desk has said yes. Whatever happens after
that yes ends in an outcome: the provider's, or `unknown`.
"""

__all__ = ["Caller", "Provider"]

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from captchad.model.clock import Clock
from captchad.model.key import Key
from captchad.model.states import Category
from captchad.provider.answers import Failed, Pending, Refused, Solved, Submitted, Threads
from captchad.provider.client import Fault, NotSent, ProviderClient, Unknown
from captchad.provider.resolver import STARVED
from captchad.worker.desk import Ask, Desk, Poll, Submit
from captchad.worker.log import Log
from captchad.worker.outbox import Outbox
from captchad.worker.unconfirmed import Outcome

#: So long a submit thread waits for room in the pipe for its `begin`. A parent that does not read for longer is held
#: up, and more submits are not what it needs.
BEGIN_S = 2.0

#: Codes of faults that are not the provider's.
_INTERNAL = "INTERNAL"
_NO_PROVIDER = "NO_PROVIDER"


@dataclass(frozen=True, slots=True)
class Provider:
    """How to call a provider; times in seconds. A captcha belongs to the key that it was submitted with."""

    keys: Mapping[str, Key]  # by their ids
    submit_s: float
    poll_timeout_s: float
    priced: bool = False  # polls ask for the price, too
    batch: bool = False  # one call may ask about many captchas


class Caller:
    """Runs submits and polls. Each thread has its own client for each provider."""

    def __init__(self, desk: Desk, outbox: Outbox, clock: Clock, log: Log) -> None:
        #: Replaced as a whole by the work loop; threads take what is there when their call starts.
        self.providers: Mapping[str, Provider] = {}
        self.starved = 0  #: calls for which this machine had no descriptor, port or memory
        self._desk = desk
        self._outbox = outbox
        self._clock = clock
        self._log = log
        self._mine = _Clients()

    def submit(self, submit: Submit) -> None:
        """Run one submit to its outcome. Raises nothing of the client's."""
        try:
            outcome = self._submit(submit)
        except BaseException as error:  # noqa: BLE001 - a paid call must end in an outcome, whatever the client throws
            self._log.trace(error)
            reason = f"exception: {type(error).__name__}"
            outcome = _unknown(reason) if submit.begun else _not_sent(reason)
        if submit.disconnect():
            self._mine.discard(submit.order.provider, submit.order.key_id)
        self._outbox.send(*self._desk.settle(submit, outcome))

    def poll(self, poll: Poll) -> None:
        """Run one poll to its end. Raises nothing of the client's."""
        self._outbox.send({"m": "exec", "n": poll.watched.n})
        answer: Pending | Solved | Failed | Fault
        try:
            answer = self._poll(poll)
        except BaseException as error:  # noqa: BLE001 - the captcha is paid for and must be polled again, whatever the client throws
            self._log.trace(error)
            answer = Fault(_INTERNAL, Category.TRANSIENT, f"exception: {type(error).__name__}")
        if poll.disconnect():
            self._mine.discard(poll.watched.provider, poll.watched.key_id)
        self._outbox.send(*self._desk.end_poll(poll, answer, self._clock.monotonic()))

    def ask(self, ask: Ask) -> None:
        """Put one question to its provider. Raises nothing of the client's."""
        answer: float | Threads | Fault | None
        try:
            answer = self._ask(ask)
        except BaseException as error:  # noqa: BLE001 - the parent waits for an answer, whatever the client throws
            self._log.trace(error)
            answer = Fault(_INTERNAL, Category.TRANSIENT, f"exception: {type(error).__name__}")
        if ask.disconnect():
            self._mine.discard(ask.provider, ask.key_id)
        self._outbox.send({"m": "told", "q": ask.q, **_told(answer)})
        self._desk.end_question(ask)

    def leave(self) -> None:
        """Close the clients of a thread that ends."""
        self._mine.close()

    def _submit(self, submit: Submit) -> Outcome:
        order = submit.order
        provider = self.providers.get(order.provider)
        if provider is None or order.key_id not in provider.keys:
            return _not_sent("provider")
        client = self._mine.get(order.provider, order.key_id, provider)
        if reason := self._desk.refusal(submit, self._clock.monotonic()):
            return _not_sent(reason)
        if not self._outbox.send_through({"m": "begin", "n": order.n}, BEGIN_S):
            return _not_sent("pipe")
        # Asked again: the parent may have taken it back while the note waited for room.
        now = self._clock.monotonic()
        if reason := self._desk.begin(submit, now):
            return _not_sent(reason)
        submit.connect(client, now + provider.submit_s)
        answer = client.submit(order.fields, now + provider.submit_s)
        if isinstance(answer, NotSent) and STARVED in answer.reason:
            self.starved += 1
        return _outcome(answer)

    def _poll(self, poll: Poll) -> Pending | Solved | Failed | Fault:
        watched = poll.watched
        provider = self.providers.get(watched.provider)
        if provider is None or watched.key_id not in provider.keys:
            return Fault(_NO_PROVIDER, Category.TRANSIENT, "not in the configuration")
        client = self._mine.get(watched.provider, watched.key_id, provider)
        deadline = self._clock.monotonic() + provider.poll_timeout_s
        poll.connect(client, deadline)
        if provider.batch and not self._perhaps_ready(poll, client, deadline):
            return Pending()
        answer = client.poll(watched.cid, deadline, priced=provider.priced)
        if isinstance(answer, Fault) and STARVED in answer.reason:
            self.starved += 1
            return Fault(_INTERNAL, Category.TRANSIENT, answer.reason)  # the provider is not to be blamed
        return answer

    def _ask(self, ask: Ask) -> float | Threads | Fault | None:
        provider = self.providers.get(ask.provider)
        if provider is None or ask.key_id not in provider.keys:
            return Fault(_NO_PROVIDER, Category.TRANSIENT, "not in the configuration")
        if self._clock.monotonic() >= ask.expires:
            return Fault(_INTERNAL, Category.TRANSIENT, "not asked: too late")
        client = self._mine.get(ask.provider, ask.key_id, provider)
        ask.connect(client, ask.expires)
        match ask.what:
            case "balance":
                return client.balance(ask.expires)
            case "threads":
                return client.threads(ask.expires)
            case "good" | "bad":
                return client.report(ask.cid, ask.what == "good", ask.expires)
        raise ValueError(f"a question of an unknown kind: {ask.what!r}")

    def _perhaps_ready(self, poll: Poll, client: ProviderClient, deadline: float) -> bool:
        """Ask about this captcha and others in one call. False when this one is not ready.

        The answers themselves are fetched one by one: a joined answer has no prices, no further fields, and its parts
        cannot be told apart if one contains the separator. A call that fails says nothing: then this one is polled.
        """
        others = self._desk.company(poll, self._clock.monotonic())
        if not others:
            return True
        unready = client.unready([poll.watched.cid, *(each.cid for each in others)], deadline)
        self._desk.asked(others, unready and unready[1:], self._clock.monotonic())
        return not (unready and unready[0])


class _Clients(threading.local):
    """The clients of one thread, by provider and key."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], ProviderClient] = {}

    def get(self, name: str, key_id: str, provider: Provider) -> ProviderClient:
        client = self._made.get((name, key_id))
        if client is None:
            for gone in [each for each in self._made if each[0] == name and each[1] not in provider.keys]:
                self.discard(*gone)
            key = provider.keys[key_id]
            client = self._made[name, key_id] = ProviderClient(name, key.url, key.secret)
        return client

    def discard(self, name: str, key_id: str) -> None:
        client = self._made.pop((name, key_id), None)
        if client is not None:
            client.close()

    def close(self) -> None:
        for name, key_id in list(self._made):
            self.discard(name, key_id)


def _outcome(answer: Submitted | Refused | NotSent | Unknown) -> Outcome:
    match answer:
        case Submitted(cid=cid):
            return {"o": "submitted", "cid": cid}
        case Refused(code=code, category=category, text=text):
            return {"o": "refused", "code": code, "category": category, "text": text}
        case NotSent(reason=reason):
            return _not_sent(reason)
        case Unknown(reason=reason):
            return _unknown(reason)


def _told(answer: float | Threads | Fault | None) -> Outcome:
    match answer:
        case None:
            return {}
        case Threads(total=total, working=working):
            return {"threads": total, "working": working}
        case Fault(code=code, category=category, reason=reason):
            return {"code": code, "category": category, "text": reason}
        case balance:
            return {"balance": balance}


def _not_sent(reason: str) -> Outcome:
    return {"o": "not_sent", "reason": reason}


def _unknown(reason: str) -> Outcome:
    return {"o": "unknown", "reason": reason}
