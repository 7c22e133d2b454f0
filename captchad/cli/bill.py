"""captchactl bill: what was charged, answered and paid, from the journal alone, beside a running daemon, too."""

__all__ = ["bill", "parse_by", "parse_day"]

import json
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from captchad.cli.exits import Exit
from captchad.cli.places import find
from captchad.cli.render import clean
from captchad.model.errors import CaptchadError

_BY = ("day", "method", "host", "provider")
_NUMBERS = ("charges", "solved", "failed", "unknown_submits")


def bill(options: Namespace) -> int:
    """A line for each day, method, host, provider or value of a tag, and the sum."""
    from captchad.queue import offline

    places = find(options.config, options.socket)
    try:
        found = offline.bill(places.state_dir, options.by, options.since, options.until)
    except CaptchadError as error:
        if isinstance(error.__cause__, PermissionError):  # no matter of disks: another exit code
            raise error.__cause__ from None
        raise
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.json else _text(found))
    return Exit.OK


def parse_by(text: str) -> str:
    """`day`, `method`, `host`, `provider` or `tag:NAME`. Raises ValueError."""
    if text in _BY or (text.startswith("tag:") and len(text) > len("tag:")):
        return text
    raise ValueError(text)


def parse_day(text: str) -> str:
    """`2026-11-22`, or `7d` before today; days are those of UTC. Raises ValueError, OverflowError."""
    if match := re.fullmatch(r"([0-9]+)d", text):
        return (datetime.now(UTC).date() - timedelta(days=int(match[1]))).isoformat()
    return date.fromisoformat(text).isoformat()


def _text(found: dict[str, Any]) -> str:
    head = [found["by"], "charges", "solved", "failed", "unknown", "cost"]
    rows = [[clean(row["name"]) or "-", *_cells(row)] for row in found["rows"]]
    return _aligned([head, *rows, ["sum", *_cells(found["sum"])]]) + "".join(f"{note}\n" for note in _notes(found))


def _cells(row: dict[str, Any]) -> list[str]:
    # What is not known is no zero.
    cost = "-" if row["unpriced"] and not row["cost"] else f"{row['cost']:.6f}".rstrip("0").rstrip(".")
    return [*(str(row[name]) for name in _NUMBERS), cost]


def _notes(found: dict[str, Any]) -> list[str]:
    notes = []
    if unpriced := found["sum"]["unpriced"]:
        notes.append(f"{unpriced} answers have no known price: set `price` or `price_from_answer` of the provider")
    if earlier := found["charges_before"]:
        first = found["first_day"] or "today"
        notes.append(f"the journal knows the days from {first} on; {earlier} charges from before stand in no line")
    return notes


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines) + "\n"
