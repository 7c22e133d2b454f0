"""A file system with weak locks or syncs is refused before anything is written there, unless the operator insists."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from captchad.journal.osio import Os
from captchad.journal.store import Journal
from captchad.model.errors import JournalDown, UnsafeFilesystem
from tests.journal.fuse import WRITES, EmptyFuse
from tests.journal.kit import Clock
from tests.support.harness import Daemon

needs_fuse = pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="needs /dev/fuse")


def opened(place, **options):
    return Journal.open(place, segment_bytes=2500, clock=Clock(), lock_wait_s=0.0, **options)


class Lying(Os):
    """Says that every file system is of one type."""

    def __init__(self, magic):
        self.magic = magic

    def filesystem(self, fd):
        return self.magic


@pytest.mark.parametrize(
    ("magic", "said"),
    [
        (0x6969, r"\(nfs\): its locks and syncs go over a network"),
        (0xFF534D42, r"\(cifs\): its locks"),
        (0x65735546, r"\(fuse\): a program serves it"),
        (0x4D44, r"\(of type 0x4d44\): whether its locks and syncs hold is not known"),
    ],
)
def test_a_weak_file_system_is_refused_by_name(tmp_path, magic, said):
    place = tmp_path / "state" / "journal"
    with pytest.raises(UnsafeFilesystem, match=said) as caught:
        opened(place, osio=Lying(magic))
    assert "daemon.allow_weak_fs = true" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    opened(place, osio=Lying(magic), allow_weak_fs=True).close()
    assert (place / "lock").exists()


def test_a_journal_that_is_there_is_left_alone_when_it_is_refused(tmp_path):
    place = tmp_path / "journal"
    place.mkdir()
    with pytest.raises(UnsafeFilesystem):
        opened(place, osio=Lying(0x6969))
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("magic", [0xEF53, 0x58465342, 0x794C7630])
def test_local_file_systems_and_overlays_are_taken(tmp_path, magic):
    opened(tmp_path / "journal", osio=Lying(magic)).close()


def test_the_file_system_of_this_machine_is_known(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    name = subprocess.run(["stat", "-f", "-c", "%t", str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert Os().filesystem(fd) == int(name, 16)
    os.close(fd)


@pytest.mark.root
@needs_fuse
def test_a_real_fuse_mount_is_refused_before_anything_is_written(tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()
    with EmptyFuse(mount) as fuse:
        with pytest.raises(UnsafeFilesystem, match=r"\(fuse\)"):
            opened(mount / "state" / "journal")
        assert fuse.asked
        assert not WRITES.intersection(fuse.asked)
        with pytest.raises(JournalDown, match="EROFS"):
            opened(mount / "state" / "journal", allow_weak_fs=True)
        assert WRITES.intersection(fuse.asked)  # so the list above is worth something


class NoProvider(NamedTuple):
    """An account where nobody is."""

    url: str = "http://127.0.0.1:9"
    key: str = "a" * 32


@pytest.mark.root
@needs_fuse
@pytest.mark.parametrize(("allowed", "code", "said"), [(False, 78, "daemon.allow_weak_fs = true"), (True, 75, "EROFS")])
def test_the_daemon_refuses_it_unless_its_configuration_allows(tmp_path, allowed, code, said):
    mount = tmp_path / "mount"
    mount.mkdir()
    with EmptyFuse(mount):
        overrides = {"daemon": {"state_dir": str(mount / "state"), "allow_weak_fs": allowed}}
        daemon = Daemon(tmp_path, NoProvider(), overrides)
        try:
            daemon.start(wait=False)
            assert daemon.process is not None
            assert daemon.process.wait(30) == code
        finally:
            daemon.__exit__(None, None, None)
        assert said in daemon.log_file.read_text()
