"""`make bench-calls` in small: every transport must get its answers, or there is nothing to compare."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.calls import ASYNCIO, CONTENDERS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("tls", [(), ("--tls",)])
def test_every_transport_is_measured(tmp_path: Path, tls: tuple[str, ...]) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.calls", "--rounds", "1", "--threads", "2", "--calls", "2", *tls]
    done = subprocess.run([*command, "--json", str(figures)], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    (measured,) = json.loads(figures.read_text())
    assert set(measured) == {*CONTENDERS, ASYNCIO}
    assert all(each["cpu_s"] > 0 and each["calls_per_s"] > 0 for each in measured.values())
    assert all(f"| {name} |" in done.stdout for name in measured)
