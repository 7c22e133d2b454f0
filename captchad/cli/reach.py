"""Whether a unit can run this captchad where it lies: `captchactl install` refuses what would only fail at the start.

A service that cannot execute its program says no more than 203/EXEC. What is looked at here is the whole chain: the
programs, the Python in their first line and the one behind a virtual environment, its library, and the packages; then
it is tried.
"""

__all__ = ["HIDDEN", "Need", "User", "attempt", "changeable", "needs", "obstacles", "way"]

import errno
import os
import pwd
import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import captchad

#: What captchad.service does not see, and why.
HIDDEN = {
    Path("/home"): "ProtectHome=yes",
    Path("/root"): "ProtectHome=yes",
    Path("/run/user"): "ProtectHome=yes",
    Path("/tmp"): "PrivateTmp=yes",
    Path("/var/tmp"): "PrivateTmp=yes",
}
_LINKS = 40  # the kernel follows as many
_STRANGE = re.compile(r"""["'\\\x00-\x1f\x7f]""")
_READ, _EXECUTE = 4, 1
_NOBODY = 65534


class Need(NamedTuple):
    """A file or directory that the daemon must read, and perhaps execute."""

    path: Path
    execute: bool = False


class User(NamedTuple):
    """Whom file modes are read for. A user who is not there yet has no files and no groups."""

    name: str
    uid: int = -1
    gids: frozenset[int] = frozenset()

    @classmethod
    def named(cls, name: str) -> "User":
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            return cls(name)
        return cls(name, found.pw_uid, frozenset(os.getgrouplist(name, found.pw_gid)))

    def may(self, found: os.stat_result, bit: int) -> bool:
        """By the mode alone: whoever opens a path by other means sees it refused, not accepted."""
        if self.uid == 0:
            return True
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.gids else 0
        return bool(found.st_mode >> shift & bit)


def needs(programs: Iterable[Path]) -> list[Need]:
    """All that a start of these programs touches, with this Python."""
    programs = list(programs)
    pythons = [Path(sys.executable), *(line for path in programs if (line := _interpreter(path)) is not None)]
    directories = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    package = Path(captchad.__file__).parent
    return [
        *(Need(path, execute=True) for path in dict.fromkeys(programs + pythons)),
        *(Need(Path(path)) for path in sorted(directories)),
        Need(package),
        Need(package / "__init__.py"),
    ]


def _interpreter(program: Path) -> Path | None:
    """The program that the first line of a script names; None when there is none, or it cannot be read."""
    try:
        with program.open("rb") as file:
            first = file.readline(1000)
    except OSError:
        return None  # the program itself is one of the needs, which says so
    words = first[2:].split()
    return Path(os.fsdecode(words[0])) if first.startswith(b"#!") and words else None


def obstacles(needed: Iterable[Need], user: User, hidden: Mapping[Path, str]) -> list[str]:
    """Why a unit that runs as `user`, and for which `hidden` is not there, could not start; a line for each need."""
    # /home may be a link to /var/home: systemd hides what it leads to.
    hidden = {path.resolve(): why for path, why in hidden.items()} | dict(hidden)
    found = ((need, _obstacle(need, user, hidden)) for need in needed)
    return [f"{need.path}: {why}" for need, why in found if why]


def _obstacle(need: Need, user: User, hidden: Mapping[Path, str]) -> str:
    if need.execute and _STRANGE.search(str(need.path)):
        return "systemd takes no program with quotes, backslashes or control characters in its path"
    try:
        steps = list(way(need.path))
        for step in steps:
            if step in hidden:
                return f"the unit does not see {step} ({hidden[step]})"
            last = step == steps[-1]
            status = step.stat()
            bits = (_READ if last else 0) | (_EXECUTE if need.execute or stat.S_ISDIR(status.st_mode) else 0)
            if any(bits & bit and not user.may(status, bit) for bit in (_READ, _EXECUTE)):
                return f"closed to the user {user.name}: {step} has mode {stat.S_IMODE(status.st_mode):04o}"
        if need.execute and os.statvfs(need.path).f_flag & os.ST_NOEXEC:
            return "it lies on a file system that is mounted noexec"
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    return ""


def attempt(user: User | None) -> str:
    """Import what the daemon imports, as `user` (with None as who runs this); why that fails, "" when it does not.

    It finds what no list of paths has: a library that is closed, or missing. Only root can do it as another user.
    """
    as_user: dict[str, Any] = {}
    if user is not None:
        uid = user.uid if user.uid >= 0 else _NOBODY
        as_user = {"user": uid, "group": _NOBODY, "extra_groups": sorted(user.gids)}
    command = [sys.executable, "-P", "-B", "-c", "import captchad.daemon.main"]
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "check": False}
    try:
        done = subprocess.run(command, cwd="/", env={}, **options, **as_user)
    except OSError as error:
        return f"{error.filename or command[0]}: {error.strerror}"
    said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    return said[-1] if done.returncode else ""


def changeable(needed: Iterable[Need]) -> list[Path]:
    """What others than root can change of all that is on the way; not again what lies below such a directory."""
    found: list[Path] = []
    for step in dict.fromkeys(step for need in needed for step in way(need.path)):
        if not any(above in found for above in step.parents) and _changeable(step.stat()):
            found.append(step)
    return found


def _changeable(found: os.stat_result) -> bool:
    others = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid != 0 else 0)
    return found.st_uid != 0 or bool(found.st_mode & others and not found.st_mode & stat.S_ISVTX)


def way(path: Path) -> Iterator[Path]:
    """Each directory on the way to `path`, from the root on, then the file; through links as the kernel goes.

    Raises OSError for links without end.
    """
    at = Path("/")
    yield at
    rest = list(path.absolute().parts[1:])
    links = 0
    while rest:
        name = rest.pop(0)
        if name == "..":
            at = at.parent
            continue
        step = at / name
        if not step.is_symlink():
            at = step
            yield at
            continue
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        if target.is_absolute():
            at = Path("/")
        rest = [part for part in target.parts if part != "/"] + rest
