"""What the daemon would run with, for a verb that spends money in its place. Imported by what needs it: it is slow."""

__all__ = ["config_of"]

import os
import sys
from pathlib import Path

from captchad.cli.live import find_status
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
        good = Generations(_directory(path, places)).last_good()
        if good is None:
            hint = f"without it nobody knows how often a task may run again: captchad check --config {path}"
            raise NeedsOperator(f"no valid configuration\n{error}", hint=hint) from None
        print(f"captchactl: {path} is not valid: as in generation {good.number}, the last good one", file=sys.stderr)
        return good.config


def _directory(path: Path, places: Places) -> Path:
    """Where the daemon has its generations: by its last words, else where this user's would have them."""
    match find_status(places).status:
        case {"daemon": {"config": {"directory": str(told)}}}:
            return Path(told)
    return default_directory(path, os.environ)
