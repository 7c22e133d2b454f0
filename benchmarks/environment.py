"""A virtual environment for what captchad is compared with: apart from captchad, made by the benchmarks themselves.

All benchmarks share it. Whatever cannot be had is said, one line each, and left out by whoever asked for it.
"""

__all__ = [
    "BENCH_ENVIRONMENT",
    "absent_packages",
    "bench_python",
    "install_packages",
    "output_lines",
    "package_versions",
    "run_quietly",
]

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

BENCH_ENVIRONMENT = _ROOT / ".venv-bench"


def bench_python() -> Path:
    """The Python that runs the contenders: the benchmarks' own, or this one when there is none."""
    own = BENCH_ENVIRONMENT / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def install_packages(packages: Mapping[str, str]) -> list[str]:
    """Bring in what is missing of `packages` (package -> module); returns what could not be had, one line each."""
    python = BENCH_ENVIRONMENT / "bin" / "python"
    if not python.exists() and run_quietly([sys.executable, "-m", "venv", "--clear", str(BENCH_ENVIRONMENT)]):
        return [f"no virtual environment in {BENCH_ENVIRONMENT.name}: the Python packages are left out"]
    for package in absent_packages(python, packages):
        run_quietly([str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", package])
    return [f"Python package {package}: pip could not install it" for package in absent_packages(python, packages)]


def absent_packages(python: Path, packages: Mapping[str, str]) -> list[str]:
    """Those of `packages` (package -> module) whose module this Python does not have."""
    code = "import importlib.util, sys; print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
    absent = {module for line in output_lines([str(python), "-c", code, *packages.values()]) for module in line.split()}
    return [package for package, module in packages.items() if module in absent]


def package_versions(python: Path, packages: Iterable[str]) -> list[str]:
    """`NAME VERSION` of the Python and of those of `packages` that it has."""
    code = (
        "import importlib.metadata as m, platform, sys\n"
        "print('Python', platform.python_version())\n"
        "for p in sys.argv[1:]:\n"
        "    try: print(p, m.version(p))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    return output_lines([str(python), "-c", code, *packages])


def run_quietly(command: Sequence[str], cwd: Path = _ROOT) -> int:
    """Run quietly; what goes wrong is said on standard error. Returns the exit status."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=cwd, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}\n")
    return done.returncode


def output_lines(command: Sequence[str], executable: str | None = None) -> list[str]:
    """What a command prints, whatever its exit status."""
    done = subprocess.run(command, executable=executable, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()
