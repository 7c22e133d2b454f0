"""captchactl drain: let all that is under way end, then stop; or say how long that would take."""

__all__ = ["drain"]

import json
import os
import select
import sys
import time
from argparse import Namespace
from typing import Any

from captchad.cli.exits import Exit
from captchad.cli.live import ASK_S, find_status
from captchad.cli.places import Places, find
from captchad.cli.render import clean, duration
from captchad.control.client import call
from captchad.model.errors import CaptchadError, NotRunning, TryLater

#: A line a second.
_LOOK_S = 1.0

#: A daemon that does not answer any more writes down the rest; its index of a million tasks takes seconds.
_LAST_S = 60.0


def drain(options: Namespace) -> int:
    """Order it, and wait until the daemon is gone. Exit 1 when it went before all had ended."""
    places = find(options.config, options.socket)
    found = call(places.socket, "drain", {"eta": True} if options.eta else {}, timeout_s=ASK_S)
    if options.eta or not options.wait:
        return _print(options, found)
    told = sys.stdout.isatty() and not options.json
    try:
        if not options.json:
            print(f"draining: {_under_way(found)}", flush=True)
        _await_end(places, found.get("pid"), told=told)
    except KeyboardInterrupt:
        print("captchactl: the drain goes on; captchactl drain waits for its end again", file=sys.stderr)
        raise
    left = _left(places, found.get("pid"))
    if options.json:
        print(json.dumps({"schema": 1, "pid": found.get("pid"), "state": "stopped", "in_flight": left}, indent=2))
    elif not left:
        print("the daemon has stopped")
    if left:
        hint = "they are in the journal: the next start polls them under their ids, and pays for none again"
        raise CaptchadError(f"the daemon was stopped before all had ended: {left} captchas are left", hint=hint)
    return Exit.OK


def _print(options: Namespace, found: dict[str, Any]) -> int:
    if options.json:
        print(json.dumps({"schema": 1, **found}, indent=2))
    elif not options.eta:
        print(f"draining: {_under_way(found)}; captchactl drain waits for its end")
    else:
        print(_under_way(found))
        print(f"an ordinary stop waits for no captcha: it takes {duration(found.get('stop_s'))} at most")
        if found.get("in_flight") and not found.get("known"):
            print("solve times are not known for all of them yet: those count with their time-outs")
    return Exit.OK


def _under_way(found: dict[str, Any]) -> str:
    """`3 captchas are under way; all have ended in 5.0 s (50 %), …`."""
    number = found.get("in_flight")
    if not number:
        results = found.get("undelivered")
        return (
            f"nothing is under way; {clean(results)} results wait to be delivered"
            if results
            else "nothing is under way"
        )
    half, most, latest = (duration(found.get(name)) for name in ("half_s", "most_s", "latest_s"))
    are = "captcha is" if number == 1 else "captchas are"
    return f"{clean(number)} {are} under way; all have ended in {half} (50 %), {most} (90 %), {latest} at the latest"


def _await_end(places: Places, pid: Any, *, told: bool) -> None:
    """Return when the process is gone. `told`: a line a second."""
    process = _open(pid)
    try:
        while _goes_on(places, pid, told=told):
            if _has_ended(process, _LOOK_S):
                return
        if process is not None:
            _has_ended(process, _LAST_S)
    finally:
        if process is not None:
            os.close(process)


def _goes_on(places: Places, pid: Any, *, told: bool) -> bool:
    """Whether it still answers."""
    try:
        found = call(places.socket, "drain", {"eta": True}, timeout_s=ASK_S)
    except NotRunning:
        return False
    except TryLater:
        return True  # busy, or stopped for a moment
    if found.get("pid") != pid:
        return False
    if told:
        print(_under_way(found), flush=True)
    return True


def _open(pid: Any) -> int | None:
    """A descriptor that is readable when the process is gone; None when it cannot be seen from here."""
    try:
        return os.pidfd_open(pid)
    except (OSError, TypeError):
        return None


def _has_ended(process: int | None, wait_s: float) -> bool:
    if process is None:
        time.sleep(wait_s)
        return False
    return bool(select.select([process], [], [], wait_s)[0])


def _left(places: Places, pid: Any) -> int:
    """Captchas that its last status names; 0 when that cannot be told. Raises CaptchadError when it died."""
    status = find_status(places).status or {}
    daemon, queue = status.get("daemon") or {}, status.get("queue") or {}
    if daemon.get("pid") != pid:
        return 0  # the next one runs already
    if daemon.get("state") == "died":
        raise CaptchadError("the daemon died before all had ended", hint="start it: it goes on from the journal")
    left = queue.get("in_flight")
    return left if isinstance(left, int) else 0
