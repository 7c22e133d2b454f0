"""The client of one provider: submit, poll, balance, threads, report.

A submit ends as exactly one of four things: Submitted and Refused are the provider's word; NotSent is certain to have
cost nothing; Unknown may be paid for. Nothing is tried twice here. What is returned never contains the key.

The key goes in the body of a submit and in the query of a poll: every provider takes polls by GET, and only some by
POST. Whoever logs URLs on the way sees it; captchad itself never does (captchad.provider.transport).
"""

__all__ = ["Fault", "NotSent", "ProviderClient", "Unknown"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from captchad.model.codes import CODES
from captchad.model.states import Category
from captchad.provider.answers import (
    Failed,
    Pending,
    Refused,
    Solved,
    Submitted,
    Threads,
    Unparseable,
    parse_balance,
    parse_poll,
    parse_report,
    parse_submit,
    parse_threads,
    parse_unready,
)
from captchad.provider.transport import Lost, NotSent, Response, Transport, scrub


@dataclass(frozen=True, slots=True)
class Unknown:
    """A submit began and has no answer that can be understood. It may be paid for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A call failed in a way that says nothing about the captcha: call again later."""

    code: str
    category: Category
    reason: str


class ProviderClient:
    """Calls one provider, from one thread; `abort` and `deadline` are for others.

    `url` is the address without the file name: in.php and res.php are there. Deadlines are monotonic. The transport is
    made at the first call, so that a client may be made before a fork.
    """

    def __init__(self, name: str, url: str, key: str, transport_factory: Callable[[], Transport] = Transport) -> None:
        self.name = name
        self._in = url.rstrip("/") + "/in.php"
        self._res = url.rstrip("/") + "/res.php"
        self._key = key
        self._factory = transport_factory
        self._made: Transport | None = None

    def __repr__(self) -> str:
        return f"ProviderClient({self.name!r})"

    @property
    def deadline(self) -> float | None:
        """Deadline of the call in progress, None between calls."""
        return None if self._made is None else self._made.deadline

    def submit(self, fields: Mapping[str, str], deadline: float) -> Submitted | Refused | NotSent | Unknown:
        """Send one task, once. `key` and `json` in `fields` are overruled."""
        if not _sendable(fields):
            return Refused("BAD_FIELDS", CODES["BAD_FIELDS"].category, "a field is not valid Unicode")
        answer = self._transport.post_form(self._in, {**fields, "key": self._key, "json": "1"}, deadline)
        if isinstance(answer, NotSent):
            return NotSent(self._scrub(answer.reason))
        if isinstance(answer, Lost):
            return Unknown(self._scrub(answer.reason))
        match parse_submit(answer.status, answer.content_type, answer.body):
            case Submitted() as submitted:
                return submitted
            case Refused(code=code, category=category, text=text):
                return Refused(self._scrub(code), category, self._scrub(text))
            case Unparseable(reason=reason):
                return Unknown(reason)

    def poll(self, cid: str, deadline: float, *, priced: bool = False) -> Pending | Solved | Failed | Fault:
        """Ask for the answer to captcha `cid` once; `priced`: with its price. After Failed the attempt is over, after
        Fault it goes on.
        """
        answer = self._res_php({"action": "get2" if priced else "get", "id": cid}, deadline)
        if isinstance(answer, Fault):
            return answer
        outcome = parse_poll(answer.status, answer.content_type, answer.body, priced=priced)
        if isinstance(outcome, Pending | Solved):
            return outcome
        if isinstance(outcome, Failed) and outcome.category is Category.TASK:
            return Failed(self._scrub(outcome.code), outcome.category, self._scrub(outcome.text))
        return self._fault(outcome)

    def unready(self, cids: Sequence[str], deadline: float) -> list[bool] | None:
        """Whether each of `cids` is certainly not ready yet, by one call (`ids=`). None: the call does not tell."""
        answer = self._transport.get(self._res, {"key": self._key, "action": "get", "ids": ",".join(cids)}, deadline)
        if not isinstance(answer, Response):
            return None
        return parse_unready(answer.status, answer.content_type, answer.body, len(cids))

    def balance(self, deadline: float) -> float | Fault:
        """The money left, in the provider's currency."""
        answer = self._res_php({"action": "getbalance"}, deadline)
        if isinstance(answer, Fault):
            return answer
        outcome = parse_balance(answer.status, answer.content_type, answer.body)
        return outcome if isinstance(outcome, float) else self._fault(outcome)

    def threads(self, deadline: float) -> Threads | Fault:
        """The threads of the account's plan. As a form, as the official client asks (SDK 1.0.1)."""
        fields = {"key": self._key, "action": "threadsinfo", "json": "1"}
        answer = self._said(self._transport.post_form(self._res, fields, deadline))
        if isinstance(answer, Fault):
            return answer
        outcome = parse_threads(answer.status, answer.content_type, answer.body)
        return outcome if isinstance(outcome, Threads) else self._fault(outcome)

    def report(self, cid: str, good: bool, deadline: float) -> Fault | None:
        """Say that the answer to `cid` was good or bad. None: recorded."""
        answer = self._res_php({"action": "reportgood" if good else "reportbad", "id": cid}, deadline)
        if isinstance(answer, Fault):
            return answer
        outcome = parse_report(answer.status, answer.content_type, answer.body)
        return None if isinstance(outcome, bool) else self._fault(outcome)

    def abort(self, before: float = math.inf) -> None:
        """End the call in progress if its deadline is before `before`. For other threads."""
        if self._made is not None:
            self._made.abort(before)

    def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            self._made.close()

    @property
    def _transport(self) -> Transport:
        if self._made is None:
            self._made = self._factory()
        return self._made

    def _res_php(self, params: Mapping[str, str], deadline: float) -> Response | Fault:
        return self._said(self._transport.get(self._res, {"key": self._key, **params, "json": "1"}, deadline))

    def _said(self, answer: Response | NotSent | Lost) -> Response | Fault:
        if isinstance(answer, Response):
            return answer
        return Fault("NETWORK", CODES["NETWORK"].category, self._scrub(answer.reason))

    def _fault(self, outcome: Failed | Unparseable) -> Fault:
        if isinstance(outcome, Failed):
            return Fault(self._scrub(outcome.code), outcome.category, self._scrub(outcome.text))
        return Fault(outcome.code, CODES[outcome.code].category, outcome.reason)

    def _scrub(self, text: str) -> str:
        """A provider may send our own key back at us."""
        return scrub(text, (self._key,)) if text else text


def _sendable(fields: Mapping[str, str]) -> bool:
    """Whether all of `fields` can be written as UTF-8: JSON lets half a surrogate pair through."""
    try:
        for name, value in fields.items():
            name.encode()
            value.encode()
    except UnicodeEncodeError:
        return False
    return True
