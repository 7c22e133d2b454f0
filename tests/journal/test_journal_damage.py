"""Random damage: no reader raises but what it declares, and none takes a record that was never written."""

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captchad.journal.sidefile import read_side_file
from captchad.journal.store import ReadReport, read_all
from captchad.model.errors import CaptchadError, JournalDamaged
from tests.crash.cast import later_parent
from tests.crash.checker import contents
from tests.crash.disk import Fate
from tests.crash.mutants import ROT_MUTANTS
from tests.crash.sweeps import SEED
from tests.crash.workload import Story
from tests.journal.kit import App, HookOs, padding
from tests.journal.model import lay_out

FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=120)


def template(fast_dir):
    """A journal of four segments, made once."""
    place = fast_dir / "template"
    if not place.exists():
        app = App(place, lambda what, value: None, HookOs())
        app.run(["2", "3", "1", "5", "2", "4", "1", "1"])
        app.close()
    return place


def harm(data, chance):
    """One of the ways in which bytes go bad."""
    content = bytearray(data)
    begin = chance.randrange(len(content) + 1)
    size = chance.choice([1, 2, 20, 300, 5000])
    how = chance.randrange(10)
    if how == 0 and begin < len(content):
        content[begin] ^= 1 << chance.randrange(8)
    elif how == 1:
        content[begin : begin + size] = chance.randbytes(len(content[begin : begin + size]))
    elif how == 2:
        content[begin : begin + size] = bytes(len(content[begin : begin + size]))
    elif how == 3:
        del content[begin:]
    elif how == 4:
        del content[begin : begin + size]
    elif how == 5:
        content[begin:begin] = content[:size]
    elif how == 6:
        content += chance.choice([chance.randbytes(size), bytes(size), content[begin : begin + size]])
    else:
        return shuffled(data, chance)
    return bytes(content)


def shuffled(data, chance):
    """Two lines, or two blocks of one size, in each other's place; or one of them twice."""
    size = chance.choice([16, 512, 4096])
    blocks = [data[begin : begin + size] for begin in range(0, len(data), size)]
    parts = chance.choice([data.splitlines(keepends=True), blocks]) or [b""]
    one, other = chance.randrange(len(parts)), chance.randrange(len(parts))
    if chance.random() < 0.5:
        parts[one], parts[other] = parts[other], parts[one]
    else:
        parts.insert(one, parts[other])
    return b"".join(parts)


def damaged(fast_dir, seed):
    """A copy of the template with one to three files harmed."""
    chance = random.Random(seed)
    place = fast_dir / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template(fast_dir), place)
    for _ in range(chance.randrange(1, 4)):
        path = chance.choice(sorted(place.glob("*.jsonl")))
        if chance.random() < 0.1:
            path.unlink()
            if not list(place.glob("*.jsonl")):
                break
        else:
            path.write_bytes(harm(path.read_bytes(), chance))
    return place


def check_damage(fast_dir, seed):
    """Both readers get by, agree, and a second replay finds the same."""
    place = damaged(fast_dir, seed)
    report = ReadReport()
    read = [
        record.fields["n"] for record in read_all(place, report=report) if record.payload == padding(record.fields["n"])
    ]
    assert len(read) == report.records
    assert read == sorted(set(read))
    try:
        app = App(place, lambda what, value: None, HookOs())
    except JournalDamaged:
        return False
    assert app.found == read
    assert len(app.journal.holes) == len(report.holes)
    app.run(["2", "1"])
    app.close()
    again = App(place, lambda what, value: None, HookOs())
    again.close()
    assert again.found == [*read, *range(app.next - 3, app.next)]
    return True


@FUZZ
@given(st.integers(0, 2**32))
def test_random_damage_harms_only_what_it_hits(fast_dir, seed):
    try:
        check_damage(fast_dir, seed)
    except CaptchadError as error:
        raise AssertionError(f"seed {seed}") from error


@pytest.mark.slow
def test_much_random_damage(fast_dir):
    survived = [check_damage(fast_dir, seed) for seed in range(1500)]
    assert 200 < sum(survived) < 1500


@pytest.fixture(scope="module")
def crashed():
    """The state directory of a daemon and its workers that died in the middle of everything: paths to bytes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as root:
        story = Story(Path(root) / "story", SEED, Fate(800))
        story.run()
        assert len(list(story.directory.glob("workers/*"))) == 2
        return contents(Path(root) / "story")


def check_damaged_queue(root, whole, seed):
    """Whatever is harmed in the state directory of a queue: what is read was written there, and the queue gets by."""
    chance = random.Random(seed)
    state = dict(whole)
    files = sorted(path for path in whole if path.endswith(".jsonl"))
    for path in chance.choices(files, k=chance.choice([1, 1, 2, 4])):
        state[path] = harm(state[path], chance)
    lay_out(state, root)
    for record in read_all(root / "journal"):
        path = f"journal/{record.segment:08d}.jsonl"
        was = whole[path][record.offset :][: record.length - 1]  # its newline may have gone bad
        assert state[path][record.offset :].startswith(was)
        assert record.fields.items() <= json.loads(was).items()
    for path in files:
        if "/workers/" in path:
            check_side_file(root / path, whole[path])
    try:
        with later_parent(root / "journal") as parent:
            found = parent.seen()
            parent.journal.close()
    except JournalDamaged:
        return False
    with later_parent(root / "journal") as parent:
        assert parent.seen() == found
        parent.start()
        assert parent.queue.down_reason == ""
        live = parent.seen()
        parent.journal.close()
    with later_parent(root / "journal") as parent:
        assert parent.seen() == live
    return True


def check_side_file(path, whole):
    """What is told was said, and all of it if that is what it says."""
    report = read_side_file(path)
    said = [json.loads(line) for line in whole.splitlines()]
    said = [line for line in said if line["k"] == "out"]
    assert all(any(outcome.items() <= line.items() for line in said) for outcome in report.outcomes)
    assert not report.ended or len(report.outcomes) == len(said)


@FUZZ
@given(st.integers(0, 2**32))
def test_random_damage_to_the_files_of_a_queue(fast_dir, crashed, seed):
    try:
        check_damaged_queue(fast_dir / "damaged", crashed, seed)
    finally:
        shutil.rmtree(fast_dir / "damaged")


@pytest.mark.slow
def test_much_random_damage_to_the_files_of_a_queue(fast_dir, crashed):
    survived = 0
    for seed in range(600):
        survived += check_damaged_queue(fast_dir / "damaged", crashed, seed)
        shutil.rmtree(fast_dir / "damaged")
    assert 100 < survived < 600


@pytest.mark.parametrize("mutant", ROT_MUTANTS, ids=lambda mutant: mutant.name)
def test_random_damage_finds_a_reader_that_does_not_look(fast_dir, crashed, monkeypatch, mutant):
    mutant.apply(monkeypatch)
    for seed in range(300):
        try:
            check_damaged_queue(fast_dir / "damaged", crashed, seed)
        except (CaptchadError, AssertionError, ValueError, LookupError):
            return
        finally:
            shutil.rmtree(fast_dir / "damaged")
    pytest.fail("survived")


@FUZZ
@given(st.binary(max_size=3000))
def test_a_segment_of_any_bytes_raises_nothing_undeclared(fast_dir, content):
    place = fast_dir / "any"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "00000007.jsonl").write_bytes(content)
    assert list(read_all(place)) == []
    app = App(place, lambda what, value: None, HookOs())
    assert app.found == []
    app.run(["1"])
    app.close()
    assert [record.fields["n"] for record in read_all(place)] == [0]


@FUZZ
@given(st.binary(max_size=3000))
def test_any_bytes_behind_the_last_record_are_cut_off(fast_dir, content):
    place = fast_dir / "behind"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template(fast_dir), place)
    last = max(place.glob("*.jsonl"))
    whole = last.read_bytes()
    last.write_bytes(whole + content)
    app = App(place, lambda what, value: None, HookOs())
    app.close()
    assert app.found == list(range(19))
    assert app.journal.torn == bool(content)
    assert last.read_bytes() == whole
