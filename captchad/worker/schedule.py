"""When to poll which captcha: one schedule for all that a worker has in flight. Pure; time comes in as an argument.

A captcha waits until it is due (`ripen`), is ready in due order (`take`), is polled, and waits again (`again`,
`back_off`) or is over (`end`). At most one poll of a captcha is under way. The parent plans the waits: each poll,
failed or not, takes the next one of the plan. Times are monotonic seconds.
"""

__all__ = ["ALONE_S", "BACK_OFF_CAP", "COMPANY", "COMPANY_EVERY_S", "JITTER", "PollSchedule", "Watched"]

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, repeat

#: A wait is drawn out by up to this share, so that captchas submitted together are not polled together for ever.
JITTER = 0.1

#: Faults in a row stretch the wait to at most so many times what is planned.
BACK_OFF_CAP = 8

#: Captchas that one call asks about, and how long none of them is then asked about again, seconds.
COMPANY = 100
COMPANY_EVERY_S = 1.0

#: After a call about many that told nothing, each captcha of that account is polled by itself for so long, seconds.
ALONE_S = 60.0

#: A wrong timing must not turn the schedule into a busy loop.
_LEAST_S = 0.01

#: Entries of the heap that nobody waits for any more are swept out beyond this number.
_STALE_SLACK = 64


@dataclass(slots=True, eq=False)
class Watched:
    """A captcha in the schedule. `n` is its attempt; the schedule alone changes the rest."""

    n: int
    provider: str
    key_id: str
    cid: str
    waits_s: Iterator[float]
    answered_at: float | None = None  # when a poll last said that it is not ready
    company_from: float = math.inf  # when others' calls begin to ask about it, too, or do so again
    due: float = 0.0
    own_due: float = 0.0  # before a call of another one put it off
    faults: int = 0  # in a row
    running: bool = False  # a poll is under way
    dropped: bool = False  # nobody wants the answer any more; kept while a poll is under way
    ticket: int = 0  # the one place in heap or queue that counts; all others are stale

    @property
    def account(self) -> tuple[str, str]:
        """Provider and key."""
        return self.provider, self.key_id


class PollSchedule:
    """All captchas that one worker polls."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._all: dict[int, Watched] = {}
        self._waiting: list[tuple[float, int, Watched]] = []
        #: By provider, so that one whose polls hang does not stand in the way of the others; ripe number, ticket.
        self._ready: dict[str, deque[tuple[int, int, Watched]]] = {}
        self._running: Counter[str] = Counter()  # polls under way, by provider
        self._tickets = count(1)
        self._ripened = count()
        self._dropped = 0
        self._alone_until: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        """Captchas that are still wanted."""
        return len(self._all) - self._dropped

    @property
    def ready(self) -> int:
        """Captchas that wait for a thread; may count some that were dropped."""
        return sum(map(len, self._ready.values()))

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
        """Poll `cid` from now on: in `first_in_s`, after each of `gaps_s`, then `every_s`.

        For one that is watched already, take the new timing.
        """
        watched = self._all.get(n)
        if watched is not None and watched.dropped:
            watched.dropped = False
            self._dropped -= 1
        if watched is None or (watched.provider, watched.key_id, watched.cid) != (provider, key_id, cid):
            if watched is not None:
                watched.ticket = 0
            watched = self._all[n] = Watched(n, provider, key_id, cid, iter(()))
        watched.waits_s = chain(gaps_s, repeat(every_s))
        watched.faults = 0
        watched.company_from = now + first_in_s / 2.0
        if not watched.running:
            self._wait(watched, now + max(first_in_s, 0.0))

    def drop(self, n: int) -> None:
        """Forget `n`; the answer of a poll that is under way will not count."""
        watched = self._all.get(n)
        if watched is None or watched.dropped:
            return
        watched.ticket = 0
        if watched.running:
            watched.dropped = True
            self._dropped += 1
        else:
            del self._all[n]

    def clear(self) -> None:
        """Stop polling. Polls under way keep their say: `end` still tells whether an answer counts."""
        for watched in list(self._all.values()):
            watched.ticket = 0
            if not watched.running:
                del self._all[watched.n]
        self._waiting.clear()
        self._ready.clear()

    def ripen(self, now: float) -> int:
        """Make ready what is due; how many that were."""
        ripe = 0
        while self._waiting and self._waiting[0][0] <= now:
            _, ticket, watched = heapq.heappop(self._waiting)
            if watched.ticket == ticket:
                self._ready.setdefault(watched.provider, deque()).append((next(self._ripened), ticket, watched))
                ripe += 1
        return ripe

    def next_due(self) -> float | None:
        """When the next captcha becomes due; None when none waits."""
        while self._waiting and self._waiting[0][2].ticket != self._waiting[0][1]:
            heapq.heappop(self._waiting)
        return self._waiting[0][0] if self._waiting else None

    def take(self, share: float = math.inf) -> Watched | None:
        """The captcha that has been due for longest and whose provider has less than `share` polls under way.

        It is being polled from now on. None when none is ready.
        """
        heads = [line for provider, line in self._ready.items() if self._running[provider] < share and _tidy(line)]
        if not heads:
            return None
        _, _, watched = min(heads, key=lambda line: line[0][0]).popleft()
        watched.running = True
        watched.ticket = 0
        self._running[watched.provider] += 1
        return watched

    def company(self, watched: Watched, now: float) -> list[Watched]:
        """Those that a call for `watched` may ask about besides: of the same account, longest not asked about first.

        Their own polls are put off; `asked` is to be called with what came of it.
        """
        if now < self._alone_until.get(watched.account, -math.inf):
            return []
        waiting = (each for each in self._all.values() if each.ticket and each.company_from <= now)
        others = [each for each in waiting if each.account == watched.account]
        others = heapq.nsmallest(COMPANY - 1, others, key=lambda each: each.company_from)
        for each in others:
            each.company_from = now + COMPANY_EVERY_S
            each.own_due = each.due
            if each.due < each.company_from:
                self._wait(each, each.company_from)
        return others

    def asked(self, others: Sequence[Watched], unready: Sequence[bool] | None, now: float) -> None:
        """What a call has said of its company: those that may be ready are due. None: nothing was said."""
        if unready is None and others:
            self._alone_until[others[0].account] = now + ALONE_S
        for each, is_unready in zip(others, unready or repeat(None), strict=False):
            if not each.ticket:
                continue  # dropped meanwhile, or its own poll is under way
            if is_unready is None:
                self._wait(each, each.own_due)
            elif is_unready:
                each.answered_at = now
            else:
                each.company_from = math.inf  # until it was polled
                self._wait(each, now)

    def again(self, watched: Watched, now: float) -> bool:
        """The answer is not there yet. True when it is still wanted, and is waited for."""
        watched.faults = 0
        watched.answered_at = now
        return self._resume(watched, now, 1)

    def back_off(self, watched: Watched, now: float) -> bool:
        """The poll failed: wait as planned, twice that after two faults in a row, up to `BACK_OFF_CAP` times."""
        times = min(2**watched.faults, BACK_OFF_CAP)
        watched.faults = min(watched.faults + 1, BACK_OFF_CAP)
        return self._resume(watched, now, times)

    def end(self, watched: Watched) -> bool:
        """Take out a captcha whose poll is over. True when its answer is still wanted."""
        self._running[watched.provider] -= watched.running
        watched.running = False
        watched.ticket = 0
        if self._all.get(watched.n) is not watched:
            return False
        del self._all[watched.n]
        self._dropped -= watched.dropped
        return not watched.dropped

    def _resume(self, watched: Watched, now: float, times: int) -> bool:
        if not self.end(watched):
            return False
        self._all[watched.n] = watched
        watched.company_from = now + COMPANY_EVERY_S
        wait_s = max(next(watched.waits_s), _LEAST_S) * times
        self._wait(watched, now + wait_s * (1.0 + JITTER * self._jitter()))
        return True

    def _wait(self, watched: Watched, due: float) -> None:
        watched.ticket, watched.due = next(self._tickets), due
        if len(self._waiting) > 2 * len(self._all) + _STALE_SLACK:
            self._waiting = [item for item in self._waiting if item[2].ticket == item[1]]
            heapq.heapify(self._waiting)
        heapq.heappush(self._waiting, (due, watched.ticket, watched))


def _tidy(line: deque[tuple[int, int, Watched]]) -> bool:
    """Whether anybody still waits in a ready line, now at its head."""
    while line and line[0][2].ticket != line[0][1]:
        line.popleft()
    return bool(line)
