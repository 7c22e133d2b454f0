"""Whose fault is a new key that is refused: its own, or that of a provider that refuses every key just now?

The provider is asked for the balance under the key before, which was good. Only where it takes that one the
configuration is to blame for the new one.
"""

__all__ = ["Doubts"]

import logging
from functools import partial

from captchad.daemon.asks import Asks, Fault, Told
from captchad.daemon.providers import KEY_REFUSED, Doubt, Lane, Providers
from captchad.model.clock import Clock
from captchad.model.codes import lookup
from captchad.model.key import Key
from captchad.model.logevents import fields
from captchad.model.states import Category
from captchad.policy.account import is_not_offered

#: What nobody could answer is asked again after `pause_s`, but not more often than this, in seconds.
AGAIN_LEAST_S = 1.0


class Doubts:
    """Those of all providers. `turn` is called about once a second."""

    def __init__(self, clock: Clock, providers: Providers, asks: Asks, log: logging.Logger) -> None:
        self._clock = clock
        self._providers = providers
        self._asks = asks
        self._log = log

    def turn(self) -> None:
        """Ask where there is a doubt, and nobody is asked yet."""
        now = self._clock.monotonic()
        for name in self._providers.configured:
            lane = self._providers.lanes[name]
            good, doubt = lane.good_key, lane.doubt
            if good is None or doubt is None or doubt.asking or now < doubt.due:
                continue
            if self._asks.able and not self._providers.suspended_s(name):
                doubt.asking = True
                self._asks.ask(name, good.id, "balance", partial(self._told, lane, good, doubt))

    def _told(self, lane: Lane, good: Key, doubt: Doubt, told: Told | Fault) -> None:
        if isinstance(told, Told):
            self._providers.note(lane.name, "balance", "ok")
        else:
            self._note_fault(lane.name, good, told)
        if lane.doubt is not doubt or lane.leaving:
            return  # there is another key, or it was taken, or nobody wants it any more
        if _takes_key(told):
            self._providers.blame_key(lane)
        elif isinstance(told, Fault) and told.code in KEY_REFUSED:
            lane.doubt = None
            text = f"provider {lane.name} refuses the key before, too ({told.code}): the new one is not to blame"
            self._log.warning(text, extra=fields(provider=lane.name))
        else:
            doubt.asking, doubt.due = False, self._clock.monotonic() + max(lane.settings.pause_s, AGAIN_LEAST_S)

    def _note_fault(self, name: str, good: Key, fault: Fault) -> None:
        if lookup(fault.code).suspends:
            self._providers.fault(name, "balance", fault.code, fault.category, good.id)
        else:
            self._providers.note(name, "balance", fault.code)


def _takes_key(told: Told | Fault) -> bool:
    """Whether a provider that says this has taken the key: also one that knows no such question."""
    if isinstance(told, Told):
        return True
    about_key = lookup(told.code).suspends or told.code in KEY_REFUSED
    return not about_key and (told.category is Category.BUDGET or is_not_offered(told.code, told.category))
