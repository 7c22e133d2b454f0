"""Workers that do next to nothing, for a crew with a real template. Run as a module it is a template made anew."""

__all__ = ["BEAT", "MODULE", "body"]

import os
import sys
from collections.abc import Sequence
from typing import Any

from captchad.ipc.channel import Channel, Message
from captchad.supervisor.template import SOCKET_FD, serve

MODULE = "tests.support.template"

BEAT: Message = {
    "m": "beat", "phase": "idle", "in_flight": 0, "submits": 0, "calls": 0, "beyond_s": None, "oldest_beyond_s": None,
    "oldest_s": 0.0, "lag_s": 0.0, "completed": 0, "polls": 0, "submitted": 0, "starved": 0, "rss": 1, "private": 0,
}  # fmt: skip


def body(order: dict[str, Any], fds: Sequence[int]) -> int:
    """Say what was ordered, then go when told to drain, or when the parent is gone."""
    channel = Channel(fds[0])
    channel.send(*order["says"])
    os.set_blocking(fds[0], True)
    while not channel.gone:
        if any(message["m"] == "drain" for message in channel.receive()):
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(serve(SOCKET_FD, body))
