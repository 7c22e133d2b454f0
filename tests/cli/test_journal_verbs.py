"""`captchactl journal`: verify, clean, export, repair, on real files with every kind of damage."""

import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any

import pytest

from captchad.cli import captchactl, times
from captchad.cli.exits import Exit
from captchad.cli.left import elsewhere, left
from captchad.cli.places import Places
from captchad.config import load  # noqa: F401 - who gives up the right to read the package cannot import it
from captchad.journal.osio import Os
from captchad.journal.records import Place, draft, encode
from captchad.journal.repair import Reading
from captchad.journal.sidefile import SideFile
from captchad.journal.store import Journal
from captchad.model.errors import JournalDamaged, JournalDown, LockHeld, NeedsOperator, NewerVersion, TryLater
from captchad.model.states import Category, State
from captchad.policy.retry import RetrySettings
from captchad.queue import upkeep
from captchad.queue.queue import Queue, QueueSettings
from captchad.queue.upkeep import Upkeep
from captchad.spool.dirs import SpoolDirs
from tests.journal.kit import FailingOs, HookOs, Killed, KillingOs
from tests.spool.support import as_user, public_directory
from tests.support.clock import FakeClock
from tests.support.harness import Daemon
from tests.support.sandbox import Sandbox

SEGMENT = 4096
TTL_S = 300.0
SETTINGS = QueueSettings(
    capacity=10**6, id_ttl_s=TTL_S, dead_ttl_s=2 * TTL_S, max_redrives=2, hold_unknown=False,
    retry=RetrySettings(3, 1.0, 10.0),
)  # fmt: skip


class Life:
    """A queue on a journal with small segments; `with` it, and it is closed."""

    def __init__(self, state_dir: Path, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.journal = Journal.open(
            state_dir / "journal", segment_bytes=SEGMENT, clock=self.clock, reserve_bytes=0, osio=HookOs()
        )
        self.queue = Queue(self.journal, SETTINGS, self.clock, random.Random(7))
        self.queue.replay()

    def __enter__(self) -> "Life":
        return self

    def __exit__(self, *_: object) -> None:
        self.queue.commit()
        self.journal.close()

    def accept(self, *ids: str) -> None:
        for task_id in ids:
            data = {
                "pr": 2, "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0, "m": "userrecaptcha",
                "h": "example.com", "dl": None, "dk": None,
            }  # fmt: skip
            self.queue.accept(task_id, data, b'{"id":"%s","sitekey":"k"}' % task_id.encode())
        self.queue.commit()

    def order(self, task_id: str, worker: tuple[int, int] = (1, 1)) -> int:
        n = self.queue.order(self.queue.view.tasks[task_id], "p", worker, "k")
        self.queue.commit()
        return n

    def submit(self, task_id: str) -> int:
        n = self.order(task_id)
        self.queue.submitted(n, f"c{n}")
        self.queue.commit()
        return n

    def solve(self, *ids: str) -> None:
        for task_id in ids:
            self.queue.solved(self.submit(task_id), {"token": f"of-{task_id}", "answer": None, "extra": {}})
            self.queue.commit()
            self.queue.publishing(self.queue.view.tasks[task_id])
            self.queue.delivered(self.queue.view.tasks[task_id])
            self.queue.commit()

    def refuse(self, task_id: str) -> None:
        """One attempt that fails: the task waits for the next."""
        self.queue.refused(self.order(task_id), "ERROR_X", Category.TRANSIENT, "", outage=False)
        self.queue.commit()

    def fill(self, segments: int) -> None:
        until = self.journal.active + segments
        while self.journal.active < until:
            self.queue.stage("beat", {"t": self.clock.time(), "pad": "x" * 500})
            self.queue.commit()


def of(state_dir: Path, **more: Any) -> Upkeep:
    more = {"clock": FakeClock(), "osio": HookOs(), "id_ttl_s": TTL_S, "dead_ttl_s": 2 * TTL_S, **more}
    return Upkeep(state_dir, SEGMENT, **more)


def path_of(state_dir: Path, number: int) -> Path:
    return state_dir / "journal" / f"{number:08d}.jsonl"


def states(state_dir: Path) -> dict[str, State]:
    """What the daemon would find; raises what would keep it from starting."""
    with Life(state_dir) as life:
        found = {task.id: task.state for task in life.queue.view.tasks.values()}
        assert not life.queue.broken
        assert not life.journal.holes
    return found


def lines_with(path: Path, *texts: bytes) -> tuple[int, int]:
    """Where the first line that has all of `texts` begins, and its length."""
    offset = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if all(text in line for text in texts):
            return offset, len(line)
        offset += len(line)
    raise AssertionError(f"no line with {texts}")


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def spoil(path: Path, *texts: bytes, flip: bytes = b'"t"', by: bytes = b'"T"') -> int:
    """Change a little in the first line that has all of `texts`; returns where that begins."""
    offset, length = lines_with(path, *texts)
    content = path.read_bytes()[offset : offset + length]
    assert flip in content
    overwrite(path, offset + content.index(flip), by)
    return offset


def everything(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Each file with its bytes and when it was written; not the lock, which says who looked last."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def contents(directory: Path) -> dict[str, bytes]:
    return {name: data for name, (data, _) in everything(directory).items()}


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory in memory where there is one: sweeps do thousands of syncs."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name) / "state"


def plain(state: Path) -> None:
    """Five segments: solved tasks in the first, pending and submitted ones from there to the end."""
    with Life(state) as life:
        life.accept("old", "early")
        life.solve("old")
        life.fill(1)
        life.accept("mid")
        life.submit("mid")
        life.fill(1)
        life.accept("late", "done")
        life.fill(1)
        life.solve("done")
        life.fill(1)
        life.accept("last")


# --- verify


def test_verify_counts_what_is_there_and_changes_nothing(state):
    plain(state)
    before = everything(state)
    found = upkeep.verify(of(state))
    assert found["clean"]
    assert found["damage"] == []
    assert (found["segments"], found["tasks"]) == (5, {"unfinished": 4, "dead": 0, "ended": 2, "undelivered": 0})
    files = sorted((state / "journal").glob("*.jsonl"))
    assert found["bytes"] == sum(path.stat().st_size for path in files)
    assert found["records"] == sum(len(path.read_bytes().splitlines()) - 1 for path in files)
    assert found["unfinished"] is None
    assert everything(state) == before


def test_verify_names_what_is_no_damage(state):
    plain(state)
    last = path_of(state, 5)
    size = last.stat().st_size
    with last.open("ab") as file:
        file.write(b'{"c":"0000')
    (state / "journal" / "00000006.jsonl").touch()  # made ahead by a daemon
    (state / "journal" / "quarantine").mkdir()
    (state / "journal" / "quarantine" / "x.torn").write_bytes(b"abc")
    ended = SideFile.create(state / "journal", 1, 1)
    ended.finish([{"n": 1, "o": "submitted"}])
    ended.close()
    SideFile.create(state / "journal", 1, 2).close()
    living = SideFile.create(state / "journal", 1, 3)
    try:
        found = upkeep.verify(of(state))
    finally:
        living.close()
    assert found["clean"], found["damage"]
    assert found["unfinished"] == {"place": f"00000005:{size:010d}", "length": 10, "reason": "unfinished"}
    assert found["unused_segments"] == ["00000006.jsonl"]
    assert found["quarantine"] == [{"name": "x.torn", "bytes": 3}]
    assert [(side["name"], side["ended"], side["outcomes"]) for side in found["side_files"]] == [
        ("1-1.jsonl", True, 1),
        ("1-2.jsonl", False, 0),
        ("1-3.jsonl", None, 0),
    ]


def test_verify_names_each_kind_of_damage_with_its_place(state):
    plain(state)
    with Life(state) as life:
        life.submit("late")
    bad = spoil(path_of(state, 2), b'"mid"', b"submitted")
    side = SideFile.create(state / "journal", 1, 1)
    side.finish([{"n": 1, "o": "submitted"}, {"n": 2, "o": "submitted"}])
    side.close()
    spoil(side._log.path, b'"n":1', flip=b'"n":1', by=b'"n":9')
    found = upkeep.verify(of(state))
    assert not found["clean"]
    hole, worker = found["damage"]
    assert hole["place"] == f"00000002:{bad:010d}"
    assert hole["length"] == lines_with(path_of(state, 2), b'"mid"', b"submitted")[1]
    assert "checksum" in hole["reason"]
    assert worker["place"] == "workers/1-1.jsonl"

    path_of(state, 3).unlink()
    damage = upkeep.verify(of(state))["damage"]
    assert {"place": "00000003:0000000000", "length": 0, "reason": "the segment is missing"} in damage
    assert any("first record of task late is lost" in each["reason"] for each in damage), damage


def test_a_record_that_does_not_fit_is_damage_until_the_task_is_said_anew(state):
    with Life(state) as life:
        life.accept("a", "b")
        life.refuse("a")
        life.fill(1)
        n = life.submit("b")
    spoil(path_of(state, 2), b'"submitting"')
    # b is pending now, and `submitted` fits; a `failed` does not.
    with Life(state) as life:
        entry = life.journal.append("failed", {"id": "b", "t": 1.0, "n": n, "code": "X", "cat": "transient", "due": 0})
        life.journal.commit()
        place = f"{entry.segment:08d}:{entry.offset:010d}"
    found = upkeep.verify(of(state))
    assert [each["place"] for each in found["damage"]][1:] == [place]
    assert "b does not fit" in found["damage"][1]["reason"]

    with Life(state) as life:
        life.queue.keep(life.queue.view.tasks["b"])
    assert [each["place"][:8] for each in upkeep.verify(of(state))["damage"]] == ["00000002"]
    assert len(upkeep.verify(of(state))["damage"]) == 1


def test_verify_says_what_clean_will_give_back(state):
    with Life(state) as life:
        for number in range(60):
            life.accept(f"t{number}")
            if number % 3:
                life.solve(f"t{number}")
    clock = FakeClock()
    clock.advance(TTL_S / 2)
    found = upkeep.verify(of(state, clock=clock))
    done = upkeep.clean(of(state, clock=clock))
    gained = done["bytes_before"] - done["bytes_after"]
    assert gained > done["bytes_before"] / 2
    assert abs(found["cleaning_gains_bytes"] - gained) <= 200  # times have more or fewer digits
    assert upkeep.verify(of(state, clock=clock))["tasks"] == found["tasks"]


_SERIAL = count(1)


class Racing(Os):
    """Lets a writer work at every so manieth call, `turns` times."""

    def __init__(self, life: Life, every: int, turns: int) -> None:
        self.life, self.every, self.turns = life, every, turns
        self.calls = 0
        self.busy = False

    def _let_it_work(self) -> None:
        self.calls += not self.busy
        if not self.busy and self.turns and self.calls % self.every == 0:
            self.busy, self.turns = True, self.turns - 1
            task_id = f"r{next(_SERIAL)}"
            self.life.accept(task_id)
            self.life.refuse(task_id)
            self.life.queue.stage("beat", {"t": 1.0, "pad": "x" * 600})
            if self.turns % 7 == 0:
                self.life.queue.clean_all()
            self.life.queue.commit()
            self.busy = False

    def open(self, path: Path, flags: int, mode: int = 0o640) -> int:
        self._let_it_work()
        return super().open(path, flags, mode)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._let_it_work()
        return super().pread(fd, size, offset)

    def listdir(self, path: Path) -> list[str]:
        found = super().listdir(path)
        self._let_it_work()
        return found


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_a_writer_at_work_between_all_calls_is_never_called_damage(state, every):
    with Life(state) as life:
        life.accept("first")
        found = upkeep.verify(of(state, osio=Racing(life, every, 200)))
        assert found["damage"] == []


class Overtaken(HookOs):
    """A writer fills the segment that is read last, and begins the next, right before look number `at`."""

    def __init__(self, life: Life, at: int) -> None:
        self.life, self.at = life, at

    def around(self, name, args, call):
        if name == "listdir":
            self.at -= 1
            if self.at == 0:
                active = self.life.journal.active
                while self.life.journal.active == active:
                    self.life.accept(f"r{next(_SERIAL)}")
        return call()


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_no_record_is_missed_when_a_writer_overtakes(state, at):
    with Life(state) as life:
        life.accept("first")
        reading = Reading(state / "journal", Overtaken(life, at))
        read = [record.fields["id"] for record in reading.records() if record.kind == "accept"]
        there = life.queue.view.tasks.ids(State.PENDING)
    assert reading.holes == []
    assert sorted(read) == sorted(there if at < 4 else ["first"])


@pytest.mark.parametrize("number", [1, 3, 5])
def test_what_the_disk_cannot_read_is_named(state, number):
    plain(state)
    found = upkeep.verify(of(state, osio=Unreadable(number, 200, 300)))
    assert {each["reason"] for each in found["damage"] if each["place"].startswith(f"{number:08d}")} & {
        "the disk cannot read it (EIO)"
    }


class Unreadable(HookOs):
    """A disk with bad blocks: one in segment `number`, from `begin` to `end`; the whole file without them."""

    def __init__(self, number: int, begin: int = 0, end: int = 1 << 30) -> None:
        self.number, self.begin, self.end = number, begin, end
        self.fds: set[int] = set()

    def around(self, name, args, call):
        if name == "pread" and args[0] in self.fds and args[2] < self.end and args[2] + args[1] > self.begin:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        result = call()
        if name == "open":
            self.fds.discard(result)
            if args[0].name == f"{self.number:08d}.jsonl":
                self.fds.add(result)
        return result


# --- repair


def header(state: Path, number: int) -> None:
    overwrite(path_of(state, number), 20, b"#")


def missing(state: Path, number: int) -> None:
    path_of(state, number).unlink()


def bad_line(state: Path, number: int) -> None:
    spoil(path_of(state, number), b'"k":"beat"', flip=b"xxx", by=b"x#x")


def page(state: Path, number: int) -> None:
    """The disk has lost a piece in the middle."""
    overwrite(path_of(state, number), 900, bytes(1000))


def cut(state: Path, number: int) -> None:
    os.truncate(path_of(state, number), path_of(state, number).stat().st_size - 100)


DAMAGE = [
    *((header, number) for number in (1, 2, 3, 5)),
    *((missing, number) for number in (2, 4)),
    *((bad_line, number) for number in (2, 4)),
    *((page, number) for number in (1, 3)),
    (cut, 2),
]
TOKENS = ("early", "mid", "late", "last", "old", "done")


def repaired(state: Path, **more: Any) -> dict[str, Any]:
    """Repair, and check all that is to be true afterwards."""
    before = contents(state / "journal")
    done = upkeep.repair(of(state, **more))
    check_repaired(state, before)
    return done


def check_repaired(state: Path, before: dict[str, bytes]) -> None:
    """It opens, is clean, there is nothing more to do, and no byte is gone."""
    states(state)
    found = upkeep.verify(of(state))
    assert found["clean"], found["damage"]
    again = upkeep.repair(of(state))
    assert (again["damage"], again["moved"], again["held"], again["resumed"]) == ([], [], [], False)
    after = set(contents(state / "journal").values())
    assert [name for name, data in before.items() if name.endswith(".jsonl") and data not in after] == []


@pytest.mark.parametrize(("harm", "number"), DAMAGE)
def test_a_damaged_journal_is_whole_after_repair(state, harm, number):
    plain(state)
    untouched = states(state)
    harm(state, number)
    dry = upkeep.repair(of(state), dry_run=True)
    frozen = everything(state)
    assert upkeep.repair(of(state), dry_run=True) == dry
    assert everything(state) == frozen
    done = repaired(state)
    assert done["damage"]
    assert {**done, "dry_run": True} == dry
    found = states(state)
    gone = {"missing": {2: {"mid"}, 4: set()}, "page": {1: {"old", "early"}, 3: {"late", "done"}}}
    for task_id in set(untouched) - gone.get(harm.__name__, {}).get(number, set()):
        assert found[task_id] in (untouched[task_id], State.HELD), task_id
    assert all(found[task_id] is State.HELD for task_id in done["held"])


def test_what_was_good_before_the_damage_stays_where_it_is(state):
    plain(state)
    bad_line(state, 4)
    before = contents(state / "journal")
    done = repaired(state)
    assert done["moved"] == ["00000004.jsonl", "00000005.jsonl"]
    after = contents(state / "journal")
    for number in (1, 2, 3):
        assert after[f"{number:08d}.jsonl"] == before[f"{number:08d}.jsonl"]
    assert after["quarantine/00000004.jsonl"] == before["00000004.jsonl"]


def test_a_missing_oldest_segment_is_no_damage(state):
    with Life(state) as life:
        life.fill(2)
        life.accept("a")
    path_of(state, 1).unlink()
    assert upkeep.verify(of(state))["clean"]
    before = contents(state / "journal")
    done = upkeep.repair(of(state))
    assert (done["damage"], done["moved"], done["held"]) == ([], [], [])
    assert contents(state / "journal") == before


def follow(state: Path, number: int, prev: int) -> None:
    """A segment with nothing but a header that names segment `prev` as the one before."""
    fields = {"v": 1, "prev": prev, "prev_len": path_of(state, prev).stat().st_size, "t": "2026-11-22T07:17:30.184Z"}
    path_of(state, number).write_bytes(encode(draft("head", fields), Place(number, 0)))


def test_segments_that_count_for_nothing_move_to_quarantine(state):
    plain(state)
    follow(state, 7, 5)
    follow(state, 9, 5)
    assert upkeep.verify(of(state))["unused_segments"] == ["00000007.jsonl"]
    untouched = states(Path(shutil.copytree(state, state.parent / "copy")))
    assert repaired(state)["moved"] == ["00000007.jsonl"]
    assert states(state) == untouched
    follow(state, 7, 5)
    assert repaired(state)["moved"] == ["00000007.jsonl.2"]


@pytest.mark.parametrize(("first", "second"), [(2, 3), (3, 4), (4, 5)])
def test_two_damaged_headers_in_a_row_lose_nothing(state, first, second):
    plain(state)
    untouched = states(state)
    header(state, first)
    header(state, second)
    done = repaired(state)
    assert states(state) == untouched
    assert (done["held"], done["lost"]) == ([], [])


def test_a_header_that_is_damaged_behind_a_commit_that_was_given_up(state):
    """What was written again into the next segment is not counted twice, though nobody says that it was given up."""
    with Life(state) as life:
        life.accept("a")
        life.submit("a")
        life.journal._writer._osio = FailingOs(errno.EIO, 1, only=("fdatasync",))
        life.queue.crashed("a", alone=True, stall=False)
        life.queue.commit()
        assert life.queue.down_reason
        assert life.queue.recover()
        life.queue.crashed("a", alone=True, stall=False)
        life.queue.commit()
        assert life.queue.view.totals.crashes == 2
    assert path_of(state, 1).read_bytes().count(b'"crash"') == 1
    header(state, 2)
    repaired(state)
    with Life(state) as life:
        assert life.queue.view.totals.crashes == 2


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize(("begin", "end"), [(0, 1 << 30), (4096, 4200)])
def test_a_segment_that_the_disk_cannot_read_moves_as_it_is(state, number, begin, end):
    with Life(state) as life:
        for each in range(1, 6):
            life.accept(*(f"t{each}-{index}" for index in range(24)))
            if each < 5:
                life.fill(1)
    untouched = states(state)
    file = path_of(state, number).stat().st_ino
    done = upkeep.repair(of(state, osio=Unreadable(number, begin, end)))
    assert any("EIO" in each["reason"] for each in done["damage"])
    moved = [path for path in (state / "journal" / "quarantine").iterdir() if path.stat().st_ino == file]
    assert [path.name for path in moved] == [f"{number:08d}.jsonl"]
    found = states(state)
    lost = {task_id for task_id in untouched if task_id not in found}
    assert all(task_id.startswith(f"t{number}-") for task_id in lost)
    assert len(lost) == 24 if begin == 0 else 0 < len(lost) < 24
    assert upkeep.verify(of(state))["clean"]


def test_bad_blocks_behind_what_counts_are_damage_too(state):
    """The daemon reads whole segments: it would not start."""
    plain(state)
    with path_of(state, 2).open("ab") as file:
        file.write(bytes(9000))
    disk = Unreadable(2, 8192, 9000)
    assert [each["place"] for each in upkeep.verify(of(state, osio=disk))["damage"]] == ["00000002:0000008192"]
    assert upkeep.verify(of(state))["clean"]
    assert upkeep.repair(of(state, osio=disk))["moved"][0] == "00000002.jsonl"
    assert upkeep.verify(of(state, osio=Unreadable(2, 8192, 9000)))["clean"]


def test_a_record_that_does_not_fit_goes_and_its_task_is_held(state):
    with Life(state) as life:
        life.accept("a", "b")
        life.fill(1)
        life.journal.append("failed", {"id": "b", "t": 1.0, "n": 9, "code": "X", "cat": "transient", "due": 0})
        life.journal.append("failed", {"id": "a"})
        life.journal.commit()
    done = repaired(state)
    assert done["held"] == ["a", "b"]
    assert states(state) == {"a": State.HELD, "b": State.HELD}


def test_an_id_that_is_accepted_again_lives_though_its_forget_is_lost(state):
    with Life(state) as life:
        life.accept("a")
        life.solve("a")
        life.clock.advance(TTL_S + 2)
        life.queue.forget(10)
        life.queue.commit()
        life.accept("a", "b")
    spoil(path_of(state, 1), b'"forget"')
    assert not upkeep.verify(of(state))["clean"]
    repaired(state)
    assert states(state)["a"] is State.PENDING


# --- repair: what is held


def test_a_task_with_a_lost_submit_is_held_and_others_are_not(state):
    with Life(state) as life:
        life.accept("a", "b", "c")
        life.refuse("a")
        life.submit("b")
    spoil(path_of(state, 1), b'"submitting"', b'"a"')
    spoil(path_of(state, 1), b'"refused"', b'"a"')
    done = repaired(state)
    assert done["held"] == ["a"]
    assert states(state) == {"a": State.HELD, "b": State.SUBMITTED, "c": State.PENDING}


@pytest.mark.parametrize(("kind", "held"), [("delivered", []), ("submitting", ["c"])])
def test_bytes_without_an_id_hold_what_a_lost_submit_may_be_of(state, kind, held):
    """The numbers of submits say whether one is missing."""
    with Life(state) as life:
        life.accept("a", "b", "c")
        life.solve("a")
        life.solve("b")
    task_id = b'"a"' if kind == "delivered" else b'"b"'
    offset, length = lines_with(path_of(state, 1), kind.encode(), task_id)
    overwrite(path_of(state, 1), offset, b"#" * (length - 1))
    assert [task_id for task_id in repaired(state)["held"] if task_id != "b"] == held


def test_what_was_accepted_before_a_lost_segment_is_held(state):
    with Life(state) as life:
        life.accept("a", "b", "kept")
        life.fill(1)
        life.fill(1)
        life.accept("c")
        life.queue.keep(life.queue.view.tasks["kept"])
    path_of(state, 2).unlink()
    done = repaired(state)
    assert done["held"] == ["a", "b"]
    assert states(state) == {"a": State.HELD, "b": State.HELD, "kept": State.PENDING, "c": State.PENDING}


def test_a_submit_under_way_is_held_unless_a_side_file_answers(state):
    with Life(state) as life:
        life.accept("a", "b", "c")
        for task_id, number in (("a", 1), ("b", 2), ("c", 2)):
            n = life.order(task_id, (1, number))
        life.fill(2)
    side = SideFile.create(state / "journal", 1, 2)
    path_of(state, 2).unlink()
    with pytest.raises(TryLater, match=r"1-2\.jsonl"):
        upkeep.repair(of(state))
    side.finish([{"n": n, "o": "submitted", "cid": "x"}])
    side.close()
    done = repaired(state)
    assert done["held"] == ["a", "b"]
    assert states(state)["c"] is State.SUBMITTING


def test_numbers_and_counters_go_on(state):
    with Life(state) as life:
        life.accept("a", "b")
        life.queue.stage("epoch", {"epoch": 1, "t": 1.0})
        life.solve("a")
        life.fill(1)
        life.queue.stage("epoch", {"epoch": 7, "t": 1.0})
        life.queue.commit()
        life.order("b", (7, 1))
        life.accept("gone")
        n = life.order("gone", (7, 2))
        life.fill(1)
        totals = life.queue.view.totals_record()
    spoil(path_of(state, 2), b'"epoch":7')
    spoil(path_of(state, 2), b'"accept"', b'"gone"')
    repaired(state)
    with Life(state) as life:
        assert (life.queue.view.last_n, life.queue.view.epoch) == (n, 7)
        assert life.queue.view.totals_record() == totals | {"accepted": 2}


def test_an_accepted_task_that_is_lost_is_named(state):
    with Life(state) as life:
        life.accept("a", "b", "c")
        life.submit("b")
    spoil(path_of(state, 1), b'"accept"', b'"a"')
    spoil(path_of(state, 1), b'"accept"', b'"b"')
    assert repaired(state)["lost"] == ["a", "b"]
    assert states(state) == {"c": State.PENDING}


def test_the_daemon_s_start_holds_what_stands_in_damaged_bytes(state):
    hostile = (b"b" * 200, b"", b"../bb", b"nobody", b"dd")
    with Life(state) as life:
        life.accept("aa", "bb", "cc", "dd")
        life.refuse("aa")
        life.refuse("cc")
        life.queue.keep(life.queue.view.tasks["cc"])
        life.queue.commit()
        life.queue.stage("beat", {"t": 1.0, "pad": "x" * 500})
        life.queue.commit()
        life.fill(1)
    for task_id in (b'"aa"', b'"cc"'):
        for kind in (b'"submitting"', b'"refused"'):
            spoil(path_of(state, 1), kind, task_id)
    offset, length = lines_with(path_of(state, 1), b'"beat"')
    overwrite(path_of(state, 1), offset, b"".join(b'"id":"%b",' % each for each in hostile).ljust(length - 1))
    with Life(state) as life:
        assert upkeep.hold_doubtful(life.queue, state / "journal") == 2
        life.queue.commit()
        assert {task.id: task.state for task in life.queue.view.tasks.values()} == {
            "aa": State.HELD, "bb": State.PENDING, "cc": State.PENDING, "dd": State.HELD,
        }  # fmt: skip


# --- repair: killed, refused, on a full disk

WRITES = ("write", "fsync", "rename", "unlink", "mkdir", "ftruncate")


def killed_repair(state: Path, at: int, how: str) -> bool:
    """A repair that dies at its call number `at` that changes something; True when it ended by itself."""
    osio = KillingOs(at, how, only=WRITES)
    try:
        upkeep.repair(of(state, osio=osio))
    except Killed:
        return False
    return osio.count < at


@pytest.mark.parametrize(
    ("harm", "number", "how"),
    [
        (header, 2, "inside"),
        (missing, 2, "before"),
        (missing, 2, "after"),
        (header, 5, "inside"),
        pytest.param(bad_line, 1, "inside", marks=pytest.mark.slow),
        (bad_line, 4, "inside"),
    ],
)
def test_a_repair_that_is_killed_anywhere_is_finished_by_the_next(state, harm, number, how):
    plain(state)
    harm(state, number)
    before = contents(state / "journal")
    whole = shutil.copytree(state, state.parent / "whole")
    upkeep.repair(of(whole))
    wanted = states(whole)
    damaged = opened(state)
    for at in count(1):
        place = state.parent / "killed"
        shutil.copytree(state, place)
        ended = killed_repair(place, at, how)
        # Whoever starts a daemon now is refused, or finds all that was there, or all that will be.
        assert opened(place) in (None, damaged, wanted), at
        upkeep.repair(of(place))
        check_repaired(place, before)
        assert states(place) == wanted
        shutil.rmtree(place)
        if ended:
            break
    assert at > 15


def test_a_repair_that_is_killed_while_it_clears_up_after_another_is_finished_by_the_next(state):
    plain(state)
    header(state, 2)
    before = contents(state / "journal")
    sites = []
    for at in count(1):
        place = Path(shutil.copytree(state, state.parent / f"first-{at}"))
        if killed_repair(place, at, "after"):
            break
        names = {path.suffix for path in (place / "journal").iterdir()}
        if {".part", ".new"} <= names:
            sites.append(place)
    assert sites
    upkeep.repair(of(place))
    wanted = states(place)
    for site in sites[:2]:
        for at in count(1):
            place = Path(shutil.copytree(site, state.parent / "second"))
            ended = killed_repair(place, at, "after")
            upkeep.repair(of(place))
            check_repaired(place, before)
            assert states(place) == wanted
            shutil.rmtree(place)
            if ended or at > 12:
                break


def opened(state: Path) -> dict[str, State] | None:
    """What a daemon would find, without its changing anything here; None when it refuses to start."""
    copy = state.parent / "opened"
    shutil.copytree(state, copy)
    try:
        before = {path.name: path.read_bytes() for path in (copy / "journal").glob("*.jsonl")}
        with Life(copy) as life:
            found = {task.id: task.state for task in life.queue.view.tasks.values()}
        for name, data in before.items():
            assert (copy / "journal" / name).read_bytes().startswith(data), f"{name} was removed"
        return found
    except JournalDamaged:
        return None
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_ends_the_repair_and_loses_nothing(state, error):
    plain(state)
    header(state, 2)
    before = contents(state / "journal")
    for at in count(1):
        osio = FailingOs(error, at, only=("write", "fsync", "rename", "unlink"))
        if (refused := refusal(of(state, osio=osio))) is None:
            break
        assert "run it again" in refused.hint
        if osio.failed == ["write"]:
            assert not [name for name in contents(state / "journal") if name.endswith((".part", ".new"))]
    assert at > 10
    check_repaired(state, before)


def refusal(paths: Upkeep) -> JournalDown | None:
    try:
        upkeep.repair(paths)
    except JournalDown as error:
        return error
    return None


def test_a_newer_version_is_left_untouched(state):
    plain(state)
    header(state, 2)
    fields = {"v": 2, "prev": 5, "prev_len": path_of(state, 5).stat().st_size, "t": ""}
    path_of(state, 6).write_bytes(encode(draft("head", fields), Place(6, 0)))
    before = everything(state)
    for verb in (upkeep.verify, upkeep.clean, upkeep.repair, lambda paths: list(upkeep.Export(paths).lines())):
        with pytest.raises(NewerVersion):
            verb(of(state))
    assert everything(state) == before


def test_a_kind_of_record_that_is_not_known_is_left_untouched(state):
    with Life(state) as life:
        life.accept("a")
        life.journal.append("wonder", {"id": "a"})
        life.journal.commit()
    before = everything(state)
    for verb in (upkeep.verify, upkeep.repair):
        with pytest.raises(NewerVersion, match="wonder"):
            verb(of(state))
    assert everything(state) == before


def test_clean_and_repair_want_the_lock(state):
    plain(state)
    with Life(state):
        for verb in (upkeep.clean, upkeep.repair):
            with pytest.raises(LockHeld) as refused:
                verb(of(state))
            assert refused.value.pid == os.getpid()


def test_clean_refuses_a_damaged_journal_and_changes_nothing(state):
    with Life(state) as life:
        life.accept("a", "b")
        life.refuse("a")
        life.fill(3)
    spoil(path_of(state, 1), b'"id":"b"')
    segments = {path.name: path.read_bytes() for path in (state / "journal").glob("*.jsonl")}
    with pytest.raises(NeedsOperator, match="damaged places"):
        upkeep.clean(of(state))
    assert {path.name: path.read_bytes() for path in (state / "journal").glob("*.jsonl")} == segments
    assert upkeep.repair(of(state))["lost"] == ["b"]
    upkeep.clean(of(state))


def test_a_submit_whose_outcome_may_stand_in_a_hole_is_not_made_again(state):
    with Life(state) as life:
        life.accept("a", "b")
        life.submit("a")
        life.order("b")
    spoil(path_of(state, 1), b'"submitted"', flip=b'"id":"a"', by=b'"id":"#"')
    with Life(state) as life:
        upkeep.hold_doubtful(life.queue, state / "journal")
        for attempt in list(life.queue.view.attempts.values()):
            life.queue.unknown(attempt.n, "its worker is gone", by_crash=True)
        life.queue.commit()
        assert {task.id: task.state for task in life.queue.view.tasks.values()} == {"a": State.HELD, "b": State.HELD}


def test_a_clean_that_is_killed_anywhere_loses_nothing(state):
    with Life(state) as life:
        life.accept("a", "b", "c", "d")
        life.solve("a", "b")
        life.submit("c")
        life.fill(3)
    wanted = states(state)
    for at in count(1):
        place = Path(shutil.copytree(state, state.parent / "killed"))
        osio = KillingOs(at, "inside", only=WRITES)
        with suppress(Killed):
            upkeep.clean(of(place, osio=osio))
        assert states(place) == wanted
        assert upkeep.clean(of(place))["segments_after"] <= 2
        assert states(place) == wanted
        shutil.rmtree(place)
        if osio.count < at:
            break
    assert at > 5


def test_clean_forgets_what_is_due(state):
    plain(state)
    clock = FakeClock()
    clock.advance(TTL_S + 5)
    done = upkeep.clean(of(state, clock=clock))
    assert done["forgotten"] == 2
    assert set(states(state)) == {"early", "mid", "late", "last"}


# --- export


def test_export_gives_every_record_with_its_place_and_payload(state):
    plain(state)
    found = upkeep.Export(of(state))
    lines = list(found.lines())
    assert found.left_out == 0
    rows = [json.loads(line) for line in lines]
    raw = [
        json.loads(line)
        for path in sorted((state / "journal").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert rows == [{name: row[name] for name in row if name not in "cs"} for row in raw if row["k"] != "head"]
    assert [line for line in lines if b'"accept"' in line and b'"p":{"id":"mid","sitekey":"k"}}\n' in line]
    spoil(path_of(state, 2), b'"mid"', b'"submitted"')
    damaged = upkeep.Export(of(state))
    assert len(list(damaged.lines())) == len(lines) - 1
    assert damaged.left_out == 1


def test_export_since_takes_a_record_without_a_time_with_the_one_before_it(state):
    with Life(state) as life:
        life.accept("a")
        life.queue.keep(life.queue.view.tasks["a"])
        life.queue.commit()
        life.clock.advance(60)
        life.accept("b")
        life.queue.keep(life.queue.view.tasks["b"])
        life.queue.commit()
        then = life.clock.time()
    rows = [json.loads(line) for line in upkeep.Export(of(state), since=then).lines()]
    assert [(row["k"], row["id"]) for row in rows] == [("accept", "b"), ("keep", "b")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86400.0),
        ("1970-01-02T02:00:00+02:00", 86400.0),
        ("1970-01-02", 86400.0),
        ("1970-01-01T00:00:10.5", 10.5),
    ],
)
def test_since_is_a_time(text, seconds):
    assert times.parse_since(text) == seconds


@pytest.mark.parametrize(("text", "ago"), [("90s", 90), ("15min", 900), ("1.5m", 90), ("2h", 7200), ("3d", 259200)])
def test_since_is_a_duration(text, ago):
    assert time.time() - times.parse_since(text) == pytest.approx(ago, abs=10)


# --- as a program


class Ctl:
    """captchactl on a state directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.config = root / "captchad.toml"
        self.write_config()

    def write_config(self, more: str = "") -> None:
        self.config.write_text(
            f'[daemon]\nstate_dir = "{self.state}"\nspool_dir = "{self.root}/spool"\nruntime_dir = "{self.root}/run"\n'
            '[policy]\nallowed_hosts = ["*"]\n[queue]\nsegment_mb = 1\n'
            '[[provider]]\nname = "p"\nurl = "http://127.0.0.1:9"\napi_key_file = "/nowhere"\n' + more
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "captchad.cli.captchactl", "--config", str(self.config), "journal", *arguments]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """In this process: it is quicker, and what is imported need not be readable by another user."""
        out, umask = io.TextIOWrapper(io.BytesIO()), os.umask(0o022)
        err = io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = captchactl.main(self.command(*arguments)[3:])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.umask(umask)
        out.flush()
        text = out.buffer.getvalue().decode()
        return subprocess.CompletedProcess(list(arguments), code, text, err.getvalue())

    def onto(self, out: IO[bytes], *arguments: str) -> subprocess.CompletedProcess[str]:
        """As a program, with its output going there."""
        options: dict[str, Any] = {"stdout": out, "stderr": subprocess.PIPE, "text": True, "timeout": 60}
        return subprocess.run(self.command(*arguments), check=False, **options)


@pytest.fixture
def ctl(tmp_path: Path) -> Ctl:
    made = Ctl(tmp_path)
    plain(made.state)
    return made


def test_journal_alone_prints_help(ctl):
    done = ctl()
    assert done.returncode == 2
    for word in ("verify", "clean", "export", "repair"):
        assert word in done.stdout
    assert "tokens" in ctl("export", "--help").stdout


def test_verify_and_repair_in_words(ctl):
    done = ctl("verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert "clean" in done.stdout
    assert "4 unfinished, 0 dead, 2 ended" in done.stdout

    missing(ctl.state, 2)
    done = ctl("verify")
    assert done.returncode == 1
    assert "damage     00000002:0000000000: the segment is missing" in done.stdout
    assert "captchactl: the journal" in done.stderr
    assert "captchactl journal repair" in done.stderr

    dry = ctl("repair", "--dry-run")
    assert "00000003.jsonl would go to quarantine/" in dry.stdout
    done = ctl("repair")
    assert done.returncode == 0, done.stderr
    assert "moved      00000003.jsonl to quarantine/" in done.stdout
    assert "held       1 task held, whose history has a hole: early" in done.stdout
    assert "captchactl release" in done.stdout
    assert "leave no trace" in done.stdout
    again = ctl("repair").stdout
    assert "nothing to repair" in again
    assert "leave no trace" not in again
    assert ctl("verify").returncode == 0


def test_the_json_of_each_verb(ctl):
    header(ctl.state, 2)
    found = json.loads(ctl("verify", "--json").stdout)
    assert (found["schema"], found["clean"]) == (1, False)
    done = json.loads(ctl("repair", "--json").stdout)
    assert done["damage"] == found["damage"]
    assert done["moved"][0] == "00000002.jsonl"
    cleaned = json.loads(ctl("clean", "--json").stdout)
    assert cleaned["bytes_after"] < cleaned["bytes_before"]
    rows = [json.loads(line) for line in ctl("export").stdout.splitlines()]
    assert {row["id"] for row in rows if row["k"] == "accept"} <= {"late", "early", "mid", "last", "done", "old"}


def test_no_journal_is_said_with_what_to_do(ctl):
    shutil.rmtree(ctl.state)
    for verb in ("verify", "clean", "export", "repair"):
        done = ctl(verb)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"there is no journal in {ctl.state}" in done.stderr
        assert "--config" in done.stderr
    assert not ctl.state.exists()


def test_a_wrong_time_is_a_usage_error(ctl):
    for when in ("yesterday", "3w", "2026-13-01"):
        done = ctl("export", "--since", when)
        assert done.returncode == 2, when
        assert "neither an ISO time nor a duration" in done.stderr
    assert ctl("export", "--since", "1h").stdout == ctl("export").stdout


def test_a_broken_configuration_stops_only_what_would_forget_by_it(ctl):
    ctl.write_config("nonsense = 1\n")
    assert "cleaning   what it would give back is not known" in ctl("verify").stdout
    assert ctl("export").returncode == 0
    assert ctl("repair").returncode == 0
    done = ctl("clean")
    assert done.returncode == 1
    assert "nonsense" in done.stderr


def test_export_into_a_pipe_that_closes_and_onto_a_full_disk(ctl):
    with Life(ctl.state) as life:
        life.fill(40)
    process = subprocess.Popen(ctl.command("export"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b'{"at":"00000001:')
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == b""
    process.stderr.close()
    with Path("/dev/full").open("wb") as full:
        for arguments in (["export"], ["verify"], ["repair", "--json"]):
            done = ctl.onto(full, *arguments)
            assert done.returncode == 1
            message = "captchactl: cannot write to standard output: No space left on device"
            assert done.stderr.splitlines() == [message, "hint: make room there, or write to another place"]


@pytest.mark.root
def test_another_user_is_told_that_he_has_no_permission():
    with public_directory() as root:
        ctl = Ctl(root)
        plain(ctl.state)
        ctl.config.chmod(0o644)
        before = everything(ctl.state)

        def run() -> None:
            for verb in ("verify", "clean", "export", "repair"):
                code = captchactl.main(["--config", str(ctl.config), "journal", verb])
                if code != Exit.NO_PERMISSION:
                    raise AssertionError(f"{verb}: {code}")

        for path in (ctl.state, *ctl.state.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o600)
        as_user(1234, 1234, run)
        ctl.state.chmod(0o700)
        as_user(1234, 1234, run)
        assert everything(ctl.state) == before


@pytest.mark.root
def test_root_writes_as_the_owner_of_the_state_directory():
    with public_directory() as root:
        ctl = Ctl(root)
        plain(ctl.state)
        header(ctl.state, 2)
        for path in (ctl.state, *ctl.state.rglob("*")):
            os.chown(path, 1234, 1235)

        def run(*words: str) -> None:
            if captchactl.main(["--config", str(ctl.config), *words]) != 0:
                raise AssertionError(words)

        for words in (("journal", "repair"), ("journal", "clean"), ("dlq", "redrive", "--all", "--yes")):
            (ctl.state / "journal" / "lock").unlink()  # so that each makes a file
            as_user(0, 0, partial(run, *words))
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in ctl.state.rglob("*")}
        assert owners == {(1234, 1235)}
        assert (ctl.state / "journal" / "quarantine" / "00000002.jsonl").exists()


# --- beside a daemon


def test_beside_a_running_daemon(tmp_path):
    with (
        Sandbox(scenario="[solve]\nseconds = 60.0\n") as sandbox,
        Daemon(tmp_path, sandbox, {"queue": {"segment_mb": 1}}) as daemon,
    ):
        for verb, word in (("clean", "cleans by itself"), ("repair", "stop it first")):
            refused = daemon.ctl("journal", verb)
            assert refused.returncode == 1
            assert f"pid {daemon.pid}" in refused.stderr
            assert word in refused.stderr

        padding = {f"x{number}": "y" * 4000 for number in range(4)}
        daemon.drop(
            {"id": f"t{number}", "sitekey": "k", "pageurl": "https://example.com/", "params": padding}
            for number in range(500)
        )
        looks, found = 0, {"tasks": {"unfinished": 0}}
        while found["tasks"]["unfinished"] < 500:
            done = daemon.ctl("journal", "verify", "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            assert looks < 200
            looks, found = looks + 1, json.loads(done.stdout)
        assert found["segments"] > 3
        assert daemon.ctl("journal", "export").stdout.count('"k":"accept"') == 500


def test_a_daemon_goes_on_with_a_repaired_journal(tmp_path):
    with Sandbox(scenario="[solve]\nseconds = 0.05\n") as sandbox, Daemon(tmp_path, sandbox) as daemon:
        daemon.drop({"id": f"t{number}", "sitekey": "k", "pageurl": "https://example.com/"} for number in range(20))
        daemon.wait_results(20)
        daemon.stop()
        header(daemon.state_dir, 1)
        assert daemon.ctl("journal", "repair").returncode == 0
        daemon.start()
        daemon.drop([{"id": "more", "sitekey": "k", "pageurl": "https://example.com/"}])
        daemon.drop([{"id": "t3", "sitekey": "k", "pageurl": "https://example.com/"}])
        daemon.wait_results(21)
        assert sandbox.totals()["charges"] == 21
        assert daemon.ctl("journal", "verify").returncode == 0


# --- a redrive without a daemon


@pytest.mark.parametrize("broken", ["oops\n", '[queue]\nmax_redrives = "3"\n'])
def test_a_limit_on_what_is_spent_is_never_guessed(tmp_path, state, capsys, monkeypatch, broken):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))  # without generations
    with Life(state) as life:
        life.accept("dead")
        for _ in range(SETTINGS.retry.max_attempts):
            life.refuse("dead")
    config = tmp_path / "captchad.toml"
    config.write_text(f'[daemon]\nstate_dir = "{state}"\n[policy]\nallowed_hosts = ["*"]\n')
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "50.toml").write_text(broken)
    before = everything(state)

    assert captchactl.main(["--config", str(config), "dlq", "redrive", "dead"]) == 1

    assert "no valid configuration" in capsys.readouterr().err
    assert everything(state) == before


def test_without_a_journal_nothing_is_dead(tmp_path, capsys):
    config = tmp_path / "captchad.toml"
    config.write_text(f'[daemon]\nstate_dir = "{tmp_path}/none"\n')

    assert captchactl.main(["--config", str(config), "dlq", "redrive", "--all", "--yes"]) == 0
    assert "so nothing is dead" in capsys.readouterr().err
    assert captchactl.main(["--config", str(config), "dlq", "redrive", "a"]) == 1


def test_wait_asks_the_journal_while_no_daemon_runs(tmp_path, capsys):
    ctl = Ctl(tmp_path)
    SpoolDirs(tmp_path / "spool").make()
    with Life(ctl.state) as life:
        life.accept("flying", "gone")
        life.submit("flying")
        life.solve("gone")

    code = captchactl.main(["--config", str(ctl.config), "wait", "flying", "gone", "nosuch", "--timeout", "0.1"])

    said = capsys.readouterr().err.splitlines()
    assert code == Exit.TIMED_OUT
    assert said[1:4] == [
        "captchactl: flying (submitted)",
        "captchactl: gone (has ended (solved), and its result is not there)",
        "captchactl: nosuch (unknown to captchad, and no such file in incoming/)",
    ]
    assert "no daemon answers" in said[4]


# --- what a purge of the package must keep


def lost(state: Path) -> list[str]:
    return list(left(state, 1))


def test_with_everything_handed_out_nothing_is_left(state):
    with Life(state) as life:
        life.accept("done")
        life.solve("done")

    assert lost(state) == []


def test_what_would_be_lost_with_the_journal_is_named(state):
    with Life(state) as life:
        life.accept("waiting", "flying", "solved", "dead")
        life.submit("flying")
        life.queue.solved(life.submit("solved"), {"token": "t", "answer": None, "extra": {}})
        for _ in range(SETTINGS.retry.max_attempts):
            life.refuse("dead")
    (state / "journal" / "workers" / "1-1.jsonl").touch()

    found = lost(state)

    assert "2 unfinished tasks" in found
    assert "1 dead-letter tasks, which a redrive runs again" in found
    assert "2 results that were not handed out" in found  # the dead one's, too
    assert any("of workers" in line for line in found)


def test_only_what_a_purge_does_not_remove_is_elsewhere(tmp_path):
    def named(state_dir: str, spool_dir: str) -> list[str]:
        places = Places(Path("/s"), Path(state_dir), Path(spool_dir), 64, allow_weak_fs=False, allowed_hosts=None)
        return list(elsewhere(places))

    assert named("/var/lib/captchad", "/var/spool/captchad") == []
    assert named("/var/spool/captchad/../captchad/state", "/var/lib/captchad/spool") == []
    assert named("/srv/state", "/var/lib/captchads") == [
        "/srv/state (daemon.state_dir)", "/var/lib/captchads (daemon.spool_dir)"
    ]  # fmt: skip


def test_a_damaged_journal_is_not_taken_for_an_empty_one(state):
    plain(state)
    spoil(path_of(state, 2), b'"mid"')

    assert any("damaged places" in line for line in lost(state))
