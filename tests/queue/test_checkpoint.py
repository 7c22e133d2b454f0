"""The index: a start from it knows what a start from the segments does, and whatever is wrong with it, it goes."""

import errno
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from captchad.journal import indexfile
from captchad.journal.indexfile import IndexFile, Seal
from captchad.journal.osio import Os
from captchad.journal.places import RecordFiles
from captchad.journal.records import Draft, Line, decode, encode, undo
from captchad.journal.store import Journal
from captchad.model.states import Priority, State
from captchad.policy.lifecycle import Kind, NotAllowed
from captchad.queue import checkpoint
from captchad.queue.queue import Queue
from captchad.queue.view import View
from tests.journal.kit import FailingOs, HookOs, Killed, KillingOs
from tests.journal.model import RecordingOs, lay_out, states
from tests.queue.test_histories import SETTINGS, Histories, accept, replayed
from tests.support.clock import FakeClock

#: Calls of the seam that writing an index makes.
WRITING = ("stat", "open", "pread", "unlink", "free_bytes", "write", "fsync", "close")


def insides(view: View) -> dict[str, Any]:
    """What a view knows beyond its fingerprint, without what says nothing any more."""
    view.tasks.cold()  # everything is here from now on

    def ended(second: int, task_id: str, *, dead: bool) -> bool:
        state = view.tasks.state(task_id)
        return state is not None and state.ended and (state is State.DEAD) == dead

    def standing(task_id: str, ticket: int) -> bool:
        task = view.tasks.hot.get(task_id)
        return task is not None and task.where == "delayed" and task.ticket == ticket

    endings, deaths = ([(at, task_id) for at, ids in due.items() for task_id in ids] for due in view.times[1:])
    deadlines = [(at, task_id) for at, task_id in view.times.deadlines if task_id in view.tasks]
    return {
        "all": view.fingerprint(),
        "ready": view.in_order(),
        "delayed": [
            (due, task_id) for due, ticket, task_id in sorted(view._lines._delayed) if standing(task_id, ticket)
        ],
        "lines": dict(view.lines),
        "deadlines": sorted(each for each in deadlines if not view.tasks.state(each[1]).ended),  # type: ignore[union-attr]
        "endings": sorted(each for each in endings if ended(*each, dead=False)),
        "deaths": sorted(each for each in deaths if ended(*each, dead=True)),
        "live": {segment: tuple(each) for segment, each in view.tasks.live.items()},
        "places": tuple(dict(each) for each in view.tasks.cold()),
        "payloads": {task.id: (task.payload, task.answer, task.where) for task in view.tasks.hot.values()},
        "attempts": view.attempts,
        "captchas": view.captchas,
        "in flight": {name: number for name, number in view.in_flight.items() if number},
        "epoch": view.epoch,
        "crew": view.crew.index(),
    }


class Kit:
    """A queue that is stopped and started; `indexed` says whether the last start was from an index."""

    def __init__(self, directory: Path, osio: Os | None = None, segment_bytes: int = 1000) -> None:
        self.directory = directory
        self.clock = FakeClock()
        self.segment_bytes = segment_bytes
        self.open(osio)

    @property
    def index(self) -> Path:
        return self.directory / "index"

    def open(self, osio: Os | None = None) -> None:
        self.journal = Journal.open(
            self.directory, segment_bytes=self.segment_bytes, clock=self.clock, reserve_bytes=65536, osio=osio
        )
        self.queue = Queue(self.journal, SETTINGS, self.clock, random.Random(7))
        self.begin()

    def begin(self) -> None:
        there = self.index.exists()
        self.queue.replay(from_index=True)
        self.indexed = there and self.index.exists()

    def fill(self, tasks: int = 12) -> None:
        """Some tasks of each priority, some with a deadline, some that have ended, one under way, one delayed."""
        for number in range(tasks):
            deadline_at = self.clock.time() + 1000.0 + number if number % 3 == 0 else None
            accept(self.queue, f"t{number}", pr=number % 4, dl=deadline_at)
            self.queue.commit()
        for _ in range(3):
            self.solve()
        task = self.ready()
        self.queue.order(task, "p", (1, 1), "k")
        task = self.ready()
        self.queue.not_sent(self.queue.order(task, "p", (1, 1), "k"), "connect")
        for do in ("start", "death"):
            self.queue.stage("crew", {"t": self.clock.time(), "do": do, "why": "start", "w": 1})
        self.queue.commit()

    def ready(self) -> Any:
        task = self.queue.view.peek_ready()
        assert task is not None
        return task

    def solve(self) -> None:
        task = self.ready()
        n = self.queue.order(task, "p", (1, 1), "k")
        self.queue.submitted(n, str(n))
        self.queue.solved(n, {"token": f"of-{task.id}", "answer": None, "extra": {}})
        self.queue.publishing(task)
        self.queue.delivered(task)
        self.queue.commit()

    def stop(self, *, block: int = 2) -> dict[str, Any]:
        """A clean stop. What the queue knew."""
        self.queue.commit()
        self.queue.save_index(least=0, block=block)
        before = insides(self.queue.view)
        self.journal.close()
        return before

    def kill(self) -> None:
        self.queue.commit()
        self.journal.close()

    def check(self) -> None:
        """What the queue knows is what the segments say."""
        assert self.queue.view.fingerprint() == replayed(self.directory)


@pytest.fixture
def fast_dir() -> Iterator[Path]:
    """In memory where there is one: a sync costs nothing there."""
    memory = "/dev/shm"
    path = Path(tempfile.mkdtemp(prefix="captchad-", dir=memory if os.access(memory, os.W_OK) else None))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path / "journal")
    yield made
    made.journal.close()


# ---------------------------------------------------------------- histories


class IndexedHistories(Histories):
    """The same, but some stops are clean, and every start is from the index if there is one."""

    def open(self) -> None:
        self.journal = Journal.open(self.directory, segment_bytes=4096, clock=self.clock, reserve_bytes=65536)
        self.queue = Queue(self.journal, SETTINGS, self.clock, self.rng)
        self.queue.replay(from_index=True)
        self.queue.stage("epoch", {"epoch": self.queue.view.epoch + 1, "t": self.clock.time()})

    def commit(self) -> None:
        if not self.queue.loading:  # to look at all tasks has them all loaded
            super().commit()
            return
        self.queue.commit()
        assert self.queue.down_reason == ""

    @rule(block=st.sampled_from([1, 3, 100]), look=st.booleans())
    def stop(self, block: int, look: bool) -> None:
        """A clean stop and a start; to `look` at all that is known has all of it loaded."""
        self.commit()
        loading = self.queue.loading
        self.queue.save_index(least=0, block=block)
        before = insides(self.queue.view) if look else {}
        self.journal.close()
        self.journal = Journal.open(self.directory, segment_bytes=4096, clock=self.clock, reserve_bytes=65536)
        self.queue = Queue(self.journal, SETTINGS, self.clock, self.rng)
        assert self.queue.replay(from_index=True) == 0 or loading
        if look and not loading:
            assert insides(self.queue.view) == before
        self.queue.settle_all_followers()

    @rule()
    def load(self) -> None:
        self.queue.load_some(1)

    @invariant()
    @precondition(lambda self: hasattr(self, "queue"))
    def nothing_is_lost_and_nothing_ends_twice(self) -> None:
        view = self.queue.view
        assert sum(view.states.values()) == len(view.tasks)
        assert view.lines["ready"] + view.lines["delayed"] + view.lines["waiting"] == view.states[State.PENDING]
        if not self.queue.loading:
            super().nothing_is_lost_and_nothing_ends_twice()


IndexedHistories.TestCase.settings = settings(
    max_examples=40, stateful_step_count=60, suppress_health_check=list(HealthCheck)
)
TestIndexedHistories = IndexedHistories.TestCase


# ---------------------------------------------------------------- a start from it


def test_a_start_from_the_index_reads_no_record_and_knows_the_same(kit: Kit) -> None:
    kit.fill()
    before = kit.stop()
    assert len(before["live"]) > 3  # in more than one segment
    kit.journal = Journal.open(kit.directory, segment_bytes=1000, clock=kit.clock, reserve_bytes=65536)
    kit.queue = Queue(kit.journal, SETTINGS, kit.clock, random.Random(7))

    assert kit.queue.replay(from_index=True) == 0
    assert kit.queue.loading
    assert insides(kit.queue.view) == before
    kit.check()


def test_hot_tasks_come_back_as_they_were(kit: Kit) -> None:
    """Dead ones, undelivered ones, polled ones, some that wait for the same moment."""
    kit.fill(16)
    queue = kit.queue
    for end in ("dead", "undelivered", "late", "polled", "delayed", "delayed", "delayed"):
        task = kit.ready()
        n = queue.order(task, "p", (1, 1), "k")
        if end == "delayed":
            queue.stage(Kind.NOT_SENT, {"id": task.id, "t": 1.0, "n": n, "why": "test", "due": 2.0e9, "free": True})
            queue.view.tasks.hot[task.id] = queue.view.tasks.hot.pop(task.id)
            continue
        queue.submitted(n, str(n))
        if end == "dead":
            queue.stage(
                Kind.DEAD, {"id": task.id, "t": kit.clock.time(), "n": n, "code": "X", "cat": "task", "text": ""}
            )
            queue.publishing(task)
            queue.delivered(task)
        elif end == "undelivered":
            queue.solved(n, {"token": "x", "answer": None, "extra": {}})
        elif end == "late":
            queue.timed_out(queue.view.captchas[n])
    first = next(iter(queue.view.tasks.hot))
    queue.view.tasks.hot[first] = queue.view.tasks.hot.pop(first)  # that order means nothing
    before = kit.stop()
    kit.open()

    assert len(before["deaths"]) == 1
    assert {due for due, _ in before["delayed"]} >= {2.0e9}
    assert insides(kit.queue.view) == before
    undelivered = next(iter(kit.queue.view.undelivered))
    assert kit.queue.answer(kit.queue.view.tasks[undelivered]) == {"token": "x", "answer": None, "extra": {}}


def test_everything_is_counted_before_it_is_loaded(kit: Kit) -> None:
    kit.fill()
    view = kit.queue.view
    before = (view.states, dict(view.lines), view.unfinished, len(view.tasks), view.tasks.live_bytes)
    kit.stop()
    kit.open()
    view = kit.queue.view

    assert (view.states, dict(view.lines), view.unfinished, len(view.tasks), view.tasks.live_bytes) == before
    assert kit.queue.loading


def test_it_is_loaded_a_slice_at_a_time_and_intake_and_upkeep_wait(kit: Kit) -> None:
    kit.fill(30)
    kit.stop(block=4)
    kit.open()
    queue = kit.queue
    kit.clock.advance(5000.0)  # every deadline has passed, and every id may be forgotten
    queue.expire()
    queue.forget(100)
    queue.clean(thorough=True)
    assert queue.journal.staged == 0

    calls = 0
    while queue.loading:
        assert queue.accepts_work
        assert not queue.takes_tasks
        queue.load_some(1)
        calls += 1
    assert calls > 6
    assert queue.takes_tasks
    queue.clock.advance(100.0)  # type: ignore[attr-defined]
    queue.expire()
    queue.forget(100)
    assert queue.view.states[State.EXPIRED] > 5
    assert queue.view.states[State.SOLVED] == 0


def test_what_is_taken_from_the_lines_comes_in_the_same_order(kit: Kit) -> None:
    kit.fill(40)
    kit.queue.crashed("t13", alone=False, stall=False)
    assert kit.queue.view.peek_ready([kit.ready().id])  # suspects have lost their place
    kit.queue.commit()
    kit.stop(block=3)
    shutil.copytree(kit.directory, kit.directory.with_name("other"))
    (kit.directory.with_name("other") / "index").unlink()
    other = Kit(kit.directory.with_name("other"))
    kit.open()
    assert kit.indexed
    assert not other.indexed

    orders: list[list[str]] = []
    for each in (kit, other):
        order = []
        while (task := each.queue.view.peek_ready()) is not None:
            order.append(task.id)
            each.queue.order(task, "p", (1, 1), "k")
            if len(order) == 5:
                accept(each.queue, "new", pr=0)  # behind those of its line that are not loaded
        orders.append(order)
    other.journal.close()
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] == orders[1]


def test_the_head_of_each_line_is_there_without_the_rest(kit: Kit) -> None:
    kit.fill(40)
    kit.stop(block=2)
    kit.open()
    shelf = kit.queue.view.tasks.shelf
    assert shelf is not None
    before = shelf.pending
    first = kit.ready()
    assert shelf.pending == before - 2  # one block
    kit.queue.order(first, "p", (1, 1), "k")
    oldest = kit.queue.view.oldest_pending_at()

    assert first.priority is Priority.CRITICAL
    assert kit.queue.loading
    assert oldest == min(task.queued_at for task in kit.queue.view.tasks.values() if task.state is State.PENDING)


@pytest.mark.parametrize(
    "look", ["contains", "state", "get", "peek", "accept", "take", "iterate", "first", "cold_in", "is_cold_at"]
)
def test_whoever_asks_for_a_task_that_is_not_loaded_finds_it(kit: Kit, look: str) -> None:
    kit.fill()
    kit.stop(block=1)
    kit.open()
    tasks = kit.queue.view.tasks
    last = "t11"  # of the lowest priority
    assert kit.queue.loading
    match look:
        case "contains":
            assert last in tasks
            assert "nobody" not in tasks
        case "state":
            assert tasks.state(last) is State.PENDING
            assert tasks.state("t0") is State.SOLVED
        case "get":
            assert tasks[last].priority is Priority.LOW
        case "peek":
            task = tasks.peek("t0")
            assert task is not None
            assert task.state is State.SOLVED
        case "accept":
            with pytest.raises(NotAllowed):
                accept(kit.queue, last)
        case "take":
            assert not tasks.take_pending(last, 1, 1000, 1.0)
        case "iterate":
            assert {f"t{number}" for number in range(12)} == set(tasks)
        case "first":
            assert len(kit.queue.view.first(None, 100)) == 12
        case "cold_in":
            assert sum(len(tasks.cold_in(segment)) for segment in kit.journal.segments()) == len(tasks) - len(tasks.hot)
        case "is_cold_at":
            place = next(entry for entry in places(kit) if entry[0] == last)
            assert tasks.is_cold_at(*place)
    kit.check()


def places(kit: Kit) -> Iterator[tuple[str, int, int]]:
    for segment in kit.journal.segments():
        for record in kit.journal.scan(segment):
            if record.kind == "accept":
                yield record.fields["id"], record.segment, record.offset


def test_whose_answer_others_share_is_known_without_the_rest(kit: Kit) -> None:
    kit.fill()
    for name in ("leader", "follower", "another"):
        accept(kit.queue, name, dk="k", pr=3)
    before = kit.stop()
    assert before["all"]["followers"] == {"leader": ["follower", "another"]}
    kit.open()
    kit.queue.settle_all_followers()

    assert kit.queue.loading
    assert kit.queue.journal.staged == 0
    kit.check()


def test_a_record_that_speaks_of_another_task_is_not_believed(kit: Kit) -> None:
    accept(kit.queue, "a")
    accept(kit.queue, "b")
    kit.queue.commit()
    pending, _ = kit.queue.view.tasks.cold()
    places_of = dict(pending)
    kit.queue.view.tasks.take_up_pending([("a", places_of["b"]), ("b", places_of["a"])])

    task = kit.queue.view.tasks["a"]
    assert (task.id, task.method) == ("a", "")


# ---------------------------------------------------------------- a journal that went on


def test_records_behind_the_index_are_applied_to_it(kit: Kit) -> None:
    kit.fill()
    kit.stop()
    kit.open()
    accept(kit.queue, "later", pr=1)
    accept(kit.queue, "dated", dl=kit.clock.time() + 5.0)
    assert kit.queue.hold("t11") is None
    kit.solve()
    kit.kill()
    kit.open()

    assert kit.indexed
    assert not kit.queue.loading  # tasks were named
    assert kit.queue.view.tasks.state("t11") is State.HELD
    kit.check()


def test_records_that_name_no_task_load_nothing(kit: Kit) -> None:
    kit.fill()
    kit.stop()
    for _ in range(3):
        kit.open()
        kit.queue.stage("epoch", {"epoch": kit.queue.view.epoch + 1, "t": kit.clock.time()})
        kit.queue.stage("beat", {"t": kit.clock.time()})
        kit.queue.stage("crew", {"t": kit.clock.time(), "do": "death", "why": "signal", "w": 1, "tasks": ["t1", "t2"]})
        for log in kit.queue.view.crew.records_for(1e9):
            kit.queue.stage("crew_log", log)
        kit.queue.stage("totals", {**kit.queue.view.totals_record(), "n": kit.queue.view.last_n})
        kit.kill()
    kit.open()

    assert kit.indexed
    assert kit.queue.loading
    assert kit.queue.view.epoch == 3
    kit.check()


def test_a_torn_commit_behind_the_index_is_cut_off(kit: Kit) -> None:
    kit.fill()
    kit.stop()
    path = kit.directory / f"{max(int(each.stem) for each in kit.directory.glob('*.jsonl')):08d}.jsonl"
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"c":"12345678","at":"0000')
    kit.open()

    assert kit.indexed
    assert kit.journal.torn == 1
    assert path.stat().st_size == size
    kit.check()


def test_a_bad_line_behind_the_index_is_seen(kit: Kit) -> None:
    kit.fill()
    kit.stop()
    kit.open()
    end = kit.journal._end
    for number in range(3):
        accept(kit.queue, f"later{number}")
        kit.queue.commit()
    kit.kill()
    path = kit.directory / f"{end.segment:08d}.jsonl"
    data = bytearray(path.read_bytes())
    data[end.offset + 40] ^= 1
    path.write_bytes(data)
    kit.open()

    assert kit.indexed
    assert [(hole.segment, hole.offset) for hole in kit.journal.holes] == [end]
    assert "later0" not in kit.queue.view.tasks
    assert "later1" in kit.queue.view.tasks
    kit.queue.save_index(least=0)
    assert not kit.index.exists()  # damage is known: the next start is to meet it, too


def test_segments_that_were_cleaned_since_are_no_reason_for_doubt(kit: Kit) -> None:
    kit.fill()
    kit.stop()
    kit.open()
    oldest = kit.journal.oldest
    kit.queue.load_some(10**6)
    while kit.journal.oldest == oldest:
        kit.queue.clean(thorough=True)
        kit.queue.commit()
    kit.kill()
    kit.open()

    assert kit.indexed
    kit.check()


def test_an_index_whose_segment_is_gone_is_thrown_away(kit: Kit) -> None:
    kit.fill()
    kit.stop()
    kit.open()
    last = kit.journal.active
    while kit.journal.oldest <= last:
        kit.queue.load_some(10**6)
        kit.queue.stage("beat", {"t": kit.clock.time(), "pad": "x" * 2000})
        kit.queue.clean(thorough=True)
        kit.queue.commit()
    kit.kill()
    kit.open()

    assert not kit.index.exists()
    kit.check()


# ---------------------------------------------------------------- what is wrong with it


def start_and_check(kit: Kit) -> None:
    """It is thrown away, and the queue is right."""
    kit.open()
    assert not kit.index.exists()
    assert not kit.queue.loading
    kit.check()
    kit.kill()


def test_any_byte_that_is_changed_is_seen(kit: Kit) -> None:
    kit.fill()
    kit.stop()
    good = kit.index.read_bytes()
    file = IndexFile(Os(), kit.directory)
    assert file.read() is not None
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 1 << at % 8
        kit.index.write_bytes(data)
        with pytest.raises(ValueError, match="it"):
            file.read()
    for at in range(0, len(good), len(good) // 12):
        kit.index.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
        start_and_check(kit)


def test_a_file_that_is_cut_short_or_longer_is_seen(kit: Kit) -> None:
    kit.fill()
    kit.stop()
    good = kit.index.read_bytes()
    file = IndexFile(Os(), kit.directory)
    for data in (*(good[:size] for size in range(len(good))), good + b"\0", good + b"\n", good * 2):
        kit.index.write_bytes(data)
        with pytest.raises(ValueError, match="it"):
            file.read()
    kit.index.write_bytes(good[: len(good) // 2])
    start_and_check(kit)


def test_the_index_of_another_journal_is_thrown_away(kit: Kit, tmp_path: Path) -> None:
    other = Kit(tmp_path / "other")
    for each in (kit, other):
        each.fill()  # the same records, in the same places
        each.stop()
    shutil.copy2(other.index, kit.index)
    start_and_check(kit)


@pytest.mark.parametrize("which", [0, 1, -1])
@pytest.mark.parametrize("how", ["another file", "in place"])
def test_a_segment_that_was_replaced_by_one_of_the_same_length_is_seen(kit: Kit, which: int, how: str) -> None:
    kit.fill()
    accept(kit.queue, "one-more")
    kit.queue.commit()
    kit.queue.stage("beat", {"t": kit.clock.time()})
    kit.stop()
    path = sorted(kit.directory.glob("*.jsonl"))[which]
    lines = path.read_bytes().splitlines(keepends=True)
    other = b"".join([lines[0], *map(with_another_id, lines[1:])])
    assert len(other) == path.stat().st_size
    assert other != path.read_bytes()
    assert lines[-1] == with_another_id(lines[-1]) or which != -1
    if how == "another file":
        old = path.with_suffix(".old")
        path.rename(old)
        path.write_bytes(other)
        os.utime(path, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
    else:
        path.write_bytes(other)
    kit.open()

    assert not kit.index.exists()
    assert {"two-more", *(f"u{number}" for number in range(12))} & set(kit.queue.view.tasks)


def with_another_id(line: bytes) -> bytes:
    """A good line, of the same length."""
    found = decode(line[:-1])
    assert isinstance(found, Line)
    ready = undo(line[:-1])
    rest = ready.rest.replace(b'"id":"t', b'"id":"u').replace(b'"id":"one-more', b'"id":"two-more')
    return encode(Draft(ready.kind, rest + b"}"), found.at, found.synced)


@pytest.mark.parametrize("what", ["mode", "link", "pipe", "directory", "version", "unreadable"])
def test_a_file_that_is_not_our_own_index_is_thrown_away(kit: Kit, what: str, caplog: pytest.LogCaptureFixture) -> None:
    kit.fill()
    kit.stop()
    data = kit.index.read_bytes()
    if what == "mode":
        kit.index.chmod(0o660)
    elif what == "version":
        read = IndexFile(Os(), kit.directory).read()
        assert read is not None
        IndexFile(Os(), kit.directory).write(owned(read[0]) | {"by": "0.0.0"}, [bytes(read[1])])
    elif what != "unreadable":
        kit.index.unlink()
    if what == "link":
        (kit.directory / "elsewhere").write_bytes(data)
        (kit.directory / "elsewhere").chmod(0o640)
        kit.index.symlink_to("elsewhere")
    elif what == "pipe":
        os.mkfifo(kit.index)
    elif what == "directory":
        kit.index.mkdir()
    osio = FailingOs(errno.EIO, 1, for_good=True, only=["fstat"]) if what == "unreadable" else None
    if osio is not None:
        assert unreadable_index(kit, osio) is None
        kit.journal.close()
    kit.open()

    kit.check()
    assert "thrown away" in caplog.text
    if what == "directory":  # no file of ours: it stays, and no index is written
        assert "cannot be removed" in caplog.text
        kit.stop()
        assert "no index is written" in caplog.text
        assert kit.index.is_dir()
    else:
        assert not kit.index.exists()


def unreadable_index(kit: Kit, osio: Os) -> object:
    kit.journal = Journal.open(kit.directory, segment_bytes=1000, clock=kit.clock, reserve_bytes=65536)
    kit.journal.index = IndexFile(osio, kit.directory)
    return checkpoint.load(kit.journal)


def owned(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not the file's own."""
    return {name: value for name, value in fields.items() if name not in ("size", "crc")}


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=4),
)


@pytest.fixture(scope="module")
def written() -> Iterator[tuple[Path, dict[str, Any], bytes]]:
    memory = "/dev/shm"
    root = Path(tempfile.mkdtemp(prefix="captchad-", dir=memory if os.access(memory, os.W_OK) else None))
    kit = Kit(root / "journal", HookOs())
    kit.fill()
    kit.stop()
    read = IndexFile(Os(), kit.directory).read()
    assert read is not None
    yield kit.directory, owned(read[0]), bytes(read[1])
    shutil.rmtree(root)


def test_no_byte_behind_good_checksums_raises(written: tuple[Path, dict[str, Any], bytes]) -> None:
    directory, fields, body = written
    journal = Journal.open(directory, segment_bytes=1000, clock=FakeClock(), reserve_bytes=65536, osio=HookOs())
    try:
        for at in range(fields["text"], len(body)):
            for byte in (b"\n", b"\xff"):
                IndexFile(Os(), directory).write(fields, [body[:at], byte, body[at + 1 :]])
                loaded = checkpoint.load(journal)
                if loaded is not None:
                    loaded.view.tasks.cold()
    finally:
        journal.close()


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_nothing_that_is_written_with_good_checksums_raises(
    written: tuple[Path, dict[str, Any], bytes], data: st.DataObject
) -> None:
    directory, fields, body = written
    fields = json.loads(json.dumps(fields))
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from(sorted(fields)))
        found = fields[name]
        while isinstance(found, list) and found and data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(found) - 1))
            if not isinstance(found[at], list):
                found[at] = data.draw(JUNK)
            found = found[at]
        if found is fields[name]:
            fields[name] = data.draw(JUNK)
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    changed = changed[: data.draw(st.sampled_from([len(changed), len(changed) - 1, 40]))]
    try:
        IndexFile(Os(), directory).write(fields, [bytes(changed)])
    except ValueError:  # JSON has no NaN
        return
    journal = Journal.open(directory, segment_bytes=1000, clock=FakeClock(), reserve_bytes=65536)
    try:
        loaded = checkpoint.load(journal)
        if loaded is not None:
            loaded.view.tasks.cold()
            loaded.view.oldest_pending_at()
    finally:
        journal.close()


# ---------------------------------------------------------------- writing it


def test_with_few_tasks_there_is_none_and_an_old_one_goes(kit: Kit) -> None:
    kit.fill()
    kit.queue.save_index(least=0)
    assert kit.index.exists()
    kit.queue.save_index()
    assert not kit.index.exists()


def test_there_is_none_while_something_is_staged_or_the_journal_is_down(kit: Kit) -> None:
    kit.fill()
    kit.queue.stage("beat", {"t": kit.clock.time()})
    kit.queue.save_index(least=0)
    assert not kit.index.exists()
    kit.queue.commit()
    kit.journal._go_down(OSError(errno.EIO, "broken"))
    kit.queue.save_index(least=0)
    assert not kit.index.exists()


def test_there_is_none_of_a_history_with_a_hole(kit: Kit) -> None:
    kit.fill()
    kit.queue.broken.add("t3")
    kit.queue.save_index(least=0)
    assert not kit.index.exists()
    kit.queue.broken.clear()
    kit.queue.view.orphan_ids.add("nobody")
    kit.queue.save_index(least=0)
    assert not kit.index.exists()


def test_there_is_none_with_too_many_tasks_under_way(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.fill()
    monkeypatch.setattr(checkpoint, "HOT_MOST", len(kit.queue.view.tasks.hot) - 1)
    kit.queue.save_index(least=0)
    assert not kit.index.exists()


def test_a_stop_before_all_is_loaded_leaves_the_one_that_there_is(kit: Kit) -> None:
    kit.fill()
    kit.stop()
    kit.open()
    before = kit.index.read_bytes()
    kit.queue.load_some(1)
    assert kit.queue.loading
    kit.stop()
    assert kit.index.read_bytes() == before
    kit.open()
    assert kit.indexed
    kit.check()


def test_an_id_that_cannot_stand_in_it_prevents_it(kit: Kit) -> None:
    kit.fill()
    accept(kit.queue, "schön")
    kit.queue.commit()
    kit.queue.save_index(least=0)
    assert not kit.index.exists()


def test_an_overdue_task_of_a_doubtful_clock_is_not_forgotten(kit: Kit) -> None:
    accept(kit.queue, "a", dl=kit.clock.time() + 5.0)
    kit.kill()
    kit.clock.advance(10.0)
    kit.open()
    kit.queue.expire()  # too soon after the start: the clock may be wrong
    assert kit.queue.view.states[State.PENDING] == 1
    kit.stop()
    kit.open()
    assert kit.indexed
    kit.queue.load_some(10)
    for _ in range(2):
        kit.queue.expire()
        kit.clock.advance(61.0)
    kit.queue.expire()
    assert kit.queue.view.states[State.EXPIRED] == 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("for_good", [False, True])
def test_a_disk_that_refuses_does_no_harm(fast_dir: Path, error: int, for_good: bool) -> None:
    first = Kit(fast_dir / "first" / "journal")
    first.fill()
    first.stop()
    for at in count(1):
        shutil.copytree(first.directory, fast_dir / "journal")
        kit = Kit(fast_dir / "journal", HookOs())
        kit.queue.load_some(10**6)
        kit.solve()
        osio = FailingOs(error, at, for_good=for_good, only=WRITING)
        kit.journal._os = kit.journal.index._os = osio
        kit.queue.save_index(least=0, block=2)
        kit.journal._os = kit.journal.index._os = HookOs()
        accept(kit.queue, f"later{at}")  # the journal goes on
        kit.kill()
        kit.open(HookOs())
        kit.check()
        kit.kill()
        shutil.rmtree(fast_dir / "journal")
        if not osio.failed:
            break
    assert at > 12


def test_a_disk_with_little_room_is_left_alone(kit: Kit) -> None:
    kit.fill()
    kit.journal.index._os = Little()
    kit.queue.save_index(least=0)
    assert not kit.index.exists()


class Little(Os):
    """A disk that has less than it would take."""

    def free_bytes(self, fd: int) -> int:
        return 1000


@pytest.mark.parametrize("how", ["before", "inside", "after"])
def test_a_kill_at_any_call_while_it_is_written_leaves_a_good_one_or_none(fast_dir: Path, how: str) -> None:
    first = Kit(fast_dir / "first" / "journal")
    first.fill()
    first.stop()  # an older one is there
    taken = 0
    for at in count(1):
        shutil.copytree(fast_dir / "first" / "journal", fast_dir / "journal", symlinks=True)
        kit = Kit(fast_dir / "journal", HookOs())
        kit.queue.load_some(10**6)
        kit.solve()
        osio = KillingOs(at, how)
        kit.journal._os = kit.journal.index._os = osio
        ended = False
        with suppress(Killed):
            kit.queue.save_index(least=0, block=2)
            ended = True
        kit.journal._os = HookOs()
        kit.journal.close()
        kit.open(HookOs())
        taken += kit.indexed
        kit.check()
        kit.kill()
        shutil.rmtree(fast_dir / "journal")
        if ended:
            break
    assert at > 12
    assert 0 < taken < at


def test_a_power_cut_leaves_a_good_one_or_none(fast_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the disk holds is laid out as new files: by those nothing could be recognised.
    monkeypatch.setattr(indexfile, "_seal", lambda there, counts: Seal(*counts, 0, 0, 0))
    (fast_dir / "live").mkdir()
    osio = RecordingOs(fast_dir / "live")
    kit = Kit(fast_dir / "live" / "journal", osio, 4096)
    kit.fill(8)
    kit.stop(block=3)
    kit.open(osio)
    kit.queue.load_some(10**6)
    begin = len(osio.notes)
    kit.solve()
    kit.stop(block=3)  # in place of another one
    kit.open(osio)
    kit.queue.stage("beat", {"t": kit.clock.time()})
    kit.kill()
    taken, tried = 0, set()
    for _, state in states(osio.notes, 1, 0, where=range(begin, len(osio.notes) + 1)):
        key = tuple(sorted(state.items()))
        if key in tried:
            continue
        tried.add(key)
        lay_out(state, fast_dir / "state")
        if "journal/index" in state:
            (fast_dir / "state" / "journal" / "index").chmod(0o640)
        after = Kit(fast_dir / "state" / "journal", osio=HookOs(), segment_bytes=4096)
        taken += after.indexed
        after.check()
        after.kill()
        shutil.rmtree(fast_dir / "state")
    assert len(tried) > 50
    assert 5 < taken < len(tried)


def test_a_queue_without_journal_bytes_is_started_and_stopped(tmp_path: Path) -> None:
    kit = Kit(tmp_path / "journal")
    kit.stop()
    kit.open()
    assert kit.indexed
    assert not kit.queue.loading
    kit.check()
    kit.kill()


def test_reading_the_journal_without_the_lock_takes_no_notice_of_it(kit: Kit) -> None:
    kit.fill()
    before = kit.stop()
    kit.index.write_bytes(b"nonsense")
    assert replayed(kit.directory) == before["all"]
    assert View(RecordFiles(kit.directory).read).tasks.shelf is None
