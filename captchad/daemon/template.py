"""What the template's children do: be a worker, or be the monitor. Run as a module it is a template made anew."""

__all__ = ["MODULE", "body"]

import gc
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captchad.logs import set_logging, start_logging
from captchad.model.clock import SystemClock
from captchad.monitor.serve import serve as serve_http
from captchad.supervisor.template import SOCKET_FD, serve
from captchad.worker import main as worker

MODULE = "captchad.daemon.template"


def body(order: dict[str, Any], fds: Sequence[int]) -> int:
    """Do what was ordered. The first descriptor is the pipe to the parent; the monitor has its listener besides."""
    clock = SystemClock()
    set_logging(order["log_level"], order["log_format"])
    if order["what"] == "monitor":
        return serve_http(socket.socket(fileno=fds[1]), fds[0], clock)
    return worker.run(
        fds[0],
        Path(order["journal"]),
        order["epoch"],
        order["number"],
        clock,
        threads=order["threads"],
        stack_fd=sys.stderr.fileno(),
    )


if __name__ == "__main__":
    start_logging(os.environ)
    # What is alive now is shared with the children for life: the collector must not touch it, or every page is copied.
    gc.collect()
    gc.freeze()
    sys.exit(serve(SOCKET_FD, body))
