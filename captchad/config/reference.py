"""Writes the reference page and the example file from the schema.

python -m captchad.config.reference            docs/captchad.toml.md
python -m captchad.config.reference example    etc/captchad.toml
python -m captchad.config.reference manual     captchad.toml(5) in Markdown, for docs/pages.py
"""

__all__ = ["example", "main", "manual", "reference"]

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from captchad.config.load import MAX_BYTES
from captchad.config.schema import REQUIRED, Key, Table, keys, tables

_WIDTH = 100

_INTRO = """\
# captchad.toml

The configuration of captchad, in [TOML](https://toml.io). Default place: `/etc/captchad/captchad.toml`.
This page is made from the schema by `python -m captchad.config.reference`; an example with every key is
`etc/captchad.toml`.

"""

_RULES = f"""\
**Files.** The main file is read first, then every `conf.d/*.toml` beside it, in the order of their names (dot-files are
left out). Tables merge, key by key; a later file wins. Arrays replace: a drop-in with `[[provider]]` replaces *all*
providers of the files before it, and `allowed_hosts` in a drop-in replaces the whole list. What is left after the merge
is checked as one. Files are UTF-8 and at most {MAX_BYTES >> 20} MiB.

**Check.** `captchad check` prints each fault on its own line, `FILE:LINE: KEY: what is wrong (hint)`, and exits with
78; else it prints `OK` with the SHA-256 of the effective configuration and exits with 0. In place of a key stands
`syntax` when the file is no TOML, and `file` when it cannot be read; line 0 means the file as a whole. An unknown key
is a fault.

**Numbers.** Every number of seconds may be an integer or a float. Keys that end in `_s` are seconds.

**API keys** never stand in this file. Each provider names either a systemd credential (`api_key_credential`, a file in
`$CREDENTIALS_DIRECTORY`) or a file (`api_key_file`): one line with the key alone. `unset` means that there is no key
yet. Outside systemd `captchad check` cannot see credentials; it says so and checks the rest. The key before it may
stand beside it, under the same name with `.previous` appended: captchas that were submitted with it are polled with it.

**Reload.** `live`: a reload applies the new value. `workers`: a reload applies it, and every worker is replaced by
a new one, one at a time. `restart`: a reload that changes such a key is refused as a whole; restart the service
instead.

**Last known good.** A configuration that has run for `daemon.probation_s` without faults of its own is saved as a
generation (effective values, no keys). If the file is bad at a start or reload, or fails by itself on probation, the
last good generation runs, and `captchactl status` says so. `captchactl config` shows, compares and goes back.
"""

_MANUAL_INTRO = """\
# captchad.toml(5)

## NAME

captchad.toml - configuration of captchad

## SYNOPSIS

    /etc/captchad/captchad.toml
    /etc/captchad/conf.d/*.toml

## DESCRIPTION

The configuration of captchad, in TOML.

"""

_MANUAL_END = """\
## SEE ALSO

captchad(8), captchactl(1)
"""

_EXAMPLE_INTRO = """\
# Configuration of captchad: every key with its default. The reference is captchad.toml(5).
# After a change: captchad check, then systemctl reload captchad.
#
# Above each key: what it means; its unit, its range, its default, and when a change takes effect (live: by a reload;
# workers: by a reload, as workers are replaced one by one; restart: at the next start, and a reload is refused).
# Drop-ins conf.d/*.toml beside this file are merged over it: tables merge, arrays replace (a [[provider]] in a
# drop-in replaces all providers here).
"""


def reference() -> str:
    """The reference page, in Markdown."""
    return "\n".join([_INTRO + _RULES, *(_section(table) for table in tables())])


def example() -> str:
    """The example file: valid, every key with its default (or an example, where there is none)."""
    return "\n".join([_EXAMPLE_INTRO, *(_example_table(table) for table in tables())])


def manual() -> str:
    """The page of the manual, in the Markdown of docs/man/."""
    return "\n".join([_MANUAL_INTRO + _RULES, *(_manual_table(table) for table in tables()), _MANUAL_END])


def _manual_table(table: Table) -> str:
    entries = [_starless(f"**{key.name}**\n: {key.spec.doc}\n  {_facts(key)}\n") for key in keys(table)]
    return "\n".join([f"## {table.header}", "", table.doc, "", *entries])


def _starless(text: str) -> str:
    """Markdown in which a star within quotes is a star."""
    return re.sub(r'"[^"]*"', lambda quoted: quoted[0].replace("*", r"\*"), text)


def _section(table: Table) -> str:
    rows = [_row(key) for key in keys(table)]
    head = ["| key | type | unit | range | default | reload | meaning |", "|---|---|---|---|---|---|---|"]
    return "\n".join([f"## `{table.header}`", "", table.doc, "", *head, *rows, ""])


def _row(key: Key) -> str:
    spec = key.spec
    cells = (
        f"`{key.name}`",
        spec.kind.word,
        spec.unit,
        spec.kind.range,
        _default(key, "`"),
        spec.reload.value,
        spec.doc,
    )
    return f"| {' | '.join(cell or '-' for cell in cells)} |"


def _default(key: Key, quote: str = "") -> str:
    if key.default is REQUIRED:
        return "required"
    return "none" if key.default is None else f"{quote}{_toml(key.default)}{quote}"


def _toml(value: object) -> str:
    """A default or example as it is written in TOML."""
    if isinstance(value, float):
        return repr(value)
    return "{}" if value == () else json.dumps(str(value) if isinstance(value, Path) else value)


def _example_table(table: Table) -> str:
    return "\n".join([f"# {table.doc}", table.header, *(line for key in keys(table) for line in _example_key(key)), ""])


def _example_key(key: Key) -> Iterable[str]:
    yield from (f"# {line}" for line in textwrap.wrap(key.spec.doc, _WIDTH))
    yield from (f"# {line}" for line in textwrap.wrap(_facts(key), _WIDTH))
    value = key.spec.example if key.spec.example is not None else key.default
    # A provider has one of its two sources of the key; the example shows the credential, and offers all methods.
    off = "# " if key.name in ("api_key_file", "methods") else ""
    yield f"{off}{key.name} = {_toml(value)}"


def _facts(key: Key) -> str:
    spec = key.spec
    unit = f" {spec.unit}" if spec.unit else ""
    return f"[{spec.kind.word}{unit}; {spec.kind.range}; default: {_default(key)}; {spec.reload.value}]"


def main(arguments: Sequence[str]) -> int:
    """Print the page, or the example file, or the page of the manual."""
    writers = {"example": example, "manual": manual}
    sys.stdout.write(writers.get(arguments[0] if arguments else "", reference)())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
