"""Text for people. Every value may come from outside: control characters never reach the terminal.

The shapes rendered here are the JSON objects that `--json` prints; keys may be missing.
"""

__all__ = [
    "Style",
    "clean",
    "duration",
    "mebibytes",
    "providers",
    "seat",
    "show_task",
    "stamp",
    "status",
    "style_for",
    "table",
    "workers",
]

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import IO, Any, NamedTuple

from captchad.model.clock import iso_utc

_GOOD, _WARN, _BAD, _BOLD = "32", "33", "31", "1"

#: Words that mean something is wrong, and words that ask for a look; everything else is plain.
_COLOURS = {
    "normal": _GOOD,
    "running": _GOOD,
    "closed": _GOOD,
    "degraded": _WARN,
    "half_open": _WARN,
    "draining": _WARN,
    "emergency": _BAD,
    "open": _BAD,
    "stalled": _BAD,
    "stopped": _BAD,
    "died": _BAD,
}

_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


class Style(NamedTuple):
    """Whether colours are wanted."""

    colour: bool = False

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def word(self, word: Any) -> str:
        """A state in its colour."""
        text = clean(word)
        code = _COLOURS.get(text)
        return self.paint(text, code) if code else text


def style_for(out: IO[str]) -> Style:
    """Colours on a terminal that takes them, unless NO_COLOR is set."""
    wanted = out.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and not os.environ.get("NO_COLOR")
    return Style(bool(wanted))


def clean(value: Any) -> str:
    """`value` as one line without control characters; `-` for nothing."""
    if value is None:
        return "-"
    return "".join(char if char.isprintable() else "?" for char in str(value))


def duration(seconds: Any) -> str:
    """`3.4 s`, `12 min 5 s`, `3 h 2 min`; `-` for nothing."""
    if not isinstance(seconds, int | float):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    names = [*_UNITS, (1.0, "s")]
    for (unit_s, name), (next_s, next_name) in pairwise(names):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {name} {int(seconds % unit_s // next_s)} {next_name}"
    return "-"


def stamp(value: Any) -> str:
    """A point in time: seconds as ISO 8601, a text as it is."""
    return iso_utc(value) if isinstance(value, int | float) else clean(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, indent: str = "") -> str:
    """Aligned columns, two blanks apart; every cell must be clean already."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "".join(
        indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def status(found: dict[str, Any], style: Style) -> str:
    """The whole status as a compact block."""
    daemon = _object(found, "daemon")
    parts = [_daemon(found, style)]
    if daemon.get("state") not in ("died", "stopped"):  # then its workers are gone, too
        parts.append(_workers(_object(found, "workers")))
    parts.append(_queue(_object(found, "queue")))
    parts += [_provider(each, style) for each in _list(found, "providers")]
    problems = [problem for problem in daemon.get("problems") or [] if isinstance(problem, str)]
    config = _object(daemon, "config").get("problem")
    if config and not any(str(config) in problem for problem in problems):
        problems.append(f"config: {config}")
    parts += [style.paint(f"problem   {clean(problem)}", _WARN) + "\n" for problem in problems]
    return "".join(parts)


def _daemon(found: dict[str, Any], style: Style) -> str:
    daemon = _object(found, "daemon")
    config = _object(daemon, "config")
    head = f"captchad  {style.word(daemon.get('state'))}, mode {style.word(daemon.get('mode'))}, "
    head += f"pid {clean(daemon.get('pid'))}, up {duration(daemon.get('uptime_s'))}, "
    head += f"version {clean(daemon.get('version'))}\n"
    if found.get("source") != "live":
        head += (
            style.paint(f"          as it was {duration(found.get('age_s'))} ago, from the status file", _WARN) + "\n"
        )
    return head + f"config    {clean(config.get('path'))} ({clean(config.get('origin'))}, {_proven(config)})\n"


def _proven(config: dict[str, Any]) -> str:
    """Which generation it is; a configuration on probation is none yet."""
    if config.get("confirm_by"):
        return f"waits for captchactl config confirm until {clean(config.get('confirm_by'))}"
    left_s = config.get("probation_s")
    generation = f"generation {clean(config.get('generation'))}"
    return generation if left_s is None else f"{generation}, on probation for {duration(left_s)} more"


def _workers(workers: dict[str, Any]) -> str:
    head = f"workers   {_number(workers, 'alive')} of {_wanted(workers)} alive, "
    head += f"{_number(workers, 'min')} needed\n"
    rows = [
        (
            _number(each, "slot"),
            clean(each.get("pid")),
            clean(each.get("state")),
            _number(each, "in_flight"),
            _number(each, "completed"),
            _number(each, "restarts"),
            duration(each.get("heartbeat_age_s")),
            mebibytes(each.get("rss_bytes")),
            clean(each.get("cpu_percent")),
        )
        for each in _list(workers, "list")
    ]
    names = ("slot", "pid", "state", "in flight", "completed", "restarts", "beat", "memory", "cpu %")
    return head + (table(names, rows, indent="          ") if rows else "")


def _wanted(workers: dict[str, Any]) -> str:
    """How many are to run now; an older daemon says only what is configured."""
    return clean(workers.get("target", workers.get("configured")))


def _queue(queue: dict[str, Any]) -> str:
    now = ", ".join(f"{_number(queue, name)} {name.replace('_', ' ')}" for name in ("in_flight", "pending", "delayed"))
    odd = ", ".join(f"{_number(queue, name)} {name}" for name in ("held", "dead"))
    cost = f", cost {clean(queue['cost_total'])}" if queue.get("cost_total") else ""
    return (
        f"queue     {now}, {odd}; oldest pending {duration(queue.get('oldest_pending_s'))}\n"
        f"totals    {_number(queue, 'solved_total')} solved, {_number(queue, 'failed_total')} failed, "
        f"{_number(queue, 'charges_total')} charges, {_number(queue, 'unknown_submits')} unknown submits, "
        f"{_number(queue, 'late_submits')} late{cost}\n"
    )


def _provider(provider: dict[str, Any], style: Style) -> str:
    rate = _percent(provider.get("solve_rate"))
    solved = "nothing solved yet" if rate == "-" else f"{rate} solved"
    line = f"provider  {clean(provider.get('name'))}: breaker {style.word(provider.get('breaker'))}, "
    line += f"{_number(provider, 'in_flight')} in flight, {solved}"
    balance = provider.get("balance")
    return line + (f", balance {clean(balance)}" if balance is not None else "") + "\n"


def providers(found: dict[str, Any]) -> str:
    """A line for each provider, and what keeps it from more work."""
    rows = [
        (
            clean(each.get("name")),
            clean(each.get("breaker")),
            f"{_number(each, 'in_flight')}/{_number(each, 'limit')}",
            _percent(each.get("solve_rate")),
            clean(each.get("balance")),
            f"{_number(each, 'working_threads')}/{_number(each, 'threads')}",
            clean(each.get("held_back")),
        )
        for each in _list(found, "providers")
    ]
    return table(("NAME", "BREAKER", "IN FLIGHT", "SOLVED", "BALANCE", "THREADS", "WAITS FOR"), rows)


def workers(found: dict[str, Any]) -> str:
    """A line for each worker: in seats, in reserve, and those that leave; of a daemon that is gone, how it was."""
    all_ = _object(found, "workers")
    rows = [_worker(seat(each.get("slot")), each) for name in ("list", "reserve") for each in _list(all_, name)]
    rows += [_worker("leaving", each) for each in _list(all_, "leaving")]
    if _object(found, "daemon").get("state") in ("died", "stopped"):
        rows = [(name, f"was {state}", *more) for name, state, *more in rows]
    names = ("SEAT", "STATE", "PID", "IN FLIGHT", "PHASE", "CALLS", "BEAT", "LAG", "MEMORY", "RESTARTS", "LAST DEATH")
    return table(names, rows) + "".join(f"{note}\n" for note in _worker_notes(all_))


def _worker(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        clean(row.get("state")),
        clean(row.get("pid")),
        _number(row, "in_flight"),
        clean(row.get("phase")),
        _number(row, "calls"),
        duration(row.get("heartbeat_age_s")),
        duration(row.get("lag_s")),
        mebibytes(row.get("rss_bytes")),
        _number(row, "restarts"),
        clean(row.get("last_death")),
    )


def _worker_notes(workers: dict[str, Any]) -> list[str]:
    """What is otherwise than the configuration says."""
    notes = []
    configured = clean(workers.get("configured"))
    if _wanted(workers) != configured:
        notes.append(f"{_wanted(workers)} workers are wanted now; daemon.workers is {configured}")
    share = workers.get("share")
    if isinstance(share, int | float) and share < 1.0:
        notes.append(f"they use {_percent(share)} of their threads: the system is short of something, see the log")
    return notes


def seat(index: Any) -> str:
    """A worker's place: its number, or `reserve`."""
    return "reserve" if isinstance(index, int) and index < 0 else clean(index)


def show_task(task: dict[str, Any]) -> str:
    """One task: a line for each field that says something, then its history."""
    lines = []
    for name, value in task.items():
        if name == "history" or value is None or value == "":
            continue
        values = value if isinstance(value, list) else [value]
        lines += [f"{name:<16}{_plain(name, each)}\n" for each in values]
    if task.get("state") == "held":
        lines.append(_held(task))
    history = task.get("history")
    if isinstance(history, list) and history:
        lines.append("history\n")
        lines += [f"  {clean(line)}\n" for line in history]
    return "".join(lines)


def _held(task: dict[str, Any]) -> str:
    """Why nothing happens to a held task, and how it goes on."""
    why, task_id = clean(task.get("message") or task.get("error") or "by an operator"), clean(task.get("id"))
    return f"held: {why}; captchactl release {task_id} runs it again, captchactl cancel {task_id} ends it\n"


def _plain(name: str, value: Any) -> str:
    """A field's value on one line; an object as `name=value …`."""
    if isinstance(value, dict):
        return " ".join(f"{clean(key)}={_plain(key, each)}" for key, each in value.items())
    return stamp(value) if name.endswith("_at") else clean(value)


def _number(values: dict[str, Any], name: str) -> str:
    return clean(values.get(name))


def _percent(value: Any) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) else "-"


def mebibytes(value: Any) -> str:
    """`21 MiB`; `-` for nothing."""
    return f"{value / (1 << 20):.0f} MiB" if isinstance(value, int | float) else "-"


def _object(values: dict[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _list(values: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = values.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
