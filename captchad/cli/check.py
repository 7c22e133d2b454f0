"""`captchad check`: every fault of a configuration, one a line."""

__all__ = ["check"]

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from captchad.config.credentials import check_keys
from captchad.config.load import load
from captchad.model.errors import ConfigError

_OK = 0
_EX_CONFIG = 78


def _closed(file: Path) -> bool:
    """Whether root alone may read the file. Root does not notice, and the daemon is not root."""
    found = file.stat()
    by_group = found.st_mode & stat.S_IRGRP and found.st_gid != 0
    return os.geteuid() == 0 and found.st_uid == 0 and not (found.st_mode & stat.S_IROTH or by_group)


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
    closed = "the service's user may not read it (chmod o+r)"
    warnings += [f"{file}:0: file: {closed}" for file in loaded.files if _closed(file)]
    out.writelines(f"{problem}\n" for problem in problems)
    out.writelines(f"warning: {warning}\n" for warning in warnings)
    if problems:
        return _EX_CONFIG
    out.write(f"OK (sha256 {loaded.sha256})\n")
    return _OK
