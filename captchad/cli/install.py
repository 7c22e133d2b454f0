"""captchactl install and uninstall: captchad for systemd out of a virtual environment, pipx's or one of your own.

Units, sysusers and tmpfiles go where systemd looks for them; man pages and completions go below a prefix. Installing
again changes nothing that is right already. The Debian package has all of this: there is nothing to do beside it.
"""

__all__ = ["install", "uninstall"]

import json
import os
import re
import subprocess
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import captchad
from captchad.cli.exits import Exit
from captchad.cli.places import DEFAULT_CONFIG, user_config
from captchad.cli.reach import HIDDEN, User, needs, obstacles
from captchad.model.errors import CaptchadError, NeedsOperator

_PROGRAMS = ("captchad", "captchactl")
_EXEC = re.compile(rf"^(Exec\w+=)({'|'.join(_PROGRAMS)}) ", re.MULTILINE)
_UNITS = ("captchad.service", "captchad-dlq-drain.service", "captchad-dlq-drain.timer")
_PACKAGE = Path("/var/lib/dpkg/info/captchad.list")
_MOVE = (
    "put captchad and its Python where every user may read them, outside of home and temporary directories: "
    "PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install --python /usr/bin/python3 captchad"
)
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

    def there(self) -> bool:
        return os.path.lexists(self.path)

    def same(self) -> bool:
        """Whether it is there, as it would be written."""
        if self.link is not None:
            return self.path.is_symlink() and self.path.resolve() == self.link.resolve()
        try:
            return not self.path.is_symlink() and self.path.read_text() == self.text
        except (FileNotFoundError, UnicodeDecodeError):
            return False

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


class _Steps:
    """Says each step, and takes it unless it is a rehearsal."""

    def __init__(self, options: Namespace) -> None:
        self.rehearsal = bool(options.dry_run)
        self._json = bool(options.json)

    def say(self, step: str, what: object, why: str = "") -> None:
        if self._json:
            print(json.dumps({"step": step, "what": str(what), "why": why}), flush=True)
        else:
            print(f"{step:<8}{what}{f' ({why})' if why else ''}", flush=True)

    def install(self, item: Item) -> None:
        if item.there() and item.theirs:
            self.say("keep", item.path, "it is yours")
        elif item.same():
            self.say("same", item.path)
        elif item.link is not None and item.there() and not item.path.is_symlink():
            self.say("keep", item.path, "it is another program")
        else:
            self.say("replace" if item.there() else "write", item.path)
            if not self.rehearsal:
                item.write()

    def remove(self, item: Item) -> None:
        if item.there() and item.theirs:
            self.say("keep", item.path, "it is yours")
        elif item.there() and not item.same():
            self.say("keep", item.path, "it is not as captchactl install writes it")
        elif item.there():
            self.say("remove", item.path)
            if not self.rehearsal:
                item.path.unlink()

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


def install(options: Namespace) -> int:
    """Lay out what systemd needs to run this captchad. Idempotent.

    Raises NeedsOperator, before anything is written, when the unit could not execute it.
    """
    where, steps = _where(options), _Steps(options)
    _demand_root(where, steps)
    if _is_packages():
        return _beside_the_package(where, steps)
    _refuse(where)
    if not where.user:
        os.umask(0o022)  # a unit or a man page that only root may read is none
    for item in _items(where):
        steps.install(item)
    if not where.user:
        steps.run("systemd-sysusers", "/etc/sysusers.d/captchad.conf")
        steps.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/captchad.conf")
    _reload(where, steps)
    return Exit.OK


def uninstall(options: Namespace) -> int:
    """Stop and disable the units, and remove what `install` wrote and nobody changed."""
    where, steps = _where(options), _Steps(options)
    _demand_root(where, steps)
    if _is_packages():
        steps.say("keep", "captchad", "it is a Debian package: apt remove captchad")
        return Exit.OK
    items = list(_items(where))
    written = {item.path for item in items if item.same()}
    units = [name for name in _UNITS if where.units / name in written]
    if units and _systemd_runs(where):
        steps.run(*_systemctl(where), "disable", "--now", *units)
    for item in items:
        steps.remove(item)
    _reload(where, steps)
    state = _user_state() if where.user else Path("/var/lib/captchad")
    for path in (where.config.parent, state, *([] if where.user else [Path("/var/spool/captchad")])):
        if path.is_dir():
            steps.say("keep", path, "configuration, queue and results are yours")
    if not where.user:
        steps.say("keep", "the user captchad, the groups captchad and captchad-submit", "so that no file changes hands")
    return Exit.OK


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
        steps.install(_user_config(where))
    return Exit.OK


def _refuse(where: Where) -> None:
    """Raise NeedsOperator when the unit could not start, or would stand in the way of the Debian package."""
    if not where.user and "/usr/bin/captchad" in _package_files():
        raise NeedsOperator(
            "the Debian package captchad is installed; units from here would hide its own",
            hint="use that one, or apt remove captchad",
        )
    user, hidden = (_myself(), {}) if where.user else (User.named("captchad"), HIDDEN)
    found = obstacles(needs(_scripts() / name for name in _PROGRAMS), user, hidden)
    if found:
        raise NeedsOperator("\n".join(["captchad.service could not run this captchad", *found]), hint=_MOVE)


def _myself() -> User:
    return User("who runs this", os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


def _scripts() -> Path:
    return Path(sysconfig.get_path("scripts"))


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
    # pipx makes links of its own.
    if where.prefix / "bin" != _scripts() and not Path(sys.prefix, "pipx_metadata.json").exists():
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
