"""Ask the daemon one thing over its control socket.

Imports stay light: `captchactl status` is run by hand and by monitoring, every few seconds.
"""

__all__ = ["Refused", "call"]

import json
import socket
import time
from pathlib import Path
from typing import Any

from captchad.control.wire import FAILED, MAX_ANSWER, encode
from captchad.model.errors import CaptchadError, NotRunning, TryLater

#: A socket's address holds 108 bytes, the last of them zero.
_MAX_PATH = 107


class Refused(CaptchadError):
    """The daemon answered, and the answer is no; `code` is the exit code that it asks for."""

    def __init__(self, message: str, *, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message, hint=hint)
        self.code = code


def call(path: Path, verb: str, args: dict[str, Any] | None = None, timeout_s: float = 10.0) -> dict[str, Any]:
    """The `data` of the daemon's answer.

    Raises NotRunning when nobody listens at `path`, PermissionError when this user may not ask, Refused when the
    daemon says no, TryLater when it does not answer within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        _connect(sock, path)
        try:
            sock.sendall(encode({"verb": verb, "args": args or {}}))
        except (BrokenPipeError, ConnectionResetError):
            pass  # a daemon that is full says so and closes without reading: its answer is there to be read
        except TimeoutError:
            raise _silent(path, timeout_s) from None
        return _data(_read_line(sock, path, deadline, timeout_s), path)


def _connect(sock: socket.socket, path: Path) -> None:
    if len(bytes(path)) > _MAX_PATH:
        raise NotRunning(f"{path} is too long for a socket", hint="give a shorter --socket PATH")
    try:
        sock.connect(str(path))
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise NotRunning(f"no daemon answers at {path} ({error.strerror})") from None
    except (BlockingIOError, TimeoutError):
        raise TryLater(f"the daemon at {path} takes no more callers now", hint="try again in a few seconds") from None


def _read_line(sock: socket.socket, path: Path, deadline: float, timeout_s: float) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise _silent(path, timeout_s)
        sock.settimeout(left_s)
        try:
            chunk = sock.recv(1 << 18)
        except TimeoutError:
            raise _silent(path, timeout_s) from None
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            raise NotRunning(f"the daemon at {path} went away before it answered")
        line += chunk
        if len(line) > MAX_ANSWER + 1:
            raise CaptchadError(f"the answer from {path} is longer than {MAX_ANSWER} bytes")
    return bytes(line)


def _silent(path: Path, timeout_s: float) -> TryLater:
    return TryLater(
        f"the daemon at {path} did not answer within {timeout_s:g} s",
        hint="it may be busy or stopped: look at its log",
    )


def _data(line: bytes, path: Path) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and answer.get("ok") is True and isinstance(answer.get("data"), dict):
        data: dict[str, Any] = answer["data"]
        return data
    if isinstance(answer, dict) and answer.get("ok") is False:
        code = answer.get("code", FAILED)
        raise Refused(
            str(answer.get("error", "refused")),
            hint=str(answer.get("hint", "")),
            code=code if isinstance(code, int) else FAILED,
        )
    raise CaptchadError(f"what answers at {path} does not speak captchad's protocol")
