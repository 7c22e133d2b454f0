"""The sweeps: each goes through states that a crash may leave, and yields what is wrong with them, with the place.

What was tried stands in the checker's tally.
"""

__all__ = [
    "SEED",
    "SLICES",
    "Found",
    "Kill",
    "calls_of",
    "kill_sweep",
    "places_of",
    "power_sweep",
    "really_kill",
    "recovery_kill_sweep",
    "recovery_power_sweep",
    "telling",
]

import os
import shutil
import signal
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import NamedTuple

from tests.crash.checker import FAULTS, Checker, contents, taken_away
from tests.crash.disk import Fate
from tests.crash.workload import Lost, Story
from tests.crash.world import Breach, World
from tests.journal.model import BLOCK, Note, Tears, Told, half, lay_out, states

#: A system call (from 1), and "before", "after" or where its write tears.
Kill = tuple[int, str | int]

Notes = Sequence[Note | Told]

#: How recovery is killed, in turn.
_HOWS = ("before", 7, -1)


class Found(NamedTuple):
    """What is wrong, and where."""

    where: str
    breach: Breach


def power_sweep(
    checker: Checker,
    root: Path,
    seed: int,
    *,
    extra: int = 0,
    tears: Tears | None = None,
    where: Callable[[Notes], Container[int]] = lambda notes: range(len(notes) + 1),
) -> Iterator[Found]:
    """The power goes after every change to the disk, and after all that was told; or where `where` says."""
    story = Story(root, seed)
    try:
        story.run()
        yield from _cut_power(checker, story, seed, extra, tears, where(story.disk.notes))
    except FAULTS as error:
        yield Found(f"seed {seed}, no crash at all", _breach_of(error))
    finally:
        shutil.rmtree(root)


def _breach_of(error: Exception) -> Breach:
    return Breach("no legal run of records" if isinstance(error, Lost) else "raised", repr(error))


def _cut_power(
    checker: Checker, story: Story, seed: int, extra: int, tears: Tears | None, where: Container[int]
) -> Iterator[Found]:
    notes = story.disk.notes
    checker.know(story.payloads)
    world, told = World(), 0
    for at, state in states(notes, seed, extra, tears, where):
        for note in notes[told:at]:
            if isinstance(note, Told):
                world.tell(note.what, note.value)
        told = at
        breach = checker.check(state, world)
        if breach:
            yield Found(f"seed {seed}, power cut after note {at} of {len(notes)}", breach)


def kill_sweep(checker: Checker, root: Path, seed: int, kills: Iterable[Kill]) -> Iterator[Found]:
    """A process is killed at each of `kills`. With every second call all others die, too."""
    for at, how in kills:
        story = Story(root, seed, Fate(at, how))
        try:
            story.run(last_words=at % 2 == 0)
            if story.fate.hit:
                checker.know(story.payloads)
                breach = checker.check(contents(root), story.world)
                if breach:
                    yield Found(f"seed {seed}, killed {how} call {at}", breach)
        except FAULTS as error:
            yield Found(f"seed {seed}, killed {how} call {at}", _breach_of(error))
        finally:
            shutil.rmtree(root)


def recovery_kill_sweep(
    checker: Checker, root: Path, seed: int, kills: Iterable[Kill], *, step: int = 1
) -> Iterator[Found]:
    """After each of `kills` the next start is killed at each of its system calls, or at every `step`th."""
    for at, how in kills:
        story = Story(root / "first", seed, Fate(at, how))
        story.run(last_words=at % 2 == 0)
        checker.know(story.payloads)
        state = contents(root / "first")
        shutil.rmtree(root / "first")
        if not story.fate.hit:
            continue
        for again in count(1 + at % step, step):
            lay_out(state, root / "again")
            second = Story(root / "again", seed)
            second.world = story.world.copy()
            try:
                second.revive(Fate(again, _HOWS[again % len(_HOWS)]))
                after = contents(root / "again")
                breach = taken_away(state, after) or checker.check(after, second.world)
            except FAULTS as error:
                breach = _breach_of(error)
            shutil.rmtree(root / "again")
            if breach:
                yield Found(f"seed {seed}, killed {how} call {at}, then at call {again} of the next start", breach)
            if not second.fate.died:
                break


def recovery_power_sweep(
    checker: Checker, root: Path, seed: int, kills: Iterable[Kill], *, extra: int = 0, step: int = 1
) -> Iterator[Found]:
    """After each of `kills` the power goes in the next start, after each change or after every `step`th."""
    for at, how in kills:
        story = Story(root, seed, Fate(at, how))
        try:
            story.run(last_words=at % 2 == 0)
            if story.fate.hit:
                notes = story.disk.notes
                before = len(notes)
                story.revive()
                where = {*range(before, len(notes), step), len(notes), _last_replay(notes)}
                for found in _cut_power(checker, story, seed, extra, None, where):
                    yield Found(f"killed {how} call {at}, {found.where}", found.breach)
        except FAULTS as error:
            yield Found(f"seed {seed}, killed {how} call {at}, then a new start", _breach_of(error))
        finally:
            shutil.rmtree(root)


def _last_replay(notes: Notes) -> int:
    """Where the last life had read the journal."""
    return max(at for at, note in enumerate(notes, 1) if isinstance(note, Told) and note.what == "replayed")


def really_kill(checker: Checker, root: Path, seed: int, kills: Iterable[Kill]) -> Iterator[Found]:
    """As `kill_sweep`, by SIGKILL. What the world was told is known from the same story in this process."""
    for at, how in kills:
        _story_in_child(root / "child", seed, Fate(at, how, really=True))
        story = Story(root / "here", seed, Fate(at, how))
        story.run(last_words=False)
        checker.know(story.payloads)
        breach = checker.check(contents(root / "child"), story.world)
        if breach:
            yield Found(f"seed {seed}, SIGKILL {how} call {at}", breach)
        shutil.rmtree(root)


def _story_in_child(root: Path, seed: int, fate: Fate) -> None:
    pid = os.fork()
    if not pid:
        try:
            Story(root, seed, fate).run()
        except BaseException as error:  # noqa: BLE001 - a forked child must never run on into its parent's code
            os.write(2, repr(error).encode())
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != -signal.SIGKILL:
        raise AssertionError(f"the child was not killed: {status}")


# The bounded sweep: a slice of each, of one seed.


def _slice_of_power(checker: Checker, root: Path, begin: float) -> Iterator[Found]:
    return power_sweep(
        checker, root, SEED, tears=half, where=lambda notes: {at for at in telling(notes) if at >= begin * len(notes)}
    )


def telling(notes: Notes) -> set[int]:
    """Where power cuts tell most.

    At the first and the last change of each sort and number of blocks, at drops in a row, in new lives.
    """
    found = set(range(0, len(notes), 197))
    sorts: dict[tuple[str, str], list[int]] = {}
    for at, note in enumerate(notes, 1):
        if isinstance(note, Note):
            kind = f"{note.kind} {len(note.data) // BLOCK}"
            sorts.setdefault((kind, str(Path(note.path).parent)), []).append(at)
        elif note.what == "replayed":
            found.add(at)
    for (kind, _), places in sorts.items():
        found.update((places[0], places[-1]))
        if kind.startswith("unlink"):
            found.update(at for before, at in pairwise(places) if at - before < 20)
    return found


def _slice_of_kills(checker: Checker, root: Path, _: float) -> Iterator[Found]:
    calls = calls_of(root, SEED)
    writes = places_of(calls, "write")
    kills: list[Kill] = [(at, ("before", "after")[at % 2]) for at in range(9, len(calls), 83)]
    kills += [(at, (1, 50, -1)[index % 3]) for index, at in enumerate(writes[5::31])]
    return kill_sweep(checker, root, SEED, kills)


def _slice_of_recovery_kills(checker: Checker, root: Path, _: float) -> Iterator[Found]:
    return recovery_kill_sweep(checker, root, SEED, _bounded_recoveries(root), step=5)


def _slice_of_recovery_power(checker: Checker, root: Path, _: float) -> Iterator[Found]:
    return recovery_power_sweep(checker, root, SEED, _bounded_recoveries(root), step=29)


def _bounded_recoveries(root: Path) -> list[Kill]:
    """A torn write, whole ones without their sync, a new segment whose name is not synced, and a torn one late.

    One of the whole ones is in the first life: there, a sync that recovery leaves out shows.
    """
    calls = calls_of(root, SEED)
    writes = places_of(calls, "write", "fdatasync")
    names = places_of(calls, "stat", "stat", "write", "fsync", "open", "fsync")
    third = len(writes) // 3
    return [
        (writes[len(writes) // 8], "after"),
        (writes[third], 60),
        (writes[2 * third], "after"),
        (names[1] + 4, "after"),
        (writes[-9], -1),
    ]


def calls_of(root: Path, seed: int) -> list[str]:
    """The system calls of a story that nobody kills."""
    story = Story(root, seed)
    story.run()
    shutil.rmtree(root)
    return story.fate.calls


def places_of(calls: Sequence[str], *run: str) -> list[int]:
    """Where such a run of calls begins (from 1)."""
    return [at + 1 for at in range(len(calls)) if calls[at : at + len(run)] == list(run)]


#: The seed of the bounded sweep.
SEED = 7

#: A checker, a directory that it makes and removes, and how much of the story is passed over (from 0 to 1).
Slice = Callable[[Checker, Path, float], Iterator[Found]]

SLICES: dict[str, Slice] = {
    "power": _slice_of_power,
    "kill": _slice_of_kills,
    "recovery kill": _slice_of_recovery_kills,
    "recovery power": _slice_of_recovery_power,
}
