"""The practice provider as a process of its own, for anybody's tests.

with Sandbox(scenario='[solve]\\nseconds = 0.1\\n') as sandbox:
    client = make_client(sandbox.url, sandbox.key)
    ...
    assert sandbox.totals()["charges"] == 1
"""

__all__ = ["Sandbox"]

import json
import os
import select
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
_START_S = 30.0
_LINE = "captchad sandbox: listening on "


class Sandbox:
    """A running sandbox. Leaving the block kills its whole process group.

    `directory` is where its files go (default: a temporary directory), `scenario` TOML text, `tls` certificate and key.
    A sandbox that is started again with the same `port` is a provider that has forgotten everything.
    """

    key = "a" * 32

    def __init__(
        self,
        directory: Path | None = None,
        *,
        scenario: str | None = None,
        port: int = 0,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self._own = tempfile.TemporaryDirectory() if directory is None else None
        self._directory = Path(self._own.name) if self._own else Path(directory or ".")
        self._scenario = scenario
        self._port = port
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process, for signals."""
        return self._running().pid

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def start(self) -> Self:
        """Start it and wait until it listens."""
        command = [sys.executable, "-m", "captchad.provider.sandbox", "--port", str(self._port)]
        if self._scenario is not None:
            path = self._directory / "scenario.toml"
            path.write_text(self._scenario)
            command += ["--scenario", str(path)]
        if self._tls:
            command += ["--tls-cert", str(self._tls[0]), "--tls-key", str(self._tls[1])]
        with (self._directory / "sandbox.err").open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, start_new_session=True
            )
        try:
            self.url = self._read_url()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill it, if it runs."""
        process, self._process = self._process, None
        if process:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout:
                process.stdout.close()
        if self._own:
            self._own.cleanup()

    def ledger(self) -> dict[str, Any]:
        """Everything: `totals`, `accounts`, `captchas`."""
        return self.request("/_sandbox/ledger")

    def captchas(self) -> list[dict[str, Any]]:
        """Every captcha that was created, in order."""
        found: list[dict[str, Any]] = self.ledger()["captchas"]
        return found

    def totals(self) -> dict[str, Any]:
        """The sums."""
        return self.request("/_sandbox/totals")

    def verify(self, token: str) -> dict[str, Any]:
        """Use a token as a site would: good once, within its life."""
        return self.request(f"/_sandbox/verify?token={quote(token, safe='')}")

    def set_scenario(self, toml: str) -> None:
        """Go on with another scenario. Raises ValueError with the faults of a bad one."""
        self.request("/_sandbox/scenario", toml.encode())

    def reset(self) -> None:
        """Forget captchas, sums, counts and bans."""
        self.request("/_sandbox/reset", b"")

    def request(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        """Ask /_sandbox/*: POST with a body, else GET."""
        try:
            with urllib.request.urlopen(self.url + path, body, timeout=30, context=self._context()) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from error

    def _context(self) -> ssl.SSLContext | None:
        """Our own server with a certificate made for the test: nothing to verify."""
        if self._tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the sandbox does not run")
        return self._process

    def _read_url(self) -> str:
        process = self._running()
        if process.stdout is None:
            raise RuntimeError("no pipe")
        deadline = time.monotonic() + _START_S
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not piece:
                raise RuntimeError(f"the sandbox did not start: {(self._directory / 'sandbox.err').read_text()}")
            line += piece
        return line.decode().strip().removeprefix(_LINE)
