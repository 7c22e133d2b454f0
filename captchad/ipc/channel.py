"""Framed messages over one end of a multiprocessing pipe; neither side ever waits for the other in a write.

A frame is a 4-byte big-endian length and that many bytes of JSON. Both ends are non-blocking; what the kernel does
not take stays in a bounded buffer here. EOF, ECONNRESET and EPIPE all mean that the other side is gone, and so do bytes
that are not our framing: nothing behind them can be trusted. A torn last frame (its writer was killed in the middle) is
dropped. What the other side wrote before it went can still be received.
"""

__all__ = ["Channel", "Message"]

import json
import os
import struct
from typing import Any

from captchad.model.compact import to_json

Message = dict[str, Any]

_HEAD = struct.Struct("!I")

#: A submit with a 1 MB image in base64 fits; anything near this size is a fault of the sender's.
MAX_FRAME = 8 << 20

#: More unsent bytes than this means that the other side does not read: it is treated as stuck.
MAX_UNSENT = 64 << 20

_CHUNK = 1 << 18

#: Below the size from which malloc maps fresh pages for each buffer.
_READ = 1 << 16


class Channel:
    """One end. Owns `fd` and makes it non-blocking.

    Not thread-safe: writers of one process share a lock. One reader beside them needs none.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.gone = False
        self.taken = 0  #: bytes that the kernel has taken so far
        self._in = bytearray()
        self._out = bytearray()
        self._strange = False  # bytes came that are not our framing: nothing more is read
        os.set_blocking(fd, False)

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return len(self._out)

    def send(self, *messages: Message) -> bool:
        """Queue `messages` and write what the kernel takes. True when every byte has left this process.

        Raises ValueError or TypeError for a message that cannot be framed; then none of them is queued.
        """
        self._out += _frame(messages[0]) if len(messages) == 1 else b"".join(map(_frame, messages))
        return self.flush()

    def flush(self) -> bool:
        """Write what the kernel takes. True when nothing is left; False also when the other side is gone."""
        while self._out and not self.gone:
            try:
                # The slice bounds the copy: a large backlog must not be copied whole at each call.
                written = os.write(self.fd, self._out[:_CHUNK])
            except BlockingIOError:
                break
            except (BrokenPipeError, ConnectionResetError):
                self.gone = True
                break
            del self._out[:written]
            self.taken += written
        if self.gone or len(self._out) > MAX_UNSENT:
            self.gone = True
            self._out.clear()
            return False
        return not self._out

    def receive(self, *, max_bytes: int = 4 * _CHUNK) -> list[Message]:
        """All whole messages in the next `max_bytes` or so; sets `gone` at the end of the stream."""
        taken = 0
        while taken < max_bytes and (chunk := self._read()):
            taken += len(chunk)
            self._in += chunk
            if len(chunk) < _READ:
                break  # that was all; whoever waits for more is told by the selector
        return self._split()

    def receive_all(self) -> list[Message]:
        """Everything that can still be read: the last notes of a process that has died."""
        # Not until `gone`: a failed write sets that too, while notes still wait to be read.
        while chunk := self._read():
            self._in += chunk
        return self._split()

    def close(self) -> None:
        os.close(self.fd)

    def _read(self) -> bytes:
        """The next bytes; none when there are none now, or none any more (then `gone` is set)."""
        if self._strange:
            return b""
        try:
            chunk = os.read(self.fd, _READ)
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            self.gone = True
        return chunk

    def _split(self) -> list[Message]:
        messages: list[Message] = []
        start = 0
        while len(self._in) - start >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._in, start)
            end = start + _HEAD.size + length
            if len(self._in) < end and length <= MAX_FRAME:
                break
            message = _parse(self._in[start + _HEAD.size : end]) if length <= MAX_FRAME else None
            if message is None:
                self.gone = self._strange = True
                start = len(self._in)
                break
            messages.append(message)
            start = end
        del self._in[:start]
        return messages


def _frame(message: Message) -> bytes:
    body = to_json(message).encode("ascii")
    if len(body) > MAX_FRAME:
        raise ValueError(f"frame of {len(body)} bytes")
    return _HEAD.pack(len(body)) + body


def _parse(body: bytearray) -> Message | None:
    """The object in `body`; None when it holds none."""
    try:
        message = json.loads(body.decode())  # json itself would look for the encoding first
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
