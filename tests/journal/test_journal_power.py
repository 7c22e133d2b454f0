"""Power cuts: every state that the model allows keeps the promises, and a journal with a fault in it is found out."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import pytest

from captchad.journal import recovery, segments, store, writer
from captchad.model.errors import CaptchadError, JournalDown
from tests.journal.kit import CALLS, App, Killed, KillingOs, Promises, reopen
from tests.journal.model import RecordingOs, Told, lay_out, states


class Life(NamedTuple):
    """What it does, and which of its calls named in `only` kills it (0: none does), and how."""

    plan: Sequence[str]
    at: int = 0
    how: str = ""
    only: Sequence[str] = CALLS


def recorded_lives(root, lives, failing_syncs=()):
    """Run `lives` one after the other on the same disk."""
    root.mkdir()
    osio = RecordingOs(root, failing_syncs)
    for life in lives:
        mortal = KillingOs(life.at, life.how, inner=osio, only=life.only)
        with suppress(Killed):
            app = App(root / "journal", osio.tell, mortal)
            run_persistently(app, life.plan)
            app.close()
        assert mortal.dead == bool(life.at)
    return osio


def run_persistently(app, plan):
    """A failed commit is recovered from, as the daemon does when its timer runs out."""
    for step in plan:
        while step:
            try:
                app.run([step])
                step = ""
            except JournalDown:
                step = "recover"


def breaches(fast_dir, osio, *, seed=0, extra=4, stop=1):
    """Try every state; (how many there were, what was wrong with the first `stop` bad ones)."""
    wrong, seen = [], set()
    for at, state in states(osio.notes, seed, extra):
        promises = Promises()
        for note in osio.notes[:at]:
            if isinstance(note, Told):
                promises.tell(note.what, note.value)
        key = (promises.staged, promises.promised, promises.droppable, tuple(sorted(state.items())))
        if key in seen:
            continue
        seen.add(key)
        message = fault(fast_dir / "state", state, promises)
        if message:
            wrong.append((at, message))
            if len(wrong) >= stop:
                break
    return len(seen), wrong


def fault(root, state, promises):
    lay_out(state, root)
    try:
        return promises.breach(reopen(root / "journal"))
    except (CaptchadError, AssertionError) as error:
        return repr(error)
    finally:
        shutil.rmtree(root)


ONE_LIFE = [Life(["1", "2", "1", "3", "drop", "1", "3", "1", "2", "3", "drop", "1", "2"])]

#: The second segment is made ahead in all three steps, the third one in one only; the fourth is made and not used.
READY = ["prepare"] * 3
AHEAD = [Life(["1", "4", *READY, "1", "1", "4", "prepare", "drop", "7", *READY, "2", "4", "drop", "1"])]


@pytest.mark.parametrize("lives", [ONE_LIFE, AHEAD], ids=["plain", "ahead"])
def test_no_power_cut_in_one_life_breaks_a_promise(fast_dir, lives):
    tried, wrong = breaches(fast_dir, recorded_lives(fast_dir / "live", lives))
    assert wrong == []
    assert tried > 200


@pytest.mark.parametrize(
    ("plan", "failing"),
    [
        (["1", "1", "2"], (2,)),
        (["1", "1", "2"], (3, 4)),
        (["4", *READY, "1", "1"], (2,)),  # of the segment that is made ahead
        (["4", *READY, "1", "1"], (4,)),  # of its first commit
        (["4", *READY, "1", "1"], (5,)),  # of its second
        pytest.param(["4", *READY, "1", "1"], (4, 5), marks=pytest.mark.slow),
        pytest.param(["1", "1", "2"], (4, 5, 6), marks=pytest.mark.slow),
    ],
)
def test_no_power_cut_after_a_failed_sync_breaks_a_promise(fast_dir, plan, failing):
    osio = recorded_lives(fast_dir / "live", [Life(plan)], failing)
    assert any(getattr(note, "kind", "") == "failed" for note in osio.notes)
    tried, wrong = breaches(fast_dir, osio, extra=0)
    assert wrong == []
    assert tried > 40


def call_count(fast_dir, plan):
    (fast_dir / "count").mkdir()
    osio = KillingOs(0, "")
    app = App(fast_dir / "count" / "journal", lambda what, value: None, osio)
    app.run(plan)
    app.close()
    shutil.rmtree(fast_dir / "count")
    return osio.count


def second_life(fast_dir, plan, steps, extra):
    """A life that is killed at one of `steps` calls, then another one, then a power cut. How many states were tried."""
    total = 0
    last = call_count(fast_dir, plan)
    for at in steps(last):
        osio = recorded_lives(fast_dir / "live", [Life(plan, at, "inside"), Life(["2", "1"])])
        tried, wrong = breaches(fast_dir, osio, seed=at, extra=extra)
        assert (at, wrong) == (at, [])
        total += tried
        shutil.rmtree(fast_dir / "live")
    return total


def test_no_power_cut_after_a_kill_breaks_a_promise(fast_dir):
    assert second_life(fast_dir, ["1", "3"], lambda last: range(last - 28, last, 7), extra=0) > 100


def test_no_power_cut_after_a_kill_at_a_rotation_breaks_a_promise(fast_dir):
    plan = ["4", *READY, "2"]
    assert second_life(fast_dir, plan, lambda last: range(last - 17, last, 4), extra=0) > 60


@pytest.mark.slow
def test_no_power_cut_after_any_kill_breaks_a_promise(fast_dir):
    assert second_life(fast_dir, ["1", "3", "drop", "1", "3", "2", "1"], lambda last: range(20, last), extra=8) > 3000


# Faults put into the journal on purpose. A model that does not find them is worth nothing.


def no_fdatasync(patch):
    patch.setattr(RecordingOs, "fdatasync", lambda self, fd: None)


def no_directory_sync(patch):
    patch.setattr(store, "sync_directory", lambda osio, path: None)


def ahead_without_a_name(patch):
    fresh = store.Journal._fresh

    def hasty(self, *, must_reserve=False):
        made = fresh(self, must_reserve=must_reserve)
        made.named = made.synced
        return made

    patch.setattr(store.Journal, "_fresh", hasty)


def promise_before_sync(patch):
    commit = App.commit

    def hasty(self, count):
        self.tell("staged", self.next + count)
        self.tell("promised", self.next + count)
        commit(self, count)

    patch.setattr(App, "commit", hasty)


def tail_not_mended(patch):
    patch.setattr(recovery.Recovery, "_mend_tail", lambda self, number, data, end: None)
    patch.setattr(writer.LogFile, "check", lambda self: None)


def tail_not_settled(patch):
    patch.setattr(recovery.Recovery, "_settle_segment", lambda self, number: None)


def names_not_settled(patch):
    patch.setattr(recovery, "sync_directory", lambda osio, path: None)


def failed_sync_tried_again(patch):
    def put(self, data, *, with_inode=False):
        self._osio.write(self.fd, data)
        try:
            self._osio.fdatasync(self.fd)
        except OSError:
            self._osio.fdatasync(self.fd)
        self.synced += len(data)

    patch.setattr(writer.LogFile, "put", put)


def previous_length_ignored(patch):
    whole = segments.find_chain

    def forgetful(heads):
        chain = whole(heads)
        links = tuple(segments.Link(link.number, None) for link in chain.links)
        return segments.Chain(links, chain.torn, chain.strays, chain.missing)

    patch.setattr(recovery, "find_chain", forgetful)


PLAIN = (ONE_LIFE, ())
FAILED_SYNC = ([Life(["1", "1", "1"])], (3,))
#: Killed in the second commit's write; before its sync; before the sync of the second segment's name.
TORN = ([Life(["1", "2"], 4, "inside", ("write",)), Life(["2", "1"])], ())
UNSYNCED = ([Life(["1", "2"], 2, "before", ("fdatasync",)), Life(["1"])], ())
#: Nobody looks whether the name of the segment that was made ahead is durable.
HALF_MADE = ([Life(["4", "prepare", "prepare", "1", "1"])], ())
UNNAMED = ([Life(["1", "3", "1"], 7, "before", ("fsync",)), Life(["1"])], ())


@pytest.mark.parametrize(
    ("mutant", "lives"),
    [
        (no_fdatasync, PLAIN),
        (no_directory_sync, PLAIN),
        (promise_before_sync, PLAIN),
        (failed_sync_tried_again, FAILED_SYNC),
        (previous_length_ignored, FAILED_SYNC),
        (tail_not_mended, TORN),
        (tail_not_settled, UNSYNCED),
        (names_not_settled, UNNAMED),
        (ahead_without_a_name, HALF_MADE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_model_finds_a_fault(fast_dir, monkeypatch, mutant, lives):
    mutant(monkeypatch)
    assert not survives(fast_dir, *lives)


@pytest.mark.parametrize(
    "lives",
    [FAILED_SYNC, TORN, UNSYNCED, UNNAMED, HALF_MADE],
    ids=["failed sync", "torn", "unsynced", "unnamed", "half made"],
)
def test_the_same_without_a_fault_survives(fast_dir, lives):
    assert survives(fast_dir, *lives)


def survives(fast_dir, lives, failing):
    """Whether neither the lives nor a power cut in them shows anything wrong."""
    try:
        osio = recorded_lives(fast_dir / "live", lives, failing)
    except (CaptchadError, AssertionError):
        return False
    return breaches(fast_dir, osio)[1] == []
