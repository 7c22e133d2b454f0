"""`rejected/` from the side of those who wait: which reasons speak of an id, and what they say of it.

A reason names the file, and each task in it as far as its id could be known. Nothing here writes.
"""

__all__ = ["Mark", "Reasons"]

import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: So many reasons are read for the ids in them, the newest; an older one is found by its name.
MAX_READ = 1000
#: The longest reason of captchad's own has 1001 bad tasks in it.
_MAX_BYTES = 4 << 20
#: A directory that changed so short a time ago may change again within the same tick of its clock.
_SETTLED_NS = 1_000_000_000
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: The names that a rejected ID.json can get: as it is, with a number, or with the digits of its drop.
_NAME = re.compile(r"(?P<id>.+)\.json(?:\.(?:\d{1,2}|[0-9a-f]{16}))?\.reason")


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells one reason from a later one of the same name."""

    name: str
    inode: int
    mtime_ns: int


class Reasons:
    """The reasons in one directory. Reads the directory again only when it has changed; threads may share it."""

    def __init__(self, rejected: Path) -> None:
        self._path = rejected
        self._seen_ns = -1
        self._by_id: dict[str, list[Mark]] = {}
        self._ids: dict[Mark, frozenset[str]] = {}

    def of(self, task_id: str) -> list[Mark]:
        """The reasons that speak of this id, oldest first. Raises OSError; no directory is no reason."""
        try:
            changed_ns = os.stat(self._path).st_mtime_ns
            if changed_ns != self._seen_ns:
                self._look()
                self._seen_ns = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else -1
        except FileNotFoundError:
            return []
        return self._by_id.get(task_id, [])

    def document(self, mark: Mark, task_id: str) -> dict[str, Any] | None:
        """What a reason says of one task; None when it is gone or speaks of others only. Raises OSError."""
        return self._read(mark).get(task_id)

    def _look(self) -> None:
        ids: dict[Mark, frozenset[str]] = {}
        newest_first = sorted(self._marks(), key=lambda mark: mark.mtime_ns, reverse=True)
        for number, mark in enumerate(newest_first):
            known = self._ids.get(mark)
            if known is None and number < MAX_READ:
                known = frozenset(self._read(mark))
            ids[mark] = known if known is not None else frozenset(filter(None, [_id_in_name(mark.name)]))
        by_id: dict[str, list[Mark]] = {}
        for mark in reversed(newest_first):
            for task_id in ids[mark]:
                by_id.setdefault(task_id, []).append(mark)
        self._ids, self._by_id = ids, by_id

    def _marks(self) -> Iterator[Mark]:
        with os.scandir(self._path) as entries:
            for entry in entries:
                if not entry.name.endswith(".reason") or entry.name.startswith("."):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # cleared away this moment
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield Mark(entry.name, status.st_ino, status.st_mtime_ns)

    def _read(self, mark: Mark) -> dict[str, dict[str, Any]]:
        """What a reason says, by id. Nothing when it is gone, or none of captchad's."""
        try:
            fd = os.open(self._path / mark.name, _READ)
        except (FileNotFoundError, PermissionError):  # captchad's own are readable for whoever may list them
            return {}
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor, opened without waiting for a writer
            data = file.read(_MAX_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return {}
        return _by_id(found, _id_in_name(mark.name)) if isinstance(found, dict) else {}


def _by_id(document: dict[str, Any], named: str) -> dict[str, dict[str, Any]]:
    """A reason taken apart: what it says of each task. Of a file that was not looked into it speaks by its name."""
    errors = document.get("errors")
    if isinstance(errors, list):
        said = [each for each in errors if isinstance(each, dict) and isinstance(each.get("id"), str)]
        return {each["id"]: {**each, "file": document.get("file")} for each in said}
    own, file = document.get("id"), document.get("file")
    if isinstance(own, str):
        return {own: document}
    if isinstance(file, str):
        named = file.removesuffix(".json") if file.endswith(".json") else ""
    return {named: document} if named else {}


def _id_in_name(name: str) -> str:
    found = _NAME.fullmatch(name)
    return found["id"] if found else ""
