"""The tests of the core take every branch of it."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def test_every_branch_of_the_core_is_taken(tmp_path: Path) -> None:
    tests = sorted(str(path) for path in HERE.glob("test_core_*.py"))
    data = f"--data-file={tmp_path / 'coverage'}"
    coverage = [sys.executable, "-m", "coverage"]
    core = "--include=captchad/supervisor/core/*"
    run = [*coverage, "run", "--branch", data, core, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    report = [*coverage, "report", data, "--show-missing", "--fail-under=100"]
    done = subprocess.run(report, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "decide.py" in done.stdout, "a report on nothing shows nothing"
