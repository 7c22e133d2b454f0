"""Accounts on the dispatcher's bench: when they are asked, and what a refusal waits for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.daemon.accounts import ASK_EVERY_S, BUSY_S, TRIAL_S
from captchad.daemon.asks import ASK_S, GRACE_S
from captchad.policy.breaker import state_word
from captchad.supervisor.worker import Worker
from tests.daemon.test_dispatch import Bench, let_go


class Accountant(Bench):
    """A bench whose one worker is asked about the account of provider p."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.first = self.worker(1)

    def tick(self, seconds: float = 0.0) -> list[str]:
        """What is asked when so much time has passed."""
        self.clock.advance(seconds)
        self.dispatcher.tick()
        return self.asked()

    def asked(self) -> list[str]:
        self.first.channel.flush()
        messages = self.ends[1].receive()
        self.questions = [message for message in messages if message["m"] == "ask"]
        self.submits = [message["n"] for message in messages if message["m"] == "submit"]
        return [message["what"] for message in self.questions]

    def answers(self, **fields: object) -> list[str]:
        """Answer the one question; what is asked then."""
        (question,) = self.questions
        self.dispatcher.on_message(self.first, {"m": "told", "q": question["q"], **fields})
        return self.asked()

    def fault(self, code: str, category: str = "transient") -> list[str]:
        return self.answers(code=code, category=category, text="")

    def refuse(self, n: int) -> list[str]:
        """Refuse submit `n` for want of money or threads; what is asked then."""
        self.says(self.first, "begin", n)
        self.says(self.first, "out", n, o="refused", code="ERROR_ZERO_BALANCE", category="budget", text="")
        return self.asked()

    def order(self, *ids: str) -> list[int]:
        """Submits that are ordered when these tasks have come."""
        for task_id in ids:
            self.accept(task_id)
        self.turn()
        self.asked()
        return self.submits

    @property
    def breaker(self) -> str:
        return state_word(self.dispatcher.providers.lanes["p"].breaker, self.clock.monotonic())

    @property
    def no_funds(self) -> bool:
        return self.dispatcher.accounts.has_no_funds("p")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Accountant]:
    bench = Accountant(tmp_path / "journal")
    yield bench
    bench.close()


def settle(bench: Accountant) -> None:
    """The questions of the start have been answered."""
    assert bench.tick() == ["threads"]
    assert bench.answers(threads=10, working=0) == ["balance"]
    assert bench.answers(balance=5.0) == []


def test_an_account_is_asked_at_the_start_and_now_and_then_while_it_works(bench: Accountant) -> None:
    settle(bench)
    assert bench.tick(ASK_EVERY_S + 1.0) == []
    bench.submit("a", bench.first)
    assert bench.tick() == ["threads"]
    assert bench.answers(threads=10, working=1) == ["balance"]
    assert bench.answers(balance=4.0) == []

    bench.submit("b", bench.first)
    assert bench.tick(ASK_EVERY_S - 1.0) == []
    assert bench.tick(1.0) == ["threads"]


def test_a_question_that_is_not_known_is_not_put_again_until_a_reload(bench: Accountant) -> None:
    assert bench.tick() == ["threads"]
    assert bench.fault("ERROR_EMPTY_ACTION", "permanent") == ["balance"]
    assert bench.answers(balance=5.0) == []
    bench.submit("a", bench.first)
    assert bench.tick(ASK_EVERY_S) == ["balance"]
    assert bench.answers(balance=5.0) == []

    lane = bench.dispatcher.providers.lanes["p"]
    bench.dispatcher.set_providers({"p": lane.settings})
    assert bench.tick() == ["threads"]


def test_a_refused_key_is_not_shown_twice_at_a_time(bench: Accountant) -> None:
    assert bench.tick() == ["threads"]
    assert bench.fault("ERROR_WRONG_USER_KEY", "permanent") == []
    assert bench.tick(10.0) == []


def test_nobody_is_asked_during_a_ban(bench: Accountant) -> None:
    settle(bench)
    (n,) = bench.order("a")
    bench.refuse(n)
    bench.answers(threads=10, working=0)
    bench.answers(balance=0.0)
    assert bench.tick(1.0) == ["threads"]
    assert bench.fault("ERROR: 1005") == []
    for _ in range(3):
        assert bench.tick(10.0) == []
    assert bench.tick(TRIAL_S) == ["threads"]


def test_nothing_is_submitted_until_a_refusal_is_explained(bench: Accountant) -> None:
    settle(bench)
    n, m = bench.order("a", "b")
    assert bench.refuse(n) == ["threads"]
    question = bench.questions
    assert bench.order("c") == []
    assert bench.refuse(m) == []  # the one question is enough
    bench.questions = question
    assert bench.answers(threads=10, working=10) == ["balance"]
    assert bench.answers(balance=5.0) == []

    assert (bench.breaker, bench.no_funds) == ("closed", False)
    assert bench.order() == []
    bench.clock.advance(BUSY_S)
    assert len(bench.order()) == 1


def test_without_money_it_is_asked_again_and_tried_out_rarely(bench: Accountant) -> None:
    settle(bench)
    (n,) = bench.order("a")
    assert bench.refuse(n) == ["threads"]
    assert bench.fault("ERROR_EMPTY_ACTION", "permanent") == ["balance"]
    assert bench.answers(balance=0.0) == []
    assert bench.no_funds
    for _ in range(3):
        assert bench.tick(1.0) == ["balance"]
        assert bench.answers(balance=0.0) == []
        assert bench.order() == []

    bench.clock.advance(TRIAL_S)
    (n,) = bench.order()  # its balance may say nothing
    bench.tick()
    bench.says(bench.first, "begin", n)
    bench.says(bench.first, "out", n, o="submitted", cid="7")
    assert not bench.no_funds


def test_money_that_comes_back_is_spent_at_once(bench: Accountant) -> None:
    settle(bench)
    (n,) = bench.order("a")
    bench.refuse(n)
    bench.answers(threads=10, working=0)
    bench.answers(balance=0.0)
    assert (bench.breaker, bench.no_funds) == ("open", True)
    bench.tick(1.0)
    bench.fault("NETWORK")
    bench.fault("NETWORK")
    assert (bench.breaker, bench.no_funds) == ("open", True)

    bench.tick(1.0)
    bench.answers(threads=10, working=0)
    bench.answers(balance=3.0)
    assert (bench.breaker, bench.no_funds) == ("half-open", False)
    assert len(bench.order()) == 1


def test_a_refusal_that_nobody_explains_pauses_as_any_other(bench: Accountant) -> None:
    settle(bench)
    (n,) = bench.order("a")
    assert bench.refuse(n) == ["threads"]
    assert bench.tick(ASK_S + GRACE_S) == ["balance"]  # no answer came
    bench.fault("HTTP_5XX")
    assert (bench.breaker, bench.no_funds) == ("open", False)
    assert len(bench.order()) == 0
    bench.clock.advance(1.0)
    assert len(bench.order()) == 1


def test_the_death_of_the_worker_that_asks_is_an_answer(bench: Accountant) -> None:
    settle(bench)
    (n,) = bench.order("a")
    assert bench.refuse(n) == ["threads"]
    second: Worker = bench.worker(2)
    bench.dispatcher.on_death(bench.first, "crash")
    let_go(bench.first)
    second.channel.flush()
    (question,) = [message for message in bench.ends[2].receive() if message["m"] == "ask"]
    assert question["what"] == "balance"
    bench.dispatcher.on_message(second, {"m": "told", "q": question["q"], "balance": 0.0})
    assert bench.no_funds
