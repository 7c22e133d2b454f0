"""The tables, as Markdown."""

__all__ = ["peers_report"]

from collections.abc import Callable, Sequence

from benchmarks.markdown import figure, table
from benchmarks.queue.contenders import CONTENDERS, REFERENCE
from benchmarks.queue.runner import CELLS, Results
from benchmarks.queue.trial import Outcome

_NONE = "-"


def peers_report(results: Results, contenders: Sequence[str]) -> str:
    """Rates with ratios, latencies, processor time, and what was found on the disk and wrong."""
    names = [name for name in contenders if name not in results.failures]
    parts = [
        f"Tasks a second, in brackets the ratio to {CONTENDERS[REFERENCE].title}:",
        _columns(results, names, _rate),
        "One operation (an enqueue, a batch of 1,000, a take with its completion), p50 / p99 in ms:",
        _columns(results, names, _latency),
        "Processor seconds a thousand tasks, all processes of the contender:",
        _columns(results, names, _cpu),
        "Bytes on disk a task, syncs a task, and what went wrong:",
        _findings(results, names),
    ]
    parts += [f"{CONTENDERS[name].title} was given up: {why}" for name, why in results.failures.items()]
    return "\n\n".join(parts)


def _columns(results: Results, names: Sequence[str], cell_text: Callable[[Results, str, str], str]) -> str:
    head = ["", *(cell.title for cell in CELLS)]
    rows = [[CONTENDERS[name].title, *(cell_text(results, name, cell.name) for cell in CELLS)] for name in names]
    return table(head, rows)


def _rate(results: Results, name: str, cell: str) -> str:
    rate = results.median(name, cell, lambda outcome: outcome.rate)
    if rate is None:
        return _NONE
    ratio = results.ratio(name, cell)
    return figure(rate) + (f" ({ratio:.2f})" if ratio is not None else "")


def _latency(results: Results, name: str, cell: str) -> str:
    p50 = results.median(name, cell, lambda outcome: outcome.p50_s * 1e3)
    p99 = results.median(name, cell, lambda outcome: outcome.p99_s * 1e3)
    return _NONE if p50 is None or p99 is None else f"{figure(p50)} / {figure(p99)}"


def _cpu(results: Results, name: str, cell: str) -> str:
    value = results.median(name, cell, lambda outcome: outcome.cpu_s / max(1, outcome.tasks) * 1e3)
    return _NONE if value is None else f"{value:.3f}"


def _findings(results: Results, names: Sequence[str]) -> str:
    head = [
        "",
        "bytes, pending",
        "bytes, finished",
        *(f"syncs, {cell.name}" for cell in CELLS),
        "twice",
        "lost",
        "locked",
    ]
    rows = []
    for name in names:
        syncs = [results.median(name, cell.name, _syncs) for cell in CELLS]
        rows.append(
            [
                CONTENDERS[name].title,
                _optional(results.median(name, "life", lambda outcome: outcome.pending_bytes or 0.0), 0),
                _optional(results.median(name, "life", lambda outcome: outcome.finished_bytes or 0.0), 0),
                *(_optional(value if value is None or value >= 0.0 else None, 3) for value in syncs),
                str(results.total(name, lambda outcome: outcome.twice)),
                str(results.total(name, lambda outcome: outcome.lost)),
                str(results.total(name, lambda outcome: outcome.locked)),
            ]
        )
    return _without_empty_columns(head, rows)


def _syncs(outcome: Outcome) -> float:
    return -1.0 if outcome.syncs is None else outcome.syncs / max(1, outcome.tasks)


def _without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kept = [column for column in range(len(head)) if any(row[column] != _NONE for row in rows)]
    return table([head[column] for column in kept], [[row[column] for column in kept] for row in rows])


def _optional(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"
