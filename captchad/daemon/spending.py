"""Caps on charges: which providers may take one more submit now, and what holds the others.

What was charged is the journal's word (`View.spent`); submits under way count as if they were charged already, so that
several at once never exceed a cap. What finds no room waits.
"""

__all__ = ["Spending"]

import json
import math
from collections.abc import Iterable, Iterator, Mapping

from captchad.model.clock import iso_utc
from captchad.policy.spend import ALL, Caps, Held, tag_of
from captchad.queue.queue import Queue
from captchad.queue.task import Task

#: A task that has no room only because of submits under way is looked at again after this, seconds.
_LOOK_S = 5.0

#: So many values of a tag are named as a problem.
_NAMED = 5

_NONE = Caps()


class Spending:
    """Asked before each submit."""

    def __init__(self, queue: Queue) -> None:
        self._all = Caps()
        self._providers: Mapping[str, Caps] = {}
        self._tag = ""
        self._each_tag = Caps()
        self._queue = queue

    def configure(self, all_: Caps, providers: Mapping[str, Caps], tag: str = "", each_tag: Caps = _NONE) -> None:
        """Take the caps of all together, of each provider, and of each value of the tag that is named `tag`."""
        self._all, self._providers = all_, providers
        if (tag, each_tag) != (self._tag, self._each_tag):
            self._tag, self._each_tag = tag, each_tag
            self._queue.view.bring_back()

    def tag_of(self, task: Task) -> str:
        """Under which name charges for this task count towards the cap of its tag; "" for none."""
        if not (self._tag and task.tags):
            return ""
        value = json.loads(task.tags).get(self._tag, "")
        return tag_of(value) if value else ""

    def tag_room_at(self, task: Task) -> float | None:
        """From when on (UTC) the cap of its tag may leave room for this task; None: it does now."""
        tag = self.tag_of(task) if self._each_tag.day else ""
        if not tag:
            return None
        if held := self._held(tag, self._each_tag, 0):
            return held.until
        under_way = sum(attempt.tag == tag for attempt in self._queue.view.attempts.values())
        # Whether they are charged is known soon.
        return self._queue.clock.time() + _LOOK_S if self._held(tag, self._each_tag, under_way) else None

    def within(self, providers: Iterable[str]) -> list[str]:
        """Those that no cap keeps from one more submit; none at all when the cap of all together does."""
        return [] if self._holds(ALL) else [name for name in providers if not self._holds(name)]

    def next_room(self) -> Iterator[float]:
        """UTC times at which a cap that holds now may leave room again."""
        for who in (ALL, *self._providers):
            held = self._holds(who)
            if held is not None and math.isfinite(held.until):
                yield held.until

    def problems(self) -> Iterator[str]:
        """The caps that are reached, in words. One that only submits under way have reached is not there yet."""
        for who in (ALL, *self._providers):
            if why := self.why(who):
                yield f"provider {who}: {why}" if who else f"limits.{why}; tasks wait"
        if self._each_tag.day:
            yield from self._tag_problems()

    def _tag_problems(self) -> Iterator[str]:
        tags = self._queue.view.spent.tags()
        held = [(tag, held) for tag in tags if (held := self._held(tag, self._each_tag, 0))]
        if held:
            names = ", ".join(tag.removeprefix("tag:") or "others" for tag, _ in held[:_NAMED])
            more = f" and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
            until = min(each.until for _, each in held)
            yield (
                f"limits.tag_charges_per_day = {self._each_tag.day} is reached for {self._tag} {names}{more}; their"
                f" tasks wait; room again at {iso_utc(until)}"
            )

    def why(self, who: str) -> str | None:
        """The cap that `who` has reached, in words; None when there is none, or submits under way could still tell."""
        caps = self._caps(who)
        held = caps and self._held(who, caps, 0)
        return (
            f"charges_per_{held.length} = {held.cap} is reached, room again at {iso_utc(held.until)}" if held else None
        )

    def _holds(self, who: str) -> Held | None:
        """The cap that leaves no room for one more beside the submits under way."""
        caps = self._caps(who)
        return None if caps is None else self._held(who, caps, self._under_way(who))

    def _caps(self, who: str) -> Caps | None:
        caps = self._all if who == ALL else self._providers.get(who)
        return caps if caps and (caps.hour or caps.day) else None

    def _held(self, who: str, caps: Caps, under_way: int) -> Held | None:
        return self._queue.view.spent.held(who, caps, under_way, self._queue.clock.time())

    def _under_way(self, who: str) -> int:
        attempts = self._queue.view.attempts
        return len(attempts) if who == ALL else sum(attempt.provider == who for attempt in attempts.values())
