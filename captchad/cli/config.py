"""captchactl's verbs about the configuration: what runs, where it comes from, what ran before, and back to that."""

__all__ = ["confirm", "diff", "history", "reload", "rollback", "show"]

import json
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from captchad.cli.exits import Exit
from captchad.cli.live import ASK_S, find_status
from captchad.cli.places import DEFAULT_CONFIG, Places, find
from captchad.cli.render import clean, duration, table
from captchad.control.client import call
from captchad.model.errors import FixInput, NotRunning, TryLater

#: A reload may wait for workers to start.
RELOAD_S = 600.0

#: Between two looks at a probation, in seconds.
_LOOK_S = 0.2

#: A probation that is not shorter after so many seconds stands still.
_STILL_S = 5.0

#: Of a digest, in a table.
_SHOWN_DIGEST = 12

#: Changes that a line of the history names.
_SHOWN_CHANGES = 3


def reload(options: Namespace) -> int:
    """Have the daemon read its configuration again; returns when the new one runs. Prints what changed, and how.

    With `--wait` it returns when the new one has come through its probation. Raises FixInput when it is rolled back.
    """
    places = find(options.config, options.socket)
    deadline = time.monotonic() + options.timeout if options.timeout else math.inf
    args = {} if options.confirm_within is None else {"confirm_within_s": options.confirm_within}
    data = call(places.socket, "reload", args, timeout_s=options.timeout or RELOAD_S)
    if not options.wait:
        return _report(options, data, "reloaded")
    if not options.json:
        _report(options, data, "reloaded")
        sys.stdout.flush()
    report = _await_verdict(places, data["config"], deadline)
    if options.json:
        print(json.dumps({**data, "config": report}, indent=2))
    if report.get("probation_s") is not None:
        print("captchactl: still on probation; captchactl status says how long", file=sys.stderr)
        return Exit.TIMED_OUT
    if not options.json:
        print(f"good: generation {clean(report.get('generation'))}")
    return Exit.OK


def _await_verdict(places: Places, report: dict[str, Any], deadline: float) -> dict[str, Any]:
    """Wait until the configuration that runs by `report` is good, or until `deadline`. Raises FixInput when another
    one runs instead.
    """
    digest, left_s, still_since = report.get("digest"), None, time.monotonic()
    while report.get("probation_s") is not None and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        with suppress(TryLater):
            report = call(places.socket, "config.show", timeout_s=ASK_S)["report"]
        if report.get("digest") != digest:
            raise FixInput(clean(report.get("problem") or "another one was reloaded"), hint="captchactl config history")
        if report.get("probation_s") != left_s:
            left_s, still_since = report.get("probation_s"), time.monotonic()
        elif time.monotonic() >= still_since + _STILL_S:
            print("captchactl: the probation stands still: captchactl status says what is out", file=sys.stderr)
            still_since = math.inf
    return report


def confirm(options: Namespace) -> int:
    """Keep what `reload --confirm-within` brought."""
    data = call(find(options.config, options.socket).socket, "config.confirm", timeout_s=ASK_S)
    print(json.dumps(data, indent=2) if options.json else f"confirmed: generation {clean(data.get('generation'))}")
    return Exit.OK


def rollback(options: Namespace) -> int:
    """Run an earlier generation, whatever the file says."""
    places = find(options.config, options.socket)
    args = {} if options.generation is None else {"generation": options.generation}
    data = call(places.socket, "config.rollback", args, timeout_s=RELOAD_S)
    config = data.get("config")
    number = config.get("generation") if isinstance(config, dict) else None
    return _report(options, data, f"rolled back; it runs as generation {clean(number)}")


def _report(options: Namespace, data: dict[str, Any], done: str) -> int:
    if options.json:
        print(json.dumps(data, indent=2))
        return Exit.OK
    changed = [each for each in data.get("changed") or [] if isinstance(each, dict)]
    for each in changed:
        print(_line(each))
    print(done if changed else "nothing has changed")
    config = data.get("config")
    told = config if isinstance(config, dict) else {}
    if told.get("confirm_by"):
        print(f"captchactl config confirm keeps it; without that it is rolled back at {clean(told['confirm_by'])}")
    elif changed and told.get("probation_s"):
        print(f"on probation for {duration(told['probation_s'])}")
    return Exit.OK


def _line(change: Mapping[str, Any]) -> str:
    from captchad.config.changes import Change
    from captchad.config.schema import Reload

    key, before, after, applies = (str(change.get(name)) for name in ("key", "before", "after", "applies"))
    return clean(Change(key, before, after, Reload(applies)))


# --- what runs, and what could


def show(options: Namespace) -> int:
    """Print what runs as TOML, or each value with where it comes from; without a daemon, what the file says."""
    if options.generation is not None:
        tree = _generation(options, options.generation)
        origins = dict.fromkeys(_flat(tree), f"generation {options.generation}")
    else:
        tree, origins = _running_or_file(options)
    if options.json:
        print(json.dumps({"schema": 1, "config": tree, "origins": origins}, indent=2))
    elif options.origin:
        rows = [(origins.get(key, "-"), key, json.dumps(value)) for key, value in _flat(tree).items()]
        sys.stdout.write(table(("FROM", "KEY", "VALUE"), [tuple(map(clean, row)) for row in rows]))
    else:
        import tomli_w

        sys.stdout.write(tomli_w.dumps(tree))
    return Exit.OK


def _running_or_file(options: Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        found = _ask(options)
    except NotRunning as error:
        from captchad.config.changes import origins
        from captchad.config.load import load
        from captchad.config.schema import to_dict

        loaded = load(_file(options))
        print(f"captchactl: {clean(error)}; this is what the file says", file=sys.stderr)
        return to_dict(loaded.config), origins(loaded)
    return found["config"], found["origins"]


def diff(options: Namespace) -> int:
    """What differs between two of: what runs, what the file says, and generations."""
    from captchad.config.changes import changes

    before, after = (_named(options, name) for name in (options.before, options.after))
    found = changes(before, after)
    if options.json:
        rows = [{"key": e.key, "before": e.before, "after": e.after, "applies": e.applies} for e in found]
        print(json.dumps({"schema": 1, "changed": rows}, indent=2))
    else:
        sys.stdout.writelines(f"{clean(each)}\n" for each in found)
        if not found:
            print("no difference", file=sys.stderr)
    return Exit.OK


def _named(options: Namespace, name: str) -> dict[str, Any]:
    """The tree that a word of the command line names."""
    if name == "running":
        tree: dict[str, Any] = _ask(options)["config"]
        return tree
    if name == "file":
        from captchad.config.load import load
        from captchad.config.schema import to_dict

        return to_dict(load(_file(options)).config)
    if name.isdecimal():
        return _generation(options, int(name))
    raise FixInput(f"{name}: no such configuration", hint="name running, file, or the number of a generation")


def _ask(options: Namespace) -> dict[str, Any]:
    return call(find(options.config, options.socket).socket, "config.show", timeout_s=ASK_S)


def _file(options: Namespace) -> Path:
    return Path(options.config or DEFAULT_CONFIG)


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    from captchad.config.changes import flat

    return flat(tree)


# --- generations


def history(options: Namespace) -> int:
    """The generations, the newest first, and what was rejected and why. The one that runs has a star."""
    saved, running = _generations(options)
    found = saved.history()
    rejected = saved.rejections()
    rows = [_row(each, before, running) for each, before in _with_before(found, {each.digest for each in rejected})]
    if options.json:
        gone = [{"digest": each.digest, "reason": each.reason, "time": each.time} for each in rejected]
        print(json.dumps({"schema": 1, "generations": rows, "rejected": gone}, indent=2))
        return Exit.OK
    if not rows:
        print(f"no generation in {saved.directory}", file=sys.stderr)
    else:
        head = ("", "GEN", "SAVED", "STATE", "VERSION", "DIGEST", "CHANGED")
        sys.stdout.write(table(head, [_cells(row) for row in rows]))
    for each in reversed(rejected):
        print(f"rejected  {each.digest[:_SHOWN_DIGEST]}  {clean(each.time)}  {clean(each.reason)}")
    return Exit.OK


def _with_before(found: list[Any], rejected: Container[str]) -> Iterable[tuple[Any, Any]]:
    """Each with the one before it. What was rolled back by itself came before none: the next one did not follow it."""
    from captchad.config.generations import Standing

    stayed = [each for each in found if each.standing is not Standing.TRIED or each.digest not in rejected]
    for each in found:
        yield each, next((before for before in stayed if before.number < each.number), None)


def _row(generation: Any, before: Any, running: int) -> dict[str, Any]:
    from captchad.config.changes import changes
    from captchad.config.schema import to_dict

    names: list[str] = []
    if before is not None and before.digest != generation.digest:
        names = [each.key for each in changes(to_dict(before.config), to_dict(generation.config))] or ["a key"]
    return {
        "generation": generation.number,
        "running": generation.number == running,
        "time": generation.time,
        "state": generation.standing,
        "version": generation.version,
        "digest": generation.digest,
        "changed": names,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    changed: list[str] = row["changed"]
    more = f" and {len(changed) - _SHOWN_CHANGES} more" if len(changed) > _SHOWN_CHANGES else ""
    names = ", ".join(changed[:_SHOWN_CHANGES]) + more
    plain = (row["generation"], row["time"], row["state"], row["version"], row["digest"][:_SHOWN_DIGEST], names or "-")
    return ("*" if row["running"] else "", *map(clean, plain))


def _generation(options: Namespace, number: int) -> dict[str, Any]:
    from captchad.config.schema import to_dict

    saved, _ = _generations(options)
    found = saved.get(number)
    if found is None:
        raise FixInput(f"there is no generation {number}", hint="captchactl config history lists them")
    return to_dict(found.config)


def _generations(options: Namespace) -> tuple[Any, int]:
    """The saved ones, also beside a running daemon and without one, and the number of the one that runs (0: none)."""
    from captchad.cli.bounds import directory_of
    from captchad.config.generations import Generations

    seen = find_status(find(options.config, options.socket))
    where = directory_of(_file(options), seen)
    if where.is_dir() and not os.access(where, os.R_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(where))
    match seen.status:
        case {"daemon": {"config": {"generation": int(number)}}} if seen.code is Exit.OK:
            return Generations(where), number
    return Generations(where), 0
