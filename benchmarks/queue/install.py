"""What the peers need, brought in by the benchmark itself and kept apart from captchad.

A virtual environment of its own for the Python packages, beside it the servers' programs unpacked from their Debian
packages: nothing of them is installed into the system, so no service is started there. As root it installs what the
programs need, and gcc. Whatever cannot be had is left out by name.
"""

__all__ = ["find_program", "install", "installed_versions"]

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from benchmarks.environment import BENCH_ENVIRONMENT, install_packages, output_lines, package_versions, run_quietly

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


def find_program(name: str, environment: Path) -> str | None:
    """The path of a program: the system's, or the one that was unpacked."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(environment / "debian/usr/bin")])
    return shutil.which(name, path=path)


def install() -> list[str]:
    """Bring in what is missing; returns what could not be had, one line each."""
    return [*install_packages(_PYTHON), *_install_debian()]


def _install_debian() -> list[str]:
    wanted = _missing(_DEBIAN)
    unpacked = _missing(_UNPACKED)
    if (wanted or unpacked) and os.geteuid() == 0 and shutil.which("apt-get"):
        run_quietly([*_APT, "update"])
        if wanted:
            run_quietly([*_APT, "install", "--yes", "--no-install-recommends", "--no-upgrade", *wanted])
        for package in unpacked:
            _unpack(package)
    return [f"Debian package {package}: not here" for package in (*_missing(_DEBIAN), *_missing(_UNPACKED))]


def _missing(programs: Mapping[str, str]) -> list[str]:
    return [package for program, package in programs.items() if find_program(program, BENCH_ENVIRONMENT) is None]


def _unpack(package: str) -> None:
    target = BENCH_ENVIRONMENT / "debian"
    target.mkdir(parents=True, exist_ok=True)
    if not run_quietly([*_APT, "download", package], cwd=target):
        for archive in target.glob(f"{package}_*.deb"):
            run_quietly(["dpkg-deb", "--extract", str(archive), str(target)])
            archive.unlink()


def installed_versions(python: Path) -> list[str]:
    """What is compared, with versions, as far as each can say it."""
    sqlite = output_lines([str(python), "-c", "import sqlite3; print('sqlite', sqlite3.sqlite_version)"])
    lines = [*package_versions(python, _PYTHON), *sqlite]
    redis = find_program("redis-server", BENCH_ENVIRONMENT) or find_program("redis-check-rdb", BENCH_ENVIRONMENT)
    for name, program in (("redis-server", redis), ("beanstalkd", find_program("beanstalkd", BENCH_ENVIRONMENT))):
        if program is not None:
            # The first one is the name that it is called by: it decides what Redis's program is.
            said = output_lines([name, "--version" if name == "redis-server" else "-v"], executable=program)
            lines += [" ".join(said[:1])]
    return [_short(line) for line in lines]


def _short(line: str) -> str:
    words = line.split()
    return f"Redis {words[2].removeprefix('v=')}" if words[:2] == ["Redis", "server"] else line
