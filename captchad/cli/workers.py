"""captchactl workers: who works, what was done about them and why, how they died; more of them, and new ones.

The table comes from the daemon or its status file; reasons and deaths from the journal alone, beside a running daemon,
too. `scale` and `restart` need the daemon.
"""

__all__ = ["restart", "scale", "workers"]

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from captchad.cli import render
from captchad.cli.exits import Exit
from captchad.cli.live import ASK_S, print_part
from captchad.cli.places import Places, find
from captchad.cli.render import clean, duration, stamp, table
from captchad.control.client import call
from captchad.model.errors import CaptchadError, TryLater

#: So often the status is asked while all workers are being replaced.
_LOOK_S = 0.2

#: A replacement waits for the submits of the one before it.
_RESTART_S = 600.0

#: The latest actions or deaths.
_LIMIT = 100

_WHAT = {
    "start": "ordered from the template",
    "move": "takes the seat",
    "retire": "is to finish and go",
    "condemn": "hangs: its stack goes to the log",
    "kill": "killed",
    "abandon": "given up",
    "refork": "the template is replaced",
    "withhold": "systemd is not told that all is well",
    "death": "gone",
    "fork": "could not be forked",
    "template": "the template ended; another one is made",
}


def workers(options: Namespace) -> int:
    """The table; or with `--why` and `--deaths` what the journal knows. Raises NotRunning without daemon and file."""
    places = find(options.config, options.socket)
    if options.why:
        return _print_log(options, places, "actions", _actions_text)
    if options.deaths:
        return _print_log(options, places, "deaths", _deaths_text)
    if options.limit is not None:
        return _misused("--limit goes with --why or --deaths")
    return print_part(options, places, "workers", render.workers)


def _misused(text: str) -> int:
    print(f"captchactl: {text}", file=sys.stderr)
    return Exit.USAGE


# --- what the journal knows


def _print_log(
    options: Namespace, places: Places, name: str, text: Callable[[list[dict[str, Any]]], Iterator[str]]
) -> int:
    rows = _read(places.state_dir, name, options.limit or _LIMIT)
    if options.json:
        print(json.dumps({"schema": 1, name: rows}, indent=2))
    elif rows:
        sys.stdout.writelines(text(rows))
    else:
        print(f"no {name}", file=sys.stderr)
    return Exit.OK


def _read(state_dir: Path, name: str, limit: int) -> list[dict[str, Any]]:
    from captchad.queue import offline

    read = {"actions": offline.worker_actions, "deaths": offline.worker_deaths}[name]
    try:
        return read(state_dir, limit)
    except CaptchadError as error:
        if isinstance(error.__cause__, PermissionError):  # no matter of disks: another exit code
            raise error.__cause__ from None
        raise


def _actions_text(rows: list[dict[str, Any]]) -> Iterator[str]:
    cells = [[stamp(row.get("t")), _what(row), *_who(row), _why(row)] for row in rows]
    yield table(("TIME", "WHAT", "SEAT", "WORKER", "PID", "WHY"), cells)


def _what(row: dict[str, Any]) -> str:
    do = clean(row.get("do"))
    if do == "scale":
        return f"{clean(row.get('seats'))} workers from now on"
    if do == "limit":
        return f"workers use {_percent(row.get('share'))} of their threads"
    return _WHAT.get(do, do)


def _deaths_text(rows: list[dict[str, Any]]) -> Iterator[str]:
    names = ("TIME", "SEAT", "WORKER", "PID", "ENDED BY", "LIVED", "PHASE", "IN FLIGHT", "MEMORY", "WHY")
    yield table(names, [_death(row) for row in rows])
    yield from (_executing(row) for row in rows if isinstance(row.get("tasks"), list) and row["tasks"])


def _executing(row: dict[str, Any]) -> str:
    tasks = ", ".join(map(clean, row["tasks"]))
    return f"worker {clean(row.get('w'))} was executing {tasks}: see each with captchactl show ID\n"


def _death(row: dict[str, Any]) -> list[str]:
    more = [clean(row.get("phase")), clean(row.get("in_flight")), render.mebibytes(row.get("rss"))]
    return [stamp(row.get("t")), *_who(row), _ended(row.get("code")), duration(row.get("lived")), *more, _why(row)]


def _who(row: dict[str, Any]) -> list[str]:
    """Its seat, its number in this life of the daemon, and its pid; one that is only ordered has none yet."""
    return [render.seat(row.get("seat")), clean(row.get("w")), clean(row.get("pid") or None)]


def _ended(code: Any) -> str:
    if not isinstance(code, int):
        return "-"
    return f"signal {-code}" if code < 0 else f"exit {code}"


def _why(row: dict[str, Any]) -> str:
    """The reason by its name, as it stands in the log, and in words."""
    from captchad.supervisor.core.states import WORDS

    name = clean(row.get("why"))
    words = {str(reason): text for reason, text in WORDS.items()}.get(name)  # None: a later captchad's
    return f"{name}: {words}" if words else name


def _percent(value: Any) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) else "-"


# --- what the daemon does


def scale(options: Namespace) -> int:
    """Have so many workers until the configuration says another number, or a restart."""
    if options.why or options.deaths:
        return _misused("scale takes neither --why nor --deaths")
    places = find(options.config, options.socket)
    data = call(places.socket, "workers.scale", {"workers": options.workers}, timeout_s=ASK_S)
    if options.json:
        print(json.dumps({"schema": 1, **data}, indent=2))
        return Exit.OK
    was, now = clean(data.get("was")), clean(data.get("is"))
    print(f"{now} workers, as before" if was == now else f"{was} workers before, {now} from now on")
    if data.get("autoscale"):
        print("autoscale is on and goes on from there; the configuration's supervision.autoscale_max = 0 turns it off")
    return Exit.OK


def restart(options: Namespace) -> int:
    """Have every worker replaced by a new one, one at a time; with `--wait` exit 124 when that takes too long."""
    if options.why or options.deaths:
        return _misused("restart takes neither --why nor --deaths")
    if options.timeout is not None and not options.wait:
        return _misused("--timeout goes with --wait")
    places = find(options.config, options.socket)
    deadline = time.monotonic() + (options.timeout or _RESTART_S)
    data = call(places.socket, "workers.restart", timeout_s=ASK_S)
    old = _await_new(places, data.get("generation"), deadline) if options.wait else []
    if options.json:
        print(json.dumps({"schema": 1, **data, "done": bool(options.wait and not old)}, indent=2))
    elif not options.wait:
        print(f"ordered: {clean(data.get('workers'))} workers are replaced, one at a time")
    elif not old:
        print("all workers are new")
    if not old:
        return Exit.OK
    names = ", ".join(f"{_place(row)} ({clean(row.get('state'))})" for row in old)
    print(f"captchactl: not replaced in time: {names}; captchactl workers --why says more", file=sys.stderr)
    return Exit.TIMED_OUT


def _place(row: dict[str, Any]) -> str:
    return f"worker {render.seat(row['slot'])}" if "slot" in row else f"pid {clean(row.get('pid'))}"


def _await_new(places: Places, generation: Any, deadline: float) -> list[dict[str, Any]]:
    """Wait until all are of this generation; those that are not by `deadline`. Raises NotRunning."""
    while True:
        try:
            left = list(_older(call(places.socket, "status", timeout_s=ASK_S), generation))
        except TryLater:
            left = [{"slot": None, "state": "the daemon does not answer"}]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(_LOOK_S)


def _older(status: dict[str, Any], generation: Any) -> Iterator[dict[str, Any]]:
    """Seats where no worker of this generation works yet, and workers of earlier ones that leave."""
    found = status.get("workers") or {}
    for row in found.get("list", []):
        if row.get("state") != "running" or row.get("generation", 0) < generation:
            yield row
    yield from (row for row in found.get("leaving", []) if row.get("generation", 0) < generation)
