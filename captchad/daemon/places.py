"""Whether the directories that a configuration names can be used, before anything is opened there."""

__all__ = ["unusable"]

import os
from pathlib import Path

from captchad.config.schema import Config
from captchad.control.server import MAX_PATH_BYTES
from captchad.journal.filesystem import demand_local
from captchad.journal.osio import Os
from captchad.model.errors import UnsafeFilesystem


def unusable(config: Config) -> str | None:
    """The first of its directories that cannot be used or made, and why; None when all can. Makes nothing."""
    daemon = config.daemon
    for name in ("state_dir", "spool_dir", "runtime_dir"):
        path: Path = getattr(daemon, name)
        if why := _unwritable(path):
            return f"daemon.{name}: {path} {why}"
    if len(os.fsencode(daemon.runtime_dir / "control.sock")) > MAX_PATH_BYTES:
        return f"daemon.runtime_dir: {daemon.runtime_dir} is too long for the path of a socket"
    if daemon.allow_weak_fs:
        return None
    try:
        demand_local(Os(), daemon.state_dir)
    except OSError as error:
        return f"daemon.state_dir: {daemon.state_dir}: {error.strerror}"
    except UnsafeFilesystem as error:
        return f"daemon.state_dir: {error}"
    return None


def _unwritable(path: Path) -> str | None:
    there = path
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    cannot = "cannot be used" if there == path else "cannot be made"
    if not there.is_dir():
        return f"{cannot}: {there} is no directory"
    if not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
        return f"{cannot}: {there} may not be written"
    return None
