"""Moving and removing files whose names others may take at any time."""

import os
from contextlib import contextmanager

import pytest

from captchad.spool.files import (
    DIRECTORY,
    ChangedError,
    display,
    identity,
    look,
    move_checked,
    open_regular,
    remove_checked,
    remove_leftover,
)


@contextmanager
def opened(path):
    fd = os.open(path, DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def place(tmp_path):
    """A directory with the file `a`, another one, and descriptors of both."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from" / "a").write_text("first")
    with opened(tmp_path / "from") as source, opened(tmp_path / "to") as target:
        yield tmp_path, source, target


def replace(path):
    """Put another file at a name, as a submitter may do."""
    fresh = path.parent / "fresh"
    fresh.write_text("second")
    fresh.rename(path)


def test_the_file_that_was_looked_at_is_moved(place):
    path, source, target = place

    assert move_checked(source, b"a", target, b"b", identity(look(source, b"a")))
    assert (path / "to" / "b").read_text() == "first"


def test_another_file_of_that_name_is_not_touched(place):
    path, source, target = place
    file = identity(look(source, b"a"))
    replace(path / "from" / "a")
    before = look(source, b"a").st_ctime_ns

    assert not move_checked(source, b"a", target, b"b", file)
    remove_checked(source, b"a", file)

    assert (path / "from" / "a").read_text() == "second"
    assert look(source, b"a").st_ctime_ns == before  # not even for a moment
    assert os.listdir(path / "to") == []


@pytest.mark.parametrize("length", [1, 255])
def test_removing(place, length):
    path, source, _ = place
    name = "n" * length
    (path / "from" / "a").rename(path / "from" / name)
    file = identity(look(source, name.encode()))

    remove_checked(source, name.encode(), file)
    remove_checked(source, name.encode(), file)  # gone already

    assert os.listdir(path / "from") == []


def test_a_leftover_whose_name_was_taken_again_goes(place):
    path, source, _ = place
    (path / "from" / ".gone-1-a").write_text("older")

    assert remove_leftover(source, b".gone-1-a")
    assert os.listdir(path / "from") == ["a"]
    assert (path / "from" / "a").read_text() == "first"


@pytest.mark.parametrize("name", [b".hidden", b".gone-", b".gone-1", b".gone-1-", b".gone-x-a", b".gone-1-missing"])
def test_what_is_no_leftover(place, name):
    path, source, _ = place

    remove_leftover(source, name)

    assert os.listdir(path / "from") == ["a"]


def test_what_is_opened_is_what_was_looked_at(place):
    path, source, _ = place
    file = identity(look(source, b"a"))
    os.close(open_regular(source, b"a", file))
    replace(path / "from" / "a")

    with pytest.raises(ChangedError):
        open_regular(source, b"a", file)


def test_a_fifo_that_took_the_name_is_opened_without_waiting(place):
    path, source, _ = place
    file = identity(look(source, b"a"))
    (path / "from" / "a").unlink()
    os.mkfifo(path / "from" / "a")

    with pytest.raises(ChangedError):
        open_regular(source, b"a", file)


@pytest.mark.parametrize(
    ("name", "text"), [(b"a.json", "a.json"), (b"\xff\n", "\\xff\\n"), ("ä".encode(), "ä"), (b"\x1b[0m", "\\x1b[0m")]
)
def test_names_for_people(name, text):
    assert display(name) == text
