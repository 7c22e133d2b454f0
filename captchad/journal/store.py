"""The journal: a directory of segments with one writer, who holds its lock.

What is durable. `append` only stages; `commit` makes all that is staged durable with one write and one sync, and until
it has returned nothing of it may be seen outside. Every prefix of what was staged is a state that a crash may leave.

What happens when it fails. Any OSError of a commit puts the journal `down`: what was staged stays staged, in order, and
nothing is written until `recover` has brought all of it into a fresh segment. A file whose sync has failed is never
written or synced again, for the kernel reports such an error once and then says that all is well.

What is made ahead. `prepare` makes the next segment before it is needed, as an empty file with its space reserved and
its name durable; header and first commit then need one write and one sync. An empty file counts for nothing: whoever
reads the directory takes it for a segment that never came to life, which is what it is until then.

Who may call it: one thread of the process that opened it. A forked child closes `fileno_to_close_after_fork()`.
"""

__all__ = ["Journal", "ReadReport", "read_all"]

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from captchad.journal.batch import Batch
from captchad.journal.filesystem import demand_local
from captchad.journal.indexfile import IndexFile, Mark, take_mark
from captchad.journal.lock import Awaited, keep_lock, take_lock
from captchad.journal.osio import NO_SPACE, Os, error_text, make_directory, sync_directory
from captchad.journal.places import read_record, scan_records
from captchad.journal.quarantine import save_hole
from captchad.journal.reader import ReadReport, read_all
from captchad.journal.records import HEAD, VERSION, Bulk, Draft, Entry, Place, Record, draft, encode
from captchad.journal.recovery import Recovery
from captchad.journal.segments import HEAD_BYTES, SEGMENT_BYTES_MAX, Hole, segment_path, unreadable
from captchad.journal.sidefile import WORKERS_NAME
from captchad.journal.writer import AHEAD, STEP, LogFile
from captchad.model.clock import Clock, iso_utc
from captchad.model.errors import JournalDown, LockHeld

_BEGIN: Final = Place(0, 0)
_LAST_NUMBER: Final = 99_999_999  # numbers have eight digits
_ROTATE_AT_MOST: Final = 4 << 30  # far below SEGMENT_BYTES_MAX: on a full disk a segment goes on
_READERS: Final = 8  # descriptors kept for reading old segments
_NO_NEXT: Final = NO_SPACE | {errno.EOVERFLOW}  # there can be no next segment now, and this one may go on
_AGAIN_S: Final = 1.0  # between two tries to make a segment that the disk has refused


class _Head(NamedTuple):
    """The first line of a segment to come."""

    number: int
    last: Place  # the end of the one before it
    line: bytes


@dataclass(slots=True)
class _Fresh:
    """A segment that is made and empty."""

    file: LogFile
    synced: bool = False  # the file is durable with the space reserved for it
    named: bool = False  # and so is its name


class Journal:
    """The segments, for the one process that may write them. Make it with `open`, then run `replay` to its end."""

    def __init__(self, directory: Path, osio: Os, clock: Clock, segment_bytes: int, reserve_bytes: int) -> None:
        self.state: Literal["ok", "down"] = "ok"
        self.reason = ""  #: why it is down
        self.commits = 0  #: commits and records made durable since it was opened
        self.records = 0
        self.torn = 0  #: tails that replay has cut off
        self.quarantined = 0  #: bad places that replay met before that
        self.last_commit = clock.monotonic()
        self.unprepared = ""  #: why the next segment could not be made ahead; no harm, its turn will be a slow one
        self._directory = directory
        self._os = osio
        self._clock = clock
        self.segment_bytes = segment_bytes  #: the size at which a segment is followed by the next
        self._reserve_bytes = reserve_bytes
        self._lock_fd = -1
        self._ready = False
        self._recovery = Recovery(osio, directory)
        self.index = IndexFile(osio, directory)  #: a derived file beside the segments
        self._lengths: dict[int, int] = {}  # of the segments that count, in order
        self._strays: list[int] = []  # files of segments that do not count
        self._holes: list[Hole] = []
        self._unsaved: list[Hole] = []  # bad bytes that are not in quarantine yet
        self._batch = Batch()
        self._head: _Head | None = None  # of the segment that the batch will begin
        self._writer: LogFile | None = None
        self._next: _Fresh | None = None  # made ahead
        self._number = 0  # of the newest segment that was ever made
        self._rotate_at = float("-inf")
        self._prepare_at = float("-inf")
        self._readers: dict[int, int] = {}
        self._read_last: Record | None = None

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        segment_bytes: int,
        reserve_bytes: int = 2 << 20,
        clock: Clock,
        osio: Os | None = None,
        lock_wait_s: float = 10.0,
        lock_awaited: Awaited | None = None,
        allow_weak_fs: bool = False,
    ) -> "Journal":
        """Check the file system, make `directory` if it is missing, and take the lock.

        Waits `lock_wait_s` seconds for a lock that another process holds; `lock_awaited` is told so at once.
        Raises UnsafeFilesystem before anything is written, LockHeld, or JournalDown when the system refuses a call.
        """
        if not 0 < segment_bytes <= _ROTATE_AT_MOST or reserve_bytes < 0:
            raise ValueError(f"segment_bytes is 1 to {_ROTATE_AT_MOST}, reserve_bytes is not negative")
        journal = cls(directory, osio or Os(), clock, segment_bytes, reserve_bytes)
        try:
            if not allow_weak_fs:
                demand_local(journal._os, directory)
            make_directory(journal._os, directory)
            make_directory(journal._os, directory / WORKERS_NAME)  # so that a worker's boot need not
            journal._lock_fd = take_lock(journal._os, directory, lock_wait_s, lock_awaited)
        except OSError as error:
            raise JournalDown(f"cannot open the journal in {directory}: {error_text(error)}") from error
        return journal

    def replay(
        self,
        lazy: frozenset[str] = frozenset(),
        bulk: Bulk | None = None,
        progress: Callable[[int, int], None] | None = None,
        since: Place = _BEGIN,
    ) -> Iterator[Record]:
        """Yield every good record in order, then make the journal fit for appending. Runs once.

        Kinds in `lazy` are not parsed before somebody asks for their fields; what `bulk` takes is not yielded.
        `progress` is told before each segment how many bytes have been read and how many the segment has. `since` is
        the end of a mark of which there is no `doubt`: what stands before it is not read.

        A torn tail is set aside and cut off; bad lines are set aside and left where they are. When that cannot be
        written, the journal is `down` at the end, and all records were yielded all the same. May be killed anywhere and
        begun anew. Raises NewerVersion and JournalDamaged before anything is changed; JournalDown when a segment cannot
        be read.
        """
        if self._ready:
            raise RuntimeError("replay runs once")
        recovery = self._recovery
        yield from recovery.run(lazy, bulk, progress, since)
        self._lengths, self._number, self._strays = recovery.lengths, recovery.newest, recovery.strays
        self._holes, self._unsaved = recovery.holes, recovery.unsaved
        self.torn, self.quarantined = recovery.torn, len(recovery.holes)
        self._ready = True
        self._start_writing(recovery.failure)
        self.last_commit = self._clock.monotonic()

    def doubt(self, mark: Mark) -> str:
        """Why what was known at `mark` is not to be believed; "" when this is that journal, gone on or not.

        To be asked before `replay`; what it finds out first is not found out again there. Raises as `replay` does.
        """
        return self._recovery.doubt(mark)

    def mark(self) -> Mark | None:
        """A mark of the end; None as long as something is staged, the journal is down, or bad places are known.

        Raises OSError.
        """
        if not self._ready or self._batch or self.state == "down" or self._holes:
            return None
        return take_mark(self._os, self._directory, self._lengths)

    def append(self, kind: str, fields: Mapping[str, Any], payload: bytes | None = None) -> Entry:
        """Stage a record; the next commit writes it. No I/O, and allowed while the journal is down.

        The returned entry says where it will stand; `read` gives it before it is there. Should the journal go down,
        it may come to stand elsewhere: then the entry follows, and `take_moves` tells. Raises RecordTooLarge; nothing
        was staged then.
        """
        return self.append_ready(draft(kind, fields, payload))

    def append_ready(self, ready: Draft) -> Entry:
        """The same for a record that is encoded but for its place."""
        if not self._batch.bytes:
            self._begin_batch()
        return self._batch.add(ready)

    def take_moves(self) -> dict[Place, Place]:
        """Where records stand that `append` had promised another place, since this was asked last."""
        moves, self._batch.moves = self._batch.moves, {}
        return moves

    def commit(self) -> None:
        """Make all that is staged durable: one write, one sync. Nothing staged: no I/O.

        Raises JournalDown; then nothing of it is known to be durable, and it stays staged.
        """
        self._demand_ready()
        if self.state == "down":
            raise JournalDown(self.reason)
        if not self._batch or self._writer is None:  # an open journal that is up has a writer
            return
        self._attempt(self._write_batch)

    def prepare(self) -> None:
        """Take one step to make the next segment ahead; to be called once a turn.

        Nothing to do: no I/O. Else it costs one sync at most. Should it fail, `unprepared` says why, and it is tried
        again a second later; the journal stays up, and a rotation makes its own segment.
        """
        self._demand_ready()
        writer = self._writer
        if self.state == "down" or writer is None or (self._next is not None and self._next.named):
            return
        now = self._clock.monotonic()
        if (self._next is None and writer.synced < self.segment_bytes * 3 // 4) or now < self._prepare_at:
            return
        try:
            self._prepare_step(writer)
        except OSError as error:
            self.unprepared = error_text(error)
            self._prepare_at = now + _AGAIN_S
            self._forget_next()

    def recover(self) -> None:
        """Come back from `down`: write all that is staged into a fresh segment. Durable on return.

        Makes sure that the lock is still held: the directory may have been away meanwhile.

        Does nothing when the journal is up. Raises JournalDown; then it is still down, and may be tried again.
        """
        self._demand_ready()
        if self.state == "ok":
            return
        self._attempt(self._write_afresh)
        for number in list(self._readers):  # the directory may be another one than it was
            self._close_reader(number)

    @property
    def room(self) -> int:
        """Bytes that can surely still be written into this segment, beyond what is staged."""
        if self._writer is None or self.state == "down":
            return 0
        return max(0, self._writer.room - self._batch.bytes)

    @property
    def takes_intake(self) -> bool:
        """Whether new work may be taken: the journal is up, and the reserve would stay untouched.

        Tries to get more space when there is too little, at most once a second after a refusal.
        """
        writer = self._writer
        if writer is None or self.state == "down":
            return False
        if writer.allocated - writer.synced - self._batch.bytes > self._reserve_bytes:
            return True  # asked for every task
        try:
            writer.reserve(self._batch.bytes + self._reserve_bytes + AHEAD, self._clock.monotonic())
        except OSError as error:
            self._go_down(error)
        return self.room > self._reserve_bytes

    def read(self, entry: Entry) -> Record:
        """The record at `entry`: from its file, or what is staged.

        Raises JournalDamaged when it is not there or bad, JournalDown when it cannot be read now, ValueError for an
        entry whose segment was dropped.
        """
        number, last = entry.segment, self._read_last
        if last is not None and last.segment == number and last.offset == entry.offset:
            return last  # first for what it says of a task, then for its payload
        if self._batch and (staged := self._batch.find(entry)) is not None:
            return staged
        if not number or (self._ready and number not in self._lengths):
            raise ValueError(f"no record can be read from segment {number:08d}")
        try:
            self._read_last = read_record(self._os, self._reader(number), entry)
        except OSError as error:
            raise unreadable(number, error) from error
        return self._read_last

    def scan(self, number: int, lazy: frozenset[str] = frozenset()) -> Iterator[Record]:
        """Yield the good records of one segment that counts, in order; what is bad in it is left out.

        Raises JournalDamaged, JournalDown as `read` does.
        """

        def pread(size: int, offset: int) -> bytes:
            return self._os.pread(self._reader(number), size, offset)  # the descriptor may be another one by now

        try:
            yield from scan_records(pread, number, self._lengths[number], lazy)
        except OSError as error:
            raise unreadable(number, error) from error

    def segments(self) -> list[int]:
        """The numbers of the segments that count, in order; the last one is written."""
        return list(self._lengths)

    @property
    def oldest(self) -> int:
        """The number of the first segment; 0 when there is none yet."""
        return next(iter(self._lengths), 0)

    @property
    def active(self) -> int:
        """The number of the last segment; 0 when there is none yet."""
        return next(reversed(self._lengths), 0)

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments that count."""
        return sum(self._lengths.values())

    @property
    def sealed_bytes(self) -> int:
        """The same without the one that is written."""
        return self.size_bytes - self._lengths.get(self.active, 0)

    @property
    def staged(self) -> int:
        """How many records wait for a commit."""
        return len(self._batch)

    @property
    def holes(self) -> tuple[Hole, ...]:
        """The bad places that replay met: what stood there is not known."""
        return tuple(self._holes)

    def drop_oldest(self) -> None:
        """Remove the oldest segment; durable on return. The caller has committed elsewhere all that lived there.

        Allowed while the journal is down. Raises ValueError when only the active segment is left; JournalDown when it
        cannot be done.
        """
        self._demand_ready()
        if self.oldest == self.active:
            raise ValueError("the active segment is never dropped")
        try:
            self._drop(self.oldest)
        except OSError as error:
            self._go_down(error)
            raise JournalDown(self.reason) from error

    def fileno_to_close_after_fork(self) -> list[int]:
        """The descriptors that a forked child closes with `os.close`; never an unlock, it would unlock the parent."""
        fds = [self._lock_fd] if self._lock_fd >= 0 else []
        fds += [self._writer.fd] if self._writer is not None else []
        fds += [self._next.file.fd] if self._next is not None else []
        return fds + list(self._readers.values())

    def close(self) -> None:
        """Give back the lock. What is staged is forgotten. The object is of no use afterwards."""
        self._forget_next()
        for fd in reversed(self.fileno_to_close_after_fork()):
            self._close(fd)
        self._lock_fd = -1
        self._writer = None
        self._readers.clear()
        self._ready = False

    def _demand_ready(self) -> None:
        if not self._ready:
            raise RuntimeError("replay must have run to its end, and the journal be open")

    def _go_down(self, error: OSError) -> None:
        self.state = "down"
        self.reason = f"the journal takes no write: {error_text(error)}"

    def _attempt(self, write: Callable[[], None]) -> None:
        """Write. The journal is down until it is known to have worked, whatever interrupts it."""
        self.state = "down"
        self.reason = "the journal takes no write: the last one was interrupted"
        try:
            write()
        except OSError as error:
            self._go_down(error)
            raise JournalDown(self.reason) from error
        except LockHeld as error:
            self.reason = f"the journal takes no write: {error}"
            raise JournalDown(self.reason, hint=error.hint) from error
        self.state = "ok"
        self.reason = ""

    # Writing.

    def _start_writing(self, failure: OSError | None) -> None:
        """Open the last segment, or make the first one. The journal is `down` when that, or the mending, has failed."""
        try:
            if failure is not None:
                raise failure
            if self._lengths:
                self._writer = self._reopen(self.active, self._lengths[self.active])
            else:
                self._fill(self._fresh())
        except OSError as error:
            self._go_down(error)

    def _reopen(self, number: int, size: int) -> LogFile:
        writer = self._open_writer(number, 0)
        try:
            writer.adopt(size)
            writer.reserve(self._reserve_bytes + AHEAD, self._clock.monotonic())
        except OSError:
            self._close(writer.fd)
            raise
        return writer

    def _open_writer(self, number: int, flags: int) -> LogFile:
        path = segment_path(self._directory, number)
        fd = self._os.open(path, os.O_RDWR | os.O_APPEND | flags)
        try:
            return LogFile(self._os, path, number, fd)
        except OSError:
            self._close(fd)
            raise

    def _write_batch(self) -> None:
        writer = self._writer
        if writer is not None and not (self._wants_next(writer) and self._rotate(writer)):
            self._write(writer)

    def _write_afresh(self) -> None:
        self._lock_fd = keep_lock(self._os, self._directory, self._lock_fd)
        if self._writer is not None and not self._writer.poisoned:
            with suppress(OSError):  # nothing is written there any more: its space serves the fresh one
                self._writer.release()
        self._fill(self._fresh())

    def _write(self, writer: LogFile) -> None:
        """Write what is staged behind what the segment has. Raises OSError."""
        writer.check()
        if writer.synced + self._batch.bytes > SEGMENT_BYTES_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))  # nobody would read it
        writer.reserve(self._batch.bytes + self._reserve_bytes + AHEAD, self._clock.monotonic())
        end = Place(writer.number, writer.synced)
        writer.put(self._batch.lines(end, end))
        self._settle_batch(writer)

    def _begin_batch(self) -> None:
        """Guess where it will stand. Raises RuntimeError when the journal is not open."""
        self._demand_ready()
        writer = self._writer
        if writer is not None and self.state == "ok" and not self._wants_next(writer):
            end = Place(writer.number, writer.synced)
            self._batch.begin(end, end)
            return
        head = self._head = self._make_head(self._next.file.number if self._next else self._number + 1)
        self._batch.begin(Place(head.number, len(head.line)), None)

    def _wants_next(self, writer: LogFile) -> bool:
        """Whether this segment is full, or the disk is, and space waits in the one that was made ahead."""
        return writer.synced >= self.segment_bytes or (writer.refused and self._next is not None)

    def _rotate(self, writer: LogFile) -> bool:
        """Write what is staged into the next segment. False when there can be none now. Raises OSError."""
        now = self._clock.monotonic()
        if now < self._rotate_at:
            return False
        writer.check()
        try:
            fresh = self._fresh(must_reserve=True)
        except OSError as error:
            if error.errno not in _NO_NEXT:
                raise
            # Nothing was written there, so this segment may go on.
            self._rotate_at = now + _AGAIN_S
            return False
        self._fill(fresh)
        with suppress(OSError):  # the commit is durable; this only gives back what was reserved
            writer.release()
        return True

    def _fresh(self, *, must_reserve: bool = False) -> _Fresh:
        """The segment that was made ahead if it is still ours, else a new one. Raises OSError."""
        fresh = self._take_next() or self._make_segment()
        try:
            if not fresh.file.reserve(self._first_bytes, self._clock.monotonic()) and must_reserve:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._discard(fresh.file)
            raise
        self._number = fresh.file.number
        return fresh

    @property
    def _first_bytes(self) -> int:
        """What a segment needs that is begun now."""
        return self._batch.bytes + HEAD_BYTES + self._reserve_bytes + AHEAD

    def _take_next(self) -> _Fresh | None:
        """The segment that was made ahead; none when it is gone or somebody has touched it."""
        fresh, self._next = self._next, None
        if fresh is None:
            return None
        try:
            fresh.file.check()
        except OSError:
            self._close(fresh.file.fd)
            self._pass_over(fresh.file.number)  # what is there now, if anything, is not ours
            return None
        return fresh

    def _make_segment(self) -> _Fresh:
        """A new empty file. Raises OSError."""
        number = self._number + 1
        if number > _LAST_NUMBER:
            raise OSError(errno.EOVERFLOW, "there are no more segment numbers")
        try:
            return _Fresh(self._open_writer(number, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            self._pass_over(number)  # somebody else made it
            raise

    def _pass_over(self, number: int) -> None:
        """A file has this number and does not count: it goes before any segment does, and the number is not used."""
        self._strays.append(number)
        self._number = max(self._number, number)

    def _prepare_step(self, writer: LogFile) -> None:
        """Make the file, or sync it, or its name. Raises OSError."""
        fresh = self._next
        if fresh is None:
            # What is scarce serves the active segment.
            if self._os.free_bytes(writer.fd) < 2 * (self._first_bytes + STEP):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._next = self._fresh(must_reserve=True)
        elif not fresh.synced:
            self._os.fsync(fresh.file.fd)
            fresh.synced = True
        else:
            sync_directory(self._os, self._directory)
            fresh.named = True
            self.unprepared = ""

    def _forget_next(self) -> None:
        fresh, self._next = self._next, None
        if fresh is not None:
            self._discard(fresh.file)

    def _fill(self, segment: _Fresh) -> None:
        """Write header and staged records into a new segment and make it the active one. Raises OSError.

        From the first byte on the old segment is closed for good: this header says how much of it counts.
        """
        fresh = segment.file
        try:
            head = self._head_of(fresh.number)
            fresh.put(
                head.line + self._batch.lines(Place(head.number, len(head.line)), None), with_inode=not segment.synced
            )
            if not segment.named:
                sync_directory(self._os, self._directory)
        except BaseException:  # an interrupt too: the file must not stay, and nothing is swallowed
            self._discard(fresh)
            raise
        old, self._writer = self._writer, fresh
        if old is not None:
            self._keep_reader(old.number, old.fd)
        self._settle_batch(fresh)

    def _head_of(self, number: int) -> _Head:
        """The one that the batch was made for, if it still says the truth."""
        head, self._head = self._head, None
        if head is not None and head.number == number and head.last == self._end:
            return head
        return self._make_head(number)

    def _make_head(self, number: int) -> _Head:
        last = self._end
        fields = {"v": VERSION, "prev": last.segment, "prev_len": last.offset, "t": iso_utc(self._clock.time())}
        return _Head(number, last, encode(draft(HEAD, fields), Place(number, 0), last))

    @property
    def _end(self) -> Place:
        """The end of all that counts."""
        return Place(self.active, self._lengths.get(self.active, 0))

    def _settle_batch(self, writer: LogFile) -> None:
        """It is durable; nothing is staged any more."""
        self._lengths[writer.number] = writer.synced
        self.commits += bool(self._batch)
        self.records += len(self._batch)
        self.last_commit = self._clock.monotonic()
        self._batch.clear()

    # Reading and removing.

    def _reader(self, number: int) -> int:
        """A descriptor to read segment `number`. Raises OSError."""
        if self._writer is not None and self._writer.number == number:
            return self._writer.fd
        fd = self._readers.pop(number, None)
        if fd is None:
            fd = self._os.open(segment_path(self._directory, number), os.O_RDONLY)
        self._keep_reader(number, fd)
        return fd

    def _keep_reader(self, number: int, fd: int) -> None:
        self._readers[number] = fd  # at the end: the least recently used is the first
        if len(self._readers) > _READERS:
            self._close_reader(next(iter(self._readers)))

    def _close_reader(self, number: int) -> None:
        fd = self._readers.pop(number, None)
        if fd is not None:
            self._close(fd)

    def _close(self, fd: int) -> None:
        with suppress(OSError):  # what had to be durable was synced: a complaint now says nothing about it
            self._os.close(fd)

    def _discard(self, writer: LogFile) -> None:
        """Take a segment away that nobody was told about. Should that fail: no header will ever name it."""
        self._close(writer.fd)
        try:
            self._unlink(writer.number)
        except OSError:
            self._pass_over(writer.number)

    def _drop(self, number: int) -> None:
        """Remove a segment. Strays go first: a file older than a dropped one would look like the far side of a gap."""
        for hole in [each for each in self._unsaved if each.segment == number]:
            save_hole(self._os, self._directory, hole)
            self._unsaved.remove(hole)
        if self._strays:
            for stray in list(self._strays):
                self._unlink(stray)
                self._strays.remove(stray)
            sync_directory(self._os, self._directory)
        self._close_reader(number)
        self._read_last = None
        self._unlink(number)
        sync_directory(self._os, self._directory)
        del self._lengths[number]

    def _unlink(self, number: int) -> None:
        with suppress(FileNotFoundError):
            self._os.unlink(segment_path(self._directory, number))
