"""Compact JSON for what captchad writes to itself: journal records and messages on pipes."""

__all__ = ["to_json"]

import json
from collections.abc import Callable, Iterable
from typing import Final

_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)


def to_json(value: object) -> str:
    """Compact JSON, ASCII.

    Raises TypeError or ValueError for what is none, such as a number that is not finite; RecursionError for what nests
    without end.
    """
    return "".join(_pieces(value, 0))


def _make_encoder() -> Callable[[object, int], Iterable[str]]:
    """What `json.JSONEncoder.encode` makes for every call: making it takes longer than encoding a record does."""
    make = json.encoder.c_make_encoder  # type: ignore[attr-defined]  # where Python has it in C
    if make is None:
        return lambda value, _: _JSON.iterencode(value)
    quote = json.encoder.encode_basestring_ascii
    encoder: Callable[[object, int], Iterable[str]] = make(
        None, _JSON.default, quote, None, ":", ",", False, False, False
    )
    return encoder


_pieces: Final = _make_encoder()
