"""Words that somebody has typed, and the known ones beside them."""

__all__ = ["did_you_mean"]

from collections.abc import Iterable
from difflib import get_close_matches

#: difflib is quadratic in the length, and nothing longer is near anyway.
_LONGEST = 64


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint that names the nearest of the `known` words, upper case or lower; "" if none is near.

    `word` itself is not in it: it may be a secret.
    """
    spelled = {each.lower(): each for each in known}
    near = get_close_matches(word.lower(), spelled, n=1) if len(word) <= _LONGEST else []
    return f"did you mean {spelled[near[0]]!r}?" if near else ""
