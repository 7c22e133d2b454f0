"""A benchmark as a process of its own, for the tests that run it in small."""

__all__ = ["run_module"]

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_module(module: str, *arguments: str, prefix: Sequence[str] = (), **environ: str) -> str:
    """What `benchmarks.MODULE` prints; `prefix` is a command that runs it. Raises AssertionError when it fails."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,  # below the limit of a test, so that what it said is not lost
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
