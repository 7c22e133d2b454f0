"""`make bench-calls` in small: every transport must get its answers, or there is nothing to compare."""

import json
from pathlib import Path

import pytest

from benchmarks.calls import ASYNCIO, CONTENDERS
from tests.support.benchmark import run_module


@pytest.mark.parametrize("tls", [(), ("--tls",)])
def test_every_transport_is_measured(tmp_path: Path, tls: tuple[str, ...]) -> None:
    figures = tmp_path / "figures.json"
    options = ["--rounds", "1", "--threads", "2", "--calls", "2", *tls, "--json", str(figures)]
    printed = run_module("calls", *options)

    (measured,) = json.loads(figures.read_text())
    assert set(measured) == {*CONTENDERS, ASYNCIO}
    assert all(each["cpu_s"] > 0 and each["calls_per_s"] > 0 for each in measured.values())
    assert all(f"| {name} |" in printed for name in measured)
