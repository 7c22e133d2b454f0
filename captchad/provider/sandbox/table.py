"""Reading TOML tables strictly: each key has a type and a range, an unknown key names the nearest known one."""

__all__ = ["Table", "Value"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

from captchad.model.errors import ConfigProblem
from captchad.model.words import did_you_mean

#: What tomllib yields.
Value = Any


class Table:
    """One table of a scenario. Faults are gathered in `problems`, the default then stands in for the value."""

    def __init__(self, values: Mapping[str, Value], path: str, file: str, problems: list[ConfigProblem]) -> None:
        self._values = values
        self._path = path
        self._file = file
        self._problems = problems
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self._known.add(key)
        return key in self._values

    def names(self) -> list[str]:
        """All keys, whatever they are; none of them is unknown after this."""
        self._known.update(self._values)
        return list(self._values)

    def fault(self, key: str, message: str, hint: str = "") -> None:
        """Record that a key is wrong."""
        where = f"{self._path}.{key}" if self._path and key else self._path or key
        self._problems.append(ConfigProblem(self._file, 0, where, message, hint))

    def raw(self, key: str) -> Value:
        """The value as it stands, or None."""
        return self._values[key] if key in self else None

    def number(self, key: str, default: float, low: float = 0.0, high: float = math.inf) -> float:
        """A float or integer from `low` to `high`."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fault(key, f"not a number from {low:g} to {high:g}")
            return default
        return float(value)

    def integer(self, key: str, default: int, low: int = 0) -> int:
        """An integer not below `low`."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            self.fault(key, f"not an integer from {low}")
            return default
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fault(key, "neither true nor false")
            return default
        return value

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fault(key, "not a string")
            return default
        return value

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        """One of some words."""
        value = self.text(key, default)
        if value not in choices:
            self.fault(key, f"not one of {', '.join(choices)}", did_you_mean(value, choices))
            return default
        return value

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """An array of strings."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fault(key, "not an array of strings")
            return default
        return tuple(value)

    def table(self, key: str) -> "Table":
        """A table below this one; empty if it is missing."""
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            self.fault(key, "not a table")
            value = None
        return Table(value or {}, f"{self._path}.{key}" if self._path else key, self._file, self._problems)

    def tables(self, key: str) -> list["Table"]:
        """An array of tables below this one; empty if it is missing."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fault(key, f"not an array of tables; write [[{key}]]")
            return []
        return [Table(item, f"{key}[{index}]", self._file, self._problems) for index, item in enumerate(value)]

    def finish(self) -> None:
        """Record each key that nobody has asked for."""
        for key in self._values:
            if key not in self._known:
                self.fault(key, "unknown key", did_you_mean(key, sorted(self._known)))
