"""The ledger: accounts, threads, captchas, money. What tests read to prove that nothing was paid for twice.

Time moves a captcha from waiting (for a thread) to working to ended. Nothing runs for that: `advance` brings an account
up to the present whenever somebody looks, in the order in which things would have happened. Only for captchas whose end
somebody waits for (a callback, solve.php) the ledger asks to be looked at in time.
"""

__all__ = ["Account", "Captcha", "Identity", "Ledger", "State", "Totals"]

import heapq
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from captchad.provider.sandbox.scenario import KeyPlan

#: Money is counted in millionths.
_UNIT = 1_000_000


class State(StrEnum):
    """Where a captcha stands."""

    WAITING = "waiting"  # for a free thread
    WORKING = "working"
    SOLVED = "solved"
    FAILED = "failed"  # ended with an error code
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two submits the same task for a test."""

    method: str
    sitekey: str
    pageurl: str

    @property
    def name(self) -> str:
        """All of it as one text."""
        return f"{self.method}|{self.sitekey}|{self.pageurl}"

    @property
    def fields(self) -> dict[str, str]:
        """The same as fields that a rule can match."""
        return {"method": self.method, "sitekey": self.sitekey, "pageurl": self.pageurl}


@dataclass(slots=True, eq=False)
class Captcha:
    """One captcha that was taken and charged. Times are seconds of the event loop's clock, money is in millionths."""

    captcha_id: int
    account: "Account"
    identity: Identity
    nth: int  # counts the submits of this identity
    fields: dict[str, str]
    created_at: float
    outcome: str  # "": solved; an error code; never, forget, expired
    solve_s: float
    answer: str | None  # given by a rule
    price: int
    pingback: str  # where the client wants the answer, or ""
    watched: bool  # somebody waits for its end
    ready_at: float | None = None  # None: waits for a thread
    state: State = State.WAITING
    polls: int = 0
    not_ready: int = 0
    answers: int = 0
    answered_at: float | None = None
    refunded: bool = False
    report: str = ""
    pingbacks: int = 0
    uses: int = 0  # by the site, see Ledger.use

    @property
    def name(self) -> str:
        """Stands for it in draws; the same in each run, unlike the id."""
        return f"{self.identity.name}#{self.nth}"


class Account:
    """One key: its threads and its money."""

    def __init__(self, plan: KeyPlan, index: int) -> None:
        self.plan = plan
        self.index = index
        self.spent = 0
        self.pingbacks: dict[str, None] = {}  # registered addresses, in order
        self.waiting: deque[Captcha] = deque()
        self.working: list[tuple[float, int, Captcha]] = []  # heap by the time of the end
        self.watched = 0  # captchas whose end somebody waits for
        self.wake_at = math.inf  # when somebody will look again, for their sake

    @property
    def price(self) -> int:
        """Price of a captcha, in millionths."""
        return round(self.plan.price * _UNIT)

    @property
    def balance(self) -> int:
        """What is left, in millionths."""
        return round(self.plan.balance * _UNIT) - self.spent

    @property
    def free(self) -> bool:
        """True if a thread is idle."""
        return len(self.working) < self.plan.threads


@dataclass(slots=True)
class Totals:
    """Sums since the start or the last reset."""

    connections: int = 0
    requests: int = 0
    submits: int = 0  # calls of in.php and solve.php
    refused: int = 0  # submits answered with an error code
    faulted: int = 0  # submits struck before anything was done
    created: int = 0
    duplicates: int = 0  # created, although the same identity had been created before
    charges: int = 0
    refunds: int = 0
    answers_lost: int = 0  # created and charged, but the answer to the submit was destroyed
    polls: int = 0
    not_ready: int = 0
    answered: int = 0  # captchas whose answer was given out at least once
    failed: int = 0  # captchas that ended with an error code
    reports: int = 0
    bad_keys: int = 0
    limited: int = 0  # calls refused by a limit
    pingbacks_sent: int = 0  # taken by the other side with a 2xx
    pingbacks_failed: int = 0
    pingbacks_lost: int = 0  # not sent, on purpose or because the host is not allowed
    faults: Counter[str] = field(default_factory=Counter)


class Ledger:
    """All accounts and captchas. `look_at` asks for `advance` at a time, `on_end` hears of the end of a watched one."""

    def __init__(
        self, now: float, look_at: Callable[[Account, float], None], on_end: Callable[[Captcha], None]
    ) -> None:
        self._look_at = look_at
        self._on_end = on_end
        self._accounts: dict[str, Account] = {}
        # Ids never repeat, not even after a restart: a stale id must not meet a new captcha.
        self._next_id = int(time.time() * 1000)
        # What is shown outside is UTC, counted from one reading of the wall clock so that it never jumps.
        self._epoch = time.time() - now
        self.captchas: dict[int, Captcha] = {}
        self.identities: Counter[str] = Counter()
        self._tokens: dict[str, Captcha] = {}
        self.totals = Totals()

    def take_plans(self, plans: Iterable[KeyPlan], now: float) -> None:
        """Replace the accounts. A key that stays keeps its captchas and what it has spent."""
        for account in self._accounts.values():
            self.advance(account, now)
        old, self._accounts = self._accounts, {}
        for index, plan in enumerate(plans):
            account = old.get(plan.key) or Account(plan, index)
            account.plan, account.index = plan, index
            self._accounts[plan.key] = account
            self.advance(account, now)

    def reset(self) -> None:
        """Forget all captchas, money and sums; keep the keys."""
        self._accounts = {key: Account(each.plan, each.index) for key, each in self._accounts.items()}
        self.captchas.clear()
        self.identities.clear()
        self._tokens.clear()
        self.totals = Totals()

    def account(self, key: str) -> Account | None:
        """The account of a key, if it has a plan."""
        account = self._accounts.get(key)
        return account if account and account.plan.threads else None

    def create(self, captcha: Captcha, now: float) -> None:
        """Take and charge a captcha."""
        account = captcha.account
        account.spent += captcha.price
        self.totals.created += 1
        self.totals.charges += 1
        self.totals.duplicates += self.identities[captcha.identity.name] > 0
        self.identities[captcha.identity.name] += 1
        self.captchas[captcha.captcha_id] = captcha
        account.waiting.append(captcha)
        account.watched += captcha.watched
        self.advance(account, now)

    def new_id(self) -> int:
        """An id that no captcha has had."""
        self._next_id += 1
        return self._next_id

    def give_out(self, captcha: Captcha, texts: Iterable[str], now: float) -> None:
        """Note that the answer goes to the client; `texts` are the forms in which a site may see it again."""
        self.totals.answered += captcha.answers == 0
        captcha.answers += 1
        captcha.answered_at = captcha.answered_at or now
        self._tokens.update(dict.fromkeys(texts, captcha))

    def use(self, text: str, life_s: float, now: float) -> dict[str, Any]:
        """Use an answer as a site would: good once, within `life_s` of its solving."""
        captcha = self._tokens.get(text)
        if captcha is None or captcha.ready_at is None:
            return {"valid": False, "reason": "unknown", "captcha_id": None, "age_s": None}
        age_s = now - captcha.ready_at + (life_s if captcha.outcome == "expired" else 0.0)
        reason = "expired" if age_s >= life_s else "used" if captcha.uses else ""
        captcha.uses += 1
        return {"valid": not reason, "reason": reason, "captcha_id": str(captcha.captcha_id), "age_s": age_s}

    def advance(self, account: Account, now: float) -> None:
        """Bring an account up to the present: end what is over, give free threads to what waits."""
        self._fill(account, now)
        while account.working and account.working[0][0] <= now:
            ready_at, _, captcha = heapq.heappop(account.working)
            self._end(captcha)
            self._fill(account, ready_at)
        due = account.working[0][0] if account.working else math.inf
        if account.watched and due < account.wake_at:
            account.wake_at = due
            self._look_at(account, due)

    def _fill(self, account: Account, now: float) -> None:
        while account.waiting and account.free:
            captcha = account.waiting.popleft()
            captcha.state = State.WORKING
            captcha.ready_at = max(now, captcha.created_at) + captcha.solve_s
            heapq.heappush(account.working, (captcha.ready_at, captcha.captcha_id, captcha))

    def _end(self, captcha: Captcha) -> None:
        match captcha.outcome:
            case "" | "expired":
                captcha.state = State.SOLVED
            case "forget":
                captcha.state = State.FORGOTTEN
            case _:
                captcha.state = State.FAILED
                captcha.refunded = True
                captcha.account.spent -= captcha.price
                self.totals.failed += 1
                self.totals.refunds += 1
        if captcha.watched:
            captcha.account.watched -= 1
            self._on_end(captcha)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Everything, for GET /_sandbox/ledger."""
        return {
            "totals": self.sums(now),
            "accounts": [self._account_record(each, now) for each in self._accounts.values()],
            "captchas": [self._record(captcha) for captcha in self.captchas.values()],
        }

    def sums(self, now: float) -> dict[str, Any]:
        """The totals, for GET /_sandbox/totals."""
        for account in self._accounts.values():
            self.advance(account, now)
        accounts = self._accounts.values()
        totals = {each.name: getattr(self.totals, each.name) for each in fields(Totals)}
        return totals | {
            "in_flight": sum(len(each.working) + len(each.waiting) for each in accounts),
            "working": sum(len(each.working) for each in accounts),
            "spent": sum(each.spent for each in accounts) / _UNIT,
        }

    def _account_record(self, account: Account, now: float) -> dict[str, Any]:
        self.advance(account, now)
        return {
            "account": account.index,
            "threads": account.plan.threads,
            "working_threads": len(account.working),
            "waiting": len(account.waiting),
            "balance": account.balance / _UNIT,
            "spent": account.spent / _UNIT,
        }

    def _wall(self, at: float | None) -> float | None:
        """UTC seconds, or None for what has no time (yet)."""
        return None if at is None or at == math.inf else round(self._epoch + at, 3)

    def _record(self, captcha: Captcha) -> dict[str, Any]:
        return {
            "captcha_id": str(captcha.captcha_id),
            "account": captcha.account.index,
            "method": captcha.identity.method,
            "sitekey": captcha.identity.sitekey,
            "pageurl": captcha.identity.pageurl,
            "fields": captcha.fields,
            "state": captcha.state.value,
            "outcome": captcha.outcome,
            "created_at": self._wall(captcha.created_at),
            "ready_at": self._wall(captcha.ready_at),
            "answered_at": self._wall(captcha.answered_at),
            "solve_s": None if captcha.solve_s == math.inf else captcha.solve_s,
            "polls": captcha.polls,
            "not_ready": captcha.not_ready,
            "answered": captcha.answers > 0,
            "answers": captcha.answers,
            "charged": captcha.price / _UNIT,
            "refunded": captcha.refunded,
            "reported": captcha.report,
            "pingbacks": captcha.pingbacks,
            "uses": captcha.uses,
        }
