"""What the daemon would run with, and where it keeps that. It is slow to import: only by verbs that need it."""

__all__ = ["config_of", "directory_of"]

import os
import sys
from pathlib import Path

from captchad.cli.live import Seen, find_status
from captchad.cli.places import Places
from captchad.config.generations import Generations, default_directory
from captchad.config.load import load
from captchad.config.schema import Config
from captchad.model.errors import ConfigError, NeedsOperator


def config_of(path: Path, places: Places) -> Config:
    """The configuration, or where the file is broken the last that ran well, as at a start. Never a default: that might
    allow more than the operator does.

    Raises NeedsOperator when there is neither.
    """
    try:
        return load(path).config
    except ConfigError as error:
        good = Generations(directory_of(path, find_status(places))).last_good()
        if good is None:
            hint = f"without it nobody knows how often a task may run again: captchad check --config {path}"
            raise NeedsOperator(f"no valid configuration\n{error}", hint=hint) from None
        print(f"captchactl: {path} is not valid: as in generation {good.number}, the last good one", file=sys.stderr)
        return good.config


def directory_of(path: Path, seen: Seen) -> Path:
    """Where the daemon has its generations: by its last words, else where this user's would have them.

    Raises PermissionError when there is a daemon whose words this user may not hear.
    """
    match seen.status:
        case {"daemon": {"config": {"directory": str(told)}}}:
            return Path(told)
    if seen.refused:
        raise seen.refused
    return default_directory(path, os.environ)
