"""A place for sweeps of thousands of lives, where a sync costs nothing."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest


@pytest.fixture
def fast_dir() -> Iterator[Path]:
    """A directory in memory where there is one: a kill, unlike a power cut, takes nothing that was written."""
    memory = "/dev/shm"
    path = Path(tempfile.mkdtemp(prefix="captchad-", dir=memory if os.access(memory, os.W_OK) else None))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """A journal that stays open keeps its lock, and the space that it has reserved, until pytest ends."""
    before = _open_files()
    yield
    left = _open_files() - before
    if left:
        pytest.fail(f"left open: {sorted(left)}")


def _open_files() -> set[tuple[str, str]]:
    """The files of journals that this process has open: descriptor and path."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            path = str(Path(f"/proc/self/fd/{fd}").readlink())
            if path.removesuffix(" (deleted)").endswith((".jsonl", "/lock")):
                found.add((fd, path))
    return found
