"""The kinds of values that a key may hold: each reads a TOML value, or says in plain words why not.

A value is repeated in a message only when it is a number or a word from a short list; a string is not, since people
do paste keys into the wrong place.
"""

__all__ = [
    "Address",
    "Bad",
    "Bool",
    "Choice",
    "HostPattern",
    "Int",
    "Kind",
    "ListOf",
    "MethodSeconds",
    "Number",
    "PathName",
    "Url",
    "Word",
    "split_listen",
    "type_word",
]

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from captchad.model.words import did_you_mean

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
_HOST_MAX = 253
_PATH_MAX = 4095
_URL_MAX = 2048
_PORT_MAX = 65535
_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Bad:
    """Why a value cannot be taken, and what to do about it."""

    message: str
    hint: str = ""


class Kind(Protocol):
    """What a key may hold."""

    @property
    def word(self) -> str:
        """The type, for a reader."""

    @property
    def range(self) -> str:
        """The values that are taken, for a reader; "" when the type says it all."""

    def read(self, value: object) -> object:
        """The value as the program uses it, or `Bad`."""


def type_word(value: object) -> str:
    """What a TOML value is, with its article."""
    match value:
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a float"
        case str():
            return "a string"
        case list():
            return "an array"
        case Mapping():
            return "a table"
        case _:
            return "a date or time"


def _wanted(kind: str, value: object, hint: str = "") -> Bad:
    return Bad(f"must be {kind}, not {type_word(value)}", hint)


@dataclass(frozen=True, slots=True)
class Bool:
    """`true` or `false`."""

    @property
    def word(self) -> str:
        return "boolean"

    @property
    def range(self) -> str:
        return "true or false"

    def read(self, value: object) -> bool | Bad:
        return value if isinstance(value, bool) else _wanted("true or false", value)


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number in [low, high]. A boolean is none."""

    low: int
    high: int

    @property
    def word(self) -> str:
        return "integer"

    @property
    def range(self) -> str:
        return f"{self.low} to {self.high}"

    def read(self, value: object) -> int | Bad:
        if isinstance(value, bool) or not isinstance(value, int):
            return _wanted("an integer", value)
        if not self.low <= value <= self.high:
            return _beyond(value, self.range)
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """An integer or float in [low, high], read as a float. Neither `nan` nor `inf`."""

    low: float
    high: float

    @property
    def word(self) -> str:
        return "number"

    @property
    def range(self) -> str:
        return f"{self.low:g} to {self.high:.10g}"

    def read(self, value: object) -> float | Bad:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return _wanted("a number", value)
        # Compare before float(): a huge integer has none. `nan` fails each comparison.
        if not self.low <= value <= self.high:
            return _beyond(value, self.range)
        return float(value)


def _beyond(value: float, allowed: str) -> Bad:
    # A huge integer would print without end, and beyond 4300 digits not at all.
    shown = "such a number is" if abs(value) >= 10**20 else f"{value!r} is"
    return Bad(f"{shown} out of range", allowed)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words. `later` are those that a coming version takes."""

    words: tuple[str, ...]
    later: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        return "string"

    @property
    def range(self) -> str:
        return ", ".join(f'"{each}"' for each in self.words)

    def read(self, value: object) -> str | Bad:
        if not isinstance(value, str):
            return _wanted("a string", value, self._hint(""))
        if value in self.later:
            return Bad(f'"{value}" is not built into this version yet', self._hint(""))
        if value not in self.words:
            return Bad("is none of the words that it takes", self._hint(value))
        return value

    def _hint(self, value: str) -> str:
        return did_you_mean(value, self.words) or f"{'one of' if len(self.words) > 1 else 'use'} {self.range}"


@dataclass(frozen=True, slots=True)
class Word:
    """A string that fits `form` as a whole; `says` tells the form in words."""

    form: str
    says: str

    @property
    def word(self) -> str:
        return "string"

    @property
    def range(self) -> str:
        return self.says

    def read(self, value: object) -> str | Bad:
        if not isinstance(value, str):
            return _wanted("a string", value)
        if not re.fullmatch(self.form, value):
            return Bad("is empty" if not value else "has a character that it may not have, or is too long", self.says)
        return value


@dataclass(frozen=True, slots=True)
class PathName:
    """An absolute path. Nothing is looked up."""

    @property
    def word(self) -> str:
        return "path"

    @property
    def range(self) -> str:
        return "absolute"

    def read(self, value: object) -> Path | Bad:
        if not isinstance(value, str):
            return _wanted("a string", value)
        if not value.startswith("/"):
            return Bad("must be an absolute path" if value else "is empty", "start it with /")
        if not value.isprintable():
            return Bad("has a character that cannot be printed")
        if len(value.encode()) > _PATH_MAX:
            return Bad(f"is longer than {_PATH_MAX} bytes")
        return Path(value)


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https address with a host; no user, password, query or fragment."""

    @property
    def word(self) -> str:
        return "string"

    @property
    def range(self) -> str:
        return "http:// or https:// with a host"

    def read(self, value: object) -> str | Bad:
        if not isinstance(value, str):
            return _wanted("a string", value)
        wrong = _url_fault(value)
        return Bad(*wrong) if wrong else value


def _url_fault(value: str) -> tuple[str, str] | None:
    if len(value) > _URL_MAX or not value.isascii() or not value.isprintable() or " " in value:
        return "is no web address", f"printable ASCII without spaces, at most {_URL_MAX} characters"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return "has a bad host or port", "https://HOST or https://HOST:PORT"
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://", ""
    if parts.username is not None or parts.password is not None:
        return "must not carry a user or password", "the key goes into a credential"
    if not parts.hostname or port == 0 or not _is_host(parts.hostname):
        return "has no usable host", "https://HOST or https://HOST:PORT"
    if "?" in value or "#" in value:
        return "must not have a query or fragment", "in.php and res.php are added to it"
    return None


def _is_host(name: str) -> bool:
    """True for a name or IPv4 address by form, or an IPv6 address as urlsplit gives it (without brackets)."""
    return bool(":" in name or (len(name) <= _HOST_MAX and _HOST.fullmatch(name)))


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address, or localhost, and a port; or "" for off. Port 0 takes any free one."""

    @property
    def word(self) -> str:
        return "string"

    @property
    def range(self) -> str:
        return '"IPV4:PORT", "[IPV6]:PORT", "localhost:PORT", or "" for off'

    def read(self, value: object) -> str | Bad:
        if not isinstance(value, str):
            return _wanted("a string", value, self.range)
        if value and split_listen(value) is None:
            return Bad("is no address to listen at", self.range)
        return value


def split_listen(value: str) -> tuple[str, int] | None:
    """Host and port of `IPV4:PORT`, `[IPV6]:PORT` or `localhost:PORT`, which is 127.0.0.1; None when it is none, or "".

    No other name is one: who binds must not wait for a name server, and its outage is no fault of the address.
    """
    host, _, digits = value.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", digits) or int(digits) > _PORT_MAX:
        return None
    if host == "localhost":
        return "127.0.0.1", int(digits)
    bracketed = re.fullmatch(r"\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]", host)
    try:
        address = ipaddress.IPv6Address(bracketed[1]) if bracketed else ipaddress.IPv4Address(host)
    except ValueError:
        return None
    return str(address), int(digits)


@dataclass(frozen=True, slots=True)
class HostPattern:
    """One of `*`, `-`, `example.com`, `*.example.com`; read in lower case."""

    @property
    def word(self) -> str:
        return "string"

    @property
    def range(self) -> str:
        return '"example.com", "*.example.com", "*" for every host, "-" for tasks without a page'

    def read(self, value: object) -> str | Bad:
        if not isinstance(value, str):
            return _wanted("a string", value)
        if value in ("*", "-"):
            return value
        name = value.removeprefix("*.")
        if len(name) > _HOST_MAX or not _HOST.fullmatch(name):
            return Bad("is no host pattern", _pattern_hint(value))
        return value.lower()


def _pattern_hint(value: str) -> str:
    if "/" in value:
        return "the host alone, without scheme and path"
    if re.fullmatch(r"[^:]+:[0-9]+", value):
        return "the host alone, without a port"
    if not value.isascii():
        return "the xn-- form of the name"
    return 'like "example.com", "*.example.com", "*" or "-"'


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array with at least one element, each of the same kind. Its elements are read one by one by the caller."""

    each: Kind

    @property
    def word(self) -> str:
        return "array of strings"

    @property
    def range(self) -> str:
        return f"at least one; {self.each.range}"

    def read(self, value: object) -> object:
        """The array as it stands, or `Bad` when it is none or empty."""
        if not isinstance(value, list):
            return _wanted("an array", value, f"[{json.dumps(value)}]" if value in ("*", "-") else "put it in [ ]")
        return value or Bad("is empty", self.range)


@dataclass(frozen=True, slots=True)
class MethodSeconds:
    """A table of seconds by method, read as pairs in the order of the methods."""

    each: Number

    @property
    def word(self) -> str:
        return "table of numbers"

    @property
    def range(self) -> str:
        return f"{{METHOD = SECONDS}}, {self.each.range}"

    def read(self, value: object) -> tuple[tuple[str, float], ...] | Bad:
        if not isinstance(value, Mapping):
            return _wanted("a table", value, "like {turnstile = 60}")
        pairs = []
        for name, seconds in sorted(value.items()):
            if not _METHOD.fullmatch(name):
                return Bad("has a name that no method can have", "like {turnstile = 60}")
            one = self.each.read(seconds)
            if isinstance(one, Bad):
                return Bad(f"{name}: {one.message}", one.hint)
            pairs.append((name, one))
        return tuple(pairs)
