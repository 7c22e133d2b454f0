"""Faults put into the journal on purpose: a checker that does not find them is worth nothing.

A mutant is the text of one real function with something left out of it or changed in it. When the function is not
written that way any more, making the mutant fails.
"""

__all__ = ["MUTANTS", "ROT_MUTANTS", "Mutant"]

import inspect
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

import pytest

from captchad.daemon import orphans
from captchad.journal import osio, quarantine, records, recovery, segments, sidefile, store, writer
from captchad.queue import cleaning, queue


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` becomes `new` in the function `function` of `owner`, a class or a module.

    It shows in the slice `slice` of the sweep; `begin` is how much of the story comes before that (from 0 to 1).
    """

    name: str
    owner: Any
    function: str
    old: str
    new: str
    slice: str = "power"
    begin: float = 0.0

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        """Put it in the place of the real function, wherever that was imported."""
        real = inspect.getattr_static(self.owner, self.function)
        plain = inspect.unwrap(getattr(real, "__func__", real))
        source = textwrap.dedent(inspect.getsource(plain))
        if source.count(self.old) != 1:
            raise AssertionError(f"mutant {self.name!r}: {self.function} does not say {self.old!r} once")
        made: dict[str, Any] = {}
        names = plain.__globals__ | {"put_unsynced": put_unsynced}
        exec(compile(source.replace(self.old, self.new), f"<mutant: {self.name}>", "exec"), names, made)
        owners = [self.owner] if isinstance(self.owner, type) else _holders(self.function, real)
        for owner in owners:
            patch.setattr(owner, self.function, made[self.function])


def _holders(name: str, function: Any) -> list[Any]:
    ours = [module for key, module in sys.modules.items() if key.startswith("captchad.")]
    return [module for module in ours if vars(module).get(name) is function]


def put_unsynced(log: writer.LogFile, data: bytes, **_: Any) -> None:
    """`LogFile.put` without its sync."""
    osio.write_all(log._osio, log.fd, data)
    log.synced += len(data)


_SYNC = "(self._osio.fsync if with_inode else self._osio.fdatasync)(self.fd)"
_SYNC_NAMES = "sync_directory(self._os, self._directory)"
_AFTER_LIFE = 0.2  # the first life is over, and its workers say their last words

_LEFT_OUT = [
    Mutant("no sync of a commit", writer.LogFile, "put", _SYNC, "self._osio.fsync(self.fd) if with_inode else None"),
    Mutant("no sync of a new segment", store.Journal, "_fill", "fresh.put(", "put_unsynced(fresh, ", begin=0.4),
    Mutant("no sync of a new segment's name", store.Journal, "_fill", "if not segment.named:", "if False:"),
    Mutant("no sync of the name of a segment made ahead", store.Journal, "_prepare_step", _SYNC_NAMES, "pass"),
    Mutant(
        "no sync of the names between two drops",
        store.Journal,
        "_drop",
        f"self._unlink(number)\n    {_SYNC_NAMES}",
        "self._unlink(number)",
        begin=0.5,
    ),
    Mutant(
        "no sync of a side file's last words",
        sidefile.SideFile,
        "_put",
        "self._log.put(",
        "put_unsynced(self._log, ",
        begin=_AFTER_LIFE,
    ),
    Mutant(
        "no sync of a side file's name",
        sidefile.SideFile,
        "_begin",
        "sync_directory(osio, self._log.path.parent)",
        "pass",
        begin=_AFTER_LIFE,
    ),
    Mutant(
        "no sync of what recovery has read",
        recovery.Recovery,
        "_sync_and_forget",
        "self._os.fsync(fd)",
        "pass",
        slice="recovery power",
    ),
    Mutant(
        "no sync of what is put into quarantine",
        quarantine,
        "_save",
        "osio.fsync(fd)",
        "pass",
        slice="recovery power",
    ),
    Mutant(
        "no sync of a name in quarantine",
        quarantine,
        "_save",
        "sync_directory(osio, place)",
        "pass",
        slice="recovery power",
    ),
]

_WRONG_ORDER = [
    Mutant(
        "told before it is synced",
        queue.Queue,
        "commit",
        "    if self.down_reason:\n",
        "    self._run_effects()\n    if self.down_reason:\n",
    ),
    Mutant(
        "dropped before the copies are synced",
        cleaning.Cleaner,
        "_finish",
        "self._queue.after_commit(partial(self._drop, self._segment))",
        "self._drop(self._segment)",
    ),
    Mutant(
        "a side file gone before what it said is synced",
        orphans.Orphans,
        "absorb",
        "self._queue.after_commit(partial(self._remove, side.path))",
        "self._remove(side.path)",
        begin=_AFTER_LIFE,
    ),
    Mutant(
        "a tail cut before it is kept",
        recovery.Recovery,
        "_mend_tail",
        "        if torn.strip",
        "        self._end_at(segment_path(self._directory, number), end, cut=True)\n        if torn.strip",
        slice="recovery kill",
    ),
]

_NOT_DONE = [
    Mutant(
        "the deaths of workers not written anew before their records go",
        cleaning.Cleaner,
        "_finish",
        'self._queue.stage("crew_log", log)',
        "pass",
        begin=0.1,
    ),
    Mutant("a torn tail left where it is", recovery.Recovery, "_mend_tail", "if self.failure:", "if True:"),
    Mutant(
        "recovery believes the page cache",
        recovery.Recovery,
        "_sync_and_forget",
        "self._os.drop_cache(fd)",
        "pass",
        begin=0.85,
    ),
    Mutant(
        "a failed sync tried again",
        writer.LogFile,
        "put",
        "        self.poisoned = True\n        raise",
        "        self._osio.fsync(self.fd)",
    ),
    Mutant("a short write taken for a whole one", osio, "write_all", "while done < len(data):", "while False:"),
    Mutant(
        "the checksum of a line not looked at",
        records,
        "decode",
        "if zlib.crc32(memoryview(line)[_CHECKED_FROM:], _SEED) != int(match[1], 16):",
        "if False:",
    ),
    Mutant(
        "a header that does not say how much of the last segment counts",
        store.Journal,
        "_make_head",
        '"prev_len": last.offset',
        '"prev_len": 0',
    ),
    Mutant(
        "nobody asks how much of the last segment counts",
        segments,
        "find_chain",
        "number, length = head.prev, head.prev_len",
        "number, length = head.prev, None",
        begin=0.4,
    ),
    Mutant(
        "an end of last words that nobody compares with their count",
        sidefile,
        "_report",
        'whole = line.fields.get("count") == len(outcomes) and',
        "whole =",
        begin=_AFTER_LIFE,
    ),
]

#: Those that a crash shows.
MUTANTS = [*_LEFT_OUT, *_WRONG_ORDER, *_NOT_DONE]

#: Those that no crash shows, but rotten bytes do.
ROT_MUTANTS = [
    Mutant(
        "the checksum of a record not looked at",
        records,
        "record_at",
        "if zlib.crc32(line[_CHECKED_FROM:], _SEED) != int(checksum, 16):",
        "if False:",
    ),
    Mutant(
        "the place of a record not looked at",
        records,
        "record_at",
        "if int(offset) != at.offset or int(segment) != at.segment or line[-1:]",
        "if line[-1:]",
    ),
]
