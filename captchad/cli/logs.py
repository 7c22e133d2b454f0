"""captchactl logs: journalctl with the matches of captchad's fields, and the list of events.

journalctl takes this process's place: what it prints, pages, and says about itself reaches the operator as it is.
"""

__all__ = ["logs", "parse_event", "parse_name", "parse_task", "parse_unit", "parse_worker"]

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from captchad.cli import render
from captchad.cli.exits import Exit
from captchad.model.errors import CaptchadError, NeedsOperator
from captchad.model.logevents import Event
from captchad.model.task import ID_FORM

#: Lines when neither a number nor a time is asked for.
_LINES = 100

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SEAT = re.compile(r"[0-9]{1,3}")
_PROCESS = re.compile(r"[0-9]{1,9}-[0-9]{1,9}")
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]{0,254}")

#: Where journald keeps its files: what lasts, and what a restart of the machine takes.
_JOURNALS = (Path("/var/log/journal"), Path("/run/log/journal"))


class _NoPermission(NeedsOperator):
    """The journal is there, and this user may not read it."""

    code = Exit.NO_PERMISSION


def logs(options: Namespace) -> int:
    """Become journalctl, or print the events. Raises CaptchadError when there is no journalctl, or no permission."""
    if options.events:
        _print_events(as_json=options.json)
        return Exit.OK
    if not options.user:  # a user reads the journal of his own services
        _may_read(_JOURNALS)
    sys.stdout.flush()
    try:
        os.execvp("journalctl", ["journalctl", *_arguments(options)])
    except FileNotFoundError:
        hint = "captchad's log goes to the stderr of whatever runs it; only under systemd there is a journal to ask"
        raise CaptchadError("there is no journalctl on this machine", hint=hint) from None


def _arguments(options: Namespace) -> list[str]:
    """Raises FileNotFoundError when there is no journalctl to look for the first line."""
    unit = ["--user", f"--user-unit={options.unit}"] if options.user else [f"--unit={options.unit}"]
    matches = list(_matches(options))
    arguments = [*unit]
    if options.follow:
        arguments.append("--follow")
    arguments += _extent(options, [*unit, *matches])
    if options.json:
        arguments.append("--output=json")
    return [*arguments, *matches]


def _extent(options: Namespace, which: list[str]) -> list[str]:
    """Where to begin, and after how many lines to end."""
    if options.since is None:
        return [f"--lines={options.lines or _LINES}"]
    since = f"--since=@{int(options.since)}"
    if options.lines is None:
        return [since]
    # Before systemd 254 journalctl would count from `since` on: the first lines of that time, not the latest.
    cursor = _first_of_the_latest([since, f"--lines={options.lines}", *which])
    if cursor is None:
        return [since]
    # Lines that came since are beyond the number, and must be there all the same when what follows is wanted.
    return [f"--cursor={cursor}", "--no-tail" if options.follow else f"--lines={options.lines}"]


def _first_of_the_latest(arguments: list[str]) -> str | None:
    """journalctl's name for the earliest of the lines that it is asked for; None if there is none, or it fails.

    Why it fails it says again when it has our place.
    """
    command = ["journalctl", "--reverse", "--output=json", "--output-fields=__CURSOR", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as journalctl:
        last = deque(journalctl.stdout or (), maxlen=1)
    return str(json.loads(last[0])["__CURSOR"]) if last else None


def _matches(options: Namespace) -> Iterable[str]:
    """Different fields: journalctl wants all of them to match."""
    if options.event is not None:
        yield f"MESSAGE_ID={options.event.message_id}"
    if options.task is not None:
        yield f"CAPTCHAD_TASK={options.task}"
    if options.worker is not None:
        yield f"CAPTCHAD_{'WORKER' if '-' in options.worker else 'SEAT'}={options.worker}"
    if options.provider is not None:
        yield f"CAPTCHAD_PROVIDER={options.provider}"


def _may_read(places: Iterable[Path]) -> None:
    """Raises when there are journals of the system and none may be read: journalctl then shows less, or nothing."""
    found = [each for place in places for each in place.glob("*/system.journal")]
    if found and not any(os.access(each, os.R_OK) for each in found):
        hint = "run it as root, or as a member of the group systemd-journal"
        raise _NoPermission(f"no permission: {found[0]}", hint=hint)


def _print_events(*, as_json: bool) -> None:
    if as_json:
        rows = [{"event": event, "message_id": event.message_id, "meaning": event.meaning} for event in Event]
        print(json.dumps(rows, indent=2))
    else:
        table = render.table(["event", "meaning"], [[event, event.meaning] for event in Event])
        sys.stdout.write(table)


# --- what the command line says; each raises ValueError with what is wanted


def parse_event(text: str) -> Event:
    """An event by its name."""
    found = [event for event in Event if event == text]
    if not found:
        raise ValueError(f"{text!a} is no event; known are {', '.join(Event)}")
    return found[0]


def parse_task(text: str) -> str:
    """A task's id."""
    return _fitting(ID_FORM, text, "the id of a task")


def parse_name(text: str) -> str:
    """A provider's name."""
    return _fitting(_NAME, text, "the name of a provider")


def parse_worker(text: str) -> str:
    """A seat, or EPOCH-N."""
    form = _PROCESS if "-" in text else _SEAT
    return _fitting(form, text, "a seat like 0, nor a worker like 3-17")


def parse_unit(text: str) -> str:
    """The name of a unit."""
    return _fitting(_UNIT, text, "the name of a unit")


def _fitting(form: re.Pattern[str], text: str, what: str) -> str:
    if not form.fullmatch(text):
        raise ValueError(f"{text!a} is not {what}")
    return text
