"""The desk: what may begin, what is kept, and what is said about it. No thread, no pipe, no clock but a number."""

import pytest

from captchad.model.states import Category
from captchad.provider.answers import Failed, Pending, Solved
from captchad.provider.client import Fault
from captchad.worker.desk import OK_EVERY_S, Desk, Order, Poll, Submit

FAULT = Fault("HTTP_5XX", Category.TRANSIENT, "")
SUBMITTED = {"o": "submitted", "cid": "7"}


@pytest.fixture
def desk() -> Desk:
    return Desk()


def order(desk: Desk, n: int, *, expires: float = 100.0) -> list[dict]:
    return desk.order(Order(n, "p", "k", {}, expires))


def take_submit(desk: Desk, n: int) -> Submit:
    order(desk, n)
    submit = desk.take_submit(0.0)
    assert submit is not None
    assert submit.order.n == n
    return submit


def take_poll(desk: Desk, n: int, now: float = 0.0, every_s: float = 5.0) -> Poll:
    desk.watch(n, "p", "k", str(n), first_in_s=0.0, every_s=every_s, now=now)
    desk.ripen(now)
    poll = desk.take_poll(now)
    assert poll is not None
    assert poll.watched.n == n
    return poll


def test_a_submit_begins_once_it_is_asked_and_ends_in_its_outcome(desk):
    submit = take_submit(desk, 1)
    assert desk.refusal(submit, 1.0) == ""
    assert not submit.begun
    assert desk.begin(submit, 1.0) == ""
    assert submit.begun

    assert desk.settle(submit, SUBMITTED) == [{"m": "out", "n": 1, **SUBMITTED}]
    assert not desk.quiet
    desk.ack(1)
    assert desk.quiet
    assert desk.beat(2.0, 0.0)["submitted"] == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda desk: desk.recall("recall"), "recall"),
        (lambda desk: desk.stop("drain"), "drain"),
        (lambda desk: desk.last_words("gone"), "closed"),
        (lambda desk: desk.recall("recall") + desk.stop("drain"), "recall"),
    ],
    ids=["recall", "drain", "closed", "the first counts"],
)
def test_a_submit_in_a_thread_s_hands_does_not_begin_once_it_is_taken_back(desk, how, reason):
    submit = take_submit(desk, 1)
    begun = take_submit(desk, 2)
    desk.begin(begun, 0.0)

    assert all(
        each["m"] == "out" or each["o"] == "unknown" for each in how(desk) if isinstance(each, dict) and "m" in each
    )

    assert desk.begin(submit, 0.0) == reason
    assert not submit.begun
    assert begun.begun


def test_a_lease_that_ends_while_the_note_waits_for_room_counts(desk):
    submit = take_submit(desk, 1)
    assert desk.refusal(submit, 99.9) == ""
    assert desk.begin(submit, 100.0) == "lease"


def test_orders_whose_lease_has_ended_are_given_back_alone(desk):
    order(desk, 1, expires=1.0)
    order(desk, 2, expires=9.0)
    assert [each["n"] for each in desk.expire(1.0)] == [1]
    assert desk.expire(1.0) == []
    assert desk.orders == 1


def test_after_a_stop_nothing_new_is_taken(desk):
    desk.watch(5, "p", "k", "5", first_in_s=0.0, every_s=1.0, now=0.0)
    assert [each["reason"] for each in desk.stop("drain")] == []
    assert order(desk, 1) == [{"m": "out", "n": 1, "o": "not_sent", "reason": "drain"}]
    desk.watch(6, "p", "k", "6", first_in_s=0.0, every_s=1.0, now=0.0)
    assert desk.ripen(9.0) == 0
    assert desk.next_due() is None


def test_the_last_words_name_all_that_is_not_confirmed(desk):
    lost = take_submit(desk, 1)
    desk.begin(lost, 0.0)
    take_submit(desk, 2)  # never begins
    done = take_submit(desk, 3)
    desk.begin(done, 0.0)
    desk.settle(done, SUBMITTED)
    acked = take_submit(desk, 4)
    desk.settle(acked, SUBMITTED)
    desk.ack(4)
    order(desk, 5)

    said = {each["n"]: each["o"] for each in desk.last_words("orphaned")}

    assert said == {1: "unknown", 3: "submitted"}


def test_an_answer_ends_the_polls_and_is_kept(desk):
    messages = desk.end_poll(take_poll(desk, 1), Solved("tok", {"a": 1}, {"ip": "x"}), 1.0)
    assert messages == [{
        "m": "out", "n": 1, "o": "solved", "token": "tok", "answer": {"a": 1}, "extra": {"ip": "x"},
        "waited_s": None,
    }]  # fmt: skip
    messages = desk.end_poll(take_poll(desk, 2), Failed("E", Category.TASK, "why"), 1.0)
    assert messages == [{"m": "out", "n": 2, "o": "failed", "code": "E", "category": "task", "text": "why"}]
    assert desk.beat(1.0, 0.0)["completed"] == 2
    assert desk.next_due() is None

    # A timing that crossed the answer on its way.
    desk.watch(1, "p", "k", "1", first_in_s=0.0, every_s=1.0, now=1.0)
    assert desk.next_due() is None


def test_an_answer_says_how_long_ago_it_was_not_ready(desk):
    desk.end_poll(take_poll(desk, 1, now=10.0, every_s=5.0), Pending(), 10.0)
    desk.ripen(16.0)
    (said,) = desk.end_poll(desk.take_poll(16.0), Solved("tok"), 16.25)
    assert said["waited_s"] == 6.25


@pytest.mark.parametrize("answer", [Pending(), FAULT, Solved("t"), Failed("E", Category.TASK)])
def test_of_a_dropped_captcha_nothing_is_said(desk, answer):
    poll = take_poll(desk, 1)
    desk.drop(1)
    assert desk.end_poll(poll, answer, 1.0) == []
    assert desk.quiet
    assert desk.next_due() is None


def test_a_fault_is_told_but_not_by_a_worker_that_stops(desk):
    said = desk.end_poll(take_poll(desk, 1), FAULT, 1.0)
    assert [each["m"] for each in said] == ["fault", "done"]
    poll = take_poll(desk, 2)
    desk.stop("drain")
    assert desk.end_poll(poll, FAULT, 1.0) == [{"m": "done", "n": 2}]
    assert desk.next_due() is None


def test_all_is_well_is_said_once_a_second_for_each_provider(desk):
    desk.watch(9, "other", "k", "9", first_in_s=0.0, every_s=50.0, now=0.0)
    said = []
    for now in (0.0, 0.1, OK_EVERY_S - 0.01, OK_EVERY_S, OK_EVERY_S + 0.1):
        desk.watch(1, "p", "k", "1", first_in_s=0.0, every_s=50.0, now=now)
        desk.ripen(now)
        while (poll := desk.take_poll(now)) is not None:
            said += [(now, each["provider"]) for each in desk.end_poll(poll, Pending(), now) if each["m"] == "ok"]
    assert sorted(said) == [(0.0, "other"), (0.0, "p"), (OK_EVERY_S, "p")]


def test_the_beat_counts(desk):
    order(desk, 1)
    submit = desk.take_submit(3.0)
    order(desk, 2)
    desk.watch(3, "p", "k", "3", first_in_s=9.0, every_s=1.0, now=0.0)
    take_poll(desk, 4, now=4.0)

    beat = desk.beat(5.0, 0.25)

    assert beat == {
        "m": "beat", "phase": "working", "in_flight": 4, "submits": 2, "oldest_s": 2.0, "lag_s": 0.25,
        "calls": 2, "beyond_s": 0.0, "oldest_beyond_s": 0.0,
        "completed": 0, "polls": 1, "submitted": 0,
    }  # fmt: skip
    desk.settle(submit, {"o": "unknown", "reason": ""})
    desk.stop("drain")
    assert desk.beat(5.0, 0.0)["phase"] == "drain"


class Client:
    """Counts its ends."""

    def __init__(self) -> None:
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1


def test_a_call_is_aborted_only_while_it_runs(desk):
    submit, client = take_submit(desk, 1), Client()
    submit.abort()
    assert not submit.overdue(1e9)
    submit.connect(client, 10.0)
    assert not submit.overdue(9.9)
    assert submit.overdue(10.0)
    submit.abort()
    assert submit.disconnect()
    submit.abort()
    assert client.aborted == 1


def test_the_beat_says_how_far_calls_are_beyond_their_deadlines(desk):
    beat = desk.beat(0.0, 0.0)
    assert (beat["calls"], beat["beyond_s"], beat["oldest_beyond_s"]) == (0, None, None)

    submit, poll = take_submit(desk, 1), take_poll(desk, 2)
    submit.connect(Client(), 10.0)
    poll.connect(Client(), 4.0)
    beat = desk.beat(3.0, 0.0)
    assert (beat["calls"], beat["beyond_s"], beat["oldest_beyond_s"]) == (2, -7.0, -1.0)
    beat = desk.beat(15.0, 0.0)
    assert (beat["beyond_s"], beat["oldest_beyond_s"]) == (5.0, 11.0)

    desk.end_poll(poll, Pending(), 15.0)
    beat = desk.beat(15.0, 0.0)
    assert (beat["calls"], beat["beyond_s"], beat["oldest_beyond_s"]) == (1, 5.0, 5.0)


def test_a_call_without_a_deadline_is_never_beyond_it(desk):
    take_submit(desk, 1)
    assert desk.beat(1e6, 0.0)["beyond_s"] == 0.0
