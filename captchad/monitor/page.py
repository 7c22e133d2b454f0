"""The status page: plain HTML without scripts and without anything from elsewhere. Every value is escaped."""

__all__ = ["HEADERS", "render"]

from collections.abc import Iterable
from html import escape
from typing import Any

from captchad.monitor.health import Health

#: Nothing may be loaded, framed or sent from this page.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:64em;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:.5em 0 1.5em}th,td{padding:.15em 1em .15em 0;text-align:left;"
    "border-bottom:1px solid #ddd}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".pass{color:#17692b}.warn{color:#8a5a00}.fail{color:#a11;font-weight:bold}h1{font-size:1.4em}h2{font-size:1.1em}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}"
    ".pass{color:#6c6}.warn{color:#db5}.fail{color:#f77}}"
)


def render(status: dict[str, Any], health: Health, age_s: float | None) -> str:
    """The page for the status object (design's shape; keys may be missing)."""
    daemon = _object(status.get("daemon"))
    workers = _object(status.get("workers"))
    age = "no snapshot yet" if age_s is None else f"{age_s:.1f} s ago"
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">',
        '<meta name="viewport" content="width=device-width"><title>captchad</title>',
        f"<style>{_STYLE}</style></head><body>",
        f'<h1>captchad <span class="{_text(health.status)}">{_text(health.status)}</span></h1>',
        f"<p>{_text(health.output)}</p>" if health.output else "",
        _section("Daemon", _pairs({**daemon, **_config(daemon), "snapshot": age})),
        _section("Checks", _checks(health)),
        _section("Workers", _pairs(workers) + _rows(workers.get("list"))),
        _section("Queue", _pairs(_object(status.get("queue")))),
        _section("Providers", _rows(status.get("providers"))),
        '<p><a href="/health?verbose">health</a> <a href="/metrics">metrics</a> <a href="/status">status</a></p>',
        "</body></html>\n",
    ]
    return "".join(parts)


def _config(daemon: dict[str, Any]) -> dict[str, Any]:
    return {f"config {name}": value for name, value in _object(daemon.get("config")).items()}


def _section(title: str, body: str) -> str:
    return f"<h2>{_text(title)}</h2>{body}" if body else ""


def _pairs(values: dict[str, Any]) -> str:
    """A table of the plain values; what is nested has a table of its own."""
    rows = "".join(
        f"<tr><th>{_text(name)}</th>{_cell(value)}</tr>"
        for name, value in values.items()
        if not isinstance(value, dict | list)
    )
    return f"<table>{rows}</table>" if rows else ""


def _rows(entries: Any) -> str:
    """A table with a row for each object in a list; the columns are the first one's keys."""
    rows = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not rows:
        return ""
    names = list(rows[0])
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in names)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _checks(health: Health) -> str:
    return _join(
        f'<tr><th>{_text(name)}</th><td class="{_text(check.get("status"))}">{_text(check.get("status"))}</td>'
        f"<td>{_text(check.get('output'))}</td></tr>"
        for name, check in health.checks.items()
    )


def _join(rows: Iterable[str]) -> str:
    body = "".join(rows)
    return f"<table>{body}</table>" if body else ""


def _cell(value: Any) -> str:
    numeric = ' class="n"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
    return f"<td{numeric}>{_text(value)}</td>"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return escape(f"{value:.2f}" if isinstance(value, float) else str(value))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
