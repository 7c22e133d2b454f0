"""Starts the practice provider and stops it on SIGTERM or SIGINT.

Exit status: 0 stopped by a signal, 69 the address cannot be had, 78 the scenario or the certificate is no good.
"""

__all__ = ["main", "run"]

import argparse
import asyncio
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from captchad.model.errors import ConfigError
from captchad.provider.sandbox.actions import Provider
from captchad.provider.sandbox.http1 import Connection
from captchad.provider.sandbox.scenario import Scenario, load

_EX_UNAVAILABLE = 69
_EX_CONFIG = 78
_BACKLOG = 1024


def run(host: str, port: int, scenario: Path | None, *, tls: tuple[Path, Path] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. `tls` is certificate and key; port 0 takes a free one. Returns the exit status.

    Prints one line when it listens: `captchad sandbox: listening on http://HOST:PORT`.
    """
    try:
        plan = load(scenario) if scenario else Scenario()
        context = _context(tls)
    except ConfigError as error:
        return _fail(str(error), _EX_CONFIG)
    except OSError as error:
        return _fail(f"captchad sandbox: certificate or key: {error.strerror or error}", _EX_CONFIG)
    try:
        asyncio.run(_serve(host, port, plan, context))
    except OSError as error:
        # asyncio has words of its own around a number of the system's; a name that is not found has no such number.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        return _fail(f"captchad sandbox: {host}:{port}: {why}", _EX_UNAVAILABLE)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m captchad.provider.sandbox`."""
    parser = argparse.ArgumentParser("captchad sandbox", description="A practice provider: in.php, res.php, faults.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--scenario", type=Path, help="how it answers and misbehaves, in TOML")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    options = parser.parse_args(argv)
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together")
    tls = (options.tls_cert, options.tls_key) if options.tls_cert else None
    return run(options.host, options.port, options.scenario, tls=tls)


def _context(tls: tuple[Path, Path] | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    return context


async def _serve(host: str, port: int, scenario: Scenario, context: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    provider = Provider(scenario)
    server = await loop.create_server(lambda: Connection(provider), host, port, ssl=context, backlog=_BACKLOG)
    name = f"[{host}]" if ":" in host else host
    scheme = "https" if context else "http"
    sys.stdout.write(f"captchad sandbox: listening on {scheme}://{name}:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    # Connections and callbacks end with the process.
    await stop.wait()
    server.close()


def _fail(message: str, status: int) -> int:
    sys.stderr.write(message + "\n")
    return status
