"""captchactl's verbs about the journal's files: verify, clean, export, repair.

None of them asks the daemon. `verify` and `export` only read, beside a running daemon, too. `clean` and `repair` write,
so they run as the owner of the state directory (root becomes it) and only while no daemon runs.
"""

__all__ = ["clean", "export", "repair", "verify"]

import json
import logging
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from captchad.cli import render
from captchad.cli.exits import Exit
from captchad.cli.places import DEFAULT_CONFIG, become_owner, find
from captchad.model.errors import CaptchadError, ConfigError, NeedsOperator
from captchad.queue import upkeep
from captchad.queue.upkeep import Upkeep

#: Lines of one kind that are printed for people; `--json` has all.
_SHOWN = 20

#: What a service's files may be to others, whatever the operator's shell says.


def verify(options: Namespace) -> int:
    """Say whether the journal is whole, and what is in it. Exit 1 when it is not."""
    with _told_plainly():
        found = upkeep.verify(_upkeep(options, tolerant=True))
    _print(json.dumps(found, indent=2) if options.json else _verified(found))
    if found["clean"]:
        return Exit.OK
    damage = found["damage"]
    raise NeedsOperator(
        f"the journal in {found['journal']} is damaged in {_count(damage, 'place')}", hint=_next(damage)
    )


def clean(options: Namespace) -> int:
    """Forget and clean all that is due."""
    with _told_plainly():
        paths = _upkeep(options, tolerant=False)
        become_owner(paths.state_dir)
        done = upkeep.clean(paths)
    if options.json:
        _print(json.dumps(done, indent=2))
        return Exit.OK
    _print(
        f"before     {_size(done['bytes_before'])} in {_number(done['segments_before'], 'segment')}\n"
        f"after      {_size(done['bytes_after'])} in {_number(done['segments_after'], 'segment')}\n"
        f"forgotten  {_number(done['forgotten'], 'ended task')}"
    )
    return Exit.OK


def export(options: Namespace) -> int:
    """Every record as a line of plain JSON. Exit 1 when something is damaged and was left out."""
    with _told_plainly():
        found = upkeep.Export(_upkeep(options, tolerant=True), options.since)
        with _writing():
            for line in found.lines():
                sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    if found.left_out:
        message = f"{found.left_out} damaged places were left out"
        raise NeedsOperator(message, hint="see what is lost with `captchactl journal verify`")
    return Exit.OK


def repair(options: Namespace) -> int:
    """Make a damaged journal whole, or say what that would do."""
    # What is printed at the end names all that is held. The log says it of a rehearsal, too, as if it were done.
    logging.getLogger("captchad.queue").addHandler(logging.NullHandler())
    with _told_plainly():
        paths = _upkeep(options, tolerant=True)
        become_owner(paths.state_dir)
        done = upkeep.repair(paths, dry_run=options.dry_run)
    _print(json.dumps(done, indent=2) if options.json else _repaired(done))
    return Exit.OK


# --- whose journal, and as whom


def _upkeep(options: Namespace, *, tolerant: bool) -> Upkeep:
    """Where the journal is. What is forgotten depends on the configuration, so a broken one must be tolerated."""
    places = find(options.config, options.socket)
    segment_bytes = max(1, places.segment_mb) << 20
    try:
        from captchad.config.load import load

        config = load(options.config or DEFAULT_CONFIG).config
    except ConfigError:
        if not tolerant:
            raise
        return Upkeep(places.state_dir, segment_bytes)
    return Upkeep(
        places.state_dir,
        segment_bytes,
        id_ttl_s=config.queue.id_ttl_s,
        dead_ttl_s=config.queue.dead_ttl_s,
        allow_weak_fs=config.daemon.allow_weak_fs,
    )


@contextmanager
def _told_plainly() -> Iterator[None]:
    """A journal that may not be read or written is no matter of disks: let it end with the code for permissions."""
    try:
        yield
    except CaptchadError as error:
        if isinstance(error.__cause__, PermissionError):
            raise error.__cause__ from None
        raise


# --- words


def _verified(found: dict[str, Any]) -> str:
    tasks, gains = found["tasks"], found["cleaning_gains_bytes"]
    rows = [
        ("journal", f"{found['journal']}: {'clean' if found['clean'] else 'damaged'}"),
        ("segments", f"{found['segments']}, {_size(found['bytes'])}"),
        ("records", found["records"]),
        ("tasks", f"{tasks['unfinished']} unfinished, {tasks['dead']} dead, {tasks['ended']} ended and remembered"),
        (
            "cleaning",
            "what it would give back is not known while something is damaged"
            if gains is None
            else f"would give back {_size(gains)}",
        ),
    ]
    if tail := found["unfinished"]:
        rows.append(("unfinished", f"{tail['length']} bytes at {tail['place']}: a commit that is not done; no damage"))
    rows += [("unused", f"{name}: counts for nothing; no damage") for name in found["unused_segments"]]
    rows += [("side file", _side(side)) for side in found["side_files"]]
    if entries := found["quarantine"]:
        total = sum(entry["bytes"] for entry in entries)
        names = ", ".join(entry["name"] for entry in entries[:_SHOWN])
        rows.append(("quarantine", f"{_count(entries, 'file')}, {_size(total)}: {names}{_rest(entries)}"))
    return _lines(rows) + _places(found["damage"])


def _side(side: dict[str, Any]) -> str:
    if side["ended"] is None:
        return f"{side['name']}: {side['problem'] or 'its worker lives'}"
    said = "said all that it knew" if side["ended"] else "did not say its last word"
    return f"{side['name']}: {side['outcomes']} outcomes, {said}" + (side["problem"] and f"; {side['problem']}")


def _repaired(done: dict[str, Any]) -> str:
    would = "would be " if done["dry_run"] else ""
    if done["dry_run"] and done["unfinished"]:
        return f"journal    {done['journal']}: a repair was not finished; the next one finishes it first"
    rows: list[tuple[str, Any]] = []
    if done["resumed"]:
        rows.append(("resumed", "a repair that was not finished is finished now"))
    if not (done["damage"] or done["moved"]):
        rows.append(("journal", f"{done['journal']}: nothing to repair"))
    rows += [("moved", f"{name} {would and 'would go '}to quarantine/") for name in done["moved"]]
    if held := done["held"]:
        rows.append(("held", f"{_count(held, 'task')} {would}held, whose history has a hole: {_names(held)}"))
        rows.append(
            ("", "see each with `captchactl show ID`; `captchactl release ID` runs it again and may be charged")
        )
        rows.append(("", "again, `captchactl cancel ID` ends it; `captchactl list --state held` names all"))
    if lost := done["lost"]:
        rows.append(("lost", f"{_count(lost, 'task')}, damaged beyond reading; submit again: {_names(lost)}"))
    if any(each["reason"] == upkeep.MISSING for each in done["damage"]):
        rows.append(("", "tasks of which all records stood in a missing segment leave no trace: submit again what"))
        rows.append(("", "`captchactl show ID` does not know; or put the segment back first, if there is a copy"))
    return _places(done["damage"]) + _lines(rows)


def _places(damage: list[dict[str, Any]]) -> str:
    rows = [
        ("damage", f"{each['place']}" + (f", {each['length']} bytes" if each["length"] else "") + f": {each['reason']}")
        for each in damage[:_SHOWN]
    ]
    if len(damage) > _SHOWN:
        rows.append(("", f"{len(damage) - _SHOWN} more places, see --json"))
    return _lines(rows)


def _next(damage: list[dict[str, Any]]) -> str:
    if all(each["place"].startswith("workers/") for each in damage):
        return "start the daemon: it takes what is good of a side file, and removes it"
    return "stop the daemon if it runs, then `captchactl journal repair`; with --dry-run it only says what it would do"


def _lines(rows: Iterable[tuple[str, Any]]) -> str:
    return "".join(f"{name:<10} {render.clean(text)}\n" for name, text in rows)


def _names(ids: list[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + _rest(ids)


def _rest(some: list[Any]) -> str:
    return f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""


def _count(some: list[Any], word: str) -> str:
    return _number(len(some), word)


def _number(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _print(text: str) -> None:
    with _writing():
        print(text.rstrip("\n"))
        sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    """Standard output that takes no more, as on a full disk, is an error like others. Raises CaptchadError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "make room there, or write to another place"
        raise CaptchadError(f"cannot write to standard output: {error.strerror}", hint=hint) from error
