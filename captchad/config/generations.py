"""Last known good: configurations that ran well, kept where a broken file cannot hide them, and the trial of a new one.

A generation is the merged effective configuration (no secrets) in `NNNNNN.toml`, under a header of comments that says
what it is and carries the checksum of the rest. A file is written aside, synced, renamed, and the directory synced:
when `provisional`, `promote`, `reject` or `forget_rejected` has returned, what it did is on disk; when it raises or the
process dies in it, what was there before is there still.

Reading never raises: a file that is torn, foreign, from another release or otherwise not valid is skipped.
"""

__all__ = [
    "Candidate",
    "Choice",
    "Decision",
    "Generation",
    "Generations",
    "Probation",
    "Verdict",
    "choose_at_start",
    "default_directory",
    "digest_of",
]

import hashlib
import json
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from captchad.config import credentials
from captchad.config.load import from_dict, parse, read_bounded, sha256_of, to_toml
from captchad.config.schema import Config
from captchad.model.clock import Clock, SystemClock, iso_utc
from captchad.model.errors import ConfigError, ConfigProblem, NeedsOperator, TryLater

#: Generations that are kept for `config history` and `config rollback`.
KEEP = 10

#: Of these at least so many that still validate, however old.
KEEP_GOOD = 2

#: Rejected configurations that are remembered.
KEEP_REJECTED = 20

#: Defaults written out make a generation larger than its file (1 MiB at most).
_MAX_BYTES = 4 << 20

_MAX_REASON = 500
_NAME = re.compile(r"(?P<number>[0-9]{6,9})\.toml")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEADER = re.compile(
    r"# captchad generation (?P<number>[0-9]{1,9})\n"
    r"# state: (?P<state>good|provisional)\n"
    r"# time: (?P<time>[0-9T:.Z-]{1,30})\n"
    r"# digest: (?P<digest>[0-9a-f]{64})\n"
    r"# sha256 of what follows: (?P<body>[0-9a-f]{64})\n"
)


@dataclass(frozen=True, slots=True)
class Generation:
    """One saved configuration."""

    number: int
    config: Config
    digest: str  # `digest_of` the config and the keys that it ran with
    good: bool  # false: provisional, it reached READY and is in its first probation
    time: str  # UTC, when it was saved


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

    # Reading

    def history(self) -> list[Generation]:
        """All that can be read and still validate, the newest first."""
        found = (self._read(number) for number in sorted(self._numbers(), reverse=True))
        return [each for each in found if each is not None]

    def last_good(self) -> Generation | None:
        """The newest promoted one that still validates, else the provisional one. A rejected one is neither."""
        usable = [each for each in self.history() if self.rejected(each.digest) is None]
        good = [each for each in usable if each.good]
        return next(iter(good or usable), None)

    def find(self, digest: str) -> Generation | None:
        """The newest generation of this digest."""
        return next((each for each in self.history() if each.digest == digest), None)

    def rejected(self, digest: str) -> str | None:
        """Why this configuration was rejected; None when it was not."""
        return self._rejections().get(digest)

    # Writing

    def provisional(self, config: Config, digest: str) -> Generation:
        """Save the very first configuration that reached READY. Where there is one to fall back to, it changes nothing
        and gives that. Raises TryLater when the disk does not take it.
        """
        return self.last_good() or self._save(self._next_number(), config, digest, good=False)

    def promote(self, config: Config, digest: str) -> Generation:
        """Save a configuration that ran well through its probation; the newest one is not saved twice.

        Its rejection, if there was one, is forgotten, and old generations go. Raises TryLater when the disk does not
        take it; then the same call again is right.
        """
        newest = next(iter(self.history()), None)
        if newest is None or newest.digest != digest:
            made = self._save(self._next_number(), config, digest, good=True)
        elif not newest.good:
            made = self._save(newest.number, config, digest, good=True)
        else:
            made = newest
        # Only now: if the process dies before this line there is one generation too many, never one too few.
        self.forget_rejected(digest)
        self._prune()
        return made

    def reject(self, digest: str, reason: str) -> None:
        """Remember that this configuration failed by itself. Raises TryLater when the disk does not take it."""
        known = self._rejections()
        known.pop(digest, None)
        known[digest] = " ".join(reason.split())[:_MAX_REASON]
        self._write_rejections(dict(list(known.items())[-KEEP_REJECTED:]))

    def forget_rejected(self, digest: str) -> None:
        """Let this configuration be tried again. Raises TryLater when the disk does not take it."""
        known = self._rejections()
        if known.pop(digest, None) is not None:
            self._write_rejections(known)

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
        return Generation(number, config, header["digest"], header["state"] == "good", header["time"])

    def _save(self, number: int, config: Config, digest: str, *, good: bool) -> Generation:
        made = Generation(number, config, digest, good, iso_utc(self._clock.time()))
        body = to_toml(config)
        header = (
            f"# captchad generation {number}\n"
            f"# state: {'good' if good else 'provisional'}\n"
            f"# time: {made.time}\n"
            f"# digest: {digest}\n"
            f"# sha256 of what follows: {hashlib.sha256(body.encode()).hexdigest()}\n"
        )
        _write_durably(self._path(number), header + body)
        return made

    def _rejections(self) -> dict[str, str]:
        try:
            known = json.loads(_read_text(self.directory / "rejected.json") or "{}")
        except (ValueError, RecursionError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {key: value for key, value in known.items() if _DIGEST.fullmatch(key) and isinstance(value, str)}

    def _write_rejections(self, known: Mapping[str, str]) -> None:
        _write_durably(self.directory / "rejected.json", json.dumps(known, indent=1) + "\n")

    def _prune(self) -> None:
        """Remove what is neither among the newest nor among the newest good ones."""
        numbers = sorted(self._numbers(), reverse=True)
        good = [each.number for each in self.history() if each.good]
        kept = {*numbers[:KEEP], *good[:KEEP_GOOD]}
        for number in numbers:
            if number not in kept:
                _remove(self._path(number))


def _read_text(path: Path) -> str:
    """The text of a file of ours; "" when there is none, or it is no regular file, a link, or not UTF-8.

    A larger one is cut, and then its checksum or its JSON is wrong.
    """
    try:
        contents = read_bounded(path, _MAX_BYTES, flags=os.O_NOFOLLOW)
        return contents.data.decode() if contents else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _write_durably(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all. On return file and directory entry are on disk."""
    try:
        _make_directory(path.parent)
        aside = path.with_name(f".{path.name}.tmp")
        aside.unlink(missing_ok=True)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        with os.fdopen(fd, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(fd)
        aside.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _try_later(path, error) from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _try_later(path, error) from error


def _try_later(path: Path, error: OSError) -> TryLater:
    return TryLater(f"the configuration's history cannot be written: {error.strerror}", hint=f"look at {path.parent}")


def _make_directory(directory: Path) -> None:
    """Make it and what is above it, each entry synced."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(mode=0o750, exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid configuration from `file`, and `digest_of` it and its keys."""

    config: Config
    digest: str
    file: str = "configuration"


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs, and why."""

    config: Config
    origin: Literal["file", "last_known_good"]
    generation: int  # 0: not saved yet
    problem: str | None  # why the file does not run, on one line
    proven: bool = True  # false: it has to go through probation


def choose_at_start(found: Candidate | ConfigError, generations: Generations) -> Choice:
    """The file if it is valid and not rejected, else the last good one. Raises ConfigError when there is none.

    Reads the generations and writes nothing.
    """
    if isinstance(found, Candidate):
        reason = generations.rejected(found.digest)
        if reason is None:
            known = generations.find(found.digest)
            return Choice(found.config, "file", known.number if known else 0, None, proven=bool(known and known.good))
        problem = f"this configuration was rejected: {reason}"
        error = ConfigError([ConfigProblem(found.file, 0, "config", problem, "change it, or reload to try it again")])
    else:
        error = found
        problem = _one_line(found)
    good = generations.last_good()
    if good is None:
        raise error
    return Choice(good.config, "last_known_good", good.number, problem, proven=good.good)


def _one_line(error: ConfigError) -> str:
    more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
    return f"{error.problems[0]}{more}"


class Verdict(StrEnum):
    """What becomes of a configuration on probation."""

    RUNNING = "running"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict; a rollback has a reason."""

    verdict: Verdict
    reason: str = ""


class Probation:
    """The trial of one new configuration. Pure: it is told what happened and when (monotonic seconds).

    It becomes good when it has run for `probation_s` without an outage of its providers and without a fault of its own.
    An outage stops the clock and is never held against it; a fault of its own counts at any time, also before the
    service is ready and during an outage. The first verdict other than "running" stands.
    """

    def __init__(self, probation_s: float) -> None:
        self._left_s = probation_s
        self._since: float | None = None  # when the clock was last read while it ran; None: it stands still
        self._started = False
        self._outage = False
        self._fault: str | None = None
        self._final: Decision | None = None

    @property
    def remaining_s(self) -> float:
        """Time without outages that it still has to run, as of the last event."""
        return self._left_s

    def started(self, now: float) -> None:
        """The configuration is applied and the service is ready."""
        self._started = True
        self._turn(now)

    def own_fault(self, reason: str) -> None:
        """A fault that only the configuration can explain. The first one is the reason of the rollback."""
        if self._fault is None:
            self._fault = reason

    def outage(self, now: float) -> None:
        """No provider can be reached, or none answers properly. Said again it changes nothing."""
        self._outage = True
        self._turn(now)

    def outage_over(self, now: float) -> None:
        """The outage has ended."""
        self._outage = False
        self._turn(now)

    def tick(self, now: float) -> Decision:
        """The verdict as of now."""
        self._turn(now)
        if self._final is None:
            if self._fault is not None:
                self._final = Decision(Verdict.ROLLBACK, self._fault)
            elif self._started and self._left_s <= 0:
                self._final = Decision(Verdict.PROMOTE)
        return self._final or Decision(Verdict.RUNNING)

    def _turn(self, now: float) -> None:
        """Account for the time since the last event, then let the clock run or stand."""
        if self._since is not None:
            self._left_s = max(0.0, self._left_s - (now - self._since))
        self._since = now if self._started and not self._outage else None
