"""Where the daemon's files are, read from its configuration without trusting it to be whole.

`captchactl` must work with a broken configuration: what can still be read counts, the defaults fill the rest. No limit
that costs money is among them.
"""

__all__ = ["DEFAULT_CONFIG", "PERMISSION_HINT", "Places", "become_owner", "find", "start_hint", "user_config"]

import json
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

from captchad.model.errors import FixInput, NeedsOperator

DEFAULT_CONFIG = Path("/etc/captchad/captchad.toml")

#: What `captchactl setup` writes beside it.
SETUP_FILE = DEFAULT_CONFIG.parent / "conf.d" / "10-setup.toml"

#: For what the daemon's group may read and ask.
PERMISSION_HINT = "run it as root, or as a member of the group captchad"

_DIRECTORIES = {
    "runtime_dir": "/run/captchad",
    "state_dir": "/var/lib/captchad",
    "spool_dir": "/var/spool/captchad",
}
_SEGMENT_MB = 64

#: A line of a file that is no TOML any more: enough to find the daemon that still runs on the last good one.
_LINE = re.compile(r'^\s*(runtime_dir|state_dir|spool_dir)\s*=\s*"([^"\\\n]+)"', re.MULTILINE)


#: New files are for the daemon's user and its group alone.
_UMASK = 0o027


class Places(NamedTuple):
    """What captchactl needs of the configuration. `allowed_hosts` is None when the file does not say."""

    socket: Path
    state_dir: Path
    spool_dir: Path
    segment_mb: int
    allow_weak_fs: bool
    allowed_hosts: tuple[str, ...] | None


def find(config: Path | None, socket: Path | None) -> Places:
    """The places of the daemon with this configuration file or, over it, this socket.

    Raises FixInput when `config` is given and not there, or no file is, PermissionError when it may not be read.
    """
    tables = _read(config)
    daemon, queue, policy = (_table(tables, name) for name in ("daemon", "queue", "policy"))
    directories = {name: Path(_text(daemon.get(name)) or default) for name, default in _DIRECTORIES.items()}
    hosts = policy.get("allowed_hosts")
    return Places(
        socket=socket or directories["runtime_dir"] / "control.sock",
        state_dir=directories["state_dir"],
        spool_dir=directories["spool_dir"],
        segment_mb=_whole(queue.get("segment_mb"), _SEGMENT_MB),
        allow_weak_fs=daemon.get("allow_weak_fs") is True,
        allowed_hosts=tuple(map(str, hosts)) if isinstance(hosts, list) else None,
    )


def user_config() -> Path:
    """The configuration of a daemon that a user runs with `systemctl --user`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "captchad" / "captchad.toml"


def _state_home(config: Path, state_dir: Path) -> str:
    """What has to stand before the command so that a daemon by hand finds the generations that the last one had."""
    from captchad.config.generations import default_directory

    try:
        told = json.loads((state_dir / "status.json").read_text())["daemon"]["config"]["directory"]
        parents = Path(told).parents
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""
    if Path(told) == default_directory(config, os.environ) or len(parents) < 3 or parents[1].name != "captchad":
        return ""
    return f"XDG_STATE_HOME={parents[2]} "


def start_hint(options: Namespace) -> str:
    """What starts the daemon that the command line means and that does not run; "" when that is not known."""
    if options.user:
        return "systemctl --user start captchad starts it"
    if options.config not in (None, DEFAULT_CONFIG):
        home = _state_home(options.config, find(options.config, options.socket).state_dir)
        return f"{home}captchad run --config {options.config} starts it"
    if options.socket is not None:
        return ""
    if not os.path.exists(DEFAULT_CONFIG):  # not Path.exists: that raises where a directory is closed
        return "one that does not run as a service has a configuration of its own: --config FILE"
    if not os.path.exists(SETUP_FILE):
        return "captchactl setup starts it for the first time, later systemctl start captchad does"
    return "systemctl start captchad starts it"


def become_owner(state_dir: Path) -> None:
    """Go on as the owner of the state directory: what is written belongs to the daemon's user, and root follows nobody.

    Raises PermissionError when this user is neither that nor root, NeedsOperator when there is no state directory.
    """
    try:
        found = state_dir.stat()
    except FileNotFoundError:
        hint = "name the daemon's configuration with --config FILE"
        raise NeedsOperator(f"there is no journal in {state_dir}", hint=hint) from None
    os.umask(_UMASK)
    if os.geteuid() == found.st_uid:
        return
    if os.geteuid() != 0:
        raise PermissionError(1, f"only root and its owner (uid {found.st_uid}) may write there", str(state_dir))
    os.setgroups([])
    os.setgid(found.st_gid)
    os.setuid(found.st_uid)


def _read(config: Path | None) -> dict[str, Any]:
    """The merged tables of the file and its drop-ins, as far as they can be read."""
    main = config or DEFAULT_CONFIG
    try:
        tables = _parse(main)
        drop_ins = sorted((main.parent / "conf.d").glob("*.toml"))
        for path in drop_ins:
            tables = _merge(tables, _parse(path))
    except FileNotFoundError:
        if config is None:
            return {}
        raise FixInput(f"{config}: no such file") from None
    except PermissionError:
        if config is None:
            return {}  # an operator without the right to read the file may still have the right to use the socket
        raise
    except OSError as error:
        raise FixInput(f"{error.filename}: {(error.strerror or 'unreadable').lower()}") from None
    return tables


def _parse(path: Path) -> dict[str, Any]:
    import tomllib  # 10 ms that a machine without the file need not pay

    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {"daemon": dict(_LINE.findall(text))}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Tables merge, everything else is replaced."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    found = tables.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any, default: int) -> int:
    return value if type(value) is int and value >= 0 else default
