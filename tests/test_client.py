"""The client against the spool's real files, with the real intake and results on the other side."""

import json
import os
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from captchad.client import Client, Rejected
from captchad.model.clock import SystemClock
from captchad.model.errors import NeedsOperator, SpoolDown, TaskError
from captchad.spool.results import Results
from tests.spool.support import Bench, as_user, public_directory, task


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "spool")
    with closing(made.intake):
        made.intake.start()
        yield made


@pytest.fixture
def client(bench):
    return Client(bench.dirs.root)


def finish(bench, task_id, **more):
    results = Results(bench.dirs, SystemClock())
    results.prepare(task_id, {"id": task_id, "status": "solved", **more})
    results.publish([task_id])


@contextmanager
def soon(function, *arguments):
    """Run it in another thread once the block is under way, and to its end."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)


# --- submit


def test_what_is_submitted_is_taken(bench, client):
    task_id = client.submit(task(params={"invisible": 1}))
    bench.run_until(lambda: not bench.incoming())

    assert list(bench.queue.tasks) == [task_id]
    offer = bench.queue.offers[0]
    assert (offer.explicit, offer.task.params, offer.source) == (True, {"invisible": "1"}, f"{task_id}.json")


def test_an_id_of_ones_own_is_kept(bench, client):
    assert client.submit(task(id="order-17")) == "order-17"
    assert bench.incoming() == {"order-17.json"}


def test_the_daemons_group_can_read_it(bench, client):
    old = os.umask(0o077)
    try:
        client.submit(task(id="a"))
    finally:
        os.umask(old)

    status = (bench.dirs.incoming / "a.json").stat()
    assert status.st_mode & 0o777 == 0o640
    assert status.st_gid == bench.dirs.incoming.stat().st_gid


def test_a_bad_task_is_not_written(bench, client):
    with pytest.raises(TaskError) as caught:
        client.submit(task(prioritty="low"))
    assert caught.value.key == "prioritty"
    with pytest.raises(TaskError, match="at most"):
        client.submit(task(params={str(number): "x" * 1_000_000 for number in range(3)}))

    assert bench.incoming() == set()


def test_threads_may_share_a_client(bench, client):
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda number: client.submit(task(id=f"t{number % 10}")), range(80)))
    bench.run_until(lambda: not bench.incoming())

    assert set(bench.queue.tasks) == set(ids)
    assert bench.rejected() == {}


def test_without_a_spool(tmp_path):
    client = Client(tmp_path / "nowhere")

    with pytest.raises(NeedsOperator, match="not there"):
        client.submit(task())
    assert client.result("a") is None


def test_a_spool_that_takes_no_write(bench, client):
    """A limit on file sizes cuts the write in the middle, as a full disk does."""
    child = os.fork()
    if child == 0:
        try:
            cut_short(client)
            os._exit(0)
        finally:
            os._exit(1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bench.incoming() == set()


def cut_short(client):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    with pytest.raises(SpoolDown):
        client.submit(task())


@pytest.mark.root
def test_a_submitter_who_may_not_list_the_spool():
    """Another user of the group: incoming/ can be written and not listed; outside the group it is closed."""
    user, group = 61_234, 61_235
    with public_directory() as path:
        bench = Bench(path / "spool")
        for each in (bench.dirs.incoming, bench.dirs.results, bench.dirs.rejected):
            mode = each.stat().st_mode
            os.chown(each, -1, group)
            each.chmod(mode)  # a change of the group may take the set-group-id bit away
        client = Client(bench.dirs.root)

        as_user(user, group, lambda: client.submit(task(id="a")))
        as_user(user, user, lambda: expect_closed(client))

        assert bench.incoming() == {"a.json"}
        assert (bench.dirs.incoming / "a.json").stat().st_gid == group


def expect_closed(client):
    with pytest.raises(NeedsOperator, match="closed to this user"):
        client.submit(task(id="b"))


# --- result, wait


def test_a_result_that_is_there(bench, client):
    assert client.result("a") is None
    finish(bench, "a", token="t")

    assert client.result("a") == {"id": "a", "status": "solved", "token": "t"}
    assert client.wait("a", timeout=0)["token"] == "t"


def test_waiting_for_one_that_comes(bench, client):
    with soon(finish, bench, "a"):
        assert client.wait("a", timeout=20)["status"] == "solved"


def test_waiting_sees_it_by_the_event(bench, client, monkeypatch):
    """With a look an hour only, it is the event that brings the result."""
    monkeypatch.setattr("captchad.client._POLL_S", 3600.0)
    waiting = threading.Thread(target=client.wait, args=("a", 60))
    waiting.start()
    finish(bench, "other")
    finish(bench, "a")
    waiting.join(30)

    assert not waiting.is_alive()


def test_waiting_works_without_inotify(bench, client, monkeypatch):
    monkeypatch.setattr("captchad.client.open_watch", lambda path: None)
    monkeypatch.setattr("captchad.client._POLL_S", 0.01)
    with soon(finish, bench, "a"):
        assert client.wait("a", timeout=20)["status"] == "solved"


def test_waiting_ends(client):
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="a: no result within"):
        client.wait("a", timeout=0.05)
    assert time.monotonic() - begin >= 0.05


@pytest.mark.parametrize("task_id", ["", "../a", "a/b"])
def test_what_is_no_id(client, task_id):
    with pytest.raises(TaskError):
        client.result(task_id)


# --- rejections


def test_a_rejection_is_raised_with_its_reason(bench, client):
    task_id = client.submit(task(pageurl="https://elsewhere.test/"))
    bench.run_until(lambda: not bench.incoming())

    with pytest.raises(Rejected, match="not allowed") as caught:
        client.wait(task_id, timeout=20)
    assert (caught.value.key, caught.value.reason["reason"]) == ("pageurl", "host")
    assert "policy.allowed_hosts" in caught.value.hint


def test_an_old_rejection_is_no_answer_to_a_new_try(bench, client):
    client.submit(task(id="a", pageurl="https://elsewhere.test/"))
    bench.run_until(lambda: not bench.incoming())
    with pytest.raises(Rejected):
        client.result("a")

    client.submit(task(id="a"))
    assert client.result("a") is None
    bench.run_until(lambda: not bench.incoming())
    finish(bench, "a")
    assert client.wait("a", timeout=20)["status"] == "solved"

    (bench.dirs.results / "a.json").unlink()
    client.submit(task(id="a", pageurl="https://third.test/"))
    bench.run_until(lambda: not bench.incoming())
    with pytest.raises(Rejected, match="third"):
        client.result("a")


def test_a_conflict_does_not_hand_out_the_token_of_another_task(bench, client):
    client.submit(task(id="a"))
    bench.run_until(lambda: not bench.incoming())
    finish(bench, "a", token="first")
    assert client.wait("a", timeout=20)["token"] == "first"

    later = Client(bench.dirs.root)
    later.submit(task(id="a", sitekey="other"))
    assert client.result("a") is None  # nobody has looked at it yet
    assert later.waits("a")
    bench.run_until(lambda: not bench.incoming())
    for each in (client, later, Client(bench.dirs.root)):
        with pytest.raises(Rejected, match="other content") as caught:
            each.wait("a", timeout=20)
        assert caught.value.reason["reason"] == "conflict"
    assert next(client.as_completed(["a"], timeout=20))["status"] == "rejected"


def test_the_same_content_again_has_the_same_answer(bench, client):
    client.submit(task(id="a"))
    bench.run_until(lambda: not bench.incoming())
    finish(bench, "a", token="first")

    client.submit(task(id="a", submitted_at=1))
    assert client.result("a") is None
    bench.run_until(lambda: not bench.incoming())
    assert client.wait("a", timeout=20)["token"] == "first"


def test_of_a_rejection_and_a_result_the_newer_one_counts(bench, client):
    bench.drop("a.json", "nonsense")
    bench.run_until(lambda: not bench.incoming())
    finish(bench, "a", token="t")
    reason, result = bench.dirs.rejected / "a.json.reason", bench.dirs.results / "a.json"

    os.utime(reason, ns=(10, 2_000_000_000))
    os.utime(result, ns=(10, 2_000_000_001))
    assert client.result("a")["token"] == "t"
    for newer_or_equal_ns in (2_000_000_002, 2_000_000_001):
        os.utime(reason, ns=(10, newer_or_equal_ns))
        os.utime(bench.dirs.rejected)  # only names change a directory's time, so this stands for a new one
        with pytest.raises(Rejected, match="neither"):
            client.result("a")


def test_a_numbered_rejection_is_seen_without_those_before_it(bench, client):
    (bench.dirs.rejected / "a.json").write_text("somebody s copy")
    bench.drop("a.json", "nonsense")
    bench.run_until(lambda: not bench.incoming())

    assert set(bench.rejected()) == {"a.json", "a.json.1", "a.json.1.reason"}
    with pytest.raises(Rejected, match="neither"):
        client.result("a")


def test_a_rejected_task_of_a_batch_is_found_by_its_id(bench, client):
    lines = [task(id="good"), task(id="bad", priority="hi"), task(priority="hi"), task(id="worse", sitekey=3)]
    bench.drop("batch.jsonl", "\n".join(map(json.dumps, lines)))
    bench.run_until(lambda: not bench.incoming())
    finish(bench, "good")

    found = {each["id"]: each for each in client.as_completed(["good", "bad", "worse", "batch-3"], timeout=20)}
    assert found["good"]["status"] == "solved"
    assert {name: found[name]["reason"]["item"] for name in ("bad", "batch-3", "worse")} == {
        "bad": 2,
        "batch-3": 3,
        "worse": 4,
    }


# --- as_completed


def test_results_come_as_they_are_ready(bench, client):
    ids = [client.submit(task(id=name)) for name in ("a", "b", "c")]
    bench.run_until(lambda: not bench.incoming())
    client.submit(task(id="bad", pageurl="https://elsewhere.test/"))
    finish(bench, "b")
    completed = client.as_completed([*ids, "bad", "a"], timeout=20)

    assert next(completed)["id"] == "b"
    finish(bench, "c")
    assert next(completed)["id"] == "c"
    bench.run_until(lambda: bench.intake.rejected["host"] == 1)
    rejected = next(completed)
    assert (rejected["id"], rejected["status"], rejected["reason"]["key"]) == ("bad", "rejected", "pageurl")
    finish(bench, "a")
    assert [found["id"] for found in completed] == ["a"]


def test_not_all_in_time(bench, client):
    finish(bench, "a")
    completed = client.as_completed(["a", "b"], timeout=0.05)

    assert next(completed)["id"] == "a"
    with pytest.raises(TimeoutError, match="1 tasks"):
        next(completed)


def test_results_come_by_the_event(bench, client, monkeypatch):
    """With a look an hour only, it is the event that brings the next one."""
    monkeypatch.setattr("captchad.client._POLL_S", 3600.0)
    finish(bench, "a")
    completed = client.as_completed(["a", "b"], timeout=60)
    assert next(completed)["id"] == "a"
    found = []
    waiting = threading.Thread(target=lambda: found.extend(completed))
    waiting.start()
    finish(bench, "b")
    waiting.join(30)

    assert [result["id"] for result in found] == ["b"]


def test_results_come_without_inotify(bench, client, monkeypatch):
    monkeypatch.setattr("captchad.client.open_watch", lambda path: None)
    monkeypatch.setattr("captchad.client._POLL_S", 0.01)
    finish(bench, "a")
    completed = client.as_completed(["a", "b"], timeout=20)
    assert next(completed)["id"] == "a"

    with soon(finish, bench, "b"):
        assert [result["id"] for result in completed] == ["b"]


def test_many_results_at_once(bench, client):
    """More events than one read takes, in any order, and none of them lost."""
    ids = [f"t{number}" for number in range(300)]

    def finish_all():
        for task_id in reversed(ids):
            path = Path(bench.dirs.results / f".{task_id}.tmp")
            path.write_text(json.dumps({"id": task_id}))
            path.rename(bench.dirs.results / f"{task_id}.json")

    with soon(finish_all):
        found = [result["id"] for result in client.as_completed(ids, timeout=20)]

    assert sorted(found) == sorted(ids)
