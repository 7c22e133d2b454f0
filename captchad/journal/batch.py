"""What is staged: lines that are ready to be written, made for the place where they will most likely stand.

That place is known when a batch begins: behind what is synced, or behind the header of the next segment. Only when the
journal goes down, or a rotation fails, do they come to stand elsewhere; then they are made anew, and `moves` says so.
"""

__all__ = ["Batch"]

from bisect import bisect_left

from captchad.journal.records import Draft, Entry, Place, Record, line_encoder, record_at, undo


class Batch:
    """Some records, in order."""

    def __init__(self) -> None:
        self.moves: dict[Place, Place] = {}  #: where records stand that were promised another place
        self.bytes = 0
        self._at = Place(0, 0)
        self._synced: Place | None = None
        self._lines: list[bytes] = []
        self._entries: list[Entry] = []
        self._encode = line_encoder(0)

    def __len__(self) -> int:
        return len(self._lines)

    def begin(self, at: Place, synced: Place | None) -> None:
        """The first record will stand at `at`; it says what is `synced` then, unless a header does."""
        self._at, self._synced = at, synced
        self._encode = line_encoder(at.segment)

    def add(self, ready: Draft) -> Entry:
        """Take one more record; the entry says where it will stand."""
        segment, start = self._at
        offset = start + self.bytes
        line = self._encode(ready, offset, None if self._lines else self._synced)
        length = len(line)
        entry = Entry(segment, offset, length)
        self._lines.append(line)
        self._entries.append(entry)
        self.bytes += length
        return entry

    def lines(self, at: Place, synced: Place | None) -> bytes:
        """All of it as it stands from `at` on. The entries follow."""
        if (at, synced) != (self._at, self._synced):
            self._move(at, synced)
        return b"".join(self._lines)

    def find(self, entry: Entry) -> Record | None:
        """The record that will stand at `entry`, if it is one of these."""
        if entry.segment != self._at.segment or entry.offset < self._at.offset:
            return None
        index = bisect_left(self._entries, entry.offset, key=_offset)
        if index == len(self._entries) or self._entries[index].offset != entry.offset:
            return None
        line = self._lines[index]
        return record_at(line, 0, len(line) - 1, Place(entry.segment, entry.offset))

    def clear(self) -> None:
        """Nothing is staged any more."""
        self._lines.clear()
        self._entries.clear()
        self.bytes = 0

    def _move(self, at: Place, synced: Place | None) -> None:
        ready = [undo(line) for line in self._lines]
        entries = self._entries
        before = [Place(entry.segment, entry.offset) for entry in entries]
        self._lines, self._entries, self.bytes = [], [], 0
        self.begin(at, synced)
        for each, entry, place in zip(ready, entries, before, strict=True):
            moved = self.add(each)
            entry.segment, entry.offset, entry.length = moved.segment, moved.offset, moved.length
            self.moves[place] = Place(moved.segment, moved.offset)
        self._entries = entries


def _offset(entry: Entry) -> int:
    return entry.offset
