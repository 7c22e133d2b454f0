"""results/: prepared, published once, expired; and what a crash leaves."""

import json
import os
import resource
import time
from pathlib import Path

import pytest

from captchad.model.clock import SystemClock
from captchad.model.errors import SpoolDown
from captchad.spool.dirs import SpoolDirs
from captchad.spool.results import Results


class Later(SystemClock):
    """The clock of a day that is `ahead_s` seconds away."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


@pytest.fixture
def dirs(tmp_path):
    made = SpoolDirs(tmp_path)
    made.make()
    return made


@pytest.fixture
def clock():
    return Later()


@pytest.fixture
def results(dirs, clock):
    return Results(dirs, clock)


def names(dirs) -> set[str]:
    return set(os.listdir(dirs.results))


def test_a_result_is_seen_once_it_is_published(dirs, results):
    old = os.umask(0o077)
    try:
        results.prepare("a", {"id": "a", "token": "ä\ud800"})
    finally:
        os.umask(old)
    assert results.prepared("a")
    assert names(dirs) == {".a.tmp"}

    results.publish(["a"])

    assert not results.prepared("a")
    path = dirs.results / "a.json"
    assert json.loads(path.read_bytes()) == {"id": "a", "token": "ä\ud800"}
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.stat().st_gid == dirs.results.stat().st_gid


def test_publishing_again_brings_nothing_back(dirs, results):
    results.prepare("a", {})
    results.publish(["a"])
    (dirs.results / "a.json").unlink()  # its consumer took it

    results.publish(["a", "never-prepared"])

    assert names(dirs) == set()


def test_preparing_again_replaces(dirs, results):
    results.prepare("a", {"n": 1})
    results.prepare("a", {"n": 2})
    results.publish(["a"])

    assert json.loads((dirs.results / "a.json").read_bytes()) == {"n": 2}


def test_a_symlink_in_the_way_is_not_followed(dirs, results, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (dirs.results / ".a.new").symlink_to(victim)

    results.prepare("a", {})

    assert victim.read_text() == "mine"


@pytest.mark.parametrize("task_id", ["", "../a", ".a", "a/b", "a\n"])
def test_only_ids_become_names(results, task_id):
    with pytest.raises(ValueError, match="not an id"):
        results.prepare(task_id, {})
    with pytest.raises(ValueError, match="not an id"):
        results.publish([task_id])
    with pytest.raises(ValueError, match="not an id"):
        results.prepared(task_id)


def test_trouble_is_spool_down(dirs, results):
    dirs.results.rmdir()

    for call in (
        lambda: results.prepare("a", {}),
        lambda: results.publish(["a"]),
        lambda: results.prepared("a"),
        lambda: results.expire(1.0, 10),
        lambda: results.sweep(lambda _: True),
    ):
        with pytest.raises(SpoolDown):
            call()


def test_a_write_cut_short_leaves_nothing(dirs, results):
    """A limit on file sizes cuts the write in the middle, as a full disk does."""
    child = os.fork()
    if child == 0:
        try:
            cut_short(results)
            os._exit(0)
        finally:
            os._exit(1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(dirs) == set()


def cut_short(results) -> None:

    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    with pytest.raises(SpoolDown):
        results.prepare("a", {"token": "x" * 1000})


def test_the_start_sweeps_what_is_not_wanted(dirs, results):
    for task_id in ("keep", "drop"):
        results.prepare(task_id, {})
    for name in (".half.new", ".strange", ".-x.tmp", "note.txt", "done.json"):
        (dirs.results / name).touch()

    assert results.sweep(lambda task_id: task_id == "keep") == 2
    assert names(dirs) == {".keep.tmp", ".strange", ".-x.tmp", "note.txt", "done.json"}


def test_old_results_go_slice_by_slice(dirs, results, clock):
    for number in range(10):
        results.prepare(f"t{number}", {})
    results.publish([f"t{number}" for number in range(10)])
    assert results.expire(3600.0, 100) == 0

    clock.ahead_s = 3700.0
    removed = [results.expire(3600.0, 4) for _ in range(4)]

    assert sum(removed) == 10
    assert max(removed) <= 4
    assert names(dirs) == set()


def test_only_results_expire(dirs, results, clock):
    results.prepare("waiting", {})
    (dirs.results / "note.txt").touch()
    (dirs.results / "dir.json").mkdir()
    fresh = dirs.results / "fresh.json"
    fresh.touch()
    os.utime(fresh, (time.time() + 7000, time.time() + 7000))
    (dirs.results / "old.json").touch()

    clock.ahead_s = 7000.0
    assert results.expire(3600.0, 100) == 1
    assert names(dirs) == {".waiting.tmp", "note.txt", "dir.json", "fresh.json"}


def test_expiry_goes_on_after_trouble(dirs, results, clock):
    results.prepare("a", {})
    results.publish(["a"])
    clock.ahead_s = 7000.0
    away = Path(f"{dirs.results}.away")
    dirs.results.rename(away)
    with pytest.raises(SpoolDown):
        results.expire(1.0, 10)
    away.rename(dirs.results)

    assert results.expire(1.0, 10) == 1
