"""Writes share/: man pages from docs/man/ and the schema, completions of both programs from their parsers.

    make pages      after a change of docs/man/, of the schema, or of a program's options

Needs go-md2man (a Debian package) and shtab. What it writes is committed, so that neither a package nor a wheel needs
them; tests/test_share.py compares.
"""

__all__ = ["SHARE", "pages"]

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import shtab

from captchad.cli import captchactl, captchad
from captchad.config.reference import manual
from captchad.model.logevents import Event

ROOT = Path(__file__).resolve().parent.parent
SHARE = ROOT / "share"
#: Where a shell looks for completions, below a prefix's share/.
_COMPLETIONS = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}
#: Longer cells of a table are wrapped.
_CELL = 40
#: Words of an option that its parser takes without a list of them: that would be imported by every call.
_WORDS = {"--event": list(Event), "--by": ["day", "method", "host", "provider", "tag:"]}
_COMPLETED = {"FILE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}


def pages() -> dict[str, str]:
    """Every file of share/, by its path there. Raises CalledProcessError, and OSError without go-md2man."""
    sources = {path.name.removesuffix(".md"): path.read_text() for path in (ROOT / "docs" / "man").glob("*.md")}
    sources["captchad.toml.5"] = manual()
    found = {f"man/man{name[-1]}/{name}": _roff(name, text) for name, text in sources.items()}
    for parser in (captchad._parser(), captchactl._parser()):
        for action in _actions(parser):
            if isinstance(action.metavar, str) and action.metavar in _COMPLETED:
                action.complete = _COMPLETED[action.metavar]
            for option in action.option_strings:
                action.choices = _WORDS.get(option, action.choices)
        for shell, place in _COMPLETIONS.items():
            found[place.format(parser.prog)] = shtab.complete(parser, shell)
    return found


def _roff(name: str, text: str) -> str:
    """A page of the manual from its Markdown, without a date: what did not change stays the same."""
    page, _, section = name.rpartition(".")
    body = re.sub(r"(?m)^#(#+) ", r"\1 ", text.partition("\n")[2])
    command = ["go-md2man"]
    done = subprocess.run(command, input=f"% {page} {section}\n{body}", capture_output=True, text=True, check=True)
    # mandoc does not know \fC. A minus is to stay one, also where others would become hyphens.
    roff = re.sub(r"(?m)^(\.SH .*\n)\.PP\n", r"\1", done.stdout).replace(r"\fC", "")
    roff = re.sub(r"(?<![\w\\-])-(?=[-\w])", r"\-", roff).replace(r"\--", r"\-\-")
    roff = re.sub(r"(?ms)^\.TS$.*?^\.TE$", lambda table: _wrapped(table[0]), roff)
    return f'\'\\" t\n.\\" Made by docs/pages.py.\n{roff}'


def _wrapped(table: str) -> str:
    """A table whose long cells are blocks of text, so that it fits a terminal of 80 columns."""
    table = table.replace("\nT}\n\t", "\nT}\t")
    rows = table.splitlines()
    for index, row in enumerate(rows):
        cells = row.split("\t")
        if len(cells) > 1:
            blocks = [f"T{{\n{cell}\nT}}" if len(cell) > _CELL else cell for cell in cells]
            rows[index] = "\t".join(blocks)
    return "\n".join(rows)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)


def main() -> None:
    """Write them all, and remove what is no longer one of them."""
    found = pages()
    for path in SHARE.rglob("*"):
        if path.is_file() and str(path.relative_to(SHARE)) not in found:
            path.unlink()
    for name, text in found.items():
        path = SHARE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
