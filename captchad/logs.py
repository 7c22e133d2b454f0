"""The log: journald's own protocol when stderr is the journal; else lines on stderr, plain or JSON.

One event is one entry, or one line. What a line is about goes with it as fields (`captchad.model.logevents.fields`):
journald and JSON lines have them, plain lines have the text alone. No control character of a text leaves here, so no
text can act on a terminal, or begin a second line or field. A text beyond LONGEST characters loses its middle.

Failures: no log call raises. Towards journald none waits: what its queue does not take goes to stderr as one line with
a priority; if that takes nothing either, the line is lost, counted, and the next one says how many were. On another
stderr a call may wait for who reads it, and a line that cannot be written is lost.

Nothing is kept open: each entry has its own socket. So a restart of journald, a fork and a lack of descriptors do no
harm. That costs some 10 µs, and a task that goes well logs nothing.
"""

__all__ = ["JOURNAL_SOCKET", "LONGEST", "JournalHandler", "LineHandler", "set_logging", "start_logging"]

import json
import logging
import os
import socket
import time
from collections.abc import Mapping

from captchad.model.logevents import Fields

JOURNAL_SOCKET = "/run/systemd/journal/socket"

#: Characters of a text. Below journald's limit for a line, and far below what a datagram takes: there is no need for
#: the protocol's way round that (a sealed memory file), and nothing from outside can fill the log with one entry.
LONGEST = 12_000

#: The end of a traceback says more than its middle.
_HEAD, _TAIL = 4_000, 7_900

_LONGEST_FIELD = 256
_STDERR = 2
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_NOTHING = Fields()
_TEXT = logging.Formatter()


def start_logging(environ: Mapping[str, str]) -> None:
    """Send the log of all of captchad to the journal if that is what stderr is, else to stderr, plain."""
    handler = JournalHandler() if _is_journal(environ) else LineHandler()
    logging.getLogger().handlers[:] = [handler]
    set_logging("info", "plain")


def set_logging(level: str, log_format: str) -> None:
    """Log from `level` up from now on. `log_format`, `plain` or `json`, is for a stderr that is not the journal."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in root.handlers:
        if isinstance(handler, LineHandler):
            handler.as_json = log_format == "json"


class LineHandler(logging.Handler):
    """Writes each record as one line on stderr."""

    as_json = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write it with as few calls as can be: lines of other processes do not come between."""
        try:
            line = _json(record) if self.as_json else f"{_time(record)} {record.levelname} {_line(record)}"
            rest = f"{line}\n".encode()
            while rest:
                rest = rest[os.write(_STDERR, rest) :]
        except OSError:
            return  # stderr is gone or full, and the work must not go with it
        except Exception:  # noqa: BLE001 - a log call that is wrong must not end who calls
            self.handleError(record)


class JournalHandler(logging.Handler):
    """Sends each record to journald, as one entry."""

    def __init__(self, address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._address = address
        self._lost = 0
        self._torn = False  # what was written to stderr last has no end

    def emit(self, record: logging.LogRecord) -> None:
        """Deliver it; before it what there is to say about lines that were lost."""
        try:
            if self._lost and self._deliver(_lost(self._lost)):
                self._lost = 0
            if not self._deliver(record):
                self._lost += 1
        except Exception:  # noqa: BLE001 - a log call that is wrong must not end who calls
            self.handleError(record)

    def _deliver(self, record: logging.LogRecord) -> bool:
        entry = _entry(record)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
                journald.sendto(entry, socket.MSG_DONTWAIT, self._address)
        except OSError:  # its queue is full, or it is gone, or we have no descriptor
            return self._to_stderr(f"<{_severity(record)}>{_line(record)}\n".encode())
        return True

    def _to_stderr(self, line: bytes) -> bool:
        # It is a socket, too. All our processes share it: it must not be made non-blocking, and it stays open.
        try:
            stderr = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=_STDERR)
            try:
                sent = stderr.send(b"\n" * self._torn + line, socket.MSG_DONTWAIT) - self._torn
            finally:
                stderr.detach()
        except OSError:
            return False
        self._torn = sent < len(line)
        return not self._torn


def _is_journal(environ: Mapping[str, str]) -> bool:
    """Whether stderr is what $JOURNAL_STREAM names: that it is set is not enough (systemd.exec)."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not device.isdigit() or not inode.isdigit():
        return False
    status = os.fstat(_STDERR)
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


def _entry(record: logging.LogRecord) -> bytes:
    """The record in journald's native protocol."""
    about = _about(record)
    values = {
        "MESSAGE": _lines(record),
        "PRIORITY": str(_severity(record)),
        "SYSLOG_IDENTIFIER": "captchad",
        "MESSAGE_ID": about.event.message_id if about.event else "",
        **{f"CAPTCHAD_{name.upper()}": _visible(value[:_LONGEST_FIELD]) for name, value in _named(about).items()},
    }
    return b"".join(_field(name, value.encode()) for name, value in values.items() if value)


def _field(name: str, value: bytes) -> bytes:
    # The plain form ends with the line: a value of several lines comes with its length instead.
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
    return b"%s=%s\n" % (name.encode(), value)


def _json(record: logging.LogRecord) -> str:
    said = {"time": _time(record), "level": record.levelname.lower(), "message": _lines(record)}
    return json.dumps(said | {name: value[:_LONGEST_FIELD] for name, value in _named(_about(record)).items()})


def _named(about: Fields) -> dict[str, str]:
    """The fields that are there, by their names."""
    return {name: str(value) for name, value in about._asdict().items() if value}


def _about(record: logging.LogRecord) -> Fields:
    found = getattr(record, "fields", _NOTHING)
    return found if isinstance(found, Fields) else _NOTHING  # a library's `extra` may have the same name


def _lost(count: int) -> logging.LogRecord:
    text = f"lines of the log that were lost, since journald did not take them: {count}"
    return logging.LogRecord("captchad", logging.WARNING, __file__, 0, text, None, None)


def _severity(record: logging.LogRecord) -> int:
    return _SYSLOG.get(record.levelno, 6)


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _text(record: logging.LogRecord) -> str:
    """What was said, and the traceback if there is one."""
    text = _TEXT.format(record)
    if len(text) <= LONGEST:
        return text
    return f"{text[:_HEAD]} … {len(text) - _HEAD - _TAIL} characters are left out … {text[-_TAIL:]}"


def _lines(record: logging.LogRecord) -> str:
    return "\n".join(_visible(line) for line in _text(record).splitlines())


def _line(record: logging.LogRecord) -> str:
    """All of it in one line."""
    return " | ".join(_visible(line) for line in _text(record).splitlines())


def _visible(line: str) -> str:
    """`line` with what is no printable character as Python writes it: `\\x1b`, `\\u202e`, `\\ud800`."""
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
