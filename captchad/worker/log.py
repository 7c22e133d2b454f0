"""What a worker says in the log, without any API key in it."""

__all__ = ["Log"]

import logging
import traceback

from captchad.model.logevents import Event, fields
from captchad.provider.transport import scrub

_log = logging.getLogger(__name__)


class Log:
    """Says what names the worker, as EPOCH-N. Knows every key that this process has had, also replaced ones."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._keys: frozenset[str] = frozenset()

    def hide(self, key: str) -> None:
        """Never print `key` from now on."""
        self._keys |= {key}

    def say(self, text: str) -> None:
        """Write `text` without any key; nothing happens if nobody takes it."""
        _log.warning("worker %s: %s", self._name, scrub(text, self._keys), extra=fields(worker=self._name))

    def trace(self, error: BaseException) -> None:
        """Write the traceback of `error` without any key, as one entry."""
        about = fields(Event.INTERNAL_ERROR, worker=self._name, reason=type(error).__name__)
        text = scrub("".join(traceback.format_exception(error)), self._keys)
        _log.error("worker %s: %s", self._name, text, extra=about)
