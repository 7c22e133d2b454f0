"""What the peers need, brought in by the benchmark itself and kept apart from captchad.

A virtual environment of its own for the Python packages, beside it the servers' programs unpacked from their Debian
packages: nothing of them is installed into the system, so no service is started there. As root it installs what the
programs need, and gcc. Whatever cannot be had is left out by name.
"""

__all__ = ["BENCH_ENVIRONMENT", "bench_python", "find_program", "install", "installed_versions"]

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]

BENCH_ENVIRONMENT = _ROOT / ".venv-bench"

#: Python package -> module.
_PYTHON = {
    "persist-queue": "persistqueue",
    "litequeue": "litequeue",
    "huey": "huey",
    "redis": "redis",
    "greenstalk": "greenstalk",
}

#: Program -> Debian package that is installed for it. redis-check-rdb is redis-server under another name, in the
#: package of Redis's tools, which brings no service.
_DEBIAN = {"redis-check-rdb": "redis-tools", "gcc": "gcc"}

#: Program -> Debian package that is only unpacked, for it would start a service.
_UNPACKED = {"beanstalkd": "beanstalkd"}

_APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=500")


def bench_python() -> Path:
    """The Python that runs the contenders: the benchmark's own, or this one when there is none."""
    own = BENCH_ENVIRONMENT / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def find_program(name: str, environment: Path) -> str | None:
    """The path of a program: the system's, or the one that was unpacked."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(environment / "debian/usr/bin")])
    return shutil.which(name, path=path)


def install() -> list[str]:
    """Bring in what is missing; returns what could not be had, one line each."""
    return [*_install_python(), *_install_debian()]


def _install_python() -> list[str]:
    python = BENCH_ENVIRONMENT / "bin" / "python"
    if not python.exists() and _run([sys.executable, "-m", "venv", "--clear", str(BENCH_ENVIRONMENT)]):
        return [f"no virtual environment in {BENCH_ENVIRONMENT.name}: the Python packages are left out"]
    absent = _absent_modules(python)
    for package in absent:
        _run([str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", package])
    return [f"Python package {package}: pip could not install it" for package in _absent_modules(python)]


def _absent_modules(python: Path) -> list[str]:
    code = "import importlib.util, sys; print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
    done = subprocess.run([str(python), "-c", code, *_PYTHON.values()], capture_output=True, text=True, check=False)
    absent = set(done.stdout.split())
    return [package for package, module in _PYTHON.items() if module in absent]


def _install_debian() -> list[str]:
    wanted = _missing(_DEBIAN)
    unpacked = _missing(_UNPACKED)
    if (wanted or unpacked) and os.geteuid() == 0 and shutil.which("apt-get"):
        _run([*_APT, "update"])
        if wanted:
            _run([*_APT, "install", "--yes", "--no-install-recommends", "--no-upgrade", *wanted])
        for package in unpacked:
            _unpack(package)
    return [f"Debian package {package}: not here" for package in (*_missing(_DEBIAN), *_missing(_UNPACKED))]


def _missing(programs: Mapping[str, str]) -> list[str]:
    return [package for program, package in programs.items() if find_program(program, BENCH_ENVIRONMENT) is None]


def _unpack(package: str) -> None:
    target = BENCH_ENVIRONMENT / "debian"
    target.mkdir(parents=True, exist_ok=True)
    if not _run([*_APT, "download", package], cwd=target):
        for archive in target.glob(f"{package}_*.deb"):
            _run(["dpkg-deb", "--extract", str(archive), str(target)])
            archive.unlink()


def _run(command: Sequence[str], cwd: Path = _ROOT) -> int:
    """Run quietly; what goes wrong is said on standard error. Returns the exit status."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=cwd, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}\n")
    return done.returncode


def installed_versions(python: Path) -> list[str]:
    """What is compared, with versions, as far as each can say it."""
    code = (
        "import importlib.metadata as m, platform, sqlite3, sys\n"
        "print('Python', platform.python_version()); print('sqlite', sqlite3.sqlite_version)\n"
        "for p in sys.argv[1:]:\n"
        "    try: print(p, m.version(p))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    lines = _output([str(python), "-c", code, *_PYTHON])
    redis = find_program("redis-server", BENCH_ENVIRONMENT) or find_program("redis-check-rdb", BENCH_ENVIRONMENT)
    for name, program in (("redis-server", redis), ("beanstalkd", find_program("beanstalkd", BENCH_ENVIRONMENT))):
        if program is not None:
            # The first one is the name that it is called by: it decides what Redis's program is.
            said = _output([name, "--version" if name == "redis-server" else "-v"], executable=program)
            lines += [" ".join(said[:1])]
    return [_short(line) for line in lines]


def _short(line: str) -> str:
    words = line.split()
    return f"Redis {words[2].removeprefix('v=')}" if words[:2] == ["Redis", "server"] else line


def _output(command: Sequence[str], executable: str | None = None) -> list[str]:
    done = subprocess.run(command, executable=executable, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()
