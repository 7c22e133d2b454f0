"""Finds the line of every key in a TOML text, which tomllib does not tell.

A second, small reading of the text: exact on every document that tomllib takes, and on the part of a bad document
before its fault. It stops at the first thing that it does not understand, so it never raises for bad TOML and its time
is linear. It runs before tomllib and refuses what would keep tomllib busy for minutes or exhaust its stack (very long
dotted keys, deep nesting).
"""

__all__ = ["MAX_DEPTH", "MAX_KEYS", "MAX_SCALAR", "MAX_VALUES", "Scan", "scan"]

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from captchad.config.build import KeyPath

#: Parts of a key, and arrays and inline tables within each other. tomllib's time is quadratic in the first.
MAX_DEPTH = 16

#: Keys and headers of one file. A hundred providers with every key written are 1,100.
MAX_KEYS = 4000

#: Elements of all arrays of one file.
MAX_VALUES = 50_000

#: Characters of a number or date. Python refuses integers of more than 4300 digits, and not by TOML's own error.
MAX_SCALAR = 100

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
_REST = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Possessive repeats: a text without an end costs one pass and no stack.
_STRING = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+"""(?:"{0,2})'  # up to two quotes may stand before the closing three
    r"|'''(?:[^']++|'(?!''))*+'''(?:'{0,2})"
    r'|"(?:[^"\\\n]++|\\.)*+"'
    r"|'[^'\n]*+'",
    re.DOTALL,
)
_ONE_LINE_STRING = re.compile(r'"(?:[^"\\\n]++|\\.)*+"' + r"|'[^'\n]*+'")
_SCALAR = re.compile(r"[^\s,\[\]{}#=\"']+(?: [0-9][^\s,\[\]{}#=\"']*)?")  # a date and its time may have a space between


@dataclass(slots=True)
class Scan:
    """What was found. Lines and columns are 1-based."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    last: int = 1  # where the last statement that was understood, or the one that was not, begins
    column: int = 1  # of that place in its line
    refused: str = ""  # why tomllib must not see the text; at that place


class _Stop(Exception):
    """Something that is no TOML, or (with a reason) too much of it."""


def scan(text: str) -> Scan:
    """Read `text`, whose lines end in "\\n" alone."""
    reader = _Reader(text)
    try:
        reader.document()
    except _Stop as stop:
        reader.found.refused = str(stop)
        if reader.found.refused:
            reader.mark()
    return reader.found


class _Reader:
    def __init__(self, text: str) -> None:
        self.found = Scan()
        self._text = text
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._last_index: dict[KeyPath, int] = {}  # of each array of tables
        self._keys = 0
        self._values = 0

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip(_GAP) < len(self._text):
            self.mark()
            table = self._header() if self._peek("[") else self._pair(table, 0)
            self._take(_REST)

    # Tokens

    def line(self) -> int:
        """The line that is being read."""
        return bisect_left(self._newlines, self._at) + 1

    def mark(self) -> None:
        """Note the place that is being read as the one to name."""
        self.found.last = self.line()
        self.found.column = self._at - self._text.rfind("\n", 0, self._at)

    def _peek(self, word: str) -> bool:
        return self._text.startswith(word, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise _Stop
        self._at = match.end()
        return match.group()

    def _word(self, word: str) -> None:
        if not self._peek(word):
            raise _Stop
        self._at += len(word)

    # Keys

    def _key(self) -> tuple[str, ...]:
        """A dotted key and the blanks behind it."""
        parts: list[str] = []
        while True:
            self._skip(_BLANK)
            parts.append(self._part())
            if len(parts) > MAX_DEPTH:
                raise _Stop(f"a key of more than {MAX_DEPTH} parts")
            self._skip(_BLANK)
            if not self._peek("."):
                return tuple(parts)
            self._word(".")

    def _part(self) -> str:
        if not self._peek('"') and not self._peek("'"):
            return self._take(_BARE_KEY)
        quoted = self._take(_ONE_LINE_STRING)
        if "\\" not in quoted or quoted[0] == "'":
            return quoted[1:-1]
        try:
            return str(tomllib.loads(f"k={quoted}")["k"])
        except tomllib.TOMLDecodeError:
            raise _Stop from None

    def _note(self, path: KeyPath, line: int) -> None:
        """Remember the first mention of `path` and of the tables around it."""
        self._keys += 1
        if self._keys > MAX_KEYS:
            raise _Stop(f"more than {MAX_KEYS} keys")
        for end in range(1, len(path) + 1):
            self.found.lines.setdefault(path[:end], line)

    def _resolve(self, parts: tuple[str, ...]) -> KeyPath:
        """The path of a header's parts: a name of an array of tables means its last table."""
        path: KeyPath = ()
        for part in parts:
            path = (*path, part)
            if path in self._last_index:
                path = (*path, self._last_index[path])
        return path

    def _header(self) -> KeyPath:
        line = self.line()
        brackets = "[[" if self._peek("[[") else "["
        self._word(brackets)
        parts = self._key()
        self._word("]" * len(brackets))
        if brackets == "[":
            path = self._resolve(parts)
        else:
            array = (*self._resolve(parts[:-1]), parts[-1])
            index = self._last_index[array] = self._last_index.get(array, -1) + 1
            path = (*array, index)
        self._note(path, line)
        return path

    # Values

    def _pair(self, table: KeyPath, depth: int) -> KeyPath:
        """`key = value` within `table`, which is given back."""
        self._skip(_BLANK)
        line = self.line()
        path = (*table, *self._key())
        self._note(path, line)
        self._word("=")
        self._skip(_BLANK)
        self._value(path, depth)
        return table

    def _value(self, path: KeyPath, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _Stop(f"arrays or inline tables more than {MAX_DEPTH} deep")
        if self._peek("["):
            self._array(path, depth)
        elif self._peek("{"):
            self._inline_table(path, depth)
        elif self._peek('"') or self._peek("'"):
            self._take(_STRING)
        elif len(self._take(_SCALAR)) > MAX_SCALAR:
            raise _Stop(f"a number of more than {MAX_SCALAR} characters")

    def _array(self, path: KeyPath, depth: int) -> None:
        self._word("[")
        for index in self._items("]"):
            self._values += 1
            if self._values > MAX_VALUES:
                raise _Stop(f"more than {MAX_VALUES} array elements")
            self.found.lines[(*path, index)] = self.line()
            self._value((*path, index), depth + 1)

    def _inline_table(self, path: KeyPath, depth: int) -> None:
        self._word("{")
        for _ in self._items("}"):
            self._pair(path, depth + 1)

    def _items(self, end: str) -> Iterator[int]:
        """Stop at each item of a list up to `end`; the caller reads it."""
        index = 0
        while self._skip(_GAP) < len(self._text) and not self._peek(end):
            yield index
            index += 1
            self._skip(_GAP)
            if not self._peek(","):
                break
            self._word(",")
        self._word(end)
