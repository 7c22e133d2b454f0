"""Reads the configuration: the main file, then `conf.d/*.toml` beside it, merged, checked, with a line for every fault.

Drop-ins are merged in the order of their names: tables merge, arrays replace (so `[[provider]]` in a drop-in replaces
all providers of the files before it). Only what is left after the merge is checked. Files are UTF-8 and at most 1 MiB.
The program changes nothing on disk here.
"""

__all__ = [
    "MAX_BYTES",
    "Contents",
    "Loaded",
    "Places",
    "from_dict",
    "load",
    "merged",
    "parse",
    "read_bounded",
    "sha256_of",
    "to_toml",
]

import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from captchad.config.build import KeyPath, build
from captchad.config.scanner import scan
from captchad.config.schema import Config, to_dict
from captchad.model.errors import ConfigError, ConfigProblem

MAX_BYTES = 1 << 20

_AT = re.compile(r"^(?P<what>.*?) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$", re.DOTALL)
_BARE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN_KEY = 64


@dataclass(slots=True)
class Places:
    """File and line of a value of a merged tree, and of what is inside it. The root stands for the main file."""

    file: str
    line: int = 0
    inside: dict[str | int, "Places"] = field(default_factory=dict)

    def at(self, path: KeyPath) -> tuple[str, int]:
        """File and line of `path`, or of the nearest table around it; line 0 of the main file when there is none."""
        here = self
        for part in path:
            if part not in here.inside:
                break
            here = here.inside[part]
        return here.file, here.line

    def find(self, path: KeyPath) -> tuple[str, int] | None:
        """File and line of exactly `path`; None when no file has it."""
        here = self
        for part in path:
            if part not in here.inside:
                return None
            here = here.inside[part]
        return here.file, here.line

    def problem(self, path: KeyPath, message: str, hint: str = "") -> ConfigProblem:
        """The problem at `path`, with its file and line."""
        file, line = self.at(path)
        return ConfigProblem(file, line, _show_key(path), message, hint)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration and where it came from."""

    config: Config
    path: Path
    files: tuple[Path, ...]  # all that were read, the main file first
    sha256: str  # of the merged effective config; credentials are not in it
    places: Places


def load(path: Path) -> Loaded:
    """Read, merge and check. Raises ConfigError with every problem of every file."""
    tree, places, files, problems = _read_all(path)
    config, faults = build(tree, whole=not problems)
    problems += [places.problem(fault.path, fault.message, fault.hint) for fault in faults]
    if config is None or problems:
        raise ConfigError(_in_order(problems, files))
    return Loaded(config, path, files, sha256_of(config), places)


def merged(path: Path) -> dict[str, Any]:
    """The merged tables as they are written, without defaults and unchecked. Raises ConfigError when a file cannot be
    read or is no TOML.
    """
    tree, _, _, problems = _read_all(path)
    if problems:
        raise ConfigError(problems)
    return tree


def _read_all(path: Path) -> tuple[dict[str, Any], Places, tuple[Path, ...], list[ConfigProblem]]:
    """What could be read, merged; where it stands; the files; and what is wrong with those that could not be read."""
    problems: list[ConfigProblem] = []
    tree: dict[str, Any] = {}
    places = Places(_show_file(path))
    files = (path, *_drop_ins(path, problems))
    for file in files:
        try:
            _add(file, tree, places)
        except ConfigError as error:
            problems += error.problems
    return tree, places, files, problems


def from_dict(tree: Mapping[str, Any], *, file: str = "configuration") -> Config:
    """Check a tree that has no lines (a saved generation). Raises ConfigError whose problems name `file`, line 0."""
    config, faults = build(tree)
    if config is None:
        places = Places(file)
        raise ConfigError([places.problem(fault.path, fault.message, fault.hint) for fault in faults])
    return config


def to_toml(config: Config) -> str:
    """The merged effective config, defaults written out. Reading it gives an equal `Config`."""
    return tomli_w.dumps(to_dict(config))


def sha256_of(config: Config) -> str:
    """Digest of the effective values that are no defaults; how the files spell them makes no difference.

    A release that adds a key changes no digest: what was good, rejected or to be confirmed before the upgrade still is.
    """
    stated = to_dict(config, defaults=False)
    canonical = json.dumps(
        {table: keys for table, keys in stated.items() if keys}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def parse(text: str, file: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The tree of a TOML text, and the line of each key. Raises ConfigError that names `file`."""
    text = text.replace("\r\n", "\n")
    found = scan(text)
    if found.refused:
        message = f"{found.refused}, column {found.column}"
        raise _broken(file, found.last, message, "a configuration is smaller than that")
    try:
        return tomllib.loads(text), found.lines
    except tomllib.TOMLDecodeError as error:
        what, line, column = _place_of(str(error))
        # A fault "at end of document" is of the statement that has no end.
        place = f", column {column}" if line else f", in what begins at column {found.column}"
        hint = "remove the byte order mark" if text.startswith("\ufeff") else ""
        raise _broken(file, line or found.last, f"no TOML: {_plain(what)}{place}", hint) from None


def _place_of(message: str) -> tuple[str, int, int]:
    """What tomllib says, without the place; line and column, 0 and 0 for the end of the text."""
    match = _AT.match(message)
    if match is None:
        return message, 0, 0
    return match["what"], int(match["line"] or 0), int(match["column"] or 0)


def _unread(file: str, message: str) -> ConfigError:
    return ConfigError([ConfigProblem(file, 0, "file", message)])


def _broken(file: str, line: int, message: str, hint: str) -> ConfigError:
    return ConfigError([ConfigProblem(file, line, "syntax", message, hint)])


def _drop_ins(path: Path, problems: list[ConfigProblem]) -> list[Path]:
    directory = path.parent / "conf.d"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        problems += _unread(_show_file(directory), f"cannot be listed: {error.strerror}").problems
        return []
    chosen = [name for name in names if name.endswith(".toml") and not name.startswith(".")]
    return [directory / name for name in sorted(chosen, key=os.fsencode)]


def _add(file: Path, tree: dict[str, Any], places: Places) -> None:
    """Merge one file into `tree`. Raises ConfigError when it cannot be read or is no TOML; nothing is merged then."""
    shown = _show_file(file)
    added, lines = parse(_read(file, shown), shown)
    _merge(tree, added, places, _places_of(added, (), shown, lines))


def _read(file: Path, shown: str) -> str:
    try:
        contents = read_bounded(file, MAX_BYTES)
    except OSError as error:
        raise _unread(shown, f"cannot be read: {error.strerror}") from None
    if contents is None:
        raise _unread(shown, "is no regular file")
    data = contents.data
    if contents.mode & stat.S_IWOTH:
        raise _unread(shown, "may be written by every user of this machine")
    if len(data) > MAX_BYTES:
        raise _unread(shown, f"is larger than {MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        before = data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode()
        message = f"not UTF-8: byte 0x{data[error.start]:02x}, column {len(before) + 1}"
        raise _broken(shown, line, message, "save the file as UTF-8") from None


@dataclass(frozen=True, slots=True)
class Contents:
    """What was in a file, and its mode bits."""

    data: bytes = field(repr=False)  # it may be a key
    mode: int


def read_bounded(file: Path, limit: int, *, flags: int = 0) -> Contents | None:
    """At most `limit` + 1 bytes of a regular file; None when it is something else. Never waits for a pipe or terminal.

    Raises OSError.
    """
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | flags)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            return None
        with open(fd, "rb", closefd=False) as stream:
            return Contents(stream.read(limit + 1), mode)
    finally:
        os.close(fd)


def _places_of(value: object, path: KeyPath, file: str, lines: Mapping[KeyPath, int], around: int = 0) -> Places:
    """The places of one file's tree; what the scan did not see has the line of the table around it."""
    line = lines.get(path, around)
    items: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return Places(file, line, {part: _places_of(item, (*path, part), file, lines, line) for part, item in items})


def _merge(base: dict[str, Any], over: Mapping[str, Any], places: Places, over_places: Places) -> None:
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value, places.inside[name], over_places.inside[name])
        else:
            base[name] = value
            places.inside[name] = over_places.inside[name]


def _in_order(problems: list[ConfigProblem], files: tuple[Path, ...]) -> list[ConfigProblem]:
    """In the order of the files and their lines; what is in none of them (the directory) last."""
    rank = {_show_file(file): index for index, file in enumerate(files)}
    return sorted(problems, key=lambda problem: (rank.get(problem.file, len(files)), problem.line))


def _show_key(path: KeyPath) -> str:
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += ("." if out else "") + (part if _BARE.fullmatch(part) else json.dumps(part[:_SHOWN_KEY]))
    return out


def _show_file(path: Path) -> str:
    """A path on one line, in characters that every stream takes."""
    return _plain(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
