"""The provider's limits: too many submits, too many refusals, wrong keys, too many polls, too many requests.

Numbers and answers are those that 2captcha documents; the scenario can change or switch them off.
"""

__all__ = ["LimitBook"]

from collections import Counter, deque
from collections.abc import Hashable

from captchad.provider.sandbox.scenario import Limits


class _Windows:
    """How often things happened within the last seconds."""

    def __init__(self) -> None:
        self._times: dict[Hashable, deque[float]] = {}

    def count(self, what: Hashable, window_s: float, now: float) -> int:
        """Note that it happened now. Returns how often it has within the window, this time included."""
        times = self._times.setdefault(what, deque())
        times.append(now)
        while times[0] <= now - window_s:
            times.popleft()
        return len(times)

    def clear(self, what: Hashable) -> None:
        """Forget all of it."""
        self._times.pop(what, None)


class LimitBook:
    """Who has done what how often, and who is banned until when. Times are seconds of the event loop's clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._windows = _Windows()
        self._bans: dict[tuple[str, str], tuple[float, str]] = {}  # (op or "", key or address): until, code
        self._created: Counter[str] = Counter()
        self._no_slots: Counter[str] = Counter()
        self._polls: Counter[str] = Counter()

    def too_fast(self, address: str, now: float) -> bool:
        """Count a request of an address. True: answer HTTP 429."""
        rate = self._limits.requests_per_s
        if not self._limits.enabled or not rate:
            return False
        return self._windows.count(("request", address), 1.0, now) > rate

    def banned_address(self, address: str, now: float) -> str:
        """The code for an address that is banned, or ""."""
        return self._banned("address", address, now)

    def wrong_key(self, address: str, now: float) -> None:
        """Count a call with a wrong key."""
        limits = self._limits
        self._count(
            ("wrong key", address),
            limits.bad_key_calls,
            limits.bad_key_window_s,
            ("address", address),
            (limits.bad_key_ban_s, limits.bad_key_code),
            now,
        )

    def submit(self, key: str, now: float) -> str:
        """Count a call of in.php. The code that refuses it, or ""."""
        limits = self._limits
        banned = self._banned("key", key, now) or self._banned("submit", key, now)
        if banned or not limits.enabled:
            return banned
        if self._windows.count(("submit", key), limits.turn_window_s, now) > limits.turn_calls:
            self._windows.clear(("submit", key))
            self._bans["submit", key] = (now + limits.turn_ban_s, "MAX_USER_TURN")
            return "MAX_USER_TURN"
        return ""

    def result(self, key: str, now: float) -> str:
        """Count a call of res.php. The code that refuses it, or ""."""
        limits = self._limits
        banned = self._banned("key", key, now)
        if banned or not limits.enabled:
            return banned
        self._polls[key] += 1
        if self._polls[key] > self._created[key] * limits.polls_per_captcha + limits.polls_allowance:
            # The count starts again when the ban is over; else one ban would never end.
            self._polls[key] = self._created[key] = 0
            return self._ban(("key", key), limits.polls_ban_s, "ERROR: 1005", now)
        return ""

    def created(self, key: str) -> None:
        """Count a captcha that was taken."""
        self._created[key] += 1

    def refused(self, key: str, code: str, now: float) -> None:
        """Count a submit that was refused for want of threads or money."""
        limits = self._limits
        if code == "ERROR_ZERO_BALANCE":
            ban = (limits.zero_balance_ban_s, "ERROR: 1002")
            window_s = limits.zero_balance_window_s
            self._count((code, key), limits.zero_balance_calls, window_s, ("key", key), ban, now)
        if code == "ERROR_NO_SLOT_AVAILABLE" and limits.enabled:
            self._no_slots[key] += 1
            if self._no_slots[key] >= max(limits.refused_calls, limits.refused_ratio * self._created[key]):
                self._no_slots[key] = 0
                self._ban(("key", key), limits.refused_ban_s, "ERROR: 1003", now)
            # 1001 is the longer ban and comes second, to overwrite.
            ban = (limits.no_slot_ban_s, "ERROR: 1001")
            self._count((code, key), limits.no_slot_calls, limits.no_slot_window_s, ("key", key), ban, now)

    def _count(
        self,
        what: Hashable,
        calls: int,
        window_s: float,
        who: tuple[str, str],
        ban: tuple[float, str],
        now: float,
    ) -> None:
        if self._limits.enabled and self._windows.count(what, window_s, now) >= calls:
            self._windows.clear(what)
            self._ban(who, *ban, now)

    def _ban(self, who: tuple[str, str], ban_s: float, code: str, now: float) -> str:
        self._bans[who] = (now + ban_s, code)
        return code

    def _banned(self, kind: str, who: str, now: float) -> str:
        until, code = self._bans.get((kind, who), (0.0, ""))
        return code if now < until else ""
