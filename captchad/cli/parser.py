"""The command line of both programs."""

__all__ = ["Parser"]

import re
import sys
from argparse import Action, ArgumentError, ArgumentParser
from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

from captchad.cli.exits import Exit

#: What is sure to be the name of an option, and no key.
_NAME = re.compile("--[a-z]+(-[a-z]+)*")


class Parser(ArgumentParser):
    """Takes options by their whole names. A word that it does not know it does not repeat, as it may be a key.

    It names the known word that is nearest instead.
    """

    #: The exit code of a wrong command line.
    code: ClassVar[Exit] = Exit.USAGE

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.code, f"{self.prog}: {message}\n")

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, but nothing may be left: here it is known which verb's options there are."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            names = [word.partition("=")[0] for word in left if word.startswith("-")]
            shown = " ".join(name for name in names if _NAME.fullmatch(name))
            known = [option for action in self._actions for option in action.option_strings]
            self.error(f"unrecognized arguments{': ' if shown else ''}{shown}{_hint(names, known)}")
        return found, left

    def _check_value(self, action: Action, value: Any) -> None:
        # argparse calls it for verbs and for other words of a list; its own would repeat the value.
        if action.choices is not None and value not in action.choices:
            known = [str(each) for each in action.choices]
            raise ArgumentError(action, f"none of {', '.join(known)}{_hint([str(value)], known)}")


def _hint(words: Iterable[str], known: Iterable[str]) -> str:
    """A line more, with what the first of `words` that is near to anything is near to; or ""."""
    from captchad.model.words import did_you_mean

    hint = next(filter(None, (did_you_mean(word, known) for word in words)), "")
    return f"\nhint: {hint}" if hint else ""
