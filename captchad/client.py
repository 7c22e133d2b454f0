"""Give tasks to captchad and fetch their results, by files alone.

    from captchad.client import Client

    client = Client()
    task_id = client.submit({"sitekey": "6Le…", "pageurl": "https://example.com/login"})
    result = client.wait(task_id, timeout=180)
    print(result["status"], result["token"])

Needs no connection to the daemon: a task waits in the spool while it is down. The user belongs to the group that owns
the spool. Several threads may share one client.
"""

__all__ = ["Client", "Rejected"]

import json
import os
import select
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from captchad.model.errors import NeedsOperator, SpoolDown, TaskError
from captchad.model.task import ID_FORM, MAX_TASK_BYTES, load_json, parse_task
from captchad.spool.dirs import SpoolDirs
from captchad.spool.files import DIRECTORY, write_all
from captchad.spool.reasons import Mark, Reasons
from captchad.spool.watch import Watch, open_watch

#: Without inotify, and for rejections and lost events: seconds between looks.
_POLL_S = 0.5
#: The daemon reads by its group.
_MODE = 0o640
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Rejected(TaskError):
    """captchad did not take the task; `reason` is the reason as in `rejected/NAME.reason`, of a batch this task's."""

    def __init__(self, reason: Mapping[str, Any]) -> None:
        super().__init__(
            str(reason.get("error", "rejected")),
            key=str(reason.get("key", "")),
            line=_whole(reason.get("line")),
            column=_whole(reason.get("column")),
            hint=str(reason.get("hint", "")),
        )
        self.reason = dict(reason)


class Client:
    """The spool, from the side of those who have tasks."""

    def __init__(self, spool_dir: str | Path = "/var/spool/captchad") -> None:
        self._dirs = SpoolDirs(Path(spool_dir))
        self._reasons = Reasons(self._dirs.rejected)
        self._old_reasons: dict[str, frozenset[Mark]] = {}

    def submit(self, task: Mapping[str, Any]) -> str:
        """Drop one task; durable in the spool on return. Its id: the one in `task`, or a new one.

        The same id with the same content is one task, however often it is submitted.

            client.submit({"id": "order-17", "sitekey": "6Le…", "pageurl": "https://example.com/"})

        Raises TaskError for a task that captchad would reject whatever its configuration, SpoolDown when the spool
        takes no write, NeedsOperator when there is no spool or it is closed to this user.
        """
        checked = parse_task(dict(task))
        task_id = checked.id or str(uuid.uuid4())
        data = _encoded({**task, "id": task_id})
        old = frozenset(self._reasons_of(task_id))
        if old:
            self._old_reasons[task_id] = old
        try:
            self._drop(task_id, data)
        except OSError as exc:
            raise self._told(exc, self._dirs.incoming) from exc
        return task_id

    def result(self, task_id: str) -> dict[str, Any] | None:
        """The result of a task that ended, or None: not ended yet, unknown, or taken away after `result_ttl_s`.

            result = client.result("order-17")

        As long as `incoming/ID.json` lies there nobody knows whether it is the task that the result is of, and there
        is none. Of a result and a rejection the newer one counts, of the same moment the rejection. Raises Rejected
        when the task was not taken.
        """
        if self.waits(task_id):
            return None
        try:
            with (self._dirs.results / f"{task_id}.json").open("rb") as file:
                written_ns = os.fstat(file.fileno()).st_mtime_ns
                data = file.read()
        except FileNotFoundError:
            self._raise_rejected(task_id, after_ns=-1)
            return None
        except OSError as exc:
            raise self._told(exc, self._dirs.results) from exc
        self._raise_rejected(task_id, after_ns=written_ns)
        found: dict[str, Any] = json.loads(data)
        return found

    def waits(self, task_id: str) -> bool:
        """Whether a file of that id still lies in `incoming/`: captchad has not looked at it, or has no room."""
        _check_id(task_id)
        try:
            (self._dirs.incoming / f"{task_id}.json").lstat()
        except (FileNotFoundError, PermissionError):  # who may not enter incoming/ has not put the task there either
            return False
        except OSError as exc:
            raise self._told(exc, self._dirs.incoming) from exc
        return True

    def wait(self, task_id: str, timeout: float | None = None) -> dict[str, Any]:
        """The result, once the task has ended. Raises TimeoutError after `timeout` seconds, Rejected.

            result = client.wait("order-17", timeout=180)

        A rejection from before this client's own `submit` of that id does not count. Raises NeedsOperator when there is
        no spool: a result would never come.
        """
        with closing(self._waiter(timeout)) as waiter:
            while True:
                found = self.result(task_id)
                if found is not None:
                    return found
                waiter.pause(f"{task_id}: no result within {timeout} s")

    def as_completed(self, ids: Iterable[str], timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """The results of several tasks, each as soon as it is there.

            for result in client.as_completed([first, second], timeout=300):
                print(result["id"], result["status"])

        A task that was not taken comes as {"id": …, "status": "rejected", "error": …, "reason": {…}}. Raises
        TimeoutError when `timeout` seconds from the first call on have not brought all, NeedsOperator like `wait`.
        """
        pending = dict.fromkeys(ids)
        with closing(self._waiter(timeout)) as waiter:
            while True:
                for task_id in [task_id for task_id in pending if waiter.worth_a_look(task_id)]:
                    found = self._result_or_rejection(task_id)
                    if found is not None:
                        del pending[task_id]
                        yield found
                if not pending:
                    return
                waiter.pause(f"{len(pending)} tasks without a result within {timeout} s")

    def _waiter(self, timeout: float | None) -> "_Waiter":
        try:
            self._dirs.results.stat()
        except OSError as exc:
            raise self._told(exc, self._dirs.results) from exc
        return _Waiter(self._dirs, timeout)

    def _result_or_rejection(self, task_id: str) -> dict[str, Any] | None:
        try:
            return self.result(task_id)
        except Rejected as exc:
            return {"id": task_id, "status": "rejected", "error": str(exc), "reason": exc.reason}

    def _drop(self, task_id: str, data: bytes) -> None:
        incoming = self._dirs.incoming
        # Two threads may submit the same id at once, so the name is its own.
        part, final = incoming / f".{task_id}.{uuid.uuid4().hex[:8]}.tmp", incoming / f"{task_id}.json"
        fd = os.open(part, _CREATE, _MODE)
        try:
            os.fchmod(fd, _MODE)
            write_all(fd, data)
            os.fsync(fd)
            part.rename(final)
            _sync_name(fd, incoming)
        except OSError:
            with suppress(OSError):  # the first error says more; captchad ignores the rest of it
                part.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def _reasons_of(self, task_id: str) -> list[Mark]:
        try:
            return self._reasons.of(task_id)
        except OSError as exc:
            raise self._told(exc, self._dirs.rejected) from exc

    def _raise_rejected(self, task_id: str, *, after_ns: int) -> None:
        """Raise the newest rejection, unless it is older than that or than this client's own submit.

        File times move in ticks of some milliseconds: of one tick the rejection counts, for the other way round the
        token of another task could be handed out.
        """
        old = self._old_reasons.get(task_id, frozenset())
        fresh = [mark for mark in self._reasons_of(task_id) if mark not in old and mark.mtime_ns >= after_ns]
        if not fresh:
            return
        try:
            reason = self._reasons.document(fresh[-1], task_id)
        except OSError as exc:
            raise self._told(exc, self._dirs.rejected) from exc
        if reason is not None:  # else it was cleared away this moment
            raise Rejected(reason)

    def _told(self, exc: OSError, path: Path) -> SpoolDown | NeedsOperator:
        if isinstance(exc, FileNotFoundError | NotADirectoryError):
            return NeedsOperator(f"{path} is not there", hint="is captchad installed, and this its spool_dir?")
        if isinstance(exc, PermissionError):
            return NeedsOperator(f"{path} is closed to this user", hint="add the user to the group that owns the spool")
        return SpoolDown(f"{path}: {exc.strerror}")


class _Waiter:
    """Waits for something to happen in results/ or rejected/, within a deadline."""

    def __init__(self, dirs: SpoolDirs, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout
        self._watch: Watch | None = open_watch(dirs.results)
        if self._watch is not None:
            with suppress(OSError):  # then rejections are seen by looking
                self._watch.add(dirs.rejected)
        self._hints: set[str] | None = None  # None: anything may have happened
        self._looked_at = time.monotonic()

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def worth_a_look(self, task_id: str) -> bool:
        return self._hints is None or task_id in self._hints

    def pause(self, message: str) -> None:
        """Return when a look is worth while. Raises TimeoutError with `message` at the deadline."""
        now = time.monotonic()
        if self._end is not None and now >= self._end:
            raise TimeoutError(message)
        wait_s = max(0.0, self._looked_at + _POLL_S - now)
        if self._end is not None:
            wait_s = min(wait_s, self._end - now)
        names = self._names(wait_s)
        if time.monotonic() >= min(self._looked_at + _POLL_S, self._end or float("inf")):
            self._looked_at = time.monotonic()
            self._hints = None
        else:
            self._hints = names

    def _names(self, wait_s: float) -> set[str]:
        """Ids in the events of the next `wait_s` seconds, as soon as there is one."""
        if self._watch is None:
            time.sleep(wait_s)
            return set()
        poll = select.poll()
        poll.register(self._watch.fileno(), select.POLLIN)
        poll.poll(wait_s * 1000)
        names = (os.fsdecode(event.name) for event in self._watch.read())
        return {name.partition(".json")[0] for name in names}


def _encoded(task: dict[str, Any]) -> bytes:
    try:
        data = json.dumps(task, allow_nan=False).encode("ascii")
    except (TypeError, ValueError) as exc:
        raise TaskError(f"not plain JSON: {exc}") from None
    if len(data) > MAX_TASK_BYTES:
        raise TaskError(f"{len(data)} bytes; a task has at most {MAX_TASK_BYTES}")
    load_json(data)  # the daemon's own limits, as those on depth and numbers
    return data


def _sync_name(fd: int, directory: Path) -> None:
    """Make a rename durable; whoever may not list the directory cannot sync it, but can sync the file again."""
    try:
        directory_fd = os.open(directory, DIRECTORY)
    except PermissionError:
        os.fsync(fd)  # ext4, XFS and btrfs bring the name along
        return
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)


def _check_id(task_id: str) -> None:
    if not ID_FORM.fullmatch(task_id):
        raise TaskError(f"not an id: {task_id!a}", key="id")


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
