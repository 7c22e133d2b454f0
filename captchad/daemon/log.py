"""Log lines on stderr; under systemd with `<N>` priorities, so that journald files them by severity."""

__all__ = ["start_logging"]

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _JournaldFormatter(logging.Formatter):
    """Every physical line is one entry in journald, so each gets the priority; the time is journald's own."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_SYSLOG.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def start_logging(environ: Mapping[str, str], level: str = "info") -> None:
    """Send the log of all of captchad to stderr at `level`. May be called again with another level."""
    handler = logging.StreamHandler(sys.stderr)
    if _is_journald(environ, sys.stderr):
        handler.setFormatter(_JournaldFormatter("%(message)s"))
    else:
        formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = _utc
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _is_journald(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether `stream` is what $JOURNAL_STREAM names: that it is set is not enough (systemd.exec)."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not device.isdigit() or not inode.isdigit():
        return False
    status = os.fstat(stream.fileno())
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


def _utc(seconds: float | None) -> time.struct_time:
    return time.gmtime(seconds)
