"""Change the core in a thousand places, one at a time, and see how many of the changes its tests notice.

    python -m tests.supervisor.mutants [--least 90]

mutmut works in a copy in a temporary directory. Only the tests of the core's functions run, not the simulation: what
it alone would find is not counted. Names the survivors; status 1 when fewer than `--least` percent are killed.
"""

__all__ = ["main"]

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE = "captchad/supervisor/core"

CONFIG = f"""\
[mutmut]
source_paths =
    {CORE}
also_copy =
    captchad
    tests
    docs
pytest_add_cli_args_test_selection =
    tests/supervisor
"""


def main() -> int:
    """Copy, mutate, run, report."""
    parser = argparse.ArgumentParser(prog="tests.supervisor.mutants")
    parser.add_argument("--least", type=float, default=90.0, metavar="PERCENT", help="to be killed (default: 90)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="captchad-mutants-") as name:
        copy = Path(name)
        _copy(copy)
        _mutmut(copy, "run", "--max-children", str(os.cpu_count() or 1))
        _mutmut(copy, "export-cicd-stats")
        counts = json.loads((copy / "mutants/mutmut-cicd-stats.json").read_text())
        survivors = _mutmut(copy, "results")
    killed, total = counts["killed"] + counts["timeout"] + counts["segfault"], counts["total"]
    print(survivors.rstrip())
    print(f"{killed} of {total} mutants are killed: {100 * killed / total:.1f} %")
    return int(not total or 100 * killed / total < options.least)


def _copy(copy: Path) -> None:
    """What the tests of the core need, and no others: mutmut runs all that it finds."""
    for name in ("captchad", "docs"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    tests = copy / "tests/supervisor"
    tests.mkdir(parents=True)
    (copy / "tests/__init__.py").touch()
    for path in (ROOT / "tests/supervisor").glob("*.py"):
        if path.name.startswith("test_core_") or path.name in ("__init__.py", "fleet.py"):
            shutil.copy(path, tests)
    (copy / "setup.cfg").write_text(CONFIG)


def _mutmut(copy: Path, *words: str) -> str:
    """Its output. What goes wrong is shown. Raises CalledProcessError."""
    done = subprocess.run(
        [Path(sys.executable).with_name("mutmut"), *words], cwd=copy, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n")
        done.check_returncode()
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
