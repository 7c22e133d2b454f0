"""What is known of each provider's account: money and threads. Asked for now and then, and when it refuses work.

ERROR_ZERO_BALANCE means no funds with some providers and no free thread with others. From that answer on the provider
is given nothing; its account is asked why. Without funds it is asked again and again until there is money; where no
thread was free it is given less. Nothing here is in the journal: a start asks again.
"""

__all__ = ["Account", "Accounts"]

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from captchad.daemon.asks import Asks, Fault, Told, What
from captchad.daemon.providers import KEY_REFUSED, Providers, ProviderSettings
from captchad.model.clock import Clock
from captchad.model.codes import lookup
from captchad.model.logevents import Event, fields
from captchad.model.states import Category
from captchad.policy.account import Verdict, explain, is_low, is_not_offered
from captchad.policy.breaker import state_word

#: While a provider works its account is asked so often. Such calls count against the polls at 2captcha.
ASK_EVERY_S = 300.0

#: While others use a part of its threads it is asked so often: what they free is ours again.
SHARED_ASK_S = 30.0

#: Without funds it is asked every `pause_s`, but not more often than this.
RECHECK_LEAST_S = 1.0

#: So long no submit tries out an account that says it has no money. Some sell threads, and show a balance of nothing.
TRIAL_S = 600.0

#: All threads work: so long no submit is tried; the official client waits 8 to 11 s (protocol notes 1.5).
BUSY_S = 9.0

ZERO_BALANCE = "ERROR_ZERO_BALANCE"

_QUESTIONS: tuple[What, ...] = ("threads", "balance")


@dataclass(slots=True)
class Account:
    """One account. `balance` is in the provider's currency; None: not told."""

    settings: ProviderSettings
    balance: float | None = None
    threads: tuple[int, int] | None = None  # of the plan, and working
    no_funds: bool = False
    low: bool = False
    not_offered: set[What] = field(default_factory=set)
    asking: bool = False
    worked: bool = True  # it has taken a submit since then, or nobody has asked yet
    due: float = float("-inf")


@dataclass(slots=True)
class _Round:
    """The questions that are put one after the other, and what they brought."""

    explains: bool  # whether it is to explain a refusal
    left: list[What]
    key_refused: bool = False
    balance: float | None = None
    threads: tuple[int, int] | None = None


class Accounts:
    """All accounts, by provider. `turn` is called about once a second."""

    def __init__(self, clock: Clock, providers: Providers, asks: Asks, log: logging.Logger) -> None:
        self.accounts: dict[str, Account] = {}
        self._clock = clock
        self._providers = providers
        self._asks = asks
        self._log = log

    # ---------------------------------------------------------------- what happens

    def configure(self, providers: Mapping[str, ProviderSettings]) -> None:
        """Take a new configuration: each account is asked again, also for what it did not offer."""
        known, self.accounts = self.accounts, {}
        for name, settings in providers.items():
            account = known.get(name)
            if account is None or account.settings.key != settings.key:
                account = Account(settings)
            account.settings = settings
            account.not_offered.clear()
            account.worked, account.due = True, float("-inf")
            self.accounts[name] = account

    def submit_taken(self, provider: str) -> None:
        """It has taken a submit; call it after `Providers.submit_taken`."""
        account = self.accounts.get(provider)
        if account is None:
            return
        account.worked = True
        # One that was under way when the money ran out says nothing.
        if account.no_funds and not self._is_open(provider):
            self._has_funds(provider, account)

    def refused(self, provider: str, code: str) -> bool:
        """It has refused a submit. True when its account is to say why; then that is no fault until it has."""
        account, lane = self.accounts.get(provider), self._providers.lanes.get(provider)
        if code != ZERO_BALANCE or account is None or lane is None:
            return False
        if len(account.not_offered) == len(_QUESTIONS) or not self._may_ask(provider):
            return False
        if lane.unexplained or self._clock.monotonic() < lane.capacity.wait_until or self._is_open(provider):
            self._providers.note(provider, "submit", code)  # it was under way, and says nothing new
        else:
            lane.unexplained = True
            self._ask(provider, account)
        return True

    def turn(self) -> None:
        """Ask where it is time to. A new key is asked about until it is known whether it is taken, breaker or not."""
        now = self._clock.monotonic()
        for name, account in self.accounts.items():
            answers = not self._providers.outage(name) or self._providers.key_on_trial(name)
            unjudged = self._providers.is_unjudged(name)
            wanted = account.no_funds or unjudged or ((account.worked or account.low) and answers)
            if self._is_unexplained(name) or (wanted and now >= account.due):
                self._ask(name, account)

    # ---------------------------------------------------------------- what is known

    def has_no_funds(self, provider: str) -> bool:
        """Whether it waits for money."""
        account = self.accounts.get(provider)
        return account is not None and account.no_funds

    def problems(self, provider: str) -> list[str]:
        """What is wrong with its account, in words."""
        account = self.accounts.get(provider)
        if account is None:
            return []
        if account.no_funds:
            return [f"provider {provider}: {self.held_back(provider)}"]
        return [_low(provider, account)] if account.low else []

    def held_back(self, provider: str) -> str | None:
        """Why it takes fewer submits than it could, or none; None when nothing is in the way."""
        if self.has_no_funds(provider):
            return f"no funds{_money(self.accounts[provider])}; it goes on by itself when there is money"
        return self._providers.why_held_back(provider)

    # ---------------------------------------------------------------- asking

    def _ask(self, name: str, account: Account) -> None:
        if account.asking or not self._may_ask(name):
            return
        left = [what for what in _QUESTIONS if what not in account.not_offered]
        around = _Round(self._is_unexplained(name), left)
        account.asking, account.worked = True, False
        account.due = self._clock.monotonic() + ASK_EVERY_S
        self._next(name, account, around)

    def _next(self, name: str, account: Account, around: _Round) -> None:
        if around.left:
            what = around.left.pop(0)
            key_id = account.settings.key.id
            self._asks.ask(name, key_id, what, partial(self._told, name, account, around, what))
        else:
            account.asking = False
            if self.accounts.get(name) is account:  # else it has left the configuration, or has another key
                self._conclude(name, account, around)

    def _told(self, name: str, account: Account, around: _Round, what: What, told: Told | Fault) -> None:
        if isinstance(told, Fault):
            self._note_fault(name, account, around, what, told)
        else:
            self._providers.note(name, what, "ok")
            self._providers.key_taken(name, account.settings.key.id)
            around.balance = told.balance if what == "balance" else around.balance
            around.threads = told.threads if what == "threads" else around.threads
        self._next(name, account, around)

    def _note_fault(self, name: str, account: Account, around: _Round, what: What, fault: Fault) -> None:
        if is_not_offered(fault.code, fault.category):
            account.not_offered.add(what)
        elif fault.category is Category.PERMANENT:
            around.left.clear()  # a key that is refused once more may get this address banned
        around.key_refused = fault.code in KEY_REFUSED
        if lookup(fault.code).suspends or fault.code in KEY_REFUSED:
            self._providers.fault(name, what, fault.code, fault.category, account.settings.key.id)
            around.left.clear()
        else:
            self._providers.note(name, what, fault.code)

    def _conclude(self, name: str, account: Account, around: _Round) -> None:
        if around.threads is not None:
            account.threads = around.threads
            self._providers.threads(name, *around.threads)
            if self._providers.shares_threads(name, around.threads[0]):
                account.due = min(account.due, self._clock.monotonic() + SHARED_ASK_S)
        if around.balance is not None:
            account.balance = around.balance
        if around.explains:
            self._explain(name, account, around)
        elif account.no_funds:
            self._look_for_funds(name, account, around)
        self._look_at_balance(name, account)
        if self._providers.is_unjudged(name) and not around.key_refused:
            account.due = min(account.due, self._recheck_at(account))  # as long as nobody can say whether it is good
        if self._is_unexplained(name):
            self._ask(name, account)

    def _explain(self, name: str, account: Account, around: _Round) -> None:
        """Say what a refusal meant."""
        self._providers.lanes[name].unexplained = False
        verdict = explain(around.threads, around.balance, account.settings.price)
        if verdict is Verdict.BUSY:
            self._providers.note(name, "submit", ZERO_BALANCE)
            self._providers.saturated(name, BUSY_S)
            return
        self._providers.fault(name, "submit", ZERO_BALANCE, Category.BUDGET)
        if verdict is Verdict.NO_FUNDS:
            self._no_funds(name, account, around)

    def _no_funds(self, name: str, account: Account, around: _Round) -> None:
        account.due = self._recheck_at(account)
        if around.balance is not None:
            # Who has seen that there is no money need not try it out.
            self._providers.pause(name, max(account.settings.pause_s, TRIAL_S), "no funds")
        if not account.no_funds:
            account.no_funds = True
            self._log.warning(self.problems(name)[0], extra=fields(Event.NO_FUNDS, provider=name))

    def _look_for_funds(self, name: str, account: Account, around: _Round) -> None:
        told = around.balance is not None or around.threads is not None
        if told and explain(around.threads, around.balance, account.settings.price) is not Verdict.NO_FUNDS:
            self._has_funds(name, account)
            self._providers.pause(name, 0.0, "no funds")
        else:
            account.due = self._recheck_at(account)

    def _has_funds(self, name: str, account: Account) -> None:
        account.no_funds = False
        about = fields(Event.FUNDS_AGAIN, provider=name)
        self._log.warning(f"provider {name}: there are funds again{_money(account)}", extra=about)

    def _look_at_balance(self, name: str, account: Account) -> None:
        low = is_low(account.balance, account.settings.low_balance)
        if low != account.low:
            account.low = low
            about = fields(Event.BALANCE_LOW if low else Event.BALANCE_RESTORED, provider=name)
            text = _low(name, account) if low else f"provider {name}: no longer low{_money(account)}"
            self._log.warning(text, extra=about)

    def _recheck_at(self, account: Account) -> float:
        return self._clock.monotonic() + max(account.settings.pause_s, RECHECK_LEAST_S)

    def _may_ask(self, provider: str) -> bool:
        """Whether somebody can, and does not prolong a ban by it."""
        return self._asks.able and not self._providers.suspended_s(provider)

    def _is_unexplained(self, provider: str) -> bool:
        lane = self._providers.lanes.get(provider)
        return lane is not None and lane.unexplained

    def _is_open(self, provider: str) -> bool:
        lane = self._providers.lanes.get(provider)
        return lane is None or state_word(lane.breaker, self._clock.monotonic()) == "open"


def _low(provider: str, account: Account) -> str:
    return f"provider {provider}: low{_money(account)}, below {account.settings.low_balance:.2f}"


def _money(account: Account) -> str:
    return "" if account.balance is None else f", balance {account.balance:.2f}"
