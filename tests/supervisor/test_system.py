"""What the system says of itself: its files in both versions of control groups, and a real death for want of memory."""

import logging
import multiprocessing
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.supervisor.system import Memory, descriptor_limit, raise_descriptor_limit
from tests.supervisor import puppet
from tests.supervisor.scenarios import SETTINGS, Scenario, play_for_real
from tests.supervisor.simulator import Broken, Fate

PRESSURE = "some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10={full} avg60=0.00 avg300=0.00 total=1\n"

GROUPS = Path("/sys/fs/cgroup/memory")


class Files:
    """A /proc and a /sys/fs/cgroup of our own."""

    def __init__(self, root: Path, groups: str) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "pressure").mkdir()
        (self.proc / "self/cgroup").write_text(groups)

    def write(self, name: str, text: str) -> None:
        path = self.cgroups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def memory(self) -> Memory:
        return Memory(self.proc, self.cgroups)


@pytest.mark.parametrize(
    ("groups", "name", "text"),
    [
        ("0::/system.slice/x.service\n", "system.slice/x.service/memory.events", "low 0\nhigh 3\noom 9\noom_kill {}\n"),
        ("9:memory:/a\n0::/\n", "memory/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
        ("9:cpu,memory:/not/seen/from/here\n", "memory/memory.oom_control", "oom_kill {}\n"),
    ],
    ids=["version 2", "version 1", "version 1, of a container"],
)
def test_a_kill_for_memory_is_seen_once(tmp_path: Path, groups: str, name: str, text: str) -> None:
    files = Files(tmp_path, groups)
    files.write(name, text.format(4))
    memory = files.memory()
    assert not memory.killed_one()
    files.write(name, text.format(5))
    assert memory.killed_one()
    assert not memory.killed_one()
    files.write(name, text.format(7))
    assert [memory.killed_one() for _ in range(3)] == [True, True, False], "two were killed before anybody asked"


def test_without_such_files_nothing_is_known(tmp_path: Path) -> None:
    memory = Files(tmp_path, "1:cpu:/\n").memory()
    assert not memory.killed_one()
    assert not memory.short()
    (tmp_path / "proc/self/cgroup").unlink()
    assert not Memory(tmp_path / "proc", tmp_path / "cgroup").killed_one()


@pytest.mark.parametrize(("some", "full", "short"), [("90.00", "9.99", False), ("90.00", "10.00", True)])
def test_memory_is_short_when_everybody_waits_for_it(tmp_path: Path, some: str, full: str, short: bool) -> None:
    files = Files(tmp_path, "0::/\n")
    (tmp_path / "proc/pressure/memory").write_text(PRESSURE.format(some=some, full=full))
    assert files.memory().short() is short


def test_the_limit_of_descriptors_is_raised_to_what_is_allowed() -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_raise_from_64) == pool.apply(_hard_limit)


def _raise_from_64() -> int:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    raise_descriptor_limit()
    return descriptor_limit()


def _hard_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


# ---------------------------------------------------------------- the real thing


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of version 1 with 60 MB beyond what a fork of this process has."""
    place = GROUPS / f"captchad-test-{os.getpid()}-{random.randrange(10**6)}"
    if not (GROUPS / "memory.oom_control").exists():
        pytest.skip("this machine has no memory controller of version 1")
    place.mkdir()
    (place / "memory.limit_in_bytes").write_text(str(96 << 20))
    yield place
    place.rmdir()


@pytest.mark.root
def test_a_worker_that_the_kernel_takes_for_its_memory_is_told_apart(group: Path) -> None:
    logging.getLogger("tests.scenarios").debug("one is eaten")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        log = pool.apply(_play_in, [group])
    assert ("death", "oom", None) in log
    assert ("move", "oom", 0) in log
    assert [entry for entry in log if entry[0] == "death"] == [("death", "oom", None)], "the others live"


def _play_in(group: Path) -> list[tuple[str, str, int | None]]:
    (group / "tasks").write_text(str(os.getpid()))
    try:
        # A machine that has other things to do needs its time to fill the memory; the eater does not beat meanwhile.
        patient = replace(SETTINGS, boot_s=60.0, stall_s=60.0)
        eaten = Scenario(8.0, {1: Fate(0.0, Broken.EATEN, after_s=0.5)}, settings=patient)
        found, _ = play_for_real(eaten, Memory().killed_one)
        return found
    finally:
        (GROUPS / "tasks").write_text(str(os.getpid()))


def test_the_puppets_know_every_fate_that_is_played() -> None:
    told = puppet.order(Fate(0.5, Broken.EATEN, after_s=1.0), 0.2)
    assert told["broken"] == "eaten"
