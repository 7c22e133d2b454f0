"""Power cuts while the configuration's history is written: whatever the disk keeps, a usable configuration is there.

The real calls are made and noted. The model of the disk: a file's bytes are there for sure once it was synced; before
that none, half or all of them. A name that came, changed or went is so for sure once its directory was synced; before
that any of these changes may be missing, each for itself.
"""

import os
import stat
from itertools import count, product
from pathlib import Path

import pytest

from captchad.config import generations as module
from captchad.config.choice import Candidate, choose_at_start
from captchad.config.generations import Generations, Trial
from captchad.model.clock import SystemClock
from tests.config.made import config, digest


class Disk:
    """Notes what is done to the files below `root`; `states` are what a power cut may leave, as {path: text}."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sure: dict[Path, int] = {}  # paths of files, and their inodes, that a cut leaves
        self.pending: list[tuple[Path, int | None]] = []
        self.text: dict[int, str] = {}
        self.synced: set[int] = set()
        self.seen: list[dict[Path, str]] = []
        self._inodes = count(1)
        self._now: dict[Path, int] = {}

    def created(self, path: Path) -> None:
        self._name(path, next(self._inodes))
        self._cut()

    def renamed(self, source: Path, target: Path) -> None:
        inode = self._now[source]
        self.text[inode] = source.read_text() if source.exists() else target.read_text()
        self._name(target, inode)
        self._name(source, None)
        self._cut()

    def removed(self, path: Path) -> None:
        self._name(path, None)
        self._cut()

    def synced_file(self, path: Path) -> None:
        inode = self._now[path]
        self.text[inode] = path.read_text()
        self._cut()
        self.synced.add(inode)
        self._cut()

    def synced_directory(self, path: Path) -> None:
        for name, inode in [each for each in self.pending if each[0].parent == path]:
            self.sure.pop(name, None)
            if inode is not None:
                self.sure[name] = inode
        self.pending = [each for each in self.pending if each[0].parent != path]
        self._cut()

    def _name(self, path: Path, inode: int | None) -> None:
        self._now.pop(path, None)
        if inode is not None:
            self._now[path] = inode
            self.text.setdefault(inode, "")
        self.pending.append((path, inode))

    def _cut(self) -> None:
        for kept in product((False, True), repeat=len(self.pending)):
            names = dict(self.sure)
            for (path, inode), there in zip(self.pending, kept, strict=True):
                if there:
                    names.pop(path, None)
                    if inode is not None:
                        names[path] = inode
            for texts in product(*map(self._texts, names.values())):
                state = dict(zip(names, texts, strict=True))
                if state not in self.seen:
                    self.seen.append(state)

    def _texts(self, inode: int) -> list[str]:
        text = self.text[inode]
        return [text] if inode in self.synced else sorted({"", text[: len(text) // 2], text})


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "disk"
    directory.mkdir()
    return Generations(directory, SystemClock())


@pytest.fixture
def cuts(monkeypatch, saved, tmp_path):
    """Carry out a change; what is left of it by each power cut, one after the other, on the same directory."""

    def run(change):
        disk = Disk(saved.directory)
        for path in sorted(saved.directory.iterdir()):
            disk.created(path)
            disk.synced_file(path)
        disk.synced_directory(saved.directory)
        disk.seen.clear()
        with monkeypatch.context() as patch:
            _watch(patch, disk)
            change(saved)
        left = tmp_path / "left"
        left.mkdir()
        for state in disk.seen:
            for path in left.iterdir():
                path.unlink()
            for path, text in state.items():
                (left / path.name).write_text(text)
            yield Generations(left, SystemClock())

    return run


def _watch(patch, disk):
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "unlink")}
    paths = {}

    def opened(path, flags, *rest, **more):
        fd = real["open"](path, flags, *rest, **more)
        paths[fd] = Path(path)
        if flags & os.O_CREAT:
            disk.created(Path(path))
        return fd

    def fsync(fd):
        real["fsync"](fd)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            disk.synced_directory(paths[fd])
        else:
            disk.synced_file(paths[fd])

    def replace(source, target):
        real["replace"](source, target)
        disk.renamed(Path(source), Path(target))

    def unlink(path, *rest, **more):
        real["unlink"](path, *rest, **more)
        disk.removed(Path(path))

    for name, function in (("open", opened), ("fsync", fsync), ("replace", replace), ("unlink", unlink)):
        patch.setattr(os, name, function)


def starts_with(left, workers, now=0.0):
    return choose_at_start(Candidate(config(workers), digest(workers)), left, now=now).config.daemon.workers


def workers_of(generation):
    return None if generation is None else generation.config.daemon.workers


def test_while_a_generation_is_written_the_one_before_stays(saved, cuts):
    saved.promote(config(1), digest(1))
    found = {workers_of(left.last_good()) for left in cuts(lambda saved: saved.promote(config(2), digest(2)))}
    assert found == {1, 2}


def test_while_old_generations_go_two_good_ones_stay(saved, cuts, monkeypatch):
    monkeypatch.setattr(module, "KEEP", 2)
    for each in (1, 2, 3):
        saved.promote(config(each), digest(each))
    for left in cuts(lambda saved: saved.promote(config(4), digest(4))):
        assert len(left.history()) >= 2
        assert workers_of(left.last_good()) in (3, 4)


def test_a_provisional_one_is_there_until_it_is_good(saved, cuts):
    saved.provisional(config(1), digest(1))
    found = [left.last_good() for left in cuts(lambda saved: saved.promote(config(1), digest(1)))]
    assert {workers_of(each) for each in found} == {1}
    assert {each.good for each in found if each} == {False, True}


def test_a_rejection_is_there_or_not_and_the_earlier_ones_stay(saved, cuts):
    saved.promote(config(1), digest(1))
    saved.reject(digest(3), "y")

    found = set()
    for left in cuts(lambda saved: saved.reject(digest(2), "x")):
        assert left.rejected(digest(3)) == "y"
        found.add(starts_with(left, 2))
    assert found == {1, 2}


def test_a_cut_in_a_roll_back_never_runs_what_nobody_confirmed(saved, cuts):
    saved.promote(config(1), digest(1))
    saved.begin_trial(Trial(digest(2), confirm_by=100.0, confirm_within_s=60.0))

    def roll_back(saved):
        saved.reject(digest(2), "nobody confirmed it")
        saved.end_trial()

    assert {starts_with(left, 2, now=100.0) for left in cuts(roll_back)} == {1}


def test_a_cut_in_a_confirmation_never_asks_for_it_again_once_it_is_good(saved, cuts):
    saved.promote(config(1), digest(1))
    saved.begin_trial(Trial(digest(2), confirm_by=100.0, confirm_within_s=60.0))

    def confirm(saved):
        saved.end_trial()
        saved.promote(config(2), digest(2))

    for left in cuts(confirm):
        good = left.find(digest(2)) is not None
        assert not (good and left.trial() is not None)
        assert starts_with(left, 2, now=100.0) == (2 if left.trial() is None else 1)


def test_a_cut_while_a_trial_is_noted_leaves_it_or_none(saved, cuts):
    saved.promote(config(1), digest(1))
    trial = Trial(digest(2), confirm_by=100.0, confirm_within_s=60.0)
    assert {left.trial() for left in cuts(lambda saved: saved.begin_trial(trial))} == {None, trial}
