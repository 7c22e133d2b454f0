"""`results/`: one file for each task that ended.

The order makes a result neither lost nor double: `prepare` syncs a dot-file, the caller commits `publishing`, `publish`
renames and syncs the directory, the caller commits `delivered`. After a crash `publish` is called again: a dot-file
that is gone was renamed, and the result may have been taken away by its consumer already.
"""

__all__ = ["Results"]

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from captchad.model.clock import Clock
from captchad.model.errors import SpoolDown
from captchad.model.task import ID_FORM
from captchad.spool.dirs import SpoolDirs
from captchad.spool.files import DIRECTORY, write_new

_MODE = 0o640


class Results:
    """Writes, publishes and removes result files. Each call opens the directory anew: a replaced one does no harm."""

    def __init__(self, dirs: SpoolDirs, clock: Clock) -> None:
        self._path = dirs.results
        self._clock = clock
        self._old: Iterator[tuple[str, float]] | None = None

    def prepare(self, task_id: str, document: Mapping[str, object]) -> None:
        """Write the result beside its final name, seen by nobody yet. Its content is durable on return; its name is
        after the next `sync`.

        Raises SpoolDown, and then nothing is left behind. `document` is plain JSON (ValueError otherwise).
        """
        _check_id(task_id)
        data = json.dumps(document, allow_nan=False).encode("ascii") + b"\n"
        with self._directory() as fd:
            fresh = f".{task_id}.new"
            try:
                write_new(fd, fresh.encode("ascii"), data, _MODE)
                # Whole at any time: a crash in a second prepare must not leave half of it under the name of the first.
                os.rename(fresh, _prepared_name(task_id), src_dir_fd=fd, dst_dir_fd=fd)
            except OSError:
                _unlink(fd, fresh)
                raise

    def sync(self) -> None:
        """Make the names of all prepared results durable. Raises SpoolDown."""
        with self._directory() as fd:
            os.fsync(fd)

    def prepared(self, task_id: str) -> bool:
        """Whether a result is written and waits to be published. Raises SpoolDown."""
        _check_id(task_id)
        with self._directory() as fd:
            try:
                os.stat(_prepared_name(task_id), dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

    def publish(self, ids: Sequence[str]) -> None:
        """Make prepared results visible; durable on return. One that is not prepared was published before.

        Raises SpoolDown; some may be visible then, and the call can be repeated.
        """
        for task_id in ids:
            _check_id(task_id)
        with self._directory() as fd:
            for task_id in ids:
                try:
                    os.rename(_prepared_name(task_id), f"{task_id}.json", src_dir_fd=fd, dst_dir_fd=fd)
                except FileNotFoundError:
                    continue
            os.fsync(fd)

    def withdraw(self, ids: Sequence[str]) -> int:
        """Remove published results; how many there were. Not synced: what a crash brings back is old, not wrong.

        Raises SpoolDown.
        """
        for task_id in ids:
            _check_id(task_id)
        with self._directory() as fd:
            return sum(_unlink(fd, f"{task_id}.json") for task_id in ids)

    def sweep(self, wanted: Callable[[str], bool]) -> int:
        """Remove what earlier lives left half-way, but prepared results of ids that are `wanted`; how many went.

        For the start. Raises SpoolDown.
        """
        with self._directory() as fd:
            with os.scandir(fd) as entries:
                stale = [entry.name for entry in entries if _is_stale(entry.name, wanted)]
            return sum(_unlink(fd, name) for name in stale)

    def expire(self, ttl_s: float, budget: int) -> int:
        """Remove results older than `ttl_s`, looking at `budget` files at most; how many went.

        A later call goes on where this one stopped. Raises SpoolDown.
        """
        removed = 0
        with self._directory() as fd:
            for _ in range(budget):
                self._old = self._listing() if self._old is None else self._old
                found = next(self._old, None)
                if found is None:
                    self._old = None
                    break
                name, written_at = found
                if self._clock.time() - written_at > ttl_s:
                    removed += _unlink(fd, name)
        return removed

    def _listing(self) -> Iterator[tuple[str, float]]:
        """Names and times of result files; what is not one of ours is not touched."""
        with os.scandir(self._path) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # its consumer was faster
                    continue
                ours = entry.name.endswith(".json") and ID_FORM.fullmatch(entry.name.removesuffix(".json"))
                if ours and stat.S_ISREG(status.st_mode):
                    yield entry.name, status.st_mtime
                else:
                    yield entry.name, float("inf")

    @contextmanager
    def _directory(self) -> Iterator[int]:
        try:
            fd = os.open(self._path, DIRECTORY)
            try:
                yield fd
            finally:
                os.close(fd)
        except OSError as exc:
            raise SpoolDown(f"{self._path}: {exc.strerror}", hint="look at space, mount and modes there") from exc


def _prepared_name(task_id: str) -> str:
    return f".{task_id}.tmp"


def _check_id(task_id: str) -> None:
    if not ID_FORM.fullmatch(task_id):
        raise ValueError(f"not an id: {task_id!r}")


def _is_stale(name: str, wanted: Callable[[str], bool]) -> bool:
    inner, dot, kind = name[1:].rpartition(".")
    if not name.startswith(".") or not dot or not ID_FORM.fullmatch(inner):
        return False
    return kind == "new" or (kind == "tmp" and not wanted(inner))


def _unlink(directory: int, name: str) -> bool:
    """Remove a file; False when it is gone already."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True
