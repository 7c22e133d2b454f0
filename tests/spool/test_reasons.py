"""The reasons in rejected/ as those see them who wait: real files, written by the real intake or by hand."""

import json
import os
from contextlib import closing

import pytest

from captchad.spool import reasons
from captchad.spool.reasons import Reasons
from tests.spool.support import Bench, task


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "spool")
    with closing(made.intake):
        made.intake.start()
        yield made


def rejected(bench, name, content):
    bench.drop(name, content)
    bench.run_until(lambda: not bench.incoming())


def said(found, task_id):
    """The errors given for an id, oldest first."""
    documents = [found.document(mark, task_id) for mark in found.of(task_id)]
    return [document["reason"] for document in documents if document is not None]


def write(bench, name, age_s=0, **document):
    path = bench.dirs.rejected / name
    path.write_text(json.dumps({"error": "e", **document}))
    os.utime(path, (1e9 - age_s, 1e9 - age_s))


def test_no_directory_is_no_reason(tmp_path):
    assert Reasons(tmp_path / "nowhere").of("a") == []


def test_a_file_that_cannot_be_read_is_known_by_its_name(bench):
    rejected(bench, "a.json", "nonsense")
    found = Reasons(bench.dirs.rejected)

    assert said(found, "a") == ["syntax"]
    assert said(found, "b") == []


def test_an_id_in_the_file_goes_over_its_name(bench):
    rejected(bench, "a.json", json.dumps(task(id="b", priority="hi")))
    found = Reasons(bench.dirs.rejected)

    assert (said(found, "a"), said(found, "b")) == ([], ["task"])


def test_a_new_reason_is_seen_at_once(bench):
    found = Reasons(bench.dirs.rejected)
    assert found.of("a") == []
    for number in range(1, 4):
        rejected(bench, "a.json", "nonsense")
        assert said(found, "a") == ["syntax"] * number


def test_a_directory_that_has_not_changed_is_not_read_again(bench, monkeypatch):
    rejected(bench, "a.json", "nonsense")
    os.utime(bench.dirs.rejected, (1e9, 1e9))
    found = Reasons(bench.dirs.rejected)
    assert len(found.of("a")) == 1
    monkeypatch.setattr(Reasons, "_look", lambda self: pytest.fail("it was read again"))
    assert len(found.of("a")) == 1


def test_behind_the_newest_ones_names_still_count(bench, monkeypatch):
    monkeypatch.setattr(reasons, "MAX_READ", 1)
    write(bench, "old.json.reason", 30, file="old.json", reason="old")
    write(bench, "other.json.1.reason", 20, file="other.json.1", reason="another file s")
    write(bench, "new.jsonl.reason", 10, file="new.jsonl", errors=[{"id": "n", "reason": "new"}, {"reason": "unread"}])
    found = Reasons(bench.dirs.rejected)

    assert (said(found, "old"), said(found, "n")) == (["old"], ["new"])
    assert said(found, "other") == []  # by its name it could be other.json's, by its words it is not


def test_nobody_can_forge_a_reason(bench):
    """A file is called as a reason would be, before and after there is one."""
    forged = json.dumps({"error": "forged", "reason": "forged", "file": "a.json", "drop": "0" * 16})
    rejected(bench, "a.json.reason", forged)
    assert said(Reasons(bench.dirs.rejected), "a") == []
    rejected(bench, "a.json", "nonsense")
    rejected(bench, "a.json.reason", forged)
    assert said(Reasons(bench.dirs.rejected), "a") == ["syntax"]
    assert b"forged" in bench.rejected()["a.json.reason.file"]


def test_what_is_no_reason_harms_nobody(bench):
    os.mkfifo(bench.dirs.rejected / "fifo.json.reason")
    (bench.dirs.rejected / "directory.json.reason").mkdir()
    (bench.dirs.rejected / "deep.json.reason").write_text("[" * 100_000)
    write(bench, "list.json.reason", errors=["x", {"id": 3}, {"id": "l", "reason": "good"}])
    (bench.dirs.rejected / "link.json.reason").symlink_to("list.json.reason")
    found = Reasons(bench.dirs.rejected)

    assert [found.of(name) for name in ("fifo", "directory", "deep", "link")] == [[], [], [], []]
    assert said(found, "l") == ["good"]


def test_a_reason_that_goes_meanwhile(bench):
    rejected(bench, "a.json", "nonsense")
    found = Reasons(bench.dirs.rejected)
    (mark,) = found.of("a")
    (bench.dirs.rejected / mark.name).unlink()

    assert found.document(mark, "a") is None
    assert found.of("a") == []
