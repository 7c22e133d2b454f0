"""Times as operators write them."""

__all__ = ["parse_duration", "parse_since"]

import re
import time
from datetime import UTC, datetime

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|min|m|h|d)")
_UNIT_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """`90s`, `10m` or `10min`, `2h`, `3d` as seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * _UNIT_S[match[2]]


def parse_since(text: str) -> float:
    """`2h`, `3d`, `90s`, `15min` before now, or an ISO time (UTC if it does not say), as UTC seconds.

    Raises ValueError.
    """
    if _DURATION.fullmatch(text):
        return time.time() - parse_duration(text)
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
