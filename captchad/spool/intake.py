"""`incoming/`: from files that anybody wrote to tasks offered to the queue.

What is durable: nothing here. A file is removed by a callback that the sink runs after its commit, and a file that
cannot be taken is moved to `rejected/` with its reason on disk first. So a crash at any point leaves the file, and
offering it again gives the same `origin` for each task, by which the sink knows it.

Events of inotify are hints; a scan at the start, every `scan_interval_s`, after lost events and after a replaced
directory is what makes it right. Nothing here waits: files are opened without blocking, read and parsed in slices, and
a file that may still be written is looked at again later. Trouble with the file system is told by `down_reason` and
tried again.
"""

__all__ = ["Intake", "Offer", "Sink", "Verdict"]

import errno
import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Protocol

from captchad.model.clock import Clock
from captchad.model.errors import RecordTooLarge, TaskError
from captchad.model.task import ID_FORM, Task, check_host, compact, fingerprint, load_json, parse_task
from captchad.spool.dirs import SpoolDirs
from captchad.spool.files import (
    DIRECTORY,
    ChangedError,
    Identity,
    display,
    identity,
    look,
    open_regular,
    remove_checked,
    remove_leftover,
    special_kind,
)
from captchad.spool.pieces import IncompleteError, Piece, cut_document, cut_lines
from captchad.spool.rejected import BadPieces, Reason, reject_file, reject_pieces
from captchad.spool.watch import (
    IN_CREATE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_MOVE_SELF,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    Watch,
    open_watch,
)

SLICE_S = 0.010  # one step, about
SLICE_TASKS = 256  # offered in one step
SLICE_UNITS = 2048  # tasks, chunks or handfuls of directory entries in one step
_CHUNK = 65_536
_HANDFUL = 64  # directory entries looked at in one unit
_FOUND = 10_000  # files that one scan remembers, the oldest
_LATER = 10_000  # files that wait for their time
_PARKED = 16  # half-done files that wait for the file system; each holds a descriptor
_STARVED_S = 0.1  # between tries while the queue has no room
_PATIENCE = 5  # times stable_s, until an incomplete file is given up
_MANY_VALUES = 20_000  # commas and colons in one task: more is no task, and slow to parse
_UNMOVABLE = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV})
_UNSTABLE = IN_MOVE_SELF | IN_DELETE_SELF | IN_IGNORED | IN_Q_OVERFLOW


class Verdict(Enum):
    """What the queue says to an offer."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # it is there already; nothing to do
    CONFLICT = "conflict"  # its explicit id is taken by other content
    FULL = "full"  # offer it again later


@dataclass(frozen=True, slots=True)
class Offer:
    """One task, checked, with what the queue needs to name and to recognise it."""

    task: Task
    raw: bytes  # the task object as one line of UTF-8
    fingerprint: str
    candidate_ids: tuple[str, ...]  # the first free one is the task's id
    explicit: bool  # the id is in the task: another content under it is a conflict
    source: str  # name of the file, printable
    line: int  # of a .jsonl; the 1-based index in an array; 0 for a file of one object
    origin: str  # 16 hex digits that name this very drop of this very task


class Sink(Protocol):
    """The queue, as the intake sees it."""

    def offer(self, offer: Offer) -> Verdict:
        """Stage a task. May raise RecordTooLarge."""

    def after_commit(self, fn: Callable[[], None]) -> None:
        """Run `fn` once all that was offered so far is durable."""


class _Step(Enum):
    """What a file's work says between two units."""

    GO = "go"
    STARVED = "starved"  # the next unit needs room in the queue
    PARK = "park"  # the file system takes no write


_Work = Generator[_Step, None, None]


@dataclass(frozen=True, slots=True)
class _Look:
    """What shows that somebody still works on a file."""

    file: Identity
    ctime_ns: int
    links: int


@dataclass(frozen=True, slots=True)
class _Source:
    """An open file that is being taken."""

    fd: int
    name: bytes
    file: Identity

    @property
    def lines(self) -> bool:
        return self.name.endswith(b".jsonl")

    def pieces(self) -> Iterator[Piece | None]:
        """The tasks in it. Raises TaskError where the JSON is broken, ChangedError when somebody wrote to it."""
        return cut_lines(self.chunks()) if self.lines else cut_document(self.chunks())

    def check(self) -> None:
        """Raise ChangedError when the file is not what it was."""
        if identity(os.fstat(self.fd)) != self.file:
            raise ChangedError

    def chunks(self) -> Iterator[bytes]:
        """The file in pieces, as long as it does not change."""
        for offset in range(0, self.file.size, _CHUNK):
            self.check()
            data = os.pread(self.fd, _CHUNK, offset)
            if len(data) != min(_CHUNK, self.file.size - offset):
                raise ChangedError
            yield data
        self.check()


#: Stands for each task behind too many bad ones; `BadPieces` makes one reason of them.
_UNREAD = Reason("unread", TaskError("not read"))


class Intake:
    """Takes files from `incoming/`. One thread; drive it by `fileno`, `due` and `step`."""

    def __init__(
        self,
        dirs: SpoolDirs,
        sink: Sink,
        clock: Clock,
        allowed_hosts: Sequence[str],
        *,
        scan_interval_s: float = 5.0,
        stable_s: float = 2.0,
        max_file_bytes: int = 64 << 20,
    ) -> None:
        self.allowed_hosts = tuple(allowed_hosts)
        self.accepted = 0
        self.duplicates = 0
        self.rejected: Counter[str] = Counter()  # tasks and files, by the word of the reason
        self._dirs = dirs
        self._sink = sink
        self._clock = clock
        self._scan_interval_s = scan_interval_s
        self._stable_s = stable_s
        self._max_file_bytes = max_file_bytes
        self._started = False
        self._directory = -1
        self._watch: Watch | None = None
        self._scanning: Iterator[None] | None = None
        self._next_scan = 0.0
        self._unseen = 0  # files that the last scan saw and did not remember
        self._queue: dict[bytes, Identity | None] = {}  # to look at, in order; with what was renamed in
        self._later: dict[bytes, float] = {}  # to look at again, and when
        self._later_heap: list[tuple[float, bytes]] = []
        self._seen: dict[bytes, tuple[_Look, float]] = {}  # since when a file has looked as it does
        self._work: tuple[bytes, _Work] | None = None
        self._parked: list[tuple[float, bytes, _Work]] = []
        self._leaving: dict[bytes, Identity] = {}  # offered whole; removed after the commit
        self._unremoved: dict[bytes, tuple[Identity, float]] = {}  # the removal failed; when to try again
        self._lying: dict[bytes, Identity] = {}  # directories that cannot be moved
        self._troubles: dict[bytes, str] = {}
        self._room = 0
        self._full = False  # the queue, and not the length of a step, bounds the room
        self._starved_until: float | None = None

    # --- for the daemon

    def start(self) -> None:
        """Open the directory and the watch. What cannot be opened now is tried again by `step`."""
        self._started = True
        self._next_scan = self._clock.monotonic()
        self._reopen()
        self._watch = open_watch(self._dirs.incoming)

    def close(self) -> None:
        """Give back all descriptors. Files that were offered and not committed stay in `incoming/`."""
        self._started = False
        self._drop_work()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._close_directory()

    def fileno(self) -> int | None:
        """The descriptor to watch for reading; None when only the clock helps. The same until `close`."""
        return None if self._watch is None else self._watch.fileno()

    def on_readable(self) -> None:
        """Note what the events hint at. One buffer of them; the rest keeps the descriptor readable."""
        if self._watch is None:
            return
        for event in self._watch.read():
            if event.mask & _UNSTABLE:
                self._next_scan = self._clock.monotonic()
            elif event.name and not _ignored(event.name):
                self._hint(event.name, renamed=bool(event.mask & IN_MOVED_TO), created=bool(event.mask & IN_CREATE))

    def due(self) -> float | None:
        """Monotonic time at which `step` has something to do; None when it is not started."""
        if not self._started:
            return None
        now = self._clock.monotonic()
        if self._scanning is not None:
            return now
        times = [self._next_scan, *(due for _, due in self._unremoved.values()), *(due for due, _, _ in self._parked)]
        if self._later_heap:
            times.append(self._later_heap[0][0])
        if self._work is not None or self._queue or self._more_waits():
            times.append(now if self._starved_until is None else self._starved_until)
        return min(times)

    def step(self, room: int) -> None:
        """One slice of work; offers at most `room` tasks. Raises what the sink raises, and then the file is kept."""
        if not self._started:
            return
        self._room = min(room, SLICE_TASKS)
        self._full = room <= SLICE_TASKS
        self._starved_until = None
        self._wake()
        deadline = self._clock.monotonic() + SLICE_S
        for _ in range(SLICE_UNITS):
            scanned = self._scan_on()
            worked = self._starved_until is None and self._work_on()
            if not (scanned or worked) or self._clock.monotonic() >= deadline:
                break

    @property
    def waiting(self) -> int:
        """Files seen and not taken yet; those that are on their way out do not count."""
        return len(self._queue) + len(self._later) + len(self._parked) + self._unseen + (self._work is not None)

    @property
    def down_reason(self) -> str:
        """What the spool's file system refuses now; "" when all is well."""
        return next(iter(self._troubles.values()), "")

    # --- what there is to do

    def _hint(self, name: bytes, *, renamed: bool, created: bool) -> None:
        if len(self._queue) >= _FOUND:
            self._unseen += 1
            return
        if created:
            self._lying.pop(name, None)
        seen: Identity | None = None
        if renamed and self._directory >= 0:
            try:
                seen = identity(look(self._directory, name))
            except OSError:  # gone already, or the scan will tell
                return
        if seen is not None or name not in self._queue:
            self._queue[name] = seen

    def _wake(self) -> None:
        now = self._clock.monotonic()
        while self._later_heap and self._later_heap[0][0] <= now:
            due, name = heapq.heappop(self._later_heap)
            if self._later.get(name) == due:
                del self._later[name]
                self._queue.setdefault(name, None)
        for name, (file, due) in list(self._unremoved.items()):
            if due <= now:
                self._remove(name, file)
        if self._scanning is None and (now >= self._next_scan or self._more_waits()):
            self._scanning = self._scan()

    def _more_waits(self) -> bool:
        """Whether the last scan left files out and there is memory for them now."""
        return self._unseen > 0 and not self._queue and len(self._later) < _LATER

    def _work_on(self) -> bool:
        """One unit of the file in work, or of the next one; False when there is none."""
        if self._work is None:
            self._work = self._next_work()
        if self._work is None:
            return False
        name, work = self._work
        try:
            step = next(work, None)
        except BaseException:
            # The sink's trouble: the work is dead, the file stays and comes up again.
            self._work = None
            self._put_off(name, self._stable_s)
            raise
        if step is None:
            self._work = None
        elif step is _Step.STARVED:
            self._starved_until = self._clock.monotonic() + (_STARVED_S if self._full else 0.0)
        elif step is _Step.PARK:
            self._work = None
            self._park(name, work)
        return True

    def _next_work(self) -> tuple[bytes, _Work] | None:
        now = self._clock.monotonic()
        for number, (due, name, work) in enumerate(self._parked):
            if due <= now:
                del self._parked[number]
                return name, work
        while self._queue:
            name = next(iter(self._queue))
            renamed = self._queue.pop(name)
            if any(name == parked for _, parked, _ in self._parked):
                self._put_off(name, self._scan_interval_s)
                continue
            self._later.pop(name, None)
            return name, self._guarded(name, renamed)
        return None

    def _park(self, name: bytes, work: _Work) -> None:
        if len(self._parked) < _PARKED:
            self._parked.append((self._clock.monotonic() + self._scan_interval_s, name, work))
        else:
            work.close()
            self._put_off(name, self._scan_interval_s)

    def _put_off(self, name: bytes, delay_s: float) -> None:
        """Look at a file again later. When too many wait, a scan finds it again."""
        if len(self._later) >= _LATER and name not in self._later:
            self._seen.pop(name, None)
            self._troubles.pop(name, None)
            return
        due = self._clock.monotonic() + max(delay_s, 0.001)
        self._later[name] = due
        heapq.heappush(self._later_heap, (due, name))

    def _drop_work(self) -> None:
        works = [work for _, _, work in self._parked]
        if self._work is not None:
            works.append(self._work[1])
        for work in works:
            work.close()
        self._work, self._scanning = None, None
        for held in (self._parked, self._later_heap, self._queue, self._later, self._seen, self._lying):
            held.clear()
        self._unseen = 0

    # --- scanning

    def _scan_on(self) -> bool:
        if self._scanning is None:
            return False
        try:
            next(self._scanning)
            self._troubles.pop(b"", None)
        except StopIteration:
            self._scan_ended()
        except OSError as exc:
            self._trouble(b"", exc)
            self._scan_ended()
        return True

    def _scan_ended(self) -> None:
        self._scanning = None
        self._next_scan = self._clock.monotonic() + self._scan_interval_s

    def _scan(self) -> Iterator[None]:
        """Find the oldest files that are not known yet."""
        if not self._is_current():
            self._drop_work_of_replaced()
        if self._watch is not None:
            with suppress(OSError):  # scans do without; adding what is there already changes nothing
                self._watch.add(self._dirs.incoming)
        oldest: list[tuple[int, bytes]] = []
        unseen = 0
        # A descriptor of its own: the position in a directory belongs to the open file.
        fd = os.open(b".", DIRECTORY, dir_fd=self._directory)
        try:
            with os.scandir(fd) as entries:
                for number, entry in enumerate(entries):
                    if number % _HANDFUL == 0:
                        yield
                    unseen += self._note(oldest, entry)
        finally:
            os.close(fd)
        for _, name in sorted(oldest, reverse=True):
            self._queue.setdefault(name, None)
        self._unseen = unseen
        yield

    def _note(self, oldest: list[tuple[int, bytes]], entry: "os.DirEntry[str]") -> bool:
        """Keep an entry if it is among the oldest; True when one of them had to go."""
        name = os.fsencode(entry.name)
        if _ignored(name):
            remove_leftover(self._directory, name)
            return False
        if self._is_known(name, entry.inode()):
            return False
        try:
            older_first = -entry.stat(follow_symlinks=False).st_mtime_ns
        except FileNotFoundError:
            return False
        if len(oldest) < _FOUND:
            heapq.heappush(oldest, (older_first, name))
            return False
        heapq.heappushpop(oldest, (older_first, name))
        return True

    def _is_known(self, name: bytes, inode: int) -> bool:
        if name in self._queue or name in self._later:
            return True
        if self._work is not None and self._work[0] == name:
            return True
        leaving, lying = self._leaving.get(name), self._lying.get(name)
        return any(file is not None and file.inode == inode for file in (leaving, lying))

    # --- the directory

    def _reopen(self) -> None:
        try:
            self._open_directory()
        except OSError as exc:
            self._trouble(b"", exc)

    def _open_directory(self) -> None:
        self._close_directory()
        self._directory = os.open(self._dirs.incoming, DIRECTORY | os.O_NOFOLLOW)

    def _close_directory(self) -> None:
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def _is_current(self) -> bool:
        """Whether the open directory still is the one of that path."""
        if self._directory < 0:
            return False
        there, here = os.stat(self._dirs.incoming, follow_symlinks=False), os.fstat(self._directory)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _drop_work_of_replaced(self) -> None:
        scanning = self._scanning
        self._drop_work()
        self._scanning = scanning
        self._open_directory()
        if self._watch is not None:
            self._watch.clear()

    # --- one file

    def _guarded(self, name: bytes, renamed: Identity | None) -> _Work:
        """Take one file, whatever becomes of it meanwhile."""
        try:
            yield from self._take(name, renamed)
        except ChangedError:
            self._put_off(name, self._stable_s)
        except FileNotFoundError as exc:
            self._gone(name, exc)
        except OSError as exc:
            self._trouble(name, exc)
            self._put_off(name, self._scan_interval_s)

    def _gone(self, name: bytes, exc: OSError) -> None:
        """The file is not there; if it is, then `rejected/` is not."""
        try:
            look(self._directory, name)
        except FileNotFoundError:
            self._forget(name)
        else:
            self._trouble(name, exc)
            self._put_off(name, self._scan_interval_s)

    def _forget(self, name: bytes) -> None:
        self._seen.pop(name, None)
        self._troubles.pop(name, None)

    def _take(self, name: bytes, renamed: Identity | None) -> _Work:
        status = look(self._directory, name)
        file = identity(status)
        lying = self._lying.get(name)
        if self._leaving.get(name) == file or (lying is not None and lying.same_file(file)):
            return
        kind = special_kind(status)
        if kind:
            self._reject(name, file, _reason(kind, f"a {kind}, not a regular file", hint="write a regular file"))
        elif file.size > self._max_file_bytes:
            message = f"{file.size} bytes; a file has at most {self._max_file_bytes}"
            self._reject(name, file, _reason("too_large", message, hint="split the batch"))
        else:
            yield from self._take_regular(name, file, status, renamed=renamed == file)

    def _take_regular(self, name: bytes, file: Identity, status: os.stat_result, *, renamed: bool) -> _Work:
        """Take a file once its writer seems to be done with it."""
        age_s = self._age_s(name, _Look(file, status.st_ctime_ns, status.st_nlink))
        if renamed and status.st_nlink == 1:
            yield from self._take_settled(name, file, patience_s=0.0)
        elif age_s < self._stable_s:
            self._put_off(name, self._stable_s - age_s)
        elif status.st_nlink != 1:
            message = f"it has {status.st_nlink} names"
            self._reject(name, file, _reason("hard_link", message, hint="drop a copy, not a link"))
        else:
            yield from self._take_settled(name, file, patience_s=_PATIENCE * self._stable_s - age_s)

    def _age_s(self, name: bytes, seen: _Look) -> float:
        """Seconds that a file has looked as it does: as we saw it, or as its own times say."""
        now = self._clock.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != seen:
            since = now
            self._seen[name] = (seen, now)
        if name.endswith(b".jsonl"):  # a line too few does not show, so no trust in the wall clock
            return now - since
        changed_at = max(seen.file.mtime_ns, seen.ctime_ns) / 1e9
        return max(now - since, self._clock.time() - changed_at)

    def _take_settled(self, name: bytes, file: Identity, *, patience_s: float) -> _Work:
        if not name.endswith((b".json", b".jsonl")):
            reason = _reason("unknown_suffix", "unknown suffix", hint="name it NAME.json or NAME.jsonl")
            self._reject(name, file, reason)
            return
        try:
            fd = open_regular(self._directory, name, file)
        except PermissionError:
            hint = "make it readable for the group of incoming/"
            self._reject(name, file, _reason("unreadable", "captchad may not read it", hint=hint))
            return
        try:
            yield from self._take_open(_Source(fd, name, file), patience_s)
        finally:
            os.close(fd)

    def _take_open(self, source: _Source, patience_s: float) -> _Work:
        """Look through the whole file first, so that no part of a broken or half-written one is taken."""
        try:
            if source.lines:
                _check_last_line(source, patience_s)
            else:
                yield from _check_document(source)
        except IncompleteError as exc:
            if patience_s > 0:
                self._put_off(source.name, patience_s)
            else:
                self._reject(source.name, source.file, Reason("syntax" if source.file.size else "empty", exc))
        except TaskError as exc:
            self._reject(source.name, source.file, Reason("syntax", exc))
        else:
            yield from self._offer_all(source)

    # --- its tasks

    def _offer_all(self, source: _Source) -> _Work:
        bad = BadPieces()
        taken = in_array = False
        try:
            for piece in source.pieces():
                if piece is not None:
                    in_array = piece.number > 0 and not source.lines
                    reason = yield from self._offer_piece(source, piece, unread=bad.full)
                    if reason is not None:
                        bad.add(piece, reason)
                    taken = taken or reason is None
                yield _Step.GO
        except TaskError as exc:  # whole when it was looked through, broken now
            raise ChangedError from exc
        if taken and bad.reasons:
            yield from self._reject_some(source, bad, array=in_array)
        if taken:
            self._leave(source)
        else:
            self._reject_all(source, bad)

    def _offer_piece(self, source: _Source, piece: Piece, *, unread: bool) -> Generator[_Step, None, Reason | None]:
        """Offer one task, when there is room; the reason why it is bad, or None."""
        offer = _UNREAD if unread else self._judge(source, piece)
        if isinstance(offer, Reason):
            return offer
        verdict = Verdict.FULL
        while verdict is Verdict.FULL:
            while self._room <= 0:
                yield _Step.STARVED
            try:
                verdict = self._sink.offer(offer)
            except RecordTooLarge as exc:
                return Reason("too_large", exc, piece.number, offer.candidate_ids[0])
            if verdict is Verdict.FULL:
                self._room, self._full = 0, True
        return self._count(verdict, offer, piece)

    def _count(self, verdict: Verdict, offer: Offer, piece: Piece) -> Reason | None:
        self._room -= 1
        if verdict is Verdict.CONFLICT:
            message = f"id {offer.candidate_ids[0]!r} is taken by a task with other content"
            error = TaskError(message, key="id", hint="choose another id, or drop the same content")
            return Reason("conflict", error, piece.number, offer.candidate_ids[0])
        if verdict is Verdict.ACCEPTED:
            self.accepted += 1
        else:
            self.duplicates += 1
        return None

    def _judge(self, source: _Source, piece: Piece) -> Offer | Reason:
        """Make an offer of one task, or say why not."""
        word = "syntax"
        value: object = None
        try:
            value = _parse(piece)
            word = "task"
            task = parse_task(value)
            word = "host"
            check_host(task, self.allowed_hosts)
        except TaskError as exc:
            exc.line = exc.line or (piece.line if piece.number else 0)
            word = word if piece.problem is None else "too_large"
            return Reason(word, exc, piece.number, _said_id(source, piece, value))
        raw = compact(value, piece.raw)
        digest = _digest(source, piece)
        return Offer(
            task=task,
            raw=raw,
            fingerprint=fingerprint(value),
            candidate_ids=_candidate_ids(source, piece, task, digest),
            explicit=task.id is not None,
            source=display(source.name),
            line=piece.number,
            origin=digest[:16],
        )

    # --- how a file leaves

    def _leave(self, source: _Source) -> None:
        self._leaving[source.name] = source.file
        self._forget(source.name)
        self._sink.after_commit(partial(self._remove, source.name, source.file))

    def _remove(self, name: bytes, file: Identity) -> None:
        if self._directory < 0:  # closed; the file comes up again and is known then
            return
        try:
            remove_checked(self._directory, name, file)
        except OSError as exc:
            self._trouble(name, exc)
            self._unremoved[name] = (file, self._clock.monotonic() + self._scan_interval_s)
            return
        self._unremoved.pop(name, None)
        self._troubles.pop(name, None)
        if self._leaving.get(name) == file:
            del self._leaving[name]

    def _reject_some(self, source: _Source, bad: BadPieces, *, array: bool) -> _Work:
        """Put the bad tasks of a batch aside, as soon as the file system takes them."""
        while True:
            try:
                for _ in reject_pieces(self._dirs.rejected, source.fd, source.name, source.file, bad, array=array):
                    yield _Step.GO
                break
            except OSError as exc:
                self._trouble(source.name, exc)
            yield _Step.PARK
        self.rejected.update(reason.word for reason in bad.reasons)

    def _reject_all(self, source: _Source, bad: BadPieces) -> None:
        if not bad.reasons:
            self._reject(source.name, source.file, _reason("empty", "it holds no task", hint="write one task a line"))
            return
        whole = bad.reasons[0].document() if bad.reasons[0].item == 0 else bad.document()
        self._move_away(source.name, source.file, whole, bad.reasons)

    def _reject(self, name: bytes, file: Identity, reason: Reason) -> None:
        self._move_away(name, file, reason.document(), [reason])

    def _move_away(self, name: bytes, file: Identity, document: dict[str, object], reasons: list[Reason]) -> None:
        """Move the whole file to `rejected/`. Raises ChangedError and OSError; then it is still there."""
        try:
            moved = reject_file(self._dirs.rejected, self._directory, name, file, document)
        except OSError as exc:
            if reasons[0].word != "directory" or exc.errno not in _UNMOVABLE:
                raise
            # Somebody else's directory, or a mount point: it lies there and harms nobody.
            self._lying[name] = file
            moved = True
        if not moved:
            raise ChangedError
        self.rejected.update(reason.word for reason in reasons)
        self._forget(name)

    def _trouble(self, name: bytes, exc: OSError) -> None:
        what = f"{display(name)}: " if name else ""
        self._troubles[name] = f"{self._dirs.root}: {what}{exc.strerror or exc}"


def _ignored(name: bytes) -> bool:
    """Names under which people write before they rename."""
    return name.startswith(b".") or name.endswith((b".tmp", b".part", b"~"))


def _reason(word: str, message: str, *, hint: str = "") -> Reason:
    return Reason(word, TaskError(message, hint=hint))


def _check_last_line(source: _Source, patience_s: float) -> None:
    """Raise IncompleteError for an empty file, and for an open last line that may still grow."""
    if not source.file.size:
        raise IncompleteError("it is empty", line=1, column=1, hint="write one task a line")
    if patience_s > 0 and os.pread(source.fd, 1, source.file.size - 1) != b"\n":
        raise IncompleteError("its last line has no end", hint="end each line with a newline")


def _check_document(source: _Source) -> _Work:
    """Parse all of a document and keep nothing. Raises TaskError."""
    for piece in source.pieces():
        if piece is not None:
            _parse(piece)
        yield _Step.GO


def _parse(piece: Piece) -> object:
    """The JSON of one task; the place in a TaskError is that in the file."""
    if piece.problem is not None:
        raise piece.problem
    if piece.raw.count(b",") + piece.raw.count(b":") > _MANY_VALUES:
        raise TaskError("too many values for one task", line=piece.line, column=piece.column)
    try:
        return load_json(piece.raw)
    except TaskError as exc:
        if exc.line == 1:
            exc.column += piece.column - 1
        if exc.line:
            exc.line += piece.line - 1
        raise


def _digest(source: _Source, piece: Piece) -> str:
    """Hex digits that are the same for this task of this drop, and for nothing else."""
    digest = hashlib.sha256(b"%d\0%d\0%d\0" % (source.file.inode, source.file.mtime_ns, piece.number))
    digest.update(source.name + b"\0")
    digest.update(piece.raw)
    return digest.hexdigest()


def _candidate_ids(source: _Source, piece: Piece, task: Task, digest: str) -> tuple[str, ...]:
    if task.id is not None:
        return (task.id,)
    named = _id_by_place(source, piece)
    made = f"t-{digest[16:40]}"
    return (named, made) if named else (made,)


def _id_by_place(source: _Source, piece: Piece) -> str:
    """What a task without an id is called after its file; "" when that cannot be an id."""
    stem = display(source.name.rpartition(b".")[0])
    named = f"{stem}-{piece.number}" if piece.number else stem
    return named if ID_FORM.fullmatch(named) else ""


def _said_id(source: _Source, piece: Piece, value: object) -> str:
    """The id under which somebody may wait for a task that is not taken: its own, or that of its place."""
    own = value.get("id") if isinstance(value, dict) else None
    if own is None:
        return _id_by_place(source, piece)
    return own if isinstance(own, str) and ID_FORM.fullmatch(own) else ""
