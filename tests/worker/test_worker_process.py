"""Real workers: forked, on a real pipe, against a real server, ended in every way that they can end."""

import json
import os
import resource
import select
import signal
import threading
import time
from pathlib import Path

from captchad.model.states import Category
from captchad.provider.answers import Submitted
from captchad.provider.client import Fault
from captchad.worker import caller
from tests.worker.workerkit import KEY, LOG, NAME, PATIENCE_S, THREADS, Request, Rig, rig


def accept_all(request: Request) -> bool:
    """Take every submit, under the number of its task; hold every poll."""
    if request.path == "/in.php":
        request.answer(str(1000 + int(request.fields["task"])))
    return request.path == "/in.php"


def solve_all(request: Request) -> bool:
    """The same, and solve every captcha at once."""
    if request.path == "/res.php":
        request.answer(f"token of {request.fields['id']}")
    return request.path == "/res.php" or accept_all(request)


def not_ready(request: Request) -> bool:
    """Take every submit, solve nothing."""
    if request.path == "/res.php":
        request.answer("CAPCHA_NOT_READY", status=0)
    return request.path == "/res.php" or accept_all(request)


def submit_and_hold(worker: Rig, ns: range) -> None:
    """Have these submits begun and unanswered."""
    for n in ns:
        worker.submit(n)
    worker.until(lambda: len(worker.provider.held) == len(ns), "submits at the provider")


def threads(worker: Rig) -> int:
    return len(os.listdir(f"/proc/{worker.child.pid}/task"))


# The main job.


def test_a_captcha_is_submitted_confirmed_polled_and_solved(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = solve_all
        worker.submit(1, method="userrecaptcha")
        worker.until(lambda: worker.got("out"))
        worker.for_seconds(0.2)
        assert worker.provider.count("/res.php") == 0, "polled before the parent has confirmed the submit"
        assert worker.provider.seen[0].fields == {"task": "1", "method": "userrecaptcha", "key": KEY, "json": "1"}

        worker.tell("ack", n=1)
        worker.poll(1)
        worker.until(lambda: len(worker.got("out")) == 2)

        notes = [each for each in worker.messages if each.get("n") == 1]
        assert [each["m"] for each in notes] == ["begin", "out", "exec", "out"]
        assert notes[1] == {"m": "out", "n": 1, "o": "submitted", "cid": "1001"}
        assert notes[3]["o"] == "solved"
        assert notes[3]["token"] == "token of 1001"
        beat = worker.beat()
        assert (beat["phase"], beat["in_flight"], beat["completed"], beat["submitted"]) == ("idle", 0, 1, 1)


def test_the_begin_is_readable_before_anybody_knocks_at_the_provider(tmp_path):
    with rig(tmp_path) as worker:
        worker.beat()
        for n in range(1, 6):
            worker.submit(n)
            # The provider lets nobody in yet, so the knock is seen here before anything else happens.
            assert select.select([worker.provider], [], [], PATIENCE_S)[0]
            worker.messages += worker.channel.receive()
            assert worker.got("begin", n), "connected before its begin had left"
            worker.until(lambda: len(worker.provider.held) == 1)
            worker.provider.held.pop().answer(str(n))
            worker.until(lambda n=n: worker.got("out", n))


def test_a_refusal_and_a_garbled_answer_are_told_apart(tmp_path):
    with rig(tmp_path) as worker:
        submit_and_hold(worker, range(1, 4))
        by_task = {request.fields["task"]: request for request in worker.provider.held}
        by_task["1"].answer("ERROR_ZERO_BALANCE", status=0)
        by_task["2"].raw(b"<html>proxy error</html>")
        by_task["3"].raw(b"OK|77")
        worker.until(lambda: len(worker.got("out")) == 3)

        assert worker.outcomes() == {1: "refused", 2: "unknown", 3: "submitted"}
        (refused,) = worker.got("out", 1)
        assert (refused["code"], refused["category"]) == ("ERROR_ZERO_BALANCE", "budget")


def test_a_provider_that_nobody_configured_gets_nothing(tmp_path):
    with rig(tmp_path) as worker:
        worker.submit(1, provider="other")
        worker.until(lambda: worker.got("out"))
        assert worker.got("out") == [{"m": "out", "n": 1, "o": "not_sent", "reason": "provider"}]
        assert worker.got("begin") == []


# Polls.


def test_a_captcha_of_another_worker_is_polled_on_under_its_id(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = solve_all
        worker.poll(41, cid="2122988149")
        worker.until(lambda: worker.got("out"))

        assert worker.got("out")[0]["token"] == "token of 2122988149"
        assert worker.provider.count("/in.php") == 0


def test_polls_go_on_until_there_is_an_answer_and_say_that_all_is_well_now_and_then(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = not_ready
        begun = time.monotonic()
        worker.poll(1, every_s=0.01)
        worker.until(lambda: len(worker.got("done")) >= 10)
        worker.provider.reply = solve_all
        worker.until(lambda: worker.got("out"))

        assert len(worker.got("exec")) == len(worker.got("done")) + 1
        # Once a second. On a machine that needs a second for each poll that is with each.
        assert 1 <= len(worker.got("ok")) <= 1 + time.monotonic() - begun
        assert worker.got("fault") == []


def asked_about(worker) -> set[str]:
    """The captchas that a call has asked about, alone or with others."""
    fields = (request.fields for request in worker.provider.seen)
    return {cid for each in fields for cid in each.get("ids", each.get("id", "")).split(",") if cid}


def test_one_call_asks_about_many_and_only_what_is_ready_is_fetched(tmp_path):
    solved: set[str] = set()

    def reply(request: Request) -> bool:
        if "ids" in request.fields:
            asked = request.fields["ids"].split(",")
            request.raw("|".join("token" if cid in solved else "CAPCHA_NOT_READY" for cid in asked).encode())
            return True
        return solve_all(request) if request.fields["id"] in solved else not_ready(request)

    with rig(tmp_path) as worker:
        worker.configure(batch=True)
        worker.provider.reply = reply
        for n in range(1, 11):
            worker.poll(n, first_in_s=0.2, every_s=60.0)
        worker.until(lambda: len(worker.got("done")) >= 1)
        assert len(worker.provider.seen) < 10, "each asked for itself"
        # Whoever was not told of yet is solved at its first look, and has waited for nothing.
        worker.until(lambda: len(asked_about(worker)) == 10 and len(worker.got("exec")) == len(worker.got("done")))
        solved |= {"1003", "1007"}
        worker.poll(11, every_s=60.0)
        worker.until(lambda: len(worker.got("out")) == 2)

        assert {out["n"]: out["token"] for out in worker.got("out")} == {3: "token of 1003", 7: "token of 1007"}
        assert all(out["waited_s"] is not None for out in worker.got("out"))


def test_polls_keep_their_time_between_heartbeats(tmp_path):
    with rig(tmp_path) as worker:
        worker.configure(heartbeat_s=60.0)
        worker.provider.reply = not_ready
        worker.poll(1, every_s=0.01)
        # A loop that slept until its own next look at the calls would take half a second for each.
        worker.until(lambda: len(worker.got("done")) >= 100)


def test_a_fault_is_told_and_the_captcha_is_polled_again_later(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = lambda request: request.raw(b"", b"HTTP/1.1 502 Bad Gateway") or True
        worker.poll(1, every_s=0.02)
        worker.until(lambda: len(worker.got("fault")) >= 3)
        fault = worker.got("fault")[0]
        assert fault == {
            "m": "fault", "provider": NAME, "op": "poll", "code": "HTTP_5XX", "category": "transient", "n": 1,
        }  # fmt: skip
        worker.provider.reply = solve_all
        worker.until(lambda: worker.got("out"))
        assert worker.got("out")[0]["o"] == "solved"


def test_a_task_error_ends_the_polls(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = lambda request: request.answer("ERROR_CAPTCHA_UNSOLVABLE", status=0) or True
        worker.poll(1)
        worker.until(lambda: worker.got("out"))
        failed = worker.got("out")[0]
        assert (failed["o"], failed["code"], failed["category"]) == ("failed", "ERROR_CAPTCHA_UNSOLVABLE", "task")


def test_a_drop_under_way_discards_the_answer_and_nothing_more_is_said(tmp_path):
    with rig(tmp_path) as worker:
        worker.poll(1)
        worker.poll(2, first_in_s=60.0)
        worker.until(lambda: worker.provider.held)
        worker.tell("drop", n=1)
        worker.tell("drop", n=2)
        worker.until(lambda: worker.beat()["in_flight"] == 0)
        worker.provider.held.pop().answer("a token")
        worker.provider.reply = solve_all
        worker.poll(3)
        worker.until(lambda: worker.got("out", 3))

        assert [each["m"] for each in worker.messages if each.get("n") in (1, 2)] == ["exec"]


def test_five_hundred_captchas_need_few_threads_and_none_is_forgotten(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = not_ready
        for n in range(500):
            worker.poll(n, first_in_s=0.001 * n, every_s=2.0)
        most = 0

        def all_polled() -> bool:
            nonlocal most
            most = max(most, threads(worker))
            return len({each["n"] for each in worker.got("done")}) == 500

        worker.until(all_polled)
        assert worker.beat()["in_flight"] == 500
        assert most <= 64
        assert most <= THREADS + 1


def test_polls_are_made_in_due_order(tmp_path):
    with rig(tmp_path) as worker:
        held_first = THREADS
        for n in range(held_first):  # every thread is held up
            worker.poll(n)
        worker.until(lambda: len(worker.provider.held) == held_first)
        # The last one that is told is due first. All in one: what comes later is due later.
        timing = {"provider": NAME, "key": "k", "gaps_s": [], "every_s": 60.0}
        orders = [
            {"m": "poll", "n": n, "cid": str(1000 + n), "first_in_s": (n - 100) * 0.2, **timing}
            for n in (104, 103, 102, 101, 100)
        ]
        worker.channel.send(*orders)
        worker.for_seconds(1.0)  # all are due now
        for _ in range(5):  # and go one by one through the one free thread
            worker.provider.held.pop().answer("t")
            worker.until(lambda: len(worker.provider.held) == held_first)

        order = [int(request.fields["id"]) - 1000 for request in worker.provider.seen[held_first:]]
        assert order == [100, 101, 102, 103, 104]


def test_a_provider_whose_polls_hang_does_not_hold_up_those_of_another(tmp_path):
    with rig(tmp_path, configure=False) as worker:
        settings, url = {"submit_s": 20.0, "poll_timeout_s": 20.0}, worker.provider.url
        both = {"hangs": settings | {"keys": {"k": [url, "hang"]}}, NAME: settings | {"keys": {"k": [url, KEY]}}}
        worker.tell("config", providers=both, heartbeat_s=0.1, **LOG)
        worker.provider.reply = lambda request: request.fields["key"] == KEY and solve_all(request)
        for n in range(2 * THREADS):
            timing = {"first_in_s": 0.0, "gaps_s": [], "every_s": 1.0}
            worker.tell("poll", n=n, provider="hangs", key="k", cid=str(n), **timing)
        worker.until(lambda: len(worker.provider.held) == THREADS // 2)
        for n in range(100, 200):
            worker.poll(n)
        worker.until(lambda: len(worker.outcomes()) == 100)
        assert len(worker.provider.held) == THREADS // 2


# Taken back before it has begun.


def test_a_recall_gives_back_what_has_not_begun_and_nothing_else(tmp_path):
    with rig(tmp_path) as worker:
        submit_and_hold(worker, range(THREADS))
        worker.submit(100)
        worker.submit(101)
        worker.tell("recall")
        worker.until(lambda: len(worker.got("out")) == 2)
        assert {each["n"]: each["reason"] for each in worker.got("out")} == {100: "recall", 101: "recall"}

        worker.provider.reply = accept_all
        for request in worker.provider.held:
            accept_all(request)
        worker.submit(102)
        worker.until(lambda: len(worker.got("out")) == THREADS + 3)
        assert worker.provider.count("/in.php") == THREADS + 1
        assert worker.outcomes()[102] == "submitted"


def test_a_submit_is_not_begun_after_its_lease(tmp_path):
    with rig(tmp_path) as worker:
        submit_and_hold(worker, range(THREADS))
        worker.submit(100, lease_s=0.05)
        worker.submit(101, lease_s=60.0)
        worker.until(lambda: worker.got("out"))
        assert worker.got("out") == [{"m": "out", "n": 100, "o": "not_sent", "reason": "lease"}]
        assert worker.got("begin", 100) == []
        accept_all(worker.provider.held.pop())
        worker.until(lambda: worker.got("begin", 101))


def test_a_submit_that_comes_twice_is_sent_once(tmp_path):
    with rig(tmp_path) as worker:
        submit_and_hold(worker, range(1))
        worker.submit(0)
        accept_all(worker.provider.held.pop())
        worker.until(lambda: worker.got("out"))
        worker.submit(0)
        worker.submit(1)
        worker.until(lambda: worker.provider.held)
        assert [request.fields["task"] for request in worker.provider.seen] == ["0", "1"]


# The parent goes, or says go.


def test_an_orphan_writes_what_nobody_has_confirmed_and_ends(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = solve_all
        worker.submit(500)
        worker.submit(501)
        worker.until(lambda: len(worker.got("out")) == 2)
        worker.tell("ack", n=501)
        worker.beat()
        worker.provider.reply = lambda request: False
        worker.poll(600)
        worker.poll(601, first_in_s=60.0)
        worker.until(lambda: worker.provider.held)
        (poll,) = worker.provider.held
        worker.provider.held = []
        submit_and_hold(worker, range(THREADS))
        worker.submit(100)  # there is no thread for it
        worker.beat()

        worker.leave()
        worker.for_seconds(0.2)
        assert worker.exit is None, "did not wait for its submits"
        poll.answer("late but paid")
        for request in worker.provider.held:
            accept_all(request)
        worker.until(lambda: worker.exit is not None)

        assert worker.exit == 0
        said = {each["n"]: each["o"] for each in worker.last_words()}
        assert said.pop(600) == "solved"
        assert said.pop(500) == "submitted"
        assert said.pop(100, "not_sent") == "not_sent"
        assert said == dict.fromkeys(range(THREADS), "submitted")
        assert worker.provider.count("/in.php") == THREADS + 2


def test_an_orphan_s_submit_without_an_answer_is_unknown_at_its_deadline(tmp_path):
    with rig(tmp_path) as worker:
        worker.configure(submit_s=0.5)
        submit_and_hold(worker, range(2))
        worker.leave()
        worker.until(lambda: worker.exit is not None)

        assert worker.exit == 0
        assert {each["n"]: each["o"] for each in worker.last_words()} == {0: "unknown", 1: "unknown"}


class Deaf:
    """A client that keeps no deadline and cannot be aborted."""

    def __init__(self, name: str, url: str, key: str) -> None:
        self.url = url

    def submit(self, fields: dict[str, str], deadline: float) -> Submitted:
        threading.Event().wait()
        return Submitted("0")

    def poll(self, cid: str, deadline: float, *, priced: bool = False) -> Fault:
        threading.Event().wait()
        return Fault("", Category.TASK, "")

    def abort(self) -> None:
        """Too late."""

    def close(self) -> None:
        """Nothing to close."""


def test_an_orphan_does_not_wait_for_a_stuck_thread_for_ever(tmp_path):
    with rig(tmp_path, client=Deaf) as worker:
        worker.configure(submit_s=0.2)
        worker.submit(1)
        worker.poll(2)
        worker.until(lambda: worker.got("begin") and worker.got("exec"))
        worker.leave()
        worker.until(lambda: worker.exit is not None)

        assert worker.exit == 0
        (unknown,) = worker.last_words()
        assert (unknown["n"], unknown["o"]) == (1, "unknown")


def test_a_drained_worker_ends_when_all_is_confirmed_and_not_before(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = lambda request: request.path == "/res.php" and not_ready(request)
        worker.poll(200, every_s=0.02)
        worker.until(lambda: worker.got("done"))
        submit_and_hold(worker, range(THREADS))
        worker.submit(100)
        worker.tell("drain")
        worker.submit(101)
        worker.until(lambda: len(worker.got("out")) == 2)
        assert {each["n"]: each["reason"] for each in worker.got("out")} == {100: "drain", 101: "drain"}
        worker.until(lambda: len(worker.got("done")) == len(worker.got("exec")))
        polls = worker.provider.count("/res.php")

        for request in worker.provider.held:
            accept_all(request)
        worker.until(lambda: len(worker.got("out")) == THREADS + 2)
        for each in worker.got("out")[1:]:
            worker.tell("ack", n=each["n"])
        worker.for_seconds(0.3)
        assert worker.exit is None, "left with an outcome that nobody has confirmed"
        assert worker.beat()["phase"] == "drain"
        worker.tell("ack", n=worker.got("out")[0]["n"])
        worker.until(lambda: worker.exit is not None)

        assert worker.exit == 0
        assert worker.provider.count("/res.php") == polls, "went on polling"
        assert worker.last_words() == []


def test_an_idle_worker_drains_at_once(tmp_path):
    with rig(tmp_path) as worker:
        worker.tell("drain")
        worker.until(lambda: worker.exit is not None)
        assert worker.exit == 0


def test_a_poll_that_does_not_end_does_not_hold_up_a_drain(tmp_path):
    with rig(tmp_path) as worker:
        worker.poll(1)
        worker.until(lambda: worker.provider.held)
        worker.tell("drain")
        worker.until(lambda: worker.exit is not None)
        assert worker.exit == 0
        assert worker.got("fault") == [], "blamed the provider for an end of its own making"


# What must not hurt it.


def test_signals_do_not_end_it_and_one_shows_its_stacks(tmp_path):
    stacks = tmp_path / "stacks"
    with stacks.open("wb") as file, rig(tmp_path, stack_fd=file.fileno()) as worker:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGABRT, signal.SIGPIPE, signal.SIGUSR2):
            signal.pidfd_send_signal(worker.child.pidfd, number)
        worker.until(lambda: b"main.py" in stacks.read_bytes())
        worker.beat()
        assert worker.beat()["phase"] == "idle"
        assert worker.exit is None
        status = Path(f"/proc/{worker.child.pid}/status").read_text()
        assert "SigBlk:\t0000000000000000" in status
        assert Path(f"/proc/{worker.child.pid}/oom_score_adj").read_text() == "500\n"


def test_a_parent_that_does_not_read_holds_up_no_loop_and_gets_all_notes_later(tmp_path, monkeypatch):
    monkeypatch.setattr(caller, "BEGIN_S", 3.0)
    with rig(tmp_path) as worker:
        token = "x" * 100_000
        worker.provider.reply = lambda request: request.answer(token) or True
        worker.reading = False
        for n in range(40):
            worker.poll(n)
        worker.until(lambda: worker.provider.count("/res.php") == 40)
        worker.submit(100)
        worker.tell("drop", n=999)
        worker.for_seconds(5.0)  # longer than a begin waits for room, though it may begin to wait late
        assert worker.provider.count("/in.php") == 0, "sent although its begin had not left"

        worker.reading = True
        worker.until(lambda: len(worker.got("out")) == 41)
        assert {each["n"] for each in worker.got("out") if each["o"] == "solved"} == set(range(40))
        assert worker.got("out", 100)[0]["reason"] == "pipe"
        assert len(worker.got("beat")) > 15
        assert max(each["lag_s"] for each in worker.got("beat")) < 2.5, "the loop has waited for room"
        worker.provider.reply = accept_all
        worker.submit(101)
        worker.until(lambda: worker.got("out", 101))


def test_what_did_not_fit_into_the_pipe_follows_as_soon_as_there_is_room(tmp_path):
    with rig(tmp_path) as worker:
        worker.configure(heartbeat_s=60.0)
        worker.provider.reply = lambda request: request.answer("x" * 200_000) or True
        worker.reading = False
        for n in range(5):
            worker.poll(n)
        worker.until(lambda: worker.provider.count("/res.php") == 5)
        worker.for_seconds(0.3)
        worker.reading = True
        worker.until(lambda: len(worker.got("out")) == 5)


class Bomb(Deaf):
    """A client that throws what no client should throw, with the key in it."""

    def __init__(self, name: str, url: str, key: str) -> None:
        super().__init__(name, url, key)
        self.key = key

    def submit(self, fields: dict[str, str], deadline: float) -> Submitted:
        raise ArithmeticError(f"with {self.key} in it")

    def poll(self, cid: str, deadline: float, *, priced: bool = False) -> Fault:
        raise SystemExit(f"with {self.key} in it")


class Dud(Deaf):
    """A client that cannot even be made."""

    def __init__(self, name: str, url: str, key: str) -> None:
        raise ArithmeticError(f"with {key} in it")


def test_what_a_client_throws_becomes_an_outcome_and_shows_no_key(tmp_path, capfd):
    with rig(tmp_path, client=Bomb) as worker:
        worker.submit(1)
        worker.poll(2)
        worker.until(lambda: worker.got("out") and worker.got("fault"))
        assert worker.got("out") == [{"m": "out", "n": 1, "o": "unknown", "reason": "exception: ArithmeticError"}]
        assert worker.got("fault")[0]["code"] == "INTERNAL"
        assert worker.got("done")
        worker.beat()
    said = capfd.readouterr().err
    assert "ArithmeticError: with *** in it" in said
    assert "SystemExit" in said
    assert KEY not in said


def test_a_client_that_cannot_be_made_has_sent_nothing(tmp_path, capfd):
    with rig(tmp_path, client=Dud) as worker:
        worker.submit(1)
        worker.until(lambda: worker.got("out"))
        assert worker.got("out")[0] == {"m": "out", "n": 1, "o": "not_sent", "reason": "exception: ArithmeticError"}
        assert worker.got("begin") == []
    assert KEY not in capfd.readouterr().err


def test_a_fault_of_the_loop_s_own_ends_the_process_with_a_word(tmp_path, capfd):
    with rig(tmp_path) as worker:
        worker.tell("ack")
        worker.until(lambda: worker.exit is not None)
        assert worker.exit == 70
        assert not worker.report().ended
    assert "KeyError: 'n'" in capfd.readouterr().err


class Sleeper(Deaf):
    """A client that keeps no deadline but can be woken."""

    def __init__(self, name: str, url: str, key: str) -> None:
        super().__init__(name, url, key)
        self.event = threading.Event()

    def poll(self, cid: str, deadline: float, *, priced: bool = False) -> Fault:
        self.event.wait()
        return Fault("NETWORK", Category.TRANSIENT, "aborted")

    def abort(self) -> None:
        self.event.set()


def test_a_call_past_its_deadline_is_aborted_and_its_client_not_used_again(tmp_path):
    with rig(tmp_path, client=Sleeper) as worker:
        worker.configure(poll_s=0.2)
        worker.poll(1)
        worker.until(lambda: len(worker.got("fault")) >= 2)  # the second from a new client, or it would come at once
        first, second, *_ = (i for i, each in enumerate(worker.messages) if each["m"] == "fault")
        assert sum(each["m"] == "beat" for each in worker.messages[first:second]) >= 1
        oldest = max(each["oldest_s"] for each in worker.got("beat"))
        assert oldest > 0.0


def test_each_captcha_is_polled_with_the_key_that_it_was_submitted_with(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = not_ready
        worker.poll(1, every_s=0.05)
        worker.until(lambda: worker.got("done"))
        worker.configure(k=KEY, new="another")
        worker.poll(2, key="new", every_s=0.05)
        worker.until(lambda: len({request.fields["id"] for request in worker.provider.seen}) == 2)
        worker.provider.reply = solve_all
        worker.until(lambda: len(worker.got("out")) == 2)
        used = {(request.fields["id"], request.fields["key"]) for request in worker.provider.seen}
        assert used == {("1001", KEY), ("1002", "another")}


def test_each_captcha_is_polled_at_the_address_that_it_was_submitted_to(tmp_path):
    with rig(tmp_path, configure=False) as worker:
        worker.provider.reply = not_ready
        url = worker.provider.url
        settings = {"keys": {"k": [url, KEY], "moved": [f"{url}/v2", KEY]}, "submit_s": 20.0, "poll_timeout_s": 20.0}
        worker.tell("config", providers={NAME: settings}, heartbeat_s=0.1, **LOG)
        worker.poll(1)
        worker.poll(2, key="moved")
        worker.until(lambda: len({request.fields["id"] for request in worker.provider.seen}) == 2)
        used = {(request.fields["id"], request.path) for request in worker.provider.seen}
        assert used == {("1001", "/res.php"), ("1002", "/v2/res.php")}


def test_the_connection_of_a_key_that_is_gone_is_closed(tmp_path):
    with rig(tmp_path, threads=1) as worker:
        worker.provider.reply = solve_all
        worker.poll(1)
        worker.until(lambda: worker.got("out", 1))
        assert worker.provider.open == 1
        worker.configure(new="another")
        worker.poll(2, key="new")
        worker.until(lambda: worker.got("out", 2) and worker.provider.open == 1)
        assert worker.provider.connections == 2


def test_nothing_is_sent_under_a_key_that_is_not_there(tmp_path):
    with rig(tmp_path) as worker:
        worker.configure(new="another")
        worker.submit(1)
        worker.poll(2)
        worker.until(lambda: worker.got("out") and worker.got("fault"))
        assert worker.got("out")[0]["reason"] == "provider"
        assert worker.got("fault")[0]["code"] == "NO_PROVIDER"
        assert worker.provider.seen == []


def test_a_provider_that_left_the_configuration_is_waited_for(tmp_path):
    with rig(tmp_path) as worker:
        worker.tell("config", providers={}, heartbeat_s=0.1, **LOG)
        worker.poll(1, every_s=0.02)
        worker.until(lambda: worker.got("fault"))
        assert worker.got("fault")[0]["code"] == "NO_PROVIDER"
        worker.provider.reply = solve_all
        worker.configure()
        worker.until(lambda: worker.got("out"))


def test_an_idle_worker_wakes_once_a_heartbeat(tmp_path):
    def switches() -> int:
        tasks = Path(f"/proc/{worker.child.pid}/task").glob("*/status")
        return sum(int(task.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0]) for task in tasks)

    with rig(tmp_path) as worker:
        worker.provider.reply = solve_all
        worker.submit(1)  # so that there are threads that have parked
        worker.poll(2)
        worker.until(lambda: len(worker.got("out")) == 2)
        for n in (1, 2):
            worker.tell("ack", n=n)
        worker.beat()
        worker.beat()
        begun, before, beats = time.monotonic(), switches(), len(worker.got("beat"))
        worker.until(lambda: len(worker.got("beat")) >= beats + 10)
        woken = switches() - before
        # By the time, not by the beats: more than one may come at once to a test that was held up.
        assert woken <= 3 + (time.monotonic() - begun) / 0.1


def test_an_unknown_message_is_told_and_ignored(tmp_path, capfd):
    with rig(tmp_path) as worker:
        worker.tell("dance")
        worker.beat()
        worker.beat()
        assert capfd.readouterr().err.endswith("Z WARNING worker 3-7: a message of an unknown kind: 'dance'\n")


def test_a_configuration_says_how_it_is_to_log(tmp_path, capfd):
    with rig(tmp_path) as worker:
        config = {"providers": {}, "heartbeat_s": 0.1}
        worker.tell("config", **config, log_level="warning", log_format="json")
        worker.tell("sing")
        worker.tell("config", **config, log_level="error", log_format="json")
        worker.tell("dance")
        worker.beat()
        worker.beat()
    said = json.loads(capfd.readouterr().err)
    assert (said["worker"], said["message"]) == ("3-7", "worker 3-7: a message of an unknown kind: 'sing'")


def test_the_first_beat_comes_before_anything_is_read(tmp_path):
    start = time.monotonic()
    with rig(tmp_path, configure=False) as worker:
        beat = worker.got("beat")[0]
        assert beat == {
            "m": "beat", "phase": "idle", "in_flight": 0, "submits": 0, "oldest_s": 0.0, "lag_s": beat["lag_s"],
            "calls": 0, "beyond_s": None, "oldest_beyond_s": None,
            "completed": 0, "polls": 0, "submitted": 0, "starved": 0, "rss": beat["rss"], "private": 0,
        }  # fmt: skip
        assert beat["rss"] > 1 << 20
        assert worker.side.exists()
        assert threads(worker) == 1
    assert time.monotonic() - start < PATIENCE_S


# What the heartbeat says besides, and what the system may refuse.


def test_as_many_calls_at_once_as_it_has_threads(tmp_path):
    with rig(tmp_path, threads=3) as worker:
        for n in range(6):
            worker.submit(n)
            worker.poll(100 + n, every_s=60.0)
        worker.until(lambda: len(worker.provider.held) == 6)
        worker.for_seconds(0.3)
        paths = sorted(request.path for request in worker.provider.held)
        assert paths == ["/in.php"] * 3 + ["/res.php"] * 3
        beat = worker.beat()
        assert (beat["calls"], beat["submits"]) == (6, 6)
        assert beat["beyond_s"] < 0.0, "within their time-outs"
        assert beat["oldest_beyond_s"] < 0.0


def test_a_thread_that_does_not_come_back_shows_in_the_beat(tmp_path):
    with rig(tmp_path, client=Deaf) as worker:
        worker.configure(submit_s=0.2, poll_s=60.0)
        worker.submit(1)
        worker.until(lambda: (worker.beat()["oldest_beyond_s"] or 0.0) > 0.5)
        assert worker.beat()["beyond_s"] > 0.5, "its only call"
        worker.poll(2)
        worker.until(lambda: worker.beat()["calls"] == 2)
        beat = worker.beat()
        assert beat["beyond_s"] < 0.0 < beat["oldest_beyond_s"], "the other one goes on"


def test_private_memory_is_looked_at_when_somebody_asks(tmp_path):
    with rig(tmp_path) as worker:
        assert worker.beat()["private"] == 0
        settings = {"keys": {"k": [worker.provider.url, KEY]}, "submit_s": 20.0, "poll_timeout_s": 20.0}
        worker.tell("config", providers={NAME: settings}, heartbeat_s=0.1, private_every_s=0.01, **LOG)
        worker.until(lambda: worker.beat()["private"] > 0)
        beat = worker.beat()
        assert beat["private"] <= beat["rss"]


def test_want_of_descriptors_is_counted_and_no_provider_is_blamed(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = solve_all
        worker.beat()
        used = {int(path.name) for path in Path(f"/proc/{worker.child.pid}/fd").iterdir()}
        hole = next(fd for fd in range(max(used) + 2) if fd not in used)
        pid, which = worker.child.pid, resource.RLIMIT_NOFILE
        before = resource.prlimit(pid, which)
        resource.prlimit(pid, which, (hole, before[1]))
        worker.submit(1)
        worker.poll(2, every_s=0.05)
        worker.until(lambda: worker.got("out") and len(worker.got("fault")) >= 2)

        assert worker.got("out") == [
            {"m": "out", "n": 1, "o": "not_sent", "reason": "connect: out of resources here: too many open files"}
        ]
        assert {(each["code"], each["category"]) for each in worker.got("fault")} == {("INTERNAL", "transient")}
        assert worker.provider.seen == []
        assert worker.beat()["starved"] >= 3

        resource.prlimit(pid, which, before)
        worker.until(lambda: worker.got("out", 2))
        starved = worker.beat()["starved"]
        worker.submit(3)
        worker.until(lambda: worker.got("out", 3))
        assert worker.outcomes()[3] == "submitted"
        assert worker.beat()["starved"] == starved
