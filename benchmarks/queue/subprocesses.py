"""The modules of this package as processes of their own that print one line of JSON."""

__all__ = ["Figures", "figures", "root", "run_json", "start"]

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import captchad

#: What such a process prints.
Figures = dict[str, Any]


def start(module: str, *arguments: object) -> subprocess.Popen[str]:
    """Start it, with pipes to its standard input and output."""
    return subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.queue.{module}", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root(),
    )


def root() -> Path:
    """Where captchad's package lies: what is measured is the captchad that this process has imported."""
    return Path(captchad.__file__).parents[1]


def figures(process: subprocess.Popen[str]) -> Figures:
    """What the process prints before it ends. Raises RuntimeError when it fails."""
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r}: exit status {process.returncode}")
    found: Figures = json.loads(out.splitlines()[-1])
    return found


def run_json(module: str, *arguments: object) -> Figures:
    """Run it to its end."""
    return figures(start(module, *arguments))
