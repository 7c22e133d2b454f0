"""captchactl's verbs about tasks in the queue: show, list, hold, release, cancel, report, dlq list, dlq redrive.

The daemon answers while it runs. While it does not, the journal does; only hold, release, cancel and report need the
daemon.
"""

__all__ = ["direct", "dlq_list", "dlq_redrive", "list_tasks", "report", "show"]

import json
import os
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from captchad.cli.exits import Exit
from captchad.cli.places import DEFAULT_CONFIG, Places, become_owner, find
from captchad.cli.render import clean, show_task, table
from captchad.control.client import Refused, call
from captchad.model.errors import CaptchadError, NeedsOperator, NotRunning
from captchad.spool.files import DIRECTORY, identity, look, remove_checked

#: A redrive of a large dead-letter queue takes a while.
_CHANGE_S = 120.0

#: The daemon waits for the provider for less than this.
_REPORT_S = 40.0

_COLUMNS = ("id", "state", "priority", "method", "host", "provider", "attempts", "charges", "queued_at")
_DEAD_COLUMNS = ("id", "error", "category", "host", "provider", "attempts", "charges", "redrives", "finished_at")


def show(options: Namespace) -> int:
    """One task with its history. Exit 1 when it is not known."""
    places = find(options.config, options.socket)
    rejected = f"a task that was not taken lies in {places.spool_dir / 'rejected'}, with its reason"
    try:
        task: dict[str, Any] | None = call(places.socket, "show", {"id": options.id})
        if task is not None:
            task |= _history(places.state_dir, options.id)
    except NotRunning as error:
        from captchad.queue import offline

        _say_offline(places, error)
        task = offline.show(places.state_dir, options.id)
    except Refused as error:
        error.hint = "; ".join(filter(None, (error.hint, rejected)))
        raise
    if task is None:
        raise CaptchadError(f"no task {options.id!a} in the journal", hint=rejected)
    if options.json:
        print(json.dumps(task, indent=2))
    else:
        sys.stdout.write(show_task(task))
    return Exit.OK


def _history(state_dir: Path, task_id: str) -> dict[str, list[str]]:
    """The records of a task that a running daemon has shown. Without leave to read the journal there are none."""
    from captchad.queue import offline

    try:
        return {"history": offline.history(state_dir, task_id)}
    except (CaptchadError, OSError):
        return {}


def list_tasks(options: Namespace) -> int:
    """Tasks in the order in which they were accepted."""
    places = find(options.config, options.socket)
    try:
        tasks = _tasks(call(places.socket, "list", {"state": options.state, "limit": options.limit}))
    except NotRunning as error:
        from captchad.queue import offline

        _say_offline(places, error)
        tasks = offline.list_tasks(places.state_dir, options.state, options.limit)
    _print_tasks(options, tasks, _COLUMNS)
    return Exit.OK


def dlq_list(options: Namespace) -> int:
    """The dead-letter queue."""
    places = find(options.config, options.socket)
    _print_tasks(options, _dead(places, options.limit), _DEAD_COLUMNS)
    return Exit.OK


def dlq_redrive(options: Namespace) -> int:
    """Run dead tasks again. Exit 1 when one that was named was refused, or the operator said no."""
    if options.all == bool(options.ids):
        print("captchactl: give either ids or --all", file=sys.stderr)
        return Exit.USAGE
    places = find(options.config, options.socket)
    ids = None if options.all else options.ids
    if ids is None and not options.yes and not _confirmed():
        return Exit.FAILED
    done, stale = _redrive(options, places, ids)
    code = _print_done(options, "redriven", done)
    if options.all:  # all that can: a task that has had all of its new runs stays where it is
        code = Exit.OK
    for path in stale:
        print(f"captchactl: no permission to remove the old result {clean(path)}: remove it yourself", file=sys.stderr)
    return Exit.FAILED if stale else code


def direct(options: Namespace) -> int:
    """hold, release or cancel tasks of a running daemon. Exit 1 when one was refused."""
    if bool(options.state) == bool(options.ids):
        print(f"captchactl: give either ids or {options.whole}", file=sys.stderr)
        return Exit.USAGE
    places = find(options.config, options.socket)
    if options.ids:
        ids = list(dict.fromkeys(options.ids))
        return _print_done(options, "done", call(places.socket, options.verb, {"ids": ids}, timeout_s=_CHANGE_S))
    done: dict[str, Any] = {"done": [], "refused": {}}
    more = True
    while more:  # the daemon takes a slice of them at a time
        answer = call(places.socket, options.verb, {"state": options.state}, timeout_s=_CHANGE_S)
        done["done"] += answer["done"]
        done["refused"] |= answer["refused"]
        more = bool(answer["more"] and answer["done"])
    return _print_done(options, "done", done)


def report(options: Namespace) -> int:
    """Tell the provider that an answer was good or bad. Exit 1 when it was refused, or nobody knows."""
    places = find(options.config, options.socket)
    args = {"id": options.id, "verdict": options.verdict}
    data = call(places.socket, "report", args, timeout_s=_REPORT_S)
    if options.json:
        print(json.dumps({"schema": 1, **data}, indent=2))
    else:
        print(f"{clean(options.id)}: reported as {options.verdict}")
    return Exit.OK


def _print_done(options: Namespace, word: str, data: dict[str, Any]) -> int:
    """The ids that it was done to, a line each; the others with their reasons on stderr."""
    done, refused = data.get(word) or [], data.get("refused") or {}
    if options.json:
        print(json.dumps({"schema": 1, word: done, "refused": refused}, indent=2))
    else:
        for task_id in done:
            print(clean(task_id))
        for task_id, reason in refused.items():
            print(f"captchactl: {clean(task_id)}: {clean(reason)}", file=sys.stderr)
    return Exit.FAILED if refused else Exit.OK


def _redrive(options: Namespace, places: Places, ids: list[str] | None) -> tuple[dict[str, Any], list[Path]]:
    """The daemon's answer, or the journal's; and the old results that this user may not remove."""
    try:
        return call(places.socket, "dlq.redrive", {"ids": ids}, timeout_s=_CHANGE_S), []
    except NotRunning:
        from captchad.cli.bounds import config_of
        from captchad.queue import offline

        if ids is None and not (places.state_dir / "journal").is_dir():
            print(f"captchactl: there is no journal in {places.state_dir}, so nothing is dead", file=sys.stderr)
            return {"redriven": [], "refused": {}}, []
        config = config_of(options.config or DEFAULT_CONFIG, places)
        become_owner(places.state_dir)
        begun_ns = time.time_ns()
        done = offline.redrive(
            places.state_dir,
            ids,
            max_redrives=config.queue.max_redrives,
            capacity=config.queue.capacity,
            segment_mb=config.queue.segment_mb,
            allow_weak_fs=config.daemon.allow_weak_fs,
        )
        return done, _remove_results(places.spool_dir / "results", done["redriven"], begun_ns)


def _remove_results(results: Path, ids: list[str], begun_ns: int) -> list[Path]:
    """Take away what an earlier run of these tasks has left, so that nobody reads it as the new one's answer.

    Returns the paths that this user may not remove. Raises OSError.
    """
    try:
        directory = os.open(results, DIRECTORY)
    except FileNotFoundError:
        return []
    kept: list[Path] = []
    try:
        for task_id in ids:
            name = os.fsencode(f"{task_id}.json")
            try:
                old = look(directory, name)
                if old.st_mtime_ns < begun_ns:  # else a daemon that has started meanwhile is done with it already
                    remove_checked(directory, name, identity(old))
            except FileNotFoundError:
                continue
            except PermissionError:
                kept.append(results / f"{task_id}.json")
    finally:
        os.close(directory)
    return kept


def _confirmed() -> bool:
    """Ask on a terminal; without one the answer is no."""
    if not sys.stdin.isatty():
        print("captchactl: --all costs money for each task again; without a terminal it needs --yes", file=sys.stderr)
        return False
    print("Redrive every task in the dead-letter queue? Each may be charged again. [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _dead(places: Places, limit: int) -> list[dict[str, Any]]:
    try:
        return _tasks(call(places.socket, "dlq.list", {"limit": limit}))
    except NotRunning as error:
        from captchad.queue import offline

        _say_offline(places, error)
        return offline.dlq_list(places.state_dir, limit)


def _say_offline(places: Places, error: NotRunning) -> None:
    """Say where the answer comes from. Raises NeedsOperator when there is nothing to answer from."""
    journal = places.state_dir / "journal"
    if not journal.is_dir():
        hint = "name the daemon's configuration with --config FILE"
        raise NeedsOperator(f"{error}, and there is no journal in {places.state_dir}", hint=hint) from None
    print(f"captchactl: no daemon answers; this is from the journal in {journal}", file=sys.stderr)


def _tasks(data: dict[str, Any]) -> list[dict[str, Any]]:
    found = data.get("tasks")
    return [task for task in found if isinstance(task, dict)] if isinstance(found, list) else []


def _print_tasks(options: Namespace, tasks: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    if options.json:
        print(json.dumps({"schema": 1, "tasks": tasks}, indent=2))
        return
    if tasks:
        rows = [[clean(task.get(name)) for name in columns] for task in tasks]
        sys.stdout.write(table([name.upper() for name in columns], rows))
    else:
        print("no tasks", file=sys.stderr)
    if len(tasks) == options.limit:
        print(f"captchactl: the first {options.limit}; more with --limit", file=sys.stderr)
