"""The intake on real files: what is taken, what is rejected, and what is never done."""

import json
import os
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest

from captchad.model.errors import JournalDown, RecordTooLarge
from captchad.spool.intake import Intake, Verdict
from tests.spool.support import PAGE, TASK, Bench, Queue, as_user, public_directory, task

NOBODY = 65534


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "spool")
    with closing(made.intake):
        made.intake.start()
        yield made


def reason(bench, name):
    return json.loads(bench.rejected()[name + ".reason"])


def expect_rejected(bench, name, word):
    """Wait until the file is away, then return its reason."""
    bench.run_until(lambda: not bench.incoming())
    assert bench.intake.rejected == {word: 1}
    assert name in bench.rejected()
    assert bench.queue.tasks == {}
    assert bench.intake.down_reason == ""
    return reason(bench, name)


# --- what is taken


def test_a_renamed_file_is_taken_at_once(tmp_path):
    patient = Bench(tmp_path, stable_s=3600.0, scan_interval_s=3600.0)
    with closing(patient.intake):
        patient.intake.start()
        patient.turn()

        patient.drop("one.json", json.dumps(task()))
        patient.run_until(lambda: not patient.incoming())

    offer = patient.queue.tasks["one"]
    assert (offer.source, offer.line, offer.explicit) == ("one.json", 0, False)
    assert offer.candidate_ids[0] == "one"
    assert len(offer.origin) == 16
    assert json.loads(offer.raw) == task()
    assert patient.intake.accepted == 1


def test_an_explicit_id_is_the_only_candidate(bench):
    bench.drop("one.json", json.dumps(task(id="order-17")))
    bench.run_until(lambda: not bench.incoming())

    assert [offer.candidate_ids for offer in bench.queue.offers] == [("order-17",)]
    assert bench.queue.offers[0].explicit


def test_tasks_of_a_batch_are_named_by_place(bench):
    bench.drop("lines.jsonl", f"{TASK}\n\n{TASK}\r\n{TASK}")
    bench.drop("array.json", f"[{TASK},\n{TASK}]")
    bench.run_until(lambda: not bench.incoming())

    assert set(bench.queue.tasks) == {"lines-1", "lines-3", "lines-4", "array-1", "array-2"}
    assert len({offer.origin for offer in bench.queue.offers}) == 5


def test_a_stem_that_is_no_id_gets_a_made_one(bench):
    bench.drop(b"\xff\n.json", TASK)
    bench.run_until(lambda: not bench.incoming())

    (offer,) = bench.queue.offers
    (made,) = offer.candidate_ids
    assert made.startswith("t-")
    assert len(made) == 26
    assert offer.source.isprintable()


def test_names_of_half_written_files_are_left_alone(bench):
    for name in (".hidden.json", "a.json.tmp", "a.part", "a.json~"):
        bench.drop(name, "not json")
    bench.drop("last.json", TASK)
    bench.run_until(lambda: "last" in bench.queue.tasks)
    bench.turn_for(0.3)

    assert bench.incoming() == {".hidden.json", "a.json.tmp", "a.part", "a.json~"}
    assert bench.intake.waiting == 0


def test_files_from_before_the_start_are_taken(tmp_path):
    bench = Bench(tmp_path)
    bench.drop("one.json", TASK)
    bench.drop("two.jsonl", TASK)
    with closing(bench.intake):
        bench.intake.start()
        bench.run_until(lambda: not bench.incoming())

    assert set(bench.queue.tasks) == {"one", "two-1"}


def test_an_in_place_writer_is_waited_for(tmp_path):
    bench = Bench(tmp_path, stable_s=1.0)  # it is given up after five of them
    with closing(bench.intake):
        bench.intake.start()
        fd = os.open(bench.path("slow.json"), os.O_WRONLY | os.O_CREAT, 0o644)
        half = len(TASK) // 2
        os.write(fd, TASK[:half].encode())
        bench.run_until(lambda: bench.intake.waiting == 1)
        bench.turn_for(1.2)
        assert bench.queue.offers == []
        assert bench.rejected() == {}

        os.write(fd, TASK[half:].encode())
        os.close(fd)
        bench.run_until(lambda: not bench.incoming())

    assert list(bench.queue.tasks) == ["slow"]
    assert bench.rejected() == {}


def test_an_incomplete_file_that_stays_so_is_given_up(bench):
    Path(os.fsdecode(bench.path("half.json"))).write_text('{"sitekey":\n "k"')

    told = expect_rejected(bench, "half.json", "syntax")

    assert (told["line"], told["column"]) == (2, 5)


def test_in_place_lines_wait_for_the_end_of_the_last(tmp_path):
    bench = Bench(tmp_path, stable_s=1.0)
    with closing(bench.intake):
        bench.intake.start()
        path = Path(os.fsdecode(bench.path("log.jsonl")))
        path.write_text(TASK)
        bench.run_until(lambda: bench.intake.waiting == 1)
        bench.turn_for(1.2)
        assert bench.queue.offers == []

        with path.open("a") as file:
            file.write("\n")
        bench.run_until(lambda: not bench.incoming())

    assert list(bench.queue.tasks) == ["log-1"]


def test_without_inotify_the_scan_finds_all(bench):
    bench.intake._watch.clear()
    bench.drop("one.json", TASK)
    bench.run_until(lambda: not bench.incoming())

    assert list(bench.queue.tasks) == ["one"]


def test_a_lost_event_does_not_lose_a_file(tmp_path):
    """More events than the kernel keeps: it says only that it lost some."""
    bench = Bench(tmp_path, scan_interval_s=3600.0)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with closing(bench.intake):
        bench.intake.start()
        bench.run_until(bench.is_at_rest)
        filler = bench.path(".filler")
        os.close(os.open(filler, os.O_CREAT | os.O_WRONLY))
        for number in range(limit + 10):  # equal neighbours would be joined into one event
            os.rename(filler, filler := bench.path(f".filler{number % 2}"))
        bench.drop("one.json", TASK)
        bench.run_until(lambda: "one" in bench.queue.tasks)


def test_a_replaced_directory_is_followed(bench):
    bench.turn()
    old = bench.dirs.root / "old"
    bench.dirs.incoming.rename(old)
    bench.dirs.make()
    bench.drop("one.json", TASK)
    bench.run_until(lambda: not bench.incoming() and "one" in bench.queue.tasks)


def test_a_missing_directory_is_said_and_waited_for(bench):
    bench.run_until(lambda: bench.intake.down_reason == "")
    bench.dirs.incoming.rmdir()
    bench.run_until(lambda: bench.intake.down_reason != "")

    bench.dirs.make()
    bench.drop("one.json", TASK)
    bench.run_until(lambda: "one" in bench.queue.tasks and bench.intake.down_reason == "")


# --- room


def test_a_batch_larger_than_the_room_is_taken_in_parts(bench):
    bench.drop("big.jsonl", "\n".join([TASK] * 10))
    bench.queue.capacity = 4
    bench.run_until(lambda: len(bench.queue.tasks) == 4)
    bench.turn_for(0.3)
    assert bench.incoming() == {"big.jsonl"}
    assert bench.intake.waiting == 1

    bench.queue.capacity = 100
    bench.run_until(lambda: not bench.incoming())

    assert len(bench.queue.offers) == 10
    assert bench.intake.accepted == 10


def test_never_more_offers_than_room(bench):
    bench.drop("big.jsonl", "\n".join([TASK] * 10))
    bench.run_until(lambda: bench.intake.waiting == 1, room=0)
    for _ in range(20):
        bench.turn(room=0)
    assert bench.queue.offers == []

    seen = 0
    while bench.incoming():
        bench.turn(room=3)
        assert len(bench.queue.offers) - seen <= 3
        seen = len(bench.queue.offers)
    assert seen == 10


def drop_heavy_files(bench):
    """Many small values, one that is deep, one of many values, a long string, many blank lines."""
    bench.drop("commas.json", b"[" + b"1," * 20_000 + b"1]")
    bench.drop("deep.json", b"[" * 1_000_000)
    bench.drop("wide.json", b'{"a": [' + b"1," * 500_000 + b"1]}")
    bench.drop("text.json", b'{"params": "' + b"\\n" * 900_000 + b'"}')
    bench.drop("blank.jsonl", b"\n" * 200_000)
    bench.run_until(lambda: not bench.incoming())


def test_steps_are_short_whatever_comes(bench):
    drop_heavy_files(bench)

    assert bench.intake.rejected == {"task": 1001, "unread": 1, "syntax": 2, "empty": 1}
    assert reason(bench, "deep.json")["error"] == "more than 32 levels deep"
    assert reason(bench, "wide.json")["error"] == "too many values for one task"
    assert reason(bench, "text.json")["key"] == "params"
    assert reason(bench, "blank.jsonl")["error"] == "it holds no task"
    # Ten times the slice, for the largest single value. A crowded machine stretches processor time, too, now and then:
    # a step that is long by itself is so every time.
    for _ in range(5):
        if bench.longest_step_s < 0.1:
            break
        bench.longest_step_s = 0.0
        drop_heavy_files(bench)
    assert bench.longest_step_s < 0.1


# --- hazards


def test_a_fifo_with_a_waiting_writer(bench):
    os.mkfifo(bench.path("pipe.json"))
    path = bench.path("pipe.json")
    writer = threading.Thread(target=lambda: os.close(os.open(path, os.O_WRONLY)), daemon=True)
    writer.start()

    told = expect_rejected(bench, "pipe.json", "fifo")

    assert "fifo" in told["error"]
    # Nobody opened it: the writer waits on until the test lets it go.
    assert writer.is_alive()
    os.close(os.open(bench.dirs.rejected / "pipe.json", os.O_RDONLY | os.O_NONBLOCK))
    writer.join(5)


def test_a_symlink_is_not_followed(bench):
    os.symlink("/etc/passwd", bench.path("link.json"))

    expect_rejected(bench, "link.json", "symlink")

    assert (bench.dirs.rejected / "link.json").is_symlink()


def test_a_socket(bench, monkeypatch):
    monkeypatch.chdir(bench.dirs.incoming)  # the whole path may be too long for a socket
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock.json")
        expect_rejected(bench, "sock.json", "socket")


def test_a_directory(bench):
    os.mkdir(bench.path("dir.json"))

    expect_rejected(bench, "dir.json", "directory")


@pytest.mark.root
def test_a_device(bench):
    os.mknod(bench.path("null.json"), 0o20666, os.makedev(1, 3))

    expect_rejected(bench, "null.json", "device")


def test_a_hard_link(bench):
    outside = bench.dirs.root / "mine"
    outside.write_text(TASK)
    os.link(outside, bench.path("linked.json"))

    expect_rejected(bench, "linked.json", "hard_link")

    assert outside.read_text() == TASK


def test_a_hard_link_that_is_renamed_in(bench):
    outside, second = bench.dirs.root / "mine", bench.dirs.root / "second"
    outside.write_text(TASK)
    second.hardlink_to(outside)
    second.rename(bench.dirs.incoming / "linked.json")

    expect_rejected(bench, "linked.json", "hard_link")


def test_a_link_that_is_only_a_step_of_the_delivery_is_no_hard_link(tmp_path):
    """Maildir's way: link the file in, then remove the first name."""
    bench = Bench(tmp_path, stable_s=2.0)
    with closing(bench.intake):
        bench.intake.start()
        outside = bench.dirs.root / "mine"
        outside.write_text(TASK)
        os.link(outside, bench.path("linked.json"))
        bench.run_until(lambda: bench.intake.waiting == 1)
        outside.unlink()
        bench.run_until(lambda: not bench.incoming())

    assert list(bench.queue.tasks) == ["linked"]


def test_a_file_too_large(bench):
    path = bench.path("huge.json")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.truncate(fd, 65 << 20)
    os.close(fd)

    told = expect_rejected(bench, "huge.json", "too_large")

    assert "bytes" in told["error"]


def test_a_task_too_large(bench):
    bench.drop("large.json", json.dumps(task(params={"body": "a" * 2_000_000})))

    expect_rejected(bench, "large.json", "syntax")


def test_an_image_of_a_megabyte_is_fine(bench):
    body = "A" * 1_400_000
    image = {"method": "base64", "params": {"body": body}, "pageurl": PAGE}
    bench.intake.allowed_hosts = ("-", "example.com")
    bench.drop("image.json", json.dumps(image))
    bench.run_until(lambda: not bench.incoming())

    assert bench.queue.tasks["image"].task.params == {"body": body}


@pytest.mark.parametrize(
    ("content", "word", "place"),
    [
        (b"", "empty", (1, 1)),
        (b"[]", "syntax", (1, 3)),
        (b'{"sitekey": "\xff"}', "syntax", (1, 14)),
        (b"\xef\xbb\xbf{}", "syntax", (1, 1)),
        (b'{"params":' * 5000, "syntax", (1, 321)),
        (b'{\n  "a": NaN}', "syntax", (2, 8)),
        (b'{\n  "a": 1,}', "syntax", (2, 10)),
        (b"{} {}", "syntax", (1, 4)),
        (b'[{"a": 1},\n {"a" 2}]', "syntax", (2, 7)),
    ],
)
def test_broken_json_is_rejected_with_its_place(bench, content, word, place):
    bench.drop("bad.json", content)

    told = expect_rejected(bench, "bad.json", word)

    assert (told["line"], told["column"]) == place
    assert told["hint"]
    assert bench.rejected()["bad.json"] == content


def test_no_part_of_a_broken_array_is_taken(bench):
    bench.drop("bad.json", f"[{TASK}, {TASK}, oops]")

    expect_rejected(bench, "bad.json", "syntax")

    assert bench.queue.offers == []


def test_a_bad_task_is_rejected_with_its_key(bench):
    bench.drop("bad.json", json.dumps(task(prioritty="low")))

    told = expect_rejected(bench, "bad.json", "task")

    assert (told["key"], told["hint"]) == ("prioritty", "did you mean 'priority'?")


def test_what_is_missing_is_explained(bench):
    bench.drop("bad.json", json.dumps({"id": "x", "sitekey": "k"}))

    told = expect_rejected(bench, "bad.json", "task")

    assert (told["key"], told["id"]) == ("pageurl", "x")
    assert '"pageurl": "https://' in told["hint"]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_batch_is_explained(bench, content):
    bench.drop("empty.jsonl", content)

    assert expect_rejected(bench, "empty.jsonl", "empty")["hint"] == "write one task a line"


def test_the_same_content_is_the_same_task_with_its_id_written_in(bench):
    bench.drop("a18.json", json.dumps(task()))
    bench.run_until(lambda: not bench.incoming())
    bench.drop("a18.json", json.dumps(task(id="a18")))
    bench.run_until(lambda: not bench.incoming())

    assert (list(bench.queue.tasks), bench.intake.duplicates) == (["a18"], 1)


def test_a_host_that_is_not_allowed(bench):
    bench.drop("bad.json", json.dumps(task(pageurl="https://elsewhere.test/")))

    assert expect_rejected(bench, "bad.json", "host")["key"] == "pageurl"


def test_allowed_hosts_can_change(bench):
    bench.intake.allowed_hosts = ("elsewhere.test",)
    bench.drop("good.json", json.dumps(task(pageurl="https://elsewhere.test/")))
    bench.run_until(lambda: not bench.incoming())

    assert list(bench.queue.tasks) == ["good"]


def test_an_unknown_suffix(bench):
    bench.drop("task.yaml", TASK)

    assert expect_rejected(bench, "task.yaml", "unknown_suffix")["error"] == "unknown suffix"


@pytest.mark.parametrize(
    "name", [b"new\nline.txt", b"\x01\xff\xfe.txt", b"n" * 255, b"n" * 250 + b".json", b"rm -rf *", b"\\"]
)
def test_any_bytes_may_be_a_name(bench, name):
    bench.drop(name, "{")
    bench.run_until(lambda: not bench.incoming())

    names = [os.fsencode(each) for each in bench.rejected()]
    assert len(names) == 2
    assert all(len(each) <= 255 for each in names)
    told = json.loads(next(content for each, content in bench.rejected().items() if each.endswith(".reason")))
    assert told["file"].isprintable()


@pytest.fixture
def nobodys():
    """A spool that belongs to another user; the intake starts in a process of that user."""
    with public_directory() as path:
        bench = Bench(path / "spool")
        for each in (bench.dirs.root, bench.dirs.incoming, bench.dirs.results, bench.dirs.rejected):
            os.chown(each, NOBODY, NOBODY)
        yield bench


@pytest.mark.root
def test_an_unreadable_file(nobodys):
    nobodys.drop("secret.json", TASK)
    os.chmod(nobodys.path("secret.json"), 0o000)

    def take():
        nobodys.intake.start()
        nobodys.run_until(lambda: nobodys.intake.rejected["unreadable"] == 1)

    as_user(NOBODY, NOBODY, take)
    assert set(nobodys.rejected()) == {"secret.json", "secret.json.reason"}


@pytest.mark.root
def test_a_strangers_directory_is_let_lie(nobodys):
    """To move it to another parent one would have to own it."""
    os.mkdir(nobodys.path("dir.json"))
    os.mkdir(nobodys.path("dir.json/full"))

    def take():
        nobodys.intake.start()
        nobodys.run_until(lambda: nobodys.intake.rejected["directory"] == 1)
        nobodys.turn_for(0.3)
        assert nobodys.intake.rejected["directory"] == 1
        assert nobodys.intake.down_reason == ""

    as_user(NOBODY, NOBODY, take)
    assert nobodys.rejected() == {}


@pytest.mark.root
def test_a_closed_directory_of_rejections_is_said_and_waited_for(nobodys):
    nobodys.drop("bad.json", "{")
    nobodys.dirs.rejected.chmod(0o500)

    def take():
        nobodys.intake.start()
        nobodys.run_until(lambda: "Permission denied" in nobodys.intake.down_reason)
        assert nobodys.incoming() == {"bad.json"}
        nobodys.dirs.rejected.chmod(0o700)
        nobodys.run_until(lambda: nobodys.intake.rejected["syntax"] == 1)
        assert nobodys.intake.down_reason == ""

    as_user(NOBODY, NOBODY, take)


@pytest.mark.root
def test_a_file_that_cannot_leave_is_said(nobodys):
    """incoming/ lost its owner's rights: the reason was written and the rename fails."""
    nobodys.drop("bad.json", "{")
    nobodys.dirs.incoming.chmod(0o500)

    def take():
        nobodys.intake.start()
        nobodys.run_until(lambda: "Permission denied" in nobodys.intake.down_reason)
        assert nobodys.rejected() == {}
        nobodys.dirs.incoming.chmod(0o700)
        nobodys.run_until(lambda: nobodys.intake.rejected["syntax"] == 1)

    as_user(NOBODY, NOBODY, take)


def test_a_taken_name_in_rejected_gets_a_number(bench):
    for content in ("{", "[", "{{"):
        bench.drop("bad.json", content)
        bench.run_until(lambda: not bench.incoming())

    found = bench.rejected()
    assert {name: content for name, content in found.items() if not name.endswith(".reason")} == {
        "bad.json": b"{",
        "bad.json.1": b"[",
        "bad.json.2": b"{{",
    }
    assert "bad.json.2.reason" in found


# --- batches with bad tasks


def test_bad_lines_alone_are_rejected(bench):
    bench.drop("mix.jsonl", f'{TASK}\n{{"a"\n{TASK}\n{{"sitekey": 1, "pageurl": "{PAGE}"}}\n')
    bench.run_until(lambda: not bench.incoming())

    assert set(bench.queue.tasks) == {"mix-1", "mix-3"}
    assert bench.rejected()["mix.jsonl"] == f'{{"a"\n{{"sitekey": 1, "pageurl": "{PAGE}"}}\n'.encode()
    told = reason(bench, "mix.jsonl")
    assert [(each["line"], each.get("column"), each.get("key")) for each in told["errors"]] == [
        (2, 5, None),
        (4, None, "sitekey"),
    ]
    assert told["error"] == told["errors"][0]["error"]
    assert told["line"] == 2


def test_bad_elements_alone_are_rejected(bench):
    bench.drop("mix.json", f'[{TASK}, 17,\n {TASK}, {{"x": "]"}}]')
    bench.run_until(lambda: not bench.incoming())

    assert set(bench.queue.tasks) == {"mix-1", "mix-3"}
    assert json.loads(bench.rejected()["mix.json"]) == [17, {"x": "]"}]
    assert [(each["item"], each["line"]) for each in reason(bench, "mix.json")["errors"]] == [(2, 1), (4, 2)]


def test_a_conflict_in_a_batch_is_rejected_alone(bench):
    lines = [task(id="a"), task(id="a", priority="low"), task(id="a")]
    bench.drop("mix.jsonl", "\n".join(map(json.dumps, lines)))
    bench.run_until(lambda: not bench.incoming())

    assert (bench.intake.accepted, bench.intake.duplicates) == (1, 1)
    assert bench.intake.rejected == {"conflict": 1}
    assert json.loads(bench.rejected()["mix.jsonl"]) == lines[1]


def test_a_batch_of_rubbish_is_given_up(bench):
    content = TASK + "\n" + "x\n" * 5000
    bench.drop("mix.jsonl", content)
    bench.run_until(lambda: not bench.incoming())

    assert bench.intake.rejected == {"syntax": 1000, "unread": 1}
    assert bench.rejected()["mix.jsonl"].decode() == "x\n" * 5000
    assert reason(bench, "mix.jsonl")["errors"][-1]["line"] == 1002


def test_a_record_too_large_for_the_journal_is_rejected(bench):
    bench.queue.fail = RecordTooLarge("record of 3 MB")
    bench.drop("one.json", TASK)

    expect_rejected(bench, "one.json", "too_large")


# --- what is durable, and when


def test_the_file_stays_until_the_commit(tmp_path):
    bench = Bench(tmp_path, Queue(auto=False))
    with closing(bench.intake):
        bench.intake.start()
        bench.drop("one.json", TASK)
        bench.run_until(lambda: bench.queue.callbacks != [])
        os.close(os.open(bench.path("one.json"), os.O_WRONLY))  # an event, and nothing has changed
        bench.turn_for(0.3)
        assert bench.incoming() == {"one.json"}
        assert len(bench.queue.offers) == 1
        assert bench.intake.waiting == 0

        bench.queue.commit()
        assert bench.incoming() == set()


def test_after_a_crash_before_the_removal_the_task_is_known(tmp_path):
    bench = Bench(tmp_path, Queue(auto=False))
    bench.drop("one.json", TASK)
    bench.drop("two.jsonl", f"{TASK}\n{TASK}")
    with closing(bench.intake):
        bench.intake.start()
        bench.run_until(lambda: len(bench.queue.callbacks) == 2)
    bench.queue.callbacks.clear()  # committed, and the process died there
    bench.queue.auto = True
    first, bench.intake = list(bench.queue.offers), bench.new_intake()
    with closing(bench.intake):
        bench.intake.start()
        bench.run_until(lambda: not bench.incoming())

    again = bench.queue.offers[len(first) :]
    assert sorted(offer.origin for offer in again) == sorted(offer.origin for offer in first)
    assert sorted(offer.candidate_ids for offer in again) == sorted(offer.candidate_ids for offer in first)
    assert (bench.intake.accepted, bench.intake.duplicates) == (0, 3)
    assert len(bench.queue.tasks) == 3


def test_a_rejection_repeated_after_a_crash_takes_the_same_place(tmp_path):
    bench = Bench(tmp_path, Queue(auto=False))
    bench.drop("mix.jsonl", f"{TASK}\nbad\n")
    with closing(bench.intake):
        bench.intake.start()
        bench.run_until(lambda: bench.queue.callbacks != [])
    bench.queue.callbacks.clear()  # the bad line is in rejected/, and the process died before the removal
    bench.queue.auto = True
    bench.intake = bench.new_intake()
    with closing(bench.intake):
        bench.intake.start()
        bench.run_until(lambda: not bench.incoming())

    assert set(bench.rejected()) == {"mix.jsonl", "mix.jsonl.reason"}


def test_the_same_content_dropped_again_is_another_drop(bench):
    bench.drop("one.json", TASK)
    bench.run_until(lambda: not bench.incoming())
    bench.drop("one.json", TASK)
    bench.run_until(lambda: not bench.incoming() and len(bench.queue.offers) == 2)

    assert bench.intake.accepted == 2
    assert len({offer.origin for offer in bench.queue.offers}) == 2


def test_a_newer_file_of_the_same_name_survives_the_commit(tmp_path):
    bench = Bench(tmp_path, Queue(auto=False))
    with closing(bench.intake):
        bench.intake.start()
        bench.drop("one.json", json.dumps(task(id="old")))
        bench.run_until(lambda: bench.queue.callbacks != [])
        removal = bench.queue.callbacks.pop()
        bench.drop("one.json", json.dumps(task(id="new")))
        removal()
        assert bench.incoming() == {"one.json"}

        bench.queue.auto = True
        bench.run_until(lambda: not bench.incoming())
    assert set(bench.queue.tasks) == {"old", "new"}


def test_removals_that_a_crash_cut_short_are_finished(tmp_path):
    bench = Bench(tmp_path)
    for name in ("mine", "other"):
        bench.drop(name, json.dumps(task(id=name)))
    inode = os.stat(bench.path("mine")).st_ino
    os.rename(bench.path("mine"), bench.path(f".gone-{inode}-mine.json"))
    os.rename(bench.path("other"), bench.path(f".gone-{inode}-other.json"))
    os.mkdir(bench.path(f".gone-{inode}-trap"))
    with closing(bench.intake):
        bench.intake.start()
        bench.run_until(lambda: "other" in bench.queue.tasks and not bench.intake.waiting)

    assert list(bench.queue.tasks) == ["other"]
    assert bench.incoming() == {f".gone-{inode}-trap"}


def test_what_the_sink_raises_goes_up_and_the_file_stays(bench):
    bench.queue.fail = JournalDown("no space")
    bench.drop("one.json", TASK)
    with pytest.raises(JournalDown):
        bench.run_until(lambda: False)
    assert bench.incoming() == {"one.json"}

    bench.queue.fail = None
    bench.run_until(lambda: not bench.incoming())
    assert list(bench.queue.tasks) == ["one"]


def test_a_file_that_changes_while_it_waits_for_room_is_read_anew(bench):
    bench.queue.capacity = 0
    path = Path(os.fsdecode(bench.drop("one.json", TASK)))
    bench.run_until(lambda: bench.intake._starved_until is not None)
    path.write_text(json.dumps([task(id="a"), task(id="b")]))
    bench.queue.capacity = 100
    bench.run_until(lambda: not bench.incoming())

    # The object was in hand already; the new content is another drop.
    assert set(bench.queue.tasks) == {"one", "a", "b"}


class _Swap(Queue):
    """Replaces a batch by another one of the same name in the middle of it."""

    def offer(self, offer):
        verdict = super().offer(offer)
        if verdict is Verdict.ACCEPTED and len(self.tasks) == 300:
            self.bench.drop("big.jsonl", json.dumps(task(id="fresh")))
        return verdict


def test_a_batch_that_is_replaced_midway_leaves_the_new_one_to_be_taken(tmp_path):
    queue = _Swap()
    queue.bench = bench = Bench(tmp_path, queue)
    bench.drop("big.jsonl", "\n".join(json.dumps(task(id=f"t{number}")) for number in range(2000)))
    with closing(bench.intake):
        bench.intake.start()
        bench.run_until(lambda: not bench.incoming())

    assert set(queue.tasks) == {"fresh", *(f"t{number}" for number in range(2000))}


# --- a file system that takes no write


class mounted:  # noqa: N801 - used as a function
    """A tmpfs at a path, as long as the block lasts."""

    def __init__(self, path: Path, options: str) -> None:
        self.path, self.options = path, options

    def __enter__(self):
        self.path.mkdir(exist_ok=True)
        assert os.system(f"mount -t tmpfs -o {self.options} captchad-test '{self.path}'") == 0

    def remount(self, options: str) -> None:
        assert os.system(f"mount -o remount,{options} '{self.path}'") == 0

    def __exit__(self, *_):
        assert os.system(f"umount -l '{self.path}'") == 0


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


@pytest.mark.root
def test_a_full_disk_loses_nothing(tmp_path):
    with mounted(tmp_path / "spool", "size=256k") as _:
        bench = Bench(tmp_path / "spool")
        bench.drop("mix.jsonl", f"{TASK}\nbad\n")
        bench.drop("bad.json", "{")
        bench.drop("good.json", TASK)
        fill = tmp_path / "spool" / "fill"
        with pytest.raises(OSError, match="No space"):
            fill_up(fill)
        # Held open, so that its removal frees nothing.
        with closing(bench.intake), (bench.dirs.incoming / "good.json").open("rb"):
            bench.intake.start()
            bench.run_until(lambda: {"good", "mix-1"} <= set(bench.queue.tasks) and bench.intake.down_reason != "")
            bench.turn_for(0.3)
            assert bench.incoming() == {"mix.jsonl", "bad.json"}
            assert bench.rejected() == {}
            assert "No space" in bench.intake.down_reason
            offers = len(bench.queue.offers)

            fill.unlink()
            bench.run_until(lambda: not bench.incoming())
            assert bench.intake.down_reason == ""
            assert bench.rejected()["mix.jsonl"] == b"bad\n"
            assert len(bench.queue.offers) == offers


@pytest.mark.root
def test_a_read_only_spool_is_tried_again(tmp_path):
    with mounted(tmp_path / "spool", "size=256k"):
        spool = mounted(tmp_path / "spool", "")
        bench = Bench(tmp_path / "spool")
        bench.drop("good.json", TASK)
        with closing(bench.intake):
            bench.intake.start()
            spool.remount("ro")
            bench.run_until(lambda: "good" in bench.queue.tasks and "Read-only" in bench.intake.down_reason)
            bench.turn_for(0.2)
            assert len(bench.queue.offers) == 1

            spool.remount("rw")
            bench.run_until(lambda: not bench.incoming())
            assert bench.intake.down_reason == ""


# --- at rest


def test_before_the_start_nothing_is_due(tmp_path):
    intake: Intake = Bench(tmp_path).intake

    assert intake.due() is None
    assert intake.fileno() is None
    intake.step(10)


def test_at_rest_only_the_scan_is_due(tmp_path):
    bench = Bench(tmp_path, scan_interval_s=3600.0)
    with closing(bench.intake):
        bench.intake.start()
        bench.run_until(bench.is_at_rest)
    assert bench.intake.due() is None
