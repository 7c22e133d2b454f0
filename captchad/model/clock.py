"""Clocks: monotonic for durations, UTC wall clock only for what is written down. Both are injected."""

__all__ = ["Clock", "SystemClock", "iso_utc"]

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What captchad knows of time."""

    def monotonic(self) -> float:
        """Seconds that only grow; for durations and timers."""

    def time(self) -> float:
        """UTC seconds since the epoch; for records that outlive the process."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()


def iso_utc(seconds: float) -> str:
    """UTC seconds as `2026-11-21T23:10:04.120Z`."""
    stamp = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return stamp.removesuffix("+00:00") + "Z"
