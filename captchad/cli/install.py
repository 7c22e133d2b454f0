"""captchactl install and uninstall: captchad for systemd out of a virtual environment, pipx's or one of your own.

Units, sysusers and tmpfiles go where systemd looks for them; man pages and completions go below a prefix. What was
written is recorded beside the configuration, in `installed.json`: only what still is as it was written then is replaced
or removed, and anything else is somebody's. Installing again changes nothing that is right already. The Debian package
has all of this: there is nothing to do beside it.

A step that fails ends it; what was done till then is recorded, and the same command goes on from there.
"""

__all__ = ["install", "uninstall"]

import grp
import hashlib
import json
import os
import pwd
import re
import subprocess
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import captchad
from captchad.cli.exits import Exit
from captchad.cli.places import DEFAULT_CONFIG, user_config
from captchad.cli.reach import HIDDEN, User, attempt, changeable, needs, obstacles
from captchad.model.errors import CaptchadError, NeedsOperator

_PROGRAMS = ("captchad", "captchactl")
_EXEC = re.compile(rf"^(Exec\w+=)({'|'.join(_PROGRAMS)}) ", re.MULTILINE)
#: A program as `_escaped` writes it.
_EXECUTED = re.compile(r'^Exec\w+=(?:"(/[^"]+)"|(/\S+)) ', re.MULTILINE)
_UNITS = ("captchad.service", "captchad-dlq-drain.service", "captchad-dlq-drain.timer")
_PAGE = "/share/man/man1/captchactl.1"
_PACKAGE = Path("/var/lib/dpkg/info/captchad.list")
# From a clone: no package index has captchad, and whoever took its name there would be run as root.
_MOVE = (
    "put captchad and its Python where every user may read them, outside of home and temporary directories; "
    "in a clone: PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install --python /usr/bin/python3 ."
)
_MOVE_USER = "install captchad where you can read and execute it; in a clone: pipx install ."
_SOMEBODYS = "it is not as captchactl install wrote it"
_USER_INTRO = """\
# Configuration of captchad for this user. All keys: man captchad.toml.
#
# One key is missing on purpose. Say in conf.d/*.toml beside this file which hosts you are authorised to automate:
#
#     [policy]
#     allowed_hosts = ["example.com", "*.example.com"]

"""


class Where(NamedTuple):
    """Where things go: for the system, or for one user."""

    user: bool
    units: Path
    config: Path
    prefix: Path


class Item(NamedTuple):
    """A file, or with `link` a symbolic link. One that is `theirs` is the operator's once it is there."""

    path: Path
    text: str = ""
    link: Path | None = None
    theirs: bool = False

    @property
    def mark(self) -> str:
        """As `_mark` has it once this is written."""
        return f"link:{self.link}" if self.link is not None else _sha256(self.text.encode())

    def write(self) -> None:
        """Make it, by rename. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f".{self.path.name}.new")
        aside.unlink(missing_ok=True)
        if self.link is not None:
            aside.symlink_to(self.link)
        else:
            aside.write_text(self.text)
        aside.replace(self.path)


def _mark(path: Path) -> str:
    """What lies there, in a word; "" for nothing. Raises OSError."""
    if path.is_symlink():
        return f"link:{path.readlink()}"
    if path.is_file():
        return _sha256(path.read_bytes())
    return "other" if path.exists() else ""


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _Steps:
    """Says each step, and takes it unless it is a rehearsal."""

    def __init__(self, options: Namespace) -> None:
        self.rehearsal = bool(options.dry_run)
        self._json = bool(options.json)

    def say(self, step: str, what: object, why: str = "") -> None:
        text = f"{step:<8}{what}{f' ({why})' if why else ''}"
        try:
            print(json.dumps({"step": step, "what": str(what), "why": why}) if self._json else text, flush=True)
        except BrokenPipeError:  # `| head`: nobody listens any more, but half an installation is none
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def change(self, path: Path, change: Callable[[], None]) -> None:
        """Raises NeedsOperator, PermissionError."""
        if self.rehearsal:
            return
        try:
            change()
        except PermissionError:
            raise
        except OSError as error:
            raise NeedsOperator(f"{path}: {error.strerror}", hint="mend that, then the same command goes on") from None

    def remove(self, path: Path, mark: str) -> None:
        """A file that is as it was written."""
        found = _mark(path)
        if found == mark:
            self.say("remove", path)
            self.change(path, path.unlink)
        elif found:
            self.say("keep", path, _SOMEBODYS)

    def run(self, *command: str) -> None:
        """Run a program to its end. Raises CaptchadError."""
        self.say("run", " ".join(command))
        if self.rehearsal:
            return
        try:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        except FileNotFoundError:
            raise CaptchadError(f"{command[0]}: no such program", hint="captchad's units need systemd") from None
        except subprocess.CalledProcessError as error:
            raise CaptchadError(f"{' '.join(command)}: status {error.returncode}") from None


class _Record:
    """What `install` has written: the mark of each path."""

    def __init__(self, where: Where) -> None:
        self.path = where.config.with_name("installed.json")
        self.marks: dict[str, str] = {}
        try:
            match json.loads(self.path.read_text()):
                case {"schema": 1, "files": dict(files)}:
                    self.marks = {str(path): str(mark) for path, mark in files.items()}
                case _:
                    raise ValueError
        except FileNotFoundError:
            pass
        except ValueError:
            hint = "remove it; what lies about then counts as somebody's, unless it is as it would be written"
            raise NeedsOperator(f"{self.path}: no record of an installation", hint=hint) from None
        self._before = dict(self.marks)

    @property
    def prefix(self) -> Path | None:
        """Where man pages, completions and links went; None when that is not on record."""
        return next((Path(name).parents[3] for name in self.marks if name.endswith(_PAGE)), None)

    def plan(self, item: Item) -> tuple[str, str]:
        """The step that an item takes, and the reason when it is kept."""
        found = _mark(item.path)
        if not found:
            return "write", ""
        if item.theirs:
            return "keep", "it is yours"
        if found == item.mark:
            return "same", ""
        if found == self.marks.get(str(item.path)):
            return "replace", ""
        return "keep", f"{_SOMEBODYS}; without it, it would be written"

    def save(self, steps: _Steps) -> None:
        if self.marks != self._before:
            item = Item(self.path, json.dumps({"schema": 1, "files": self.marks}, indent=1) + "\n")
            steps.say("write", item.path)
            steps.change(item.path, item.write)


def install(options: Namespace) -> int:
    """Lay out what systemd needs to run this captchad. Idempotent.

    Raises NeedsOperator, before anything is written, when the unit could not execute it or a directory takes no files.
    """
    where, steps = _where(options), _Steps(options)
    _demand_root(where, steps)
    if _is_packages():
        return _beside_the_package(where, steps)
    _refuse(where, steps)
    if not where.user:
        os.umask(0o022)  # a unit or a man page that only root may read is none
    record = _Record(where)
    if options.prefix is None and record.prefix is not None:
        where = where._replace(prefix=record.prefix)
    _lay_out(list(_items(where)), record, steps)
    if not where.user:
        steps.run("systemd-sysusers", "/etc/sysusers.d/captchad.conf")
        steps.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/captchad.conf")
    _reload(where, steps)
    _say_next(where, steps)
    return Exit.OK


def _say_next(where: Where, steps: _Steps) -> None:
    """What brings it to run. A key that is there tells that somebody has set it up already."""
    if where.user:
        key = where.config.with_name("captchaai.key")
        start = f"{' '.join(_systemctl(where))} enable --now captchad"
        asked = (
            "" if key.exists() else f"the key into {key} (mode 0600), your hosts into {key.with_name('conf.d')}/, then "
        )
        steps.say("next", f"{asked}{start}")
        return
    credentials = where.config.with_name("credentials")
    stored = credentials.is_dir() and any(credentials.iterdir())
    why = "" if stored else "it asks for your hosts and the key, and starts the service"
    steps.say("next", "systemctl start captchad" if stored else "captchactl setup", why)


def _lay_out(items: Sequence[Item], record: _Record, steps: _Steps) -> None:
    planned = [(item, *record.plan(item)) for item in items]
    gone = sorted(record.marks.keys() - {str(item.path) for item in items})  # an earlier version's, or prefix's
    if not steps.rehearsal:
        _demand_writable(item.path for item, step, _ in planned if step in ("write", "replace"))
    try:
        for item, step, why in planned:
            steps.say(step, item.path, why)
            if step in ("write", "replace"):
                steps.change(item.path, item.write)
            # A link that is there already may be pipx's or uv's.
            if not item.theirs and (step in ("write", "replace") or (step == "same" and item.link is None)):
                record.marks[str(item.path)] = item.mark
        for name in gone:
            steps.remove(Path(name), record.marks.pop(name))
    finally:
        record.save(steps)


def _demand_writable(paths: Iterable[Path]) -> None:
    for directory in dict.fromkeys(path.parent for path in paths):
        there = next(each for each in (directory, *directory.parents) if each.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            why = "cannot be written to" if there.is_dir() else "is no directory"
            hint = "nothing was changed; --prefix DIR takes man pages, completions and links elsewhere"
            raise NeedsOperator(f"{there} {why}", hint=hint)


def uninstall(options: Namespace) -> int:
    """Stop and disable the units, and remove what `install` wrote and nobody changed."""
    where, steps = _where(options), _Steps(options)
    _demand_root(where, steps)
    if _is_packages():
        steps.say("keep", "captchad", "it is a Debian package: apt remove captchad")
        return Exit.OK
    record = _Record(where)
    if _runs_this(where, record):
        _disable(where, steps)
    for name, mark in record.marks.items():
        steps.remove(Path(name), mark)
    if record.path.exists():
        steps.say("remove", record.path)
        steps.change(record.path, record.path.unlink)
    for path in sorted(where.units.glob("captchad*.d/*")):
        steps.say("keep", path, "a drop-in, yours or captchactl setup's")
    _reload(where, steps)
    state = _user_state() if where.user else Path("/var/lib/captchad")
    for path in (where.config.parent, state, *([] if where.user else [Path("/var/spool/captchad")])):
        if path.is_dir():
            steps.say("keep", path, "configuration, queue and results are yours")
    if not where.user:
        for name in _accounts():
            steps.say("keep", name, "so that no file changes hands")
    return Exit.OK


def _accounts() -> Iterator[str]:
    """The users and groups of captchad's that there are."""
    for what, find, names in (
        ("user", pwd.getpwnam, ("captchad",)),
        ("group", grp.getgrnam, ("captchad", "captchad-submit")),
    ):
        for name in names:
            with suppress(KeyError):
                find(name)
                yield f"the {what} {name}"


def _runs_this(where: Where, record: _Record) -> bool:
    """Whether captchad.service is what `install` wrote, or was changed since and still runs this captchad."""
    unit = where.units / "captchad.service"
    found = _mark(unit)
    if not found.startswith("sha256:"):
        return False
    started = f"\nExecStart={_escaped(_scripts() / 'captchad')} "
    return found == record.marks.get(str(unit)) or started in unit.read_text(errors="replace")


def _disable(where: Where, steps: _Steps) -> None:
    """Stop the units, and remove the links by which systemd starts them: `disable` needs a manager that runs."""
    units = [name for name in _UNITS if (where.units / name).exists()]
    stoppable = [name for name in units if _systemd_runs(where) and _stoppable(where, name)]
    if stoppable:
        steps.run(*_systemctl(where), "stop", *stoppable)
    for path in sorted(where.units.glob("*.wants/*")):
        if path.name in units and path.is_symlink():
            steps.say("remove", path)
            steps.change(path, path.unlink)


def _stoppable(where: Where, unit: str) -> bool:
    """systemd refuses to stop what it could not load and what does not run."""
    command = [*_systemctl(where), "show", "--property", "LoadState,ActiveState", unit]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stdout
    states = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return states.get("LoadState") in ("loaded", "masked") or states.get("ActiveState") != "inactive"


def _where(options: Namespace) -> Where:
    if options.user:
        config, prefix = user_config(), options.prefix or Path.home() / ".local"
        return Where(True, config.parent.parent / "systemd" / "user", config, prefix.absolute())
    prefix = options.prefix or Path("/usr/local")
    return Where(False, Path("/etc/systemd/system"), DEFAULT_CONFIG, prefix.absolute())


def _demand_root(where: Where, steps: _Steps) -> None:
    if not where.user and not steps.rehearsal and os.geteuid() != 0:
        raise PermissionError(1, "only root may write there; see --user", str(where.units))


def _is_packages() -> bool:
    """Whether this very captchad is the Debian package's."""
    return str(Path(captchad.__file__)) in _package_files()


def _package_files() -> Sequence[str]:
    try:
        return _PACKAGE.read_text().splitlines()
    except FileNotFoundError:
        return ()


def _beside_the_package(where: Where, steps: _Steps) -> int:
    steps.say("keep", "captchad", "it is a Debian package, which has its units, man pages and completions")
    if where.user:  # what a package cannot have
        _lay_out([_user_config(where)], _Record(where), steps)
        return Exit.OK
    for path in (where.units / name for name in _UNITS):
        if gone := _gone(path):
            steps.say("warn", path, f"remove it: {gone} is not there, and it hides the package's unit")
    return Exit.OK


def _gone(unit: Path) -> str:
    """The program that a unit runs and that is not there: its installation was removed without `uninstall`. Or ""."""
    text = unit.read_text(errors="replace") if unit.is_file() else ""
    programs = ((quoted or plain).replace("%%", "%") for quoted, plain in _EXECUTED.findall(text))
    return next((program for program in programs if not Path(program).exists()), "")


def _refuse(where: Where, steps: _Steps) -> None:
    """Raise NeedsOperator when the unit could not start, or would stand in the way of the Debian package; warn when
    others than root can change what it runs, and of a configuration that a removed package has left.
    """
    owned = () if where.user else _package_files()
    if "/usr/bin/captchad" in owned:
        raise NeedsOperator(
            "the Debian package captchad is installed; units from here would hide its own",
            hint="use that one, or apt remove captchad",
        )
    user, hidden = (_myself(), {}) if where.user else (User.named("captchad"), HIDDEN)
    needed = needs(_scripts() / name for name in _PROGRAMS)
    found = obstacles(needed, user, hidden)
    if not found and (where.user or os.geteuid() == 0):
        why = attempt(None if where.user else user)
        found = [f"as the user {user.name}: {why}"] if why else []
    if found:
        hint = _MOVE_USER if where.user else _MOVE
        raise NeedsOperator("\n".join(["captchad.service could not run this captchad", *found]), hint=hint)
    for path in () if where.user else changeable(needed):
        steps.say("warn", path, "others than root can change what captchad runs")
    if str(where.config) in owned:
        steps.say("warn", where.config, "dpkg --purge captchad deletes it: copy it before, and put it back")


def _myself() -> User:
    return User("who runs this", os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


def _scripts() -> Path:
    """The directory of this installation's programs: where the one that runs lies, for pip's `--user` has one more."""
    own, usual = Path(sys.argv[0]).resolve().parent, Path(sysconfig.get_path("scripts"))
    if own != usual.resolve() and all((own / name).is_file() for name in _PROGRAMS):
        return own
    return usual


# --- what is written


def _items(where: Where) -> Iterator[Item]:
    files = _files()
    if where.user:
        yield Item(where.units / "captchad.service", _unit(files / "systemd" / "user" / "captchad.service"))
        yield _user_config(where)
    else:
        for name in (*_UNITS, "captchad-alert@.service"):
            yield Item(where.units / name, _unit(files / "systemd" / name))
        yield Item(Path("/etc/sysusers.d/captchad.conf"), (files / "systemd" / "captchad.sysusers").read_text())
        yield Item(Path("/etc/tmpfiles.d/captchad.conf"), (files / "systemd" / "captchad.tmpfiles").read_text())
        yield Item(where.config, (files / "etc" / "default.toml").read_text(), theirs=True)
    for path in sorted((files / "share").rglob("*")):
        if path.is_file():
            yield Item(where.prefix / path.relative_to(files), path.read_text())
    if where.prefix / "bin" != _scripts():
        for name in _PROGRAMS:
            yield Item(where.prefix / "bin" / name, link=_scripts() / name)


def _files() -> Path:
    """Where a wheel has them, or a development tree."""
    package = Path(captchad.__file__).parent
    return package / "files" if (package / "files").is_dir() else package.parent


def _unit(path: Path) -> str:
    """A unit with the programs of this installation, wherever else there are some."""
    return _EXEC.sub(lambda found: f"{found[1]}{_escaped(_scripts() / found[2])} ", path.read_text())


def _escaped(path: Path) -> str:
    """As systemd reads the program of a command line."""
    text = str(path).replace("%", "%%")
    return f'"{text}"' if re.search(r"[^\w/.%+-]", text) else text


def _user_config(where: Where) -> Item:
    import tomli_w

    state = _user_state()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    tables = {
        "daemon": {
            "state_dir": str(state),
            "spool_dir": str(state / "spool"),
            "runtime_dir": str(runtime / "captchad"),
        },
        "provider": [
            {
                "name": "captchaai",
                "url": "https://ocr.captchaai.com",
                "api_key_file": str(where.config.with_name("captchaai.key")),
            }
        ],
        "http": {"listen": ""},  # a port is the whole machine's
    }
    return Item(where.config, _USER_INTRO + tomli_w.dumps(tables), theirs=True)


def _user_state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "captchad"


# --- systemd


def _systemctl(where: Where) -> list[str]:
    return ["systemctl", "--user"] if where.user else ["systemctl"]


def _systemd_runs(where: Where) -> bool:
    if where.user:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        return runtime is not None and Path(runtime, "systemd", "private").exists()
    return Path("/run/systemd/system").is_dir()


def _reload(where: Where, steps: _Steps) -> None:
    command = [*_systemctl(where), "daemon-reload"]
    if _systemd_runs(where):
        steps.run(*command)
    else:
        steps.say("skip", " ".join(command), "systemd does not run here; it reads its units when it starts")
