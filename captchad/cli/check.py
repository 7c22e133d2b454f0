"""`captchad check`: every fault of a configuration, one a line."""

__all__ = ["check"]

from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from captchad.config.credentials import check_keys
from captchad.config.load import load
from captchad.model.errors import ConfigError

_OK = 0
_EX_CONFIG = 78


def check(path: Path, out: TextIO, environ: Mapping[str, str]) -> int:
    """Check the file, its drop-ins and the providers' keys; changes nothing.

    Prints each fault as `FILE:LINE: KEY: what is wrong (hint)` and returns 78; else prints `OK (sha256 …)`, after any
    warnings (`warning: FILE:LINE: …`), and returns 0.
    """
    try:
        loaded = load(path)
    except ConfigError as error:
        out.writelines(f"{problem}\n" for problem in error.problems)
        return _EX_CONFIG
    problems, warnings = check_keys(loaded.config, environ, loaded.places)
    out.writelines(f"{problem}\n" for problem in problems)
    out.writelines(f"warning: {warning}\n" for warning in warnings)
    if problems:
        return _EX_CONFIG
    out.write(f"OK (sha256 {loaded.sha256})\n")
    return _OK
