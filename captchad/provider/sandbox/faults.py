"""Faults: decides which call is struck, and turns the true answer into what the client gets."""

__all__ = ["Faults", "Shape", "Strike", "deliver"]

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from captchad.provider.sandbox.chance import draw
from captchad.provider.sandbox.http1 import Delivery, Reply
from captchad.provider.sandbox.scenario import Fault, Rule, Scenario, SolveTime

_BIG_BODY = 10 * 1024 * 1024

#: Where a rule looks for its fields, the first mapping first.
Views = tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that hits one call; `delay_s` is for the fault `delay`."""

    fault: Fault
    delay_s: float


@dataclass(frozen=True, slots=True)
class Shape:
    """What rules and chance make of a new captcha: how it ends, when, with what."""

    outcome: str
    solve: SolveTime
    answer: str | None


class Faults:
    """Counts the calls of each rule. Times are seconds of the event loop's clock."""

    def __init__(self, scenario: Scenario, now: float) -> None:
        self._scenario = scenario
        self._start = now
        self._matches: Counter[tuple[int, str]] = Counter()
        rules = list(enumerate(scenario.rules))
        self._striking: dict[str, list[tuple[int, Rule]]] = {op: [] for op in scenario.faults}
        for index, rule in rules:
            for op in rule.ops if rule.fault else ():
                self._striking.setdefault(op, []).append((index, rule))
        self._shaping = [(index, rule) for index, rule in rules if not rule.fault]

    def strike(self, op: str, views: Views, name: str, nth: int, now: float) -> Strike | None:
        """The fault for this call, if any: the first rule's, else one by chance.

        `name` and `nth` (the captcha, and how many calls of this kind it has had) stand for the call in the draw.
        """
        if op not in self._striking:
            return None
        for index, rule in self._striking[op]:
            if rule.fault and self._applies(index, rule, views, name, nth, now):
                return Strike(rule.fault, rule.delay_s if rule.delay_s >= 0.0 else self._scenario.delay_s)
        u = draw(self._scenario.seed, "fault", op, name, nth)
        for fault, p in self._scenario.faults.get(op, ()):
            u -= p
            if u < 0.0:
                return Strike(fault, self._scenario.delay_s)
        return None

    def shape(self, views: Views, method: str, name: str, nth: int, now: float) -> Shape:
        """How a captcha that is being made will end."""
        usual = self._scenario.solve_time(method)
        for index, rule in self._shaping:
            if self._applies(index, rule, views, name, nth, now):
                return Shape(rule.outcome or self._outcome(name, nth), rule.solve or usual, rule.answer)
        return Shape(self._outcome(name, nth), usual, None)

    def _outcome(self, name: str, nth: int) -> str:
        u = draw(self._scenario.seed, "outcome", name, nth)
        for outcome, p in self._scenario.outcomes:
            u -= p
            if u < 0.0:
                return outcome
        return ""

    def _applies(self, index: int, rule: Rule, views: Views, name: str, nth: int, now: float) -> bool:
        if not rule.from_s <= now - self._start < rule.until_s:
            return False
        if not all(pattern.match(_look_up(field, views)) for field, pattern in rule.match.items()):
            return False
        counter = (index, _look_up(rule.per, views) if rule.per else "")
        self._matches[counter] += 1
        seen = self._matches[counter] - rule.skip
        if seen <= 0 or (rule.times and seen > rule.times):
            return False
        return rule.p >= 1.0 or draw(self._scenario.seed, "rule", index, name, nth) < rule.p


def _look_up(field: str, views: Views) -> str:
    for view in views:
        if field in view:
            return view[field]
    return ""


def deliver(strike: Strike, reply: Reply, scenario: Scenario) -> Reply:
    """What the client gets in place of `reply` (the true answer) when a fault strikes.

    A fault that is an error code is no matter of delivery; the caller renders it.
    """
    match strike.fault.name:
        case "truncated":
            return replace(reply, body=reply.body[: len(reply.body) // 2])
        case "cut":
            return replace(reply, delivery=Delivery.CUT)
        case "slow_headers":
            return replace(reply, delivery=Delivery.SLOW_HEADERS, pace_s=scenario.pace_s)
        case "drip":
            return replace(reply, delivery=Delivery.DRIP, pace_s=scenario.pace_s)
        case "delay":
            return replace(reply, delay_s=strike.delay_s)
        case "html":
            return Reply(_page("Service is being updated"))
        case "empty":
            return Reply(b"")
        case "garbage":
            return Reply(bytes(range(256)))
        case "big":
            return Reply(bytes(_BIG_BODY))
        case "redirect":
            return Reply(_page("Moved"), status=302, headers=(("Location", scenario.redirect_to),))
        case "reset":
            return Reply(b"", delivery=Delivery.RESET)
        case "close":
            return Reply(b"", delivery=Delivery.CLOSE)
        case "hang":
            return Reply(b"", delivery=Delivery.HANG)
        case name:
            status = int(name.removeprefix("http_"))
            return Reply(_page(f"Error {status}"), status=status)


def _page(title: str) -> bytes:
    return f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\r\n".encode()
