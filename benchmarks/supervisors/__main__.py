"""`make bench-supervisor`: captchad beside supervisord, circus, gunicorn and cotyledon, each with 8 idle workers.

    python -m benchmarks.supervisors [--quick] [--only NAME,NAME] [--json FILE]

Killed → ready: from SIGKILL of a worker until its replacement could begin, by CLOCK_MONOTONIC, which all processes
share. Stopped → ready: the same from SIGSTOP, with a limit of 2 s where a contender has one. Idle processor and memory:
of the supervisor and all that descends from it. Starts of workers that die at boot, with the contender's own policy.
What it needs it installs into .venv-bench; see docs/benchmarks.md.
"""

__all__ = ["main"]

import argparse
import compileall
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import captchad
from benchmarks.environment import absent_packages, bench_python, install_packages, package_versions
from benchmarks.supervisors.captchad_daemon import CaptchadDaemon
from benchmarks.supervisors.captchad_deep import CaptchadDeep
from benchmarks.supervisors.contender import Contender, Place
from benchmarks.supervisors.contenders import CONTENDERS, PACKAGES
from benchmarks.supervisors.measure import Results, Scale, measure
from benchmarks.supervisors.processes import adopt_orphans, end_children
from benchmarks.supervisors.report import report
from tests.support.sandbox import Sandbox

WORKERS = 8

SCALES = {
    "full": Scale(kills=32, stalls=3, never_s=15.0, idle_s=60.0, boot_s=60.0, spread_s=5.0, settle_s=3.0, deep=True),
    "quick": Scale(kills=8, stalls=1, never_s=8.0, idle_s=10.0, boot_s=10.0, spread_s=5.0, settle_s=1.0, deep=True),
    "tiny": Scale(kills=2, stalls=1, never_s=30.0, idle_s=2.5, boot_s=1.0, spread_s=0.0, settle_s=0.0, deep=False),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.supervisors")
    parser.add_argument("--scale", choices=list(SCALES), default="full", help="how much of everything (default: full)")
    parser.add_argument("--quick", dest="scale", action="store_const", const="quick", help="three minutes")
    parser.add_argument("--only", help=f"these contenders, with commas between: {', '.join(CONTENDERS)}")
    parser.add_argument("--no-install", action="store_true", help="install nothing, run all with this Python")
    parser.add_argument("--json", type=Path, help="write every measurement there, too")
    return parser.parse_args()


def _choose(arguments: argparse.Namespace, python: Path) -> list[type[Contender]]:
    """Who takes part; who does not is said."""
    wanted = arguments.only.split(",") if arguments.only else list(CONTENDERS)
    absent = absent_packages(python, PACKAGES)
    left_out = [name for name in wanted if CONTENDERS[name].package in absent]
    for name in left_out:
        print(f"- {name} is left out: not installed")
    return [CONTENDERS[name] for name in wanted if name not in left_out]


def _run(contenders: Sequence[type[Contender]], python: Path, scale: Scale) -> Results:
    # As an installation does: compiling at every start is no part of what is measured.
    for package in (Path(captchad.__file__).parent, Path(__file__).parent):
        compileall.compile_dir(package, quiet=1)
    adopt_orphans()
    # A run that is told to end leaves no process, either.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-supervisors-") as name, Sandbox() as sandbox:
            place = Place(Path(name), python, WORKERS, sandbox.url, sandbox.key)
            deep = [CaptchadDeep] if scale.deep and CaptchadDaemon in contenders else []
            return measure(place, contenders, scale, lambda text: print(text, file=sys.stderr), killed_only=deep)
    finally:
        end_children()


def main() -> int:
    """Measure, print the table. Status 0 also when an aim is missed: a busy machine is no fault."""
    arguments = _arguments()
    scale = SCALES[arguments.scale]
    if not arguments.no_install:
        for line in install_packages(PACKAGES):
            print(f"- {line}")
    python = Path(sys.executable) if arguments.no_install else bench_python()
    contenders = _choose(arguments, python)
    results = _run(contenders, python, scale)
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} processors, captchad {captchad.__version__},")
    print(f"{', '.join(package_versions(python, PACKAGES))}; {scale.kills} kills each\n")
    print(report(results, scale))
    if arguments.json:
        found = {"versions": package_versions(python, PACKAGES), **results.as_json()}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
