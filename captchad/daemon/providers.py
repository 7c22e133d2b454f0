"""The providers and what is known of their health: which takes the next submit, what a fault or a success means.

Decisions come from `captchad.policy`; the state that they work on lives here, in the parent alone.
"""

__all__ = ["OUR_OWN", "RECENT_ENDS", "Doubt", "Lane", "ProviderSettings", "Providers"]

import logging
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field

from captchad.daemon.retry_budget import RetryBudget
from captchad.model.clock import Clock
from captchad.model.codes import lookup
from captchad.model.key import Key
from captchad.model.logevents import Event, fields
from captchad.model.money import micros
from captchad.model.states import Category
from captchad.policy import breaker as breakers
from captchad.policy import capacity as capacities
from captchad.policy import routing
from captchad.policy.breaker import Breaker, BreakerSettings
from captchad.policy.capacity import Capacity
from captchad.policy.routing import Absence

#: So many of the latest captchas are remembered for the error rate. With fewer, a second's failures at a high load
#: (captchas that a provider forgot when it was restarted) would be a fifth of all and hold everything back.
RECENT_ENDS = 5000

#: Reasons of `not_sent` that say nothing about the provider.
OUR_OWN = frozenset({"lease", "recall", "drain", "orphan", "pipe", "provider", "closed", "worker died", "never began"})

#: The provider does not take the key.
KEY_REFUSED = frozenset({"ERROR_WRONG_USER_KEY", "ERROR_KEY_DOES_NOT_EXIST"})

#: The provider has no slot for one more captcha.
NO_SLOT = "ERROR_NO_SLOT_AVAILABLE"

#: Seconds to wait after it where the table of codes has none: as after NO_SLOT.
SATURATED_WAIT_S = 5.0

#: Why the breaker of a provider with another key or address is half-open: one submit tries it, before a crowd does.
#: Some providers ban an address for ten minutes after five calls with a bad key (protocol notes 3, `ERROR: 1004`).
NEW_KEY = "a new key or address"

#: Codes of a worker's own faults: no provider said them.
NOT_THE_PROVIDERS = frozenset({"INTERNAL", "NO_PROVIDER"})


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One `[[provider]]` with its key."""

    name: str
    key: Key
    max_in_flight: int
    priority: int
    first_poll_s: float
    poll_s: float
    timeout_s: float
    submit_s: float
    pause_s: float
    submits_per_3s: int = 60
    price: int = 0  # of a solved captcha, in millionths; 0: not known
    priced: bool = False  # its answers say what they cost
    low_balance: float = 0.0  # 0: none is too low
    batch_polls: bool = False  # it answers for many captchas in one call
    timeouts: Mapping[str, float] = field(default_factory=dict)  # by method, in place of `timeout_s`
    methods: frozenset[str] | None = None  # that it offers; None: all
    earlier_keys: tuple[Key, ...] = ()  # that captchas may have been submitted with
    replaces: Key | None = None  # another one, that the configuration known as good has

    @property
    def times(self) -> tuple[object, ...]:
        """All that says when captchas are polled and time out."""
        return self.first_poll_s, self.poll_s, self.timeout_s, self.timeouts

    def timeout_of(self, method: str) -> float:
        """Longest time of one attempt, in seconds."""
        return self.timeouts.get(method, self.timeout_s)


@dataclass(slots=True)
class Doubt:
    """A new key was refused; whether the provider takes the one before is being asked (`captchad.daemon.doubts`)."""

    code: str
    asking: bool = False
    due: float = float("-inf")  # monotonic


@dataclass(slots=True)
class Lane:
    """A provider and what is known of its health."""

    settings: ProviderSettings
    breaker: Breaker = field(default_factory=Breaker)
    absence: Absence | None = None  # it was left, and is not back yet
    capacity: Capacity = field(default_factory=Capacity)
    submits: deque[float] = field(default_factory=deque)  # monotonic times of the latest, as many as may go in 3 s
    unexplained: bool = False  # it has refused a submit, and its account is asked why: given nothing meanwhile
    suspended_until: float = 0.0  # monotonic; it refuses every call until then
    retries: RetryBudget = field(default_factory=RetryBudget)
    leaving: bool = False  # not in the configuration any more: polled out, given nothing new
    good_key: Key | None = None  # the one before that worked, until the present one does
    doubt: Doubt | None = None
    key_works: bool = False  # the present one has
    old_keys: dict[str, Key] = field(default_factory=dict)  # by their ids: some captchas may still need them
    without_key: int = 0  # captchas found at the start whose key is not there any more
    solved: int = 0
    failed: int = 0

    @property
    def name(self) -> str:
        return self.settings.name

    def keep_earlier(self, keys_in_use: Container[tuple[str, str]]) -> None:
        """Take over the earlier keys that a captcha needs."""
        for key in self.settings.earlier_keys:
            if (self.name, key.id) in keys_in_use and key.id != self.settings.key.id:
                self.old_keys[key.id] = key

    def is_elsewhere(self, key_id: str) -> bool:
        """Whether that key is for an address that submits do not go to any more."""
        key = self.old_keys.get(key_id)
        return key is not None and key.url != self.settings.key.url

    @property
    def keys(self) -> dict[str, Key]:
        """Every key that a call may be made with, by its id."""
        good = {} if self.good_key is None else {self.good_key.id: self.good_key}
        return self.old_keys | good | {self.settings.key.id: self.settings.key}


class Providers:
    """All lanes, by name."""

    def __init__(
        self,
        clock: Clock,
        breaker_settings: BreakerSettings,
        own_fault: Callable[[str, str, str], None],
        log: logging.Logger,
    ) -> None:
        """`own_fault(reason, key, key)` is told of a new key that is refused where the one before is taken."""
        self.lanes: dict[str, Lane] = {}
        self.breaker_settings = breaker_settings
        self.recent_ends: deque[tuple[float, bool]] = deque(maxlen=RECENT_ENDS)  # monotonic time, whether it was solved
        self.api_calls: dict[tuple[str, str, str], int] = {}  # (provider, operation, outcome)
        self._in_flight: Callable[[], Mapping[str, int]] = dict
        self._submitting: Callable[[], Mapping[str, int]] = dict
        self._clock = clock
        self._own_fault = own_fault
        self._log = log

    def watch(self, in_flight: Callable[[], Mapping[str, int]], submitting: Callable[[], Mapping[str, int]]) -> None:
        """Where to read how many each has: submits and captchas together, and submits alone."""
        self._in_flight, self._submitting = in_flight, submitting

    # ---------------------------------------------------------------- configuration

    def configure(self, providers: Mapping[str, ProviderSettings], keys_in_use: Container[tuple[str, str]]) -> None:
        """Take a new configuration. A provider that is gone from it stays until its captchas are answered, and so does
        a key that is gone: `keys_in_use` are those of the captchas and submits under way, with their providers.
        """
        for name, settings in providers.items():
            lane = self.lanes.get(name)
            if lane is None:
                self.lanes[name] = Lane(settings, good_key=settings.replaces)
            else:
                self._change(lane, settings)
                lane.old_keys = {each: key for each, key in lane.old_keys.items() if (name, each) in keys_in_use}
            self.lanes[name].keep_earlier(keys_in_use)
        for name, lane in list(self.lanes.items()):
            if name not in providers:
                lane.leaving = True

    def _change(self, lane: Lane, settings: ProviderSettings) -> None:
        before, lane.settings, lane.leaving = lane.settings, settings, False
        if before.key != settings.key:
            lane.old_keys |= {before.key.id: before.key}
            # What was known of the old key or address says nothing of the new.
            lane.breaker = Breaker(tripped=True, open_until=self._clock.monotonic(), reason=NEW_KEY)
            lane.absence = None
            lane.suspended_until = 0.0
            lane.capacity = Capacity()
            good = before.key if lane.key_works else lane.good_key or settings.replaces
            lane.key_works = good is not None and good.id == settings.key.id  # back to the good one
            lane.good_key, lane.doubt = None if lane.key_works else good, None

    def keep_leaving(self, settings: ProviderSettings, keys_in_use: Container[tuple[str, str]]) -> None:
        """Poll out what this provider has; it left the configuration before the start."""
        self.lanes[settings.name] = Lane(settings, leaving=True)
        self.lanes[settings.name].keep_earlier(keys_in_use)

    def key_for(self, provider: str, key_id: str) -> str:
        """The id of the key to poll a captcha with: its own, or the present one if that is gone."""
        lane = self.lanes[provider]
        return key_id if key_id in lane.keys else lane.settings.key.id

    def count_without_key(self, provider: str, key_id: str) -> None:
        """A captcha that was found at the start: note it if the key that it was submitted with is gone."""
        lane = self.lanes.get(provider)
        if lane is not None and key_id not in lane.keys:
            lane.without_key += 1

    def forget_left(self, in_flight: Mapping[str, int]) -> None:
        """Drop the leaving ones whose last captcha is answered."""
        for name in [lane.name for lane in self.lanes.values() if lane.leaving]:
            if not in_flight.get(name):
                del self.lanes[name]

    # ---------------------------------------------------------------- choosing

    @property
    def configured(self) -> list[str]:
        """The names of those that take submits, as far as it is for the configuration."""
        return [lane.name for lane in self.lanes.values() if not lane.leaving]

    def offering(self, method: str) -> list[str]:
        """The names of those that take submits of a method, as far as it is for the configuration."""
        return [name for name in self.configured if _offers(self.lanes[name], method)]

    @property
    def differ(self) -> bool:
        """Whether some configured provider offers some methods only."""
        return any(self.lanes[name].settings.methods is not None for name in self.configured)

    def choose(self, among: Container[str]) -> str | None:
        """Which provider of `among` takes a submit now; None when none does."""
        now, in_flight, submitting = self._clock.monotonic(), self._in_flight(), self._submitting()
        return routing.choose(
            routing.Lane(
                lane.name,
                lane.settings.priority,
                in_flight.get(lane.name, 0),
                capacities.limit(lane.capacity, lane.settings.max_in_flight, now),
                self._room(lane, now, submitting.get(lane.name, 0)),
                self._is_last_resort(lane, now, submitting.get(lane.name, 0)),
            )
            for lane in self.lanes.values()
            if not lane.leaving and lane.name in among
        )

    def _is_last_resort(self, lane: Lane, now: float, submitting: int) -> bool:
        if lane.absence is None:
            return False
        settings = self.breaker_settings.return_settings
        if not routing.is_back(lane.absence, now, settings):
            return routing.probes(lane.absence, submitting, settings) == 0
        if len(self.lanes) > 1:
            text = f"provider {lane.name}: back, {now - lane.absence.since:.0f} s after it was left"
            self._log.warning(text, extra=fields(Event.PROVIDER_BACK, provider=lane.name))
        lane.absence = None
        return False

    def _room(self, lane: Lane, now: float, probing: int) -> int:
        if lane.unexplained or now < max(lane.capacity.wait_until, _pace(lane)):
            return 0
        allowed = breakers.allowance(lane.breaker, now, probing)
        return lane.settings.max_in_flight if allowed is None else allowed

    def ordered(self, provider: str, *, again: bool) -> None:
        """A submit goes to it: the first one of its task, or one more."""
        lane = self.lanes[provider]
        lane.retries.ordered(self._clock.monotonic(), again=again)
        lane.submits.append(self._clock.monotonic())
        while len(lane.submits) > lane.settings.submits_per_3s:
            lane.submits.popleft()

    def suspended_s(self, provider: str) -> float:
        """For how many seconds from now it refuses every call, polls as well; 0 when it does not."""
        lane = self.lanes.get(provider)
        return 0.0 if lane is None else max(0.0, lane.suspended_until - self._clock.monotonic())

    def may_retry(self, provider: str) -> bool:
        """Whether it may be given a retry. While its breaker tries it, the breaker alone says how much it gets."""
        lane = self.lanes[provider]
        return lane.breaker.tripped or lane.retries.allows(self._clock.monotonic())

    def next_tries(self, now: float) -> Iterator[float]:
        """Monotonic times at which one takes a submit again, by time alone, that takes none now."""
        in_flight = self._in_flight()
        for lane in self.lanes.values():
            grown_at = capacities.grown_at(lane.capacity, in_flight.get(lane.name, 0), lane.settings.max_in_flight, now)
            if grown_at is not None:
                yield grown_at
            if _pace(lane) > now:
                yield _pace(lane)
            if lane.breaker.tripped and lane.breaker.open_until > now:
                yield lane.breaker.open_until

    def why_held_back(self, name: str) -> str | None:
        """Why this provider takes fewer submits than it could now, or none; None when nothing is in the way."""
        lane, now = self.lanes[name], self._clock.monotonic()
        if lane.leaving:
            return "not in the configuration any more: polled out"
        if breakers.state_word(lane.breaker, now) == "open":
            return f"open after {lane.breaker.reason}, next try in {lane.breaker.open_until - now:.0f} s"
        if lane.unexplained:
            return "it refuses for want of money or threads; its account is asked which"
        if now < lane.capacity.wait_until:
            return f"it had no free slot, next try in {lane.capacity.wait_until - now:.0f} s"
        limit, in_flight = self.limit(name), self._in_flight().get(name, 0)
        if limit <= in_flight:
            learned = "" if limit == lane.settings.max_in_flight else ", as it was found to take"
            return f"{in_flight} captchas are in flight of at most {limit}{learned}"
        settings = self.breaker_settings.return_settings
        if lane.absence is None or len(self.lanes) == 1 or routing.is_back(lane.absence, now, settings):
            return None
        return routing.why_away(lane.absence, now, settings)

    def limit(self, name: str) -> int:
        """Captchas that may be in flight at this provider now: `max_in_flight`, or what it was found to take."""
        lane = self.lanes[name]
        return capacities.limit(lane.capacity, lane.settings.max_in_flight, self._clock.monotonic())

    # ---------------------------------------------------------------- health

    def outage(self, provider: str) -> bool:
        """Whether its breaker is not closed."""
        lane = self.lanes.get(provider)
        return lane is not None and lane.breaker.tripped

    def key_on_trial(self, provider: str) -> bool:
        """Whether it has a new key that no submit was taken under yet."""
        lane = self.lanes.get(provider)
        return lane is not None and lane.breaker.tripped and lane.breaker.reason == NEW_KEY

    def saturated(self, provider: str, wait_s: float = SATURATED_WAIT_S) -> None:
        """It has no slot for one more captcha: give it less, and nothing for `wait_s`. It is no fault of its."""
        lane = self.lanes.get(provider)
        if lane is None:
            return
        now, before = self._clock.monotonic(), self.limit(provider)
        lane.capacity = capacities.on_saturated(
            lane.capacity, self._accepted(provider), lane.settings.max_in_flight, now, wait_s
        )
        after = self.limit(provider)
        if before == lane.settings.max_in_flight > after:
            text = f"provider {provider}: no free slot; {after} in flight at most from now on, slowly more"
            self._log.warning(text, extra=fields(Event.PROVIDER_LIMITED, provider=provider))

    def threads(self, provider: str, threads: int, working: int) -> None:
        """What its `threadsinfo` says: the account has `threads`, and `working` of them are busy."""
        lane = self.lanes.get(provider)
        if lane is not None:
            lane.capacity = capacities.on_threads(lane.capacity, threads, working, self._accepted(provider))

    def shares_threads(self, provider: str, threads: int) -> bool:
        """Whether others use some of its account's `threads`."""
        lane = self.lanes.get(provider)
        return lane is not None and lane.capacity.threads is not None and lane.capacity.threads < threads

    def _accepted(self, provider: str) -> int:
        return self._in_flight().get(provider, 0) - self._submitting().get(provider, 0)

    @property
    def all_out(self) -> bool:
        """Whether no configured provider takes submits now. One with a new key is on trial, not out."""
        lanes = [lane for lane in self.lanes.values() if not lane.leaving]
        return bool(lanes) and all(lane.breaker.tripped and lane.breaker.reason != NEW_KEY for lane in lanes)

    def fault(self, provider: str, operation: str, code: str, category: Category, key_id: str = "") -> None:
        """Feed the breaker. A task-specific code is no fault of the provider's.

        What is wrong with an earlier key or address, or the account behind it, says nothing of the present one.
        """
        self.note(provider, operation, code)
        lane = self.lanes.get(provider)
        if lane is None or category is Category.TASK or code in NOT_THE_PROVIDERS:
            return
        known = lookup(code)
        about_account = category in (Category.PERMANENT, Category.BUDGET) and not known.suspends
        if about_account and not self.is_present_key(provider, key_id):
            return
        if lane.is_elsewhere(key_id):
            if known.suspends:  # calls there prolong it: no polls meanwhile
                lane.suspended_until = self._clock.monotonic() + (known.pause_s or lane.settings.pause_s)
            return
        if code == NO_SLOT:
            self.saturated(provider, known.pause_s or SATURATED_WAIT_S)
            return
        if operation == "submit":
            lane.retries.ended(solved=False)
        now = self._clock.monotonic()
        before = breakers.state_word(lane.breaker, now)
        if known.suspends:
            # Calls during a suspension prolong it: its own time counts, however short the configured pause.
            lane.breaker = breakers.on_pause(lane.breaker, now, known.pause_s or lane.settings.pause_s, code)
            lane.suspended_until = lane.breaker.open_until
        elif category in (Category.PERMANENT, Category.BUDGET):
            lane.breaker = breakers.on_pause(lane.breaker, now, lane.settings.pause_s, code)
            if code in KEY_REFUSED and lane.good_key is not None and lane.doubt is None:
                lane.doubt = Doubt(code)
        else:
            lane.breaker = breakers.on_fault(
                lane.breaker, now, code, self.breaker_settings, submit=operation == "submit"
            )
        if lane.absence is not None:
            lane.absence = lane.absence.after_fault()
        elif lane.breaker.tripped:
            lane.absence = Absence(now)
        after = breakers.state_word(lane.breaker, now)
        if before != after:
            wait_s = lane.breaker.open_until - now
            text = f"provider {provider}: {before} -> {after} after {code}; next try in {wait_s:.1f} s"
            self._log.warning(text, extra=fields(Event.BREAKER_OPENED, provider=provider, reason=code))

    def pause(self, provider: str, pause_s: float, reason: str) -> None:
        """Try no submit for so long, then one; whatever the breaker was."""
        lane = self.lanes.get(provider)
        if lane is not None:
            lane.breaker = breakers.on_pause(Breaker(), self._clock.monotonic(), pause_s, reason)

    def is_present_key(self, provider: str, key_id: str) -> bool:
        """Whether a call with this key says something of the one that submits go out with now; "" is that one."""
        lane = self.lanes.get(provider)
        return lane is None or key_id in ("", lane.settings.key.id)

    def is_unjudged(self, provider: str) -> bool:
        """Whether its key has replaced a good one, and was not taken yet."""
        lane = self.lanes.get(provider)
        return lane is not None and lane.good_key is not None

    @property
    def any_unjudged(self) -> bool:
        """Whether a configured provider has such a key: nobody can say yet that the configuration is good."""
        return any(self.is_unjudged(name) for name in self.configured)

    def blame_key(self, lane: Lane) -> None:
        """The doubt is over: the provider refuses the new key, and takes the one before."""
        if lane.doubt is not None:
            text = f"provider {lane.name} refuses the new key ({lane.doubt.code})"
            self._own_fault(text, f"provider.{lane.name}: its key", f"provider.{lane.name}.url")
            lane.doubt = None

    def key_taken(self, provider: str, key_id: str = "") -> None:
        """It has answered a call with this key as it does for a good one."""
        lane = self.lanes.get(provider)
        if lane is not None and self.is_present_key(provider, key_id):
            lane.key_works = True
            lane.good_key = lane.doubt = None

    def submit_taken(self, provider: str, key_id: str = "") -> None:
        """It has taken a submit that had this key."""
        self.note(provider, "submit", "ok")
        lane = self.lanes.get(provider)
        if lane is None or not self.is_present_key(provider, key_id):
            return  # an earlier key is good: that says nothing of the one that is on trial
        self.key_taken(provider, key_id)
        before, now = lane.breaker, self._clock.monotonic()
        lane.breaker = breakers.on_success(before, now, self.breaker_settings)
        if lane.absence is not None and now >= before.open_until:
            lane.absence = lane.absence.after_success()
        if before.tripped and not lane.breaker.tripped:
            lane.retries.begin_anew()
            about = fields(Event.BREAKER_CLOSED, provider=provider, reason=before.reason)
            self._log.warning(f"provider {provider}: closed again after {before.reason}", extra=about)
            if before.reason != NEW_KEY:
                lane.capacity = capacities.on_recovered(lane.capacity, self._accepted(provider), now)

    def poll_answered(self, provider: str, key_id: str = "") -> None:
        """It has answered a poll with this key properly."""
        lane = self.lanes.get(provider)
        if lane is not None and not lane.is_elsewhere(key_id):
            lane.breaker = breakers.on_poll(lane.breaker)

    def ended(self, provider: str, outcome: str, key_id: str = "") -> None:
        """A captcha there, of this key, has ended: solved, or not."""
        self.recent_ends.append((self._clock.monotonic(), outcome == "solved"))
        lane = self.lanes.get(provider)
        if lane is None:
            return
        lane.retries.ended(solved=outcome == "solved")
        if outcome == "solved":
            lane.solved += 1
        else:
            lane.failed += 1
        self.note(provider, "poll", outcome)
        self.poll_answered(provider, key_id)

    def price(self, provider: str, extra: Mapping[str, object] | None) -> int | None:
        """What an answer costs, in millionths: as came with it, else as configured. None: not known."""
        said = micros((extra or {}).get("price"))
        lane = self.lanes.get(provider)
        return said if said is not None or lane is None else lane.settings.price or None

    def timed_out(self, provider: str) -> None:
        """A captcha there was not answered in its time."""
        self.note(provider, "poll", "timeout")
        if provider in self.lanes:
            self.lanes[provider].retries.ended(solved=False)
        self.recent_ends.append((self._clock.monotonic(), False))

    def note(self, provider: str, operation: str, outcome: str) -> None:
        """Count a call."""
        key = (provider, operation, outcome)
        self.api_calls[key] = self.api_calls.get(key, 0) + 1


def _offers(lane: Lane, method: str) -> bool:
    return lane.settings.methods is None or method in lane.settings.methods


def _pace(lane: Lane) -> float:
    """From when on one more submit may go there."""
    return capacities.free_at(lane.submits, lane.settings.submits_per_3s)
