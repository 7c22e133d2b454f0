"""captchactl wait: results from the spool directory, with or without a daemon; and why some may never come.

Results come from files alone. Only when there is none for a moment somebody is asked: the daemon, else the journal.
"""

__all__ = ["wait"]

import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from captchad.cli.exits import Exit
from captchad.cli.places import Places, find
from captchad.cli.render import clean
from captchad.client import Client, Rejected
from captchad.control.client import Refused, call
from captchad.control.wire import NO_SUCH_TASK
from captchad.model.errors import CaptchadError, NotRunning
from captchad.model.states import State

#: Without a result for so long it is asked what is known. A batch that was dropped just now is read till then.
_QUIET_S = 1.0

#: A daemon that turns its loop answers at once.
_ASK_S = 2.0

#: So many tasks are asked about: each is a question to the daemon.
_MAX_ASKED = 100

_UNKNOWN = "unknown"
_MAY_NOT_ASK = "whether captchad knows the others, only root and the group captchad may ask: are the ids right?"


def wait(options: Namespace) -> int:
    """Print each result as it arrives. Exit 0 when all are solved, 1 when some are not, 124 when time is up.

    Raises NeedsOperator when there is no spool, or it is closed to this user.
    """
    places = find(options.config, options.socket)
    pending = dict.fromkeys(options.ids)
    number, solved = len(pending), True
    client = Client(places.spool_dir)
    try:
        for result in _results(client, pending, options.timeout, lambda: _say_doubts(places, client, list(pending))):
            pending.pop(result.get("id"), None)
            solved = solved and result.get("status") == "solved"
            _print_result(result, as_json=options.json)
    except TimeoutError:
        print(f"captchactl: {len(pending)} of {number} have not ended in time:", file=sys.stderr)
        _say_pending(places, client, list(pending))
        return Exit.TIMED_OUT
    return Exit.OK if solved else Exit.FAILED


def _results(
    client: Client, pending: dict[str, None], timeout: float | None, on_quiet: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """The results of what is pending, which the caller takes off; `on_quiet` is called once when none comes.

    Raises TimeoutError.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    asked = False
    while True:
        came, left_s = False, max(0.0, deadline - time.monotonic())
        try:
            for result in client.as_completed(list(pending), left_s if asked else min(left_s, _QUIET_S)):
                came = True
                yield result
        except TimeoutError:
            if time.monotonic() >= deadline:
                raise
        else:
            return
        if not came and not asked:
            on_quiet()
            asked = True


# --- what stands in the way


def _say_doubts(places: Places, client: Client, pending: list[str]) -> None:
    """While it waits: what is known of the tasks whose results may never come. One may still be dropped."""
    known, why = _known(places, client, pending)
    if why:
        print(f"captchactl: {clean(why)}", file=sys.stderr)
    for task_id, state in known.items():
        doubt = _doubt(task_id, state)
        if doubt:
            print(f"captchactl: {clean(task_id)}: {clean(doubt)}; waiting", file=sys.stderr)


def _say_pending(places: Places, client: Client, pending: list[str]) -> None:
    """After the time-out: which tasks have not ended, and why as far as that shows."""
    known, why = _known(places, client, pending)
    for task_id in pending:
        state = known.get(task_id, "")
        what = _doubt(task_id, state) or state or ("its file waits in incoming/" if client.waits(task_id) else "")
        print(f"captchactl: {clean(task_id)}{f' ({clean(what)})' if what else ''}", file=sys.stderr)
    if why:
        print(f"captchactl: {clean(why)}", file=sys.stderr)


def _doubt(task_id: str, state: str) -> str:
    """Why there may be no result of a task for ever; "" when there is no reason to think so."""
    if state == _UNKNOWN:
        return "unknown to captchad, and no such file in incoming/"
    if state == State.HELD:
        return f"held, until captchactl release {task_id}"
    if state and State(state).ended:
        return f"has ended ({state}), and its result is not there"
    return ""


def _known(places: Places, client: Client, pending: list[str]) -> tuple[dict[str, str], str]:
    """The states of tasks of which nothing lies in the spool, as far as they can be known; and what is to be said of
    the daemon."""
    ids = [task_id for task_id in pending if not client.waits(task_id)][:_MAX_ASKED]
    try:
        known, why = _by_daemon(places.socket, ids), ""
    except NotRunning as error:
        known, why = _by_journal(places.state_dir, ids), str(error)
    except PermissionError:
        # So it is with all who may only submit: a script of theirs is not told each time.
        return {}, _MAY_NOT_ASK if ids and sys.stderr.isatty() else ""
    except (CaptchadError, OSError):  # somebody is there, and does not tell
        return {}, ""
    # What has ended while it was asked about is no doubt.
    return {task_id: state for task_id, state in known.items() if not _has_come(client, task_id)}, why


def _has_come(client: Client, task_id: str) -> bool:
    try:
        return client.result(task_id) is not None
    except Rejected:
        return True


def _by_daemon(socket: Path, ids: Iterable[str]) -> dict[str, str]:
    call(socket, "status", timeout_s=_ASK_S)  # whether one runs is of interest in any case
    states = {}
    for task_id in ids:
        try:
            states[task_id] = str(call(socket, "show", {"id": task_id}, timeout_s=_ASK_S).get("state"))
        except Refused as error:
            if str(error) != NO_SUCH_TASK:
                raise
            states[task_id] = _UNKNOWN
    return states


def _by_journal(state_dir: Path, ids: list[str]) -> dict[str, str]:
    from captchad.queue import offline

    try:
        states = offline.states(state_dir, ids) if (state_dir / "journal").is_dir() else {}
    except (CaptchadError, OSError):
        return {}
    return {task_id: states.get(task_id, _UNKNOWN) for task_id in ids}


def _print_result(result: dict[str, Any], *, as_json: bool) -> None:
    """A line: id, status, and the token or the error; with a tab between them, for scripts."""
    if as_json:
        print(json.dumps(result), flush=True)
        return
    said = result.get("token") if result.get("status") == "solved" else result.get("error")
    if said is None and result.get("answer") is not None:
        said = json.dumps(result["answer"])
    print("\t".join((clean(result.get("id")), clean(result.get("status")), clean(said))), flush=True)
