"""What a worker says on stderr, without any API key in it."""

__all__ = ["Log"]

import sys
import traceback

from captchad.provider.transport import scrub


class Log:
    """Writes lines that begin with the worker's name. Knows every key that this process has had, also replaced ones."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._keys: frozenset[str] = frozenset()

    def hide(self, key: str) -> None:
        """Never print `key` from now on."""
        self._keys |= {key}

    def say(self, text: str) -> None:
        """Write `text` without any key; nothing happens if nobody takes it."""
        lines = [f"{self._name}: {line}\n" for line in scrub(text, self._keys).splitlines()]
        try:
            sys.stderr.write("".join(lines))
            sys.stderr.flush()
        except OSError:
            return  # stderr is gone, and an outcome must not go with it

    def trace(self, error: BaseException) -> None:
        """Write the traceback of `error` without any key."""
        self.say("".join(traceback.format_exception(error)))
