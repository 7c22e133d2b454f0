"""Last known good: configurations that ran well, kept where a broken file cannot hide them, and the trial of a new one.

A generation is the merged effective configuration (no secrets) in `NNNNNN.toml`, under a header of comments that says
what it is and carries the checksum of the rest. A file is written aside, synced, renamed, and the directory synced:
when a call that writes has returned, what it did is on disk; when it raises or the process dies in it, what was there
before is there still. `rejected.json` names the configurations that failed, `trial.json` the one that is being tried.

Reading never raises: a file that is torn, foreign, from another release or otherwise not valid is skipped.
"""

__all__ = [
    "Generation",
    "Generations",
    "Rejection",
    "Standing",
    "Trial",
    "default_directory",
    "digest_of",
]

import hashlib
import json
import os
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

from captchad import __version__
from captchad.config import credentials, durable
from captchad.config.load import from_dict, parse, read_bounded, sha256_of, to_toml
from captchad.config.schema import Config
from captchad.model.clock import Clock, SystemClock, iso_utc
from captchad.model.errors import ConfigError, NeedsOperator, TryLater

#: Generations that are kept for `config history` and `config rollback`.
KEEP = 10

#: Of these at least so many that still validate, however old.
KEEP_GOOD = 2

#: Rejected configurations that are remembered.
KEEP_REJECTED = 20

#: Starts that an unproven configuration gets without having become ready, where there is another to fall back to.
MOST_STARTS = 2

REJECTED = "rejected.json"
TRIAL = "trial.json"

#: Defaults written out make a generation larger than its file (1 MiB at most).
_MAX_BYTES = 4 << 20

_Stamp: TypeAlias = tuple[int, int, int] | None

#: UTC seconds that can be written as a date.
_LATEST = 250_000_000_000.0

_MAX_REASON = 500
_NAME = re.compile(r"(?P<number>[0-9]{6,9})\.toml")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEADER = re.compile(
    r"# captchad generation (?P<number>[0-9]{1,9})\n"
    r"# state: (?P<state>good|provisional|tried)\n"
    r"# time: (?P<time>[0-9T:.Z-]{1,30})\n"
    r"# captchad: (?P<version>[0-9A-Za-z.+-]{1,40})\n"
    r"# digest: (?P<digest>[0-9a-f]{64})\n"
    r"# sha256 of what follows: (?P<body>[0-9a-f]{64})\n"
)


class Standing(StrEnum):
    """What is known of a saved configuration."""

    GOOD = "good"
    PROVISIONAL = "provisional"  # the very first one: it reached READY, and there is no other to fall back to
    TRIED = "tried"  # it ran, or was about to; nothing falls back to it


@dataclass(frozen=True, slots=True)
class Generation:
    """One saved configuration."""

    number: int
    config: Config
    digest: str  # `digest_of` the config and the keys that it ran with
    standing: Standing
    time: str  # UTC, when it was saved
    version: str  # of the captchad that saved it

    @property
    def good(self) -> bool:
        return self.standing is Standing.GOOD


@dataclass(frozen=True, slots=True)
class Rejection:
    """A configuration that failed by itself, or that an operator has put aside."""

    digest: str
    reason: str
    time: str  # UTC


@dataclass(frozen=True, slots=True)
class Trial:
    """What has to be known of an unproven configuration after a power cut."""

    digest: str
    starts: int = 0  # begun in a row, and none became ready
    confirm_by: float | None = None  # UTC seconds; rolled back then unless an operator confirms it
    confirm_within_s: float = 0.0


def digest_of(config: Config, keys: Mapping[str, str]) -> str:
    """SHA-256 over the effective configuration and the digest of its keys: the name of a configuration as it ran."""
    return hashlib.sha256(f"{sha256_of(config)}\n{credentials.digest(keys)}\n".encode()).hexdigest()


def default_directory(config_path: Path, environ: Mapping[str, str]) -> Path:
    """Where the generations of this config file live: in the service's state directory, else in the user's."""
    absolute = os.path.abspath(config_path)  # not resolve(): a link keeps its own history
    slug = re.sub(r"[^A-Za-z0-9]+", "-", absolute).strip("-")[-40:].strip("-")
    key = f"{slug or 'root'}-{hashlib.sha256(os.fsencode(absolute)).hexdigest()[:12]}"
    return _state_home(environ) / "config" / key


def _state_home(environ: Mapping[str, str]) -> Path:
    ours = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if ours:
        return Path(ours)
    xdg = environ.get("XDG_STATE_HOME", "")
    if xdg.startswith("/"):  # the XDG standard says to ignore a relative one
        return Path(xdg) / "captchad"
    return _home(environ) / ".local" / "state" / "captchad"


def _home(environ: Mapping[str, str]) -> Path:
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise NeedsOperator("this user has no home directory", hint="set STATE_DIRECTORY or XDG_STATE_HOME") from None


class Generations:
    """The saved generations of one config file. One process writes at a time."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.directory = directory
        self._clock = clock or SystemClock()
        # A large one takes seconds to read, and none changes once it is there. The stamp tells who puts another there.
        self._known: dict[int, tuple[_Stamp, Generation | None]] = {}

    # Reading

    def history(self) -> list[Generation]:
        """All that can be read and still validate, the newest first."""
        found = (self._read(number) for number in sorted(self._numbers(), reverse=True))
        return [each for each in found if each is not None]

    def newest(self) -> Generation | None:
        """The one that was saved last, whatever its standing: what ran last, as far as it was saved."""
        return next(iter(self.history()), None)

    def fall_backs(self) -> list[Generation]:
        """Those to fall back to, the best first: good ones, then the provisional one. A rejected one is none."""
        rejected = {each.digest for each in self.rejections()}
        usable = [each for each in self.history() if each.digest not in rejected]
        order = (Standing.GOOD, Standing.PROVISIONAL)
        return [each for standing in order for each in usable if each.standing is standing]

    def last_good(self) -> Generation | None:
        """The first one of `fall_backs`."""
        return next(iter(self.fall_backs()), None)

    def find(self, digest: str) -> Generation | None:
        """The newest generation of this digest."""
        return next((each for each in self.history() if each.digest == digest), None)

    def get(self, number: int) -> Generation | None:
        """The generation of this number, if it can be read and still validates."""
        return self._read(number)

    def rejected(self, digest: str) -> str | None:
        """Why what the file says was rejected; None when it was not."""
        return next((each.reason for each in self.rejections() if each.digest == digest), None)

    def rejections(self) -> list[Rejection]:
        """Those that are remembered, the newest last."""
        known = self._object(REJECTED)
        found = [Rejection(digest, *_reason_and_time(value)) for digest, value in known.items()]
        return [each for each in found if _DIGEST.fullmatch(each.digest) and each.reason]

    def trial(self) -> Trial | None:
        """What is being tried, as far as it was said."""
        match self._object(TRIAL):
            case {"digest": str(digest), "starts": int(starts), "confirm_by": by, "confirm_within_s": within}:
                if by is None:
                    return Trial(digest, starts)
                if isinstance(by, float) and isinstance(within, float) and 0 <= by < _LATEST and within >= 0:
                    return Trial(digest, starts, by, within)
        return None

    # Writing

    def provisional(self, config: Config, digest: str) -> Generation:
        """Save the very first configuration that reached READY. Where there is one to fall back to, it changes nothing
        and gives that. Raises TryLater when the disk does not take it.
        """
        return self.last_good() or self._save_newest(config, digest, Standing.PROVISIONAL)

    def tried(self, config: Config, digest: str) -> Generation:
        """Save a configuration that begins to run, so that its providers and directories are known whatever comes.

        Raises TryLater when the disk does not take it.
        """
        newest = self.newest()
        made = newest if newest and newest.digest == digest else self._save_newest(config, digest, Standing.TRIED)
        self._prune()
        return made

    def promote(self, config: Config, digest: str) -> Generation:
        """Save a configuration that ran well through its probation; the newest one is not saved twice.

        Its rejection, if there was one, is forgotten, and old generations go. Raises TryLater when the disk does not
        take it; then the same call again is right.
        """
        newest = self.newest()
        if newest is not None and newest.digest == digest and newest.good:
            made = newest
        else:
            made = self._save_newest(config, digest, Standing.GOOD)
        # Only now: if the process dies before this line there is one generation too many, never one too few.
        self.forget_rejected(digest)
        self._prune()
        return made

    def reject(self, digest: str, reason: str) -> None:
        """Remember that this configuration failed by itself. Raises TryLater when the disk does not take it."""
        known = [each for each in self.rejections() if each.digest != digest]
        new = Rejection(digest, " ".join(reason.split())[:_MAX_REASON], iso_utc(self._clock.time()))
        self._write_rejections([*known, new][-KEEP_REJECTED:])

    def forget_rejected(self, digest: str) -> None:
        """Let this configuration be tried again. Raises TryLater when the disk does not take it."""
        known = self.rejections()
        rest = [each for each in known if each.digest != digest]
        if len(rest) < len(known):
            self._write_rejections(rest)

    def begin_trial(self, trial: Trial) -> None:
        """Remember `trial` in place of the one before. Raises TryLater when the disk does not take it."""
        if trial != self.trial():
            self._write(self.directory / TRIAL, json.dumps(asdict(trial), indent=1) + "\n")

    def end_trial(self) -> None:
        """Nothing is tried any more. Raises TryLater when the disk does not take it."""
        self._remove(self.directory / TRIAL)

    # Files

    def _numbers(self) -> set[int]:
        try:
            names = set(os.listdir(self.directory))
        except OSError:
            return set()  # not made yet, or not ours to read: either way nothing can be had from it
        numbers = {int(match["number"]) for name in names if (match := _NAME.fullmatch(name))}
        return {number for number in numbers if self._path(number).name in names}

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:06d}.toml"

    def _next_number(self) -> int:
        """Beyond every generation, and no file's number: a damaged file is not written over."""
        taken = self._numbers()
        number = max((each.number for each in self.history()), default=0) + 1
        while number in taken:
            number += 1
        return number

    def _read(self, number: int) -> Generation | None:
        stamp = _stamp(self._path(number))
        if number not in self._known or self._known[number][0] != stamp:
            self._known[number] = stamp, self._parse(number)
        return self._known[number][1]

    def _parse(self, number: int) -> Generation | None:
        text = _read_text(self._path(number))
        header = _HEADER.match(text)
        if header is None or int(header["number"]) != number:
            return None
        body = text[header.end() :]
        if hashlib.sha256(body.encode()).hexdigest() != header["body"]:
            return None
        try:
            tree, _ = parse(body, "generation")
            config = from_dict(tree)
        except ConfigError:
            return None
        standing = Standing(header["state"])
        return Generation(number, config, header["digest"], standing, header["time"], header["version"])

    def _save_newest(self, config: Config, digest: str, standing: Standing) -> Generation:
        """Under a new number, unless it is the newest one already: then it gets another standing."""
        newest = self.newest()
        same = newest is not None and newest.digest == digest
        return self._save(newest.number if newest and same else self._next_number(), config, digest, standing)

    def _save(self, number: int, config: Config, digest: str, standing: Standing) -> Generation:
        made = Generation(number, config, digest, standing, iso_utc(self._clock.time()), __version__)
        body = to_toml(config)
        header = (
            f"# captchad generation {number}\n"
            f"# state: {standing}\n"
            f"# time: {made.time}\n"
            f"# captchad: {made.version}\n"
            f"# digest: {digest}\n"
            f"# sha256 of what follows: {hashlib.sha256(body.encode()).hexdigest()}\n"
        )
        self._write(self._path(number), header + body)
        self._known[number] = _stamp(self._path(number)), made
        return made

    def _object(self, name: str) -> dict[str, Any]:
        """What a file of JSON holds; nothing when it cannot be read."""
        try:
            known = json.loads(_read_text(self.directory / name) or "{}")
        except (ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}

    def _write_rejections(self, known: Sequence[Rejection]) -> None:
        entries = {each.digest: {"reason": each.reason, "time": each.time} for each in known}
        self._write(self.directory / REJECTED, json.dumps(entries, indent=1) + "\n")

    def _prune(self) -> None:
        """Remove what is neither among the newest, nor among the newest good ones, nor fallen back to."""
        numbers = sorted(self._numbers(), reverse=True)
        good = [each.number for each in self.history() if each.good]
        fall_backs = [each.number for each in self.fall_backs()]
        kept = {*numbers[:KEEP], *good[:KEEP_GOOD], *fall_backs[:KEEP_GOOD]}
        for number in numbers:
            if number not in kept:
                self._remove(self._path(number))

    def _write(self, path: Path, text: str) -> None:
        _change(lambda: durable.write(path, text.encode()), path)

    def _remove(self, path: Path) -> None:
        _change(lambda: durable.remove(path), path)


def _reason_and_time(value: Any) -> tuple[str, str]:
    """Two empty ones when `value` is no entry of the list of rejections."""
    match value:
        case {"reason": str(reason), "time": str(time)}:
            return reason, time
    return "", ""


def _read_text(path: Path) -> str:
    """The text of a file of ours; "" when there is none, or it is no regular file, a link, or not UTF-8.

    A larger one is cut, and then its checksum or its JSON is wrong.
    """
    try:
        contents = read_bounded(path, _MAX_BYTES, flags=os.O_NOFOLLOW)
        return contents.data.decode() if contents else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _stamp(path: Path) -> _Stamp:
    """What changes with a file; None when there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _change(change: Callable[[], None], path: Path) -> None:
    """Carry out a durable change. Raises TryLater in place of OSError."""
    try:
        change()
    except OSError as error:
        message = f"the configuration's history cannot be written: {error.strerror}"
        raise TryLater(message, hint=f"look at {path.parent}") from error
