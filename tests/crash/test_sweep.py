"""A slice of the crash sweep for every run, some 2,500 states in 30 s; `make sweep` goes through all of it."""

import pytest

from tests.crash.checker import Checker
from tests.crash.sweeps import SEED, SLICES, calls_of, really_kill
from tests.crash.workload import KINDS, Story
from tests.journal.model import Note


@pytest.fixture
def story(fast_dir):
    told = Story(fast_dir / "story", SEED)
    told.run()
    return told


def test_the_story_has_everything(story):
    assert story.kinds == KINDS
    assert story.operations >= 200
    assert story.rotations >= 5
    assert story.cleaned >= 5
    assert story.absorbed >= 4
    assert story.downs >= 4
    assert len(story.world.said) >= 2
    notes = [note for note in story.disk.notes if isinstance(note, Note)]
    assert {note.kind for note in notes} >= {"create", "write", "cut", "unlink", "sync", "syncdir", "failed", "forget"}


def known(note):
    """What is the same each time: not what the index says of the files themselves."""
    return note.kind if isinstance(note, Note) and note.path == "journal/index" else note


def test_a_story_is_told_twice_the_same_way(story, fast_dir):
    again = Story(fast_dir / "again", SEED)
    again.run()
    assert [known(note) for note in again.disk.notes] == [known(note) for note in story.disk.notes]


@pytest.mark.parametrize("name", SLICES)
def test_no_crash_breaks_a_promise(fast_dir, name):
    checker = Checker(fast_dir / "state", read_every=3)
    assert list(SLICES[name](checker, fast_dir / "live", 0.0)) == []
    print(f"{name}: {checker.tally}")
    assert checker.tally.states >= 15


def test_no_sigkill_breaks_a_promise(fast_dir):
    checker = Checker(fast_dir / "state")
    last = len(calls_of(fast_dir / "live", SEED))
    kills = [(last // 4, "before"), (last // 2, "after"), (last - 20, "before")]
    assert list(really_kill(checker, fast_dir / "live", SEED, kills)) == []
    assert checker.tally.states == 3
