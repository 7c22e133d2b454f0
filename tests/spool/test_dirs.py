"""The spool's directories: made with their modes, never changed when they are there, refused when they are not real."""

import os
import stat

import pytest

from captchad.model.errors import NeedsOperator, SpoolDown, UnsafeFilesystem
from captchad.spool.dirs import SpoolDirs


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_missing_is_made_whatever_the_umask(tmp_path):
    dirs = SpoolDirs(tmp_path / "var" / "spool")
    old = os.umask(0o027)
    try:
        dirs.make()
    finally:
        os.umask(old)

    assert [mode(path) for path in (dirs.incoming, dirs.results, dirs.rejected)] == [0o3730, 0o2750, 0o2750]


def test_what_is_there_stays_as_it_is(tmp_path):
    dirs = SpoolDirs(tmp_path)
    dirs.incoming.mkdir(mode=0o700)
    dirs.rejected.mkdir(mode=0o700)
    dirs.make()

    assert [mode(path) for path in (dirs.incoming, dirs.results, dirs.rejected)] == [0o700, 0o2750, 0o700]


@pytest.mark.parametrize("name", ["incoming", "results", "rejected"])
def test_a_symlink_is_no_directory(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "spool"
    root.mkdir()
    (root / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(NeedsOperator, match=name):
        SpoolDirs(root).make()


def test_a_file_in_the_place_of_the_spool(tmp_path):
    (tmp_path / "spool").touch()

    with pytest.raises(NeedsOperator):
        SpoolDirs(tmp_path / "spool").make()
    with pytest.raises(SpoolDown):
        SpoolDirs(tmp_path / "spool" / "below").make()


@pytest.mark.root
def test_all_on_one_file_system(tmp_path):
    dirs = SpoolDirs(tmp_path)
    dirs.make()
    assert os.system(f"mount -t tmpfs -o size=64k captchad-test '{dirs.results}'") == 0
    try:
        with pytest.raises(UnsafeFilesystem):
            dirs.make()
    finally:
        assert os.system(f"umount '{dirs.results}'") == 0
