"""The table, as Markdown, and what became of the aims."""

__all__ = ["aims", "report"]

import statistics
from collections.abc import Sequence

from benchmarks.markdown import figure, table
from benchmarks.supervisors.captchad_daemon import CaptchadDaemon
from benchmarks.supervisors.captchad_deep import CaptchadDeep
from benchmarks.supervisors.measure import Figures, Results, Scale

AIM_MEDIAN_MS = 5.0
AIM_WORST_MS = 20.0

_NONE = "-"
_REFERENCE = "bare fork"


def report(results: Results, scale: Scale) -> str:
    """Contenders as rows. Behind the times to a replacement, in brackets, their ratio to the reference."""
    head = [
        "",
        "killed → ready, median, ms",
        "worst, ms",
        f"stopped → ready, median of {scale.stalls}, s",
        "idle, % of a core",
        "memory (PSS), MB",
        "processes",
        f"starts in {scale.boot_s:g} s, dying at boot",
        "supervisor then",
        "siblings disturbed",
    ]
    rows = [
        [title, *_cells(figures, results.reference_s, scale)]
        for title, figures in results.figures.items()
        if title not in results.failures
    ]
    reference = [_REFERENCE, *_times(results.reference_s, results.reference_s), *[_NONE] * (len(head) - 3)]
    failures = [f"{title} was given up: {why}" for title, why in results.failures.items()]
    return "\n\n".join([table(head, [*rows, reference]), *aims(results), *failures])


def _cells(figures: Figures, reference_s: Sequence[float], scale: Scale) -> list[str]:
    lost = f"; {figures.lost_kills} not replaced" if figures.lost_kills else ""
    median, worst = _times(figures.kill_s, reference_s)
    return [
        median,
        worst + lost,
        f"never, in {scale.never_s:g} s" if figures.never else _optional(_median(figures.stall_s)),
        _optional(figures.idle_percent),
        _optional(figures.pss_mb),
        _NONE if figures.processes is None else str(figures.processes),
        _NONE if figures.boot_starts is None else str(figures.boot_starts),
        {None: _NONE, True: "lives", False: "gone"}[figures.boot_survived],
        str(figures.disturbed),
    ]


def _times(seconds: Sequence[float], reference_s: Sequence[float]) -> list[str]:
    """Median and worst in ms, each with its ratio to the median of the reference."""
    unit = _median(reference_s)
    found = [_median(seconds), max(seconds, default=None)]
    return [_NONE if each is None or not unit else f"{figure(each * 1e3)} ({each / unit:,.1f})" for each in found]


def _median(seconds: Sequence[float]) -> float | None:
    return statistics.median(seconds) if seconds else None


def _optional(value: float | None) -> str:
    return _NONE if value is None else figure(value)


def aims(results: Results) -> list[str]:
    """One line an aim, if captchad was measured."""
    ours = results.figures.get(CaptchadDaemon.title, Figures()).kill_s
    if not ours:
        return []
    median_ms, worst_ms = statistics.median(ours) * 1e3, max(ours) * 1e3
    others = {
        title: statistics.median(each.kill_s)
        for title, each in results.figures.items()
        if each.kill_s and title not in (CaptchadDaemon.title, CaptchadDeep.title)
    }
    deep = results.figures.get(CaptchadDeep.title, Figures()).kill_s
    lines = [
        _aim(f"killed → ready below {AIM_MEDIAN_MS:g} ms, median", median_ms < AIM_MEDIAN_MS),
        _aim(f"killed → ready below {AIM_WORST_MS:g} ms, worst", worst_ms < AIM_WORST_MS),
    ]
    if others:
        fastest = min(others, key=others.__getitem__)
        lines.insert(0, _aim("captchad first from killed to ready", median_ms < others[fastest] * 1e3, fastest))
    if deep:
        lines.append(
            _aim(f"below {AIM_WORST_MS:g} ms with a million tasks queued, worst", max(deep) * 1e3 < AIM_WORST_MS)
        )
    return lines


def _aim(text: str, met: bool, fastest: str = "") -> str:
    how = "met" if met else "**missed**" + (f", {fastest} is first" if fastest else "")
    return f"Aim: {text}: {how}."
