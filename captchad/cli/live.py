"""captchactl's verbs about the daemon itself: status, providers, health."""

__all__ = ["ASK_S", "Seen", "find_status", "health", "print_part", "providers", "status"]

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from captchad.cli.exits import Exit
from captchad.cli.places import PERMISSION_HINT, Places, find, start_hint
from captchad.cli.render import clean, duration, style_for
from captchad.cli.render import providers as render_providers
from captchad.cli.render import status as render_status
from captchad.control.client import call
from captchad.model.errors import CaptchadError, NotRunning

#: A daemon that turns its loop answers within milliseconds; more than this is a finding by itself.
ASK_S = 5.0

_MAX_STATUS_FILE = 16 << 20

#: Of the daemon that the system's unit runs.
SYSTEM_SOCKET = Path("/run/captchad/control.sock")


class Seen(NamedTuple):
    """What could be learned of the daemon. `why` says what stood in the way of a live answer, `failed` that the
    service did not just not run: it has failed, `refused` what this user may not ask or read.
    """

    status: dict[str, Any] | None
    code: Exit
    why: str = ""
    failed: bool = False
    refused: PermissionError | None = None


def status(options: Namespace) -> int:
    """Print the status, once or every `--watch` seconds. Exit 0 running, 3 not running, 4 unknown."""
    if not options.watch:
        return _print_status(options)
    tty = sys.stdout.isatty() and not options.json
    while True:
        if tty:
            sys.stdout.write("\x1b[H\x1b[2J")
        _print_status(options)
        if not tty and not options.json:
            print()
        sys.stdout.flush()
        time.sleep(options.watch)


def _print_status(options: Namespace) -> int:
    seen = find_status(find(options.config, options.socket))
    if options.json:
        shown = seen.status or {"schema": 1, "source": "none", "age_s": None, "daemon": None}
        # One line an object under --watch, so that a reader can split them.
        print(json.dumps(shown, indent=None if options.watch else 2))
    elif seen.status:
        sys.stdout.write(render_status(seen.status, style_for(sys.stdout)))
    if seen.why:
        sys.stdout.flush()
        print(f"captchactl: {clean(seen.why)}", file=sys.stderr)
    hint = start_hint(options) if seen.code is Exit.STATUS_DEAD and not seen.failed else ""
    if not hint and seen.refused:
        hint = PERMISSION_HINT
    if hint:
        print(f"hint: {clean(hint)}", file=sys.stderr)
    return seen.code


def providers(options: Namespace) -> int:
    """A line for each provider; from the status file when no daemon answers. Raises NotRunning without either."""
    return print_part(options, find(options.config, options.socket), "providers", render_providers)


def print_part(options: Namespace, places: Places, name: str, text: Callable[[dict[str, Any]], str]) -> int:
    """The part of the status that has that name, as `text` has it or as JSON; from the status file with a note.

    Raises NotRunning without daemon and file, PermissionError when this user may neither ask nor read it.
    """
    seen = find_status(places)
    if seen.status is None:
        if seen.refused:
            raise seen.refused
        raise NotRunning(seen.why) if seen.code is Exit.STATUS_DEAD else CaptchadError(seen.why)
    if options.json:
        shown = {part: seen.status.get(part) for part in ("source", "age_s", name)}
        print(json.dumps({"schema": 1, **shown}, indent=2))
    else:
        sys.stdout.write(text(seen.status))
    if seen.why:
        sys.stdout.flush()
        age = duration(seen.status.get("age_s"))
        print(f"captchactl: {clean(seen.why)}; this is from the status file, {age} old", file=sys.stderr)
    return Exit.OK


def find_status(places: Places) -> Seen:
    """The live status; else the file's, and whether its daemon is gone (3) or only silent (4)."""
    try:
        return Seen(call(places.socket, "status", timeout_s=ASK_S), Exit.OK)
    except NotRunning as error:
        says = _systemd_says(places)
        found = _from_file(places.state_dir / "status.json", f"{error}{says}", Exit.STATUS_DEAD)
        return found._replace(failed=bool(says))
    except CaptchadError as error:
        return _from_file(places.state_dir / "status.json", str(error), Exit.STATUS_UNKNOWN)
    except PermissionError as error:
        why = f"no permission to ask the daemon at {places.socket}"
        found = _from_file(places.state_dir / "status.json", why, Exit.STATUS_UNKNOWN)
        return found._replace(refused=PermissionError(error.errno, error.strerror, str(places.socket)))


def _systemd_says(places: Places) -> str:
    """Why the service does not run, if it has failed; "" otherwise, and of a daemon elsewhere."""
    if places.socket != SYSTEM_SOCKET or not Path("/run/systemd/system").is_dir():
        return ""
    import subprocess

    names = ("ActiveState", "Result", "ExecMainStatus", "StatusText")
    command = ["systemctl", "show", *(f"--property={name}" for name in names), "captchad"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    told = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if told.get("ActiveState") != "failed":
        return ""
    text = told.get("StatusText") or "captchactl logs says more"
    return f"; the service has failed ({told.get('Result')}, status {told.get('ExecMainStatus')}): {text}"


def _from_file(path: Path, why: str, code: Exit) -> Seen:
    try:
        with path.open("rb") as file:
            written_at = os.fstat(file.fileno()).st_mtime
            found = json.loads(file.read(_MAX_STATUS_FILE))
    except FileNotFoundError:
        return Seen(None, code, why)
    # The socket says more than a file that cannot be read: the exit code stays what the socket told.
    except PermissionError as error:
        return Seen(None, code, f"{why}; no permission to read {path}", refused=error)
    except OSError as error:
        return Seen(None, code, f"{why}; {path} cannot be read: {error.strerror}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Seen(None, code, f"{why}; {path} holds no status")
    inner = found.get("daemon")
    daemon: dict[str, Any] = inner if isinstance(inner, dict) else {}
    alive = _is_alive(daemon.get("pid"), written_at)
    if code is Exit.STATUS_DEAD and alive:
        code, why = Exit.STATUS_UNKNOWN, f"{why}, but its process {daemon.get('pid')} is there"
    if not alive and daemon.get("state") != "stopped":
        found["daemon"] = {**daemon, "state": "died"}  # who ends as told says so in its last status
    return Seen(found | {"source": "file", "age_s": round(max(0.0, time.time() - written_at), 3)}, code, why)


def _is_alive(pid: Any, written_at: float) -> bool:
    """Whether the process that wrote the file lives: it has the pid, is no zombie and started before the file."""
    if type(pid) is not int or pid < 1:
        return False
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot_at = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return False
    started_at = boot_at + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] not in "ZX" and started_at <= written_at + 1.0


def health(options: Namespace) -> int:
    """One line as monitoring plugins write it, with performance data; lines with what is wrong follow."""
    places = find(options.config, options.socket)
    try:
        found = call(places.socket, "health", timeout_s=ASK_S)
    except NotRunning as error:
        return _say(options, Exit.HEALTH_CRITICAL, f"{error}{_systemd_says(places)}")
    except PermissionError:
        return _say(options, Exit.HEALTH_UNKNOWN, f"no permission to ask the daemon at {places.socket}")
    except (CaptchadError, OSError) as error:
        return _say(options, Exit.HEALTH_UNKNOWN, str(error))
    inner = found.get("status")
    return _judge(options, found, inner if isinstance(inner, dict) else {})


def _judge(options: Namespace, found: dict[str, Any], seen: dict[str, Any]) -> int:
    checks = {name: check for name, check in (found.get("checks") or {}).items() if isinstance(check, dict)}
    wrong = {name: check for name, check in checks.items() if check.get("status") != "pass"}
    level = Exit.OK
    if any(check.get("status") == "warn" for check in wrong.values()):
        level = Exit.HEALTH_WARNING
    oldest_s = _numeric(seen, "queue", "oldest_pending_s")
    if oldest_s >= options.warning:
        level = Exit.HEALTH_WARNING
    failed = any(check.get("status") != "warn" for check in wrong.values())
    if failed or not found.get("live") or not found.get("ready") or oldest_s >= options.critical:
        level = Exit.HEALTH_CRITICAL
    summary = [f"{name}: {check.get('output', '')}" for name, check in wrong.items()]
    if not found.get("ready"):
        daemon = seen.get("daemon")
        state = clean(daemon.get("state") if isinstance(daemon, dict) else None)
        summary.insert(0, "not ready" if state in ("-", "running") else f"not ready: {state}")
    if oldest_s >= min(options.warning, options.critical):
        summary.append(f"the oldest pending task has waited {oldest_s:.0f} s")
    return _say(options, level, "; ".join(summary) or _figures(seen), _perfdata(options, seen))


def _figures(seen: dict[str, Any]) -> str:
    alive = _numeric(seen, "workers", "alive")
    wanted = _numeric(seen, "workers", "target") or _numeric(seen, "workers", "configured")
    waiting = _numeric(seen, "queue", "pending") + _numeric(seen, "queue", "delayed")
    return f"{alive:g} of {wanted:g} workers, {waiting:g} waiting, {_numeric(seen, 'queue', 'in_flight'):g} in flight"


def _perfdata(options: Namespace, seen: dict[str, Any]) -> str:
    """`label=value[unit];warning;critical;minimum;maximum`, as the plugin guidelines have it."""

    def figure(part: str, name: str) -> str:
        return f"{_numeric(seen, part, name):.12g}"

    return " ".join(
        (
            f"pending={figure('queue', 'pending')};;;0;{figure('queue', 'capacity')}",
            f"delayed={figure('queue', 'delayed')};;;0;",
            f"in_flight={figure('queue', 'in_flight')};;;0;",
            f"dead={figure('queue', 'dead')};;;0;",
            f"oldest={figure('queue', 'oldest_pending_s')}s;{options.warning:g};{options.critical:g};0;",
            f"workers={figure('workers', 'alive')};;;0;{figure('workers', 'configured')}",
            f"charges={figure('queue', 'charges_total')}c;;;0;",
        )
    )


def _say(options: Namespace, level: Exit, text: str, perfdata: str = "") -> int:
    word = ("OK", "WARNING", "CRITICAL", "UNKNOWN")[level]
    text = clean(text).replace("|", "/")
    if options.json:
        print(json.dumps({"schema": 1, "status": word, "code": int(level), "output": text, "perfdata": perfdata}))
    else:
        print(f"CAPTCHAD {word} - {text}" + (f" | {perfdata}" if perfdata else ""))
    return level


def _numeric(seen: dict[str, Any], part: str, name: str) -> float:
    """A number of the status; 0 when it is not there."""
    value = (seen.get(part) or {}).get(name)
    return float(value) if isinstance(value, int | float) else 0.0
