"""captchactl submit: on the spool directory alone, with or without a daemon."""

__all__ = ["submit"]

import json
import os
import re
import secrets
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from captchad.cli.exits import Exit
from captchad.cli.places import Places, find
from captchad.cli.render import clean
from captchad.client import Client
from captchad.model.errors import FixInput, NeedsOperator, SpoolDown, TaskError
from captchad.model.task import ID_FORM, MAX_TASK_BYTES, check_host, compact, load_json, parse_task

#: What is read at once: a .json file, or standard input. A .jsonl file may have any size.
MAX_INPUT = 64 << 20

#: So many problems are shown; who has more has one problem.
_MAX_SHOWN = 20

_MODE = 0o640
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Given:
    """One task as it was given, not checked yet: bytes of a line, or a value that was parsed already."""

    line: int
    raw: bytes
    value: object = None
    parsed: bool = False


# --- submit


def submit(options: Namespace) -> int:
    """Check the tasks as the daemon would and put them into the spool, all or none. Prints their ids."""
    places = find(options.config, options.socket)
    name = "<stdin>" if options.file == "-" else options.file
    stem = "task" if options.file == "-" else Path(options.file).stem
    with _opened(options.file) as file:
        given = _lines(file) if options.file.endswith(".jsonl") else _split(file.read(MAX_INPUT + 1), name)
        if isinstance(given, list) and len(given) == 1:
            ids, problems = _submit_one(places, given[0])
        else:
            ids, problems = _submit_batch(places, stem, given)
    if problems:
        _complain(name, problems)
        return Exit.FAILED
    if options.json:
        print(json.dumps({"schema": 1, "ids": ids}, indent=2))
    else:
        for task_id in ids:
            print(task_id)
    return Exit.OK


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(name).open("rb") as file:
            yield file
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FixInput(f"{name}: {(error.strerror or 'unreadable').lower()}") from None


def _lines(file: IO[bytes]) -> Iterator[_Given]:
    """The tasks of a .jsonl file, line by line; a line that is too long is cut, and refused by the check."""
    number = 0
    while raw := file.readline(MAX_TASK_BYTES + 2):
        number += 1
        whole = raw.endswith(b"\n")
        while not whole and (rest := file.readline(MAX_TASK_BYTES)):
            whole = rest.endswith(b"\n")
        if raw.strip():
            yield _Given(number, raw)


def _split(data: bytes, name: str) -> list[_Given]:
    """The tasks of a JSON text: an object, an array of them, or lines of objects. Raises TaskError."""
    if len(data) > MAX_INPUT:
        raise FixInput(f"{name}: more than {MAX_INPUT >> 20} MiB", hint="write the tasks to a .jsonl file, one a line")
    try:
        value = load_json(data)
    except TaskError as error:
        lines = data.splitlines()
        if len(lines) > 1 and _is_json(lines[0]):
            return [_Given(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        raise _placed(name, error) from None
    values = value if isinstance(value, list) else [value]
    return [_Given(0 if len(values) == 1 else number, b"", each, parsed=True) for number, each in enumerate(values, 1)]


def _is_json(line: bytes) -> bool:
    try:
        load_json(line)
    except TaskError:
        return False
    return True


def _placed(name: str, error: TaskError) -> FixInput:
    place = f":{error.line}:{error.column}" if error.line else ""
    return FixInput(f"{clean(name)}{place}: {error}", hint=error.hint)


def _submit_one(places: Places, given: _Given) -> tuple[list[str], list[TaskError]]:
    """A file of its own, under its id: `wait` then sees a rejection, too."""
    value = given.value
    try:
        _check(value, places)
        return [Client(places.spool_dir).submit(value if isinstance(value, dict) else {})], []
    except TaskError as error:
        return [], [error]


def _submit_batch(
    places: Places, stem: str, given: Iterator[_Given] | list[_Given]
) -> tuple[list[str], list[TaskError]]:
    """One file in `incoming/` with all tasks; nothing stays there when one is bad. Returns ids and problems.

    Durable in the spool on return. Raises NeedsOperator when there is no spool or it is closed to this user, SpoolDown
    when it takes no write.
    """
    incoming = places.spool_dir / "incoming"
    batch = f"{_safe(stem)}-{secrets.token_hex(4)}"
    part = incoming / f".{batch}.part"
    try:
        with open(os.open(part, _NEW_FILE, _MODE), "wb") as file:  # noqa: PTH123 - a descriptor, made exclusively
            os.fchmod(file.fileno(), _MODE)  # whatever the umask: the daemon reads it by its group
            ids, problems = _copy(places, batch, given, file)
            if problems or not ids:
                return [], problems or [TaskError("there is no task in it")]
            file.flush()
            os.fsync(file.fileno())
            part.rename(incoming / f"{batch}.jsonl")
            _sync_name(file.fileno(), incoming)
    except FileNotFoundError as error:
        raise NeedsOperator(
            f"{incoming} is not there", hint="is captchad installed, and this its spool_dir?"
        ) from error
    except PermissionError:
        raise
    except OSError as error:
        raise SpoolDown(f"{incoming}: {error.strerror}") from error
    finally:
        with suppress(OSError):  # renamed already, or never made; the daemon ignores a leftover
            part.unlink()
    return ids, []


def _copy(
    places: Places, batch: str, given: Iterator[_Given] | list[_Given], file: IO[bytes]
) -> tuple[list[str], list[TaskError]]:
    """Write every good task to `file`; ids and problems."""
    ids: list[str] = []
    problems: list[TaskError] = []
    for each in given:
        try:
            task_id, line = _checked(each, batch, places)
        except TaskError as error:
            error.line = each.line
            problems.append(error)
            continue
        ids.append(task_id)
        file.write(line + b"\n")
    return ids, problems


def _sync_name(fd: int, directory: Path) -> None:
    """Make the rename durable. Whoever may not list the directory syncs the file again: its name comes along."""
    try:
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        os.fsync(fd)
        return
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)


def _check(value: object, places: Places) -> str | None:
    """The task's own id. Raises TaskError for what the daemon would reject."""
    task = parse_task(value)
    if places.allowed_hosts is not None:
        check_host(task, places.allowed_hosts)
    return task.id


def _checked(given: _Given, batch: str, places: Places) -> tuple[str, bytes]:
    """The id and the line to write. Raises TaskError for what the daemon would reject."""
    if len(given.raw) > MAX_TASK_BYTES:
        raise TaskError(f"longer than {MAX_TASK_BYTES} bytes")
    value = given.value if given.parsed else load_json(given.raw)
    own_id = _check(value, places)
    if own_id is not None:
        return own_id, compact(value, given.raw if not given.parsed else json.dumps(value).encode())
    # An id of our own, so that the caller knows it: the daemon would make one from the file's name.
    task_id = f"{batch}-{given.line}"
    named = {"id": task_id, **value} if isinstance(value, dict) else {}
    return task_id, json.dumps(named).encode()


def _safe(stem: str) -> str:
    """`stem` as the beginning of an id."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "-", stem)[:80].lstrip("._-")
    return kept if ID_FORM.fullmatch(kept) else "task"


def _complain(name: str, problems: list[TaskError]) -> None:
    for error in problems[:_MAX_SHOWN]:
        place = f":{error.line}" if error.line else ""
        key = f"{error.key}: " if error.key else ""
        hint = f" ({error.hint})" if error.hint else ""
        print(f"captchactl: {clean(f'{name}{place}: {key}{error}{hint}')}", file=sys.stderr)
    more = len(problems) - _MAX_SHOWN
    if more > 0:
        print(f"captchactl: and {more} more", file=sys.stderr)
    print("captchactl: nothing was submitted", file=sys.stderr)
