"""Keys that change: a captcha belongs to the one it was submitted with, and a new one is tried by one submit first."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.daemon.providers import NEW_KEY
from captchad.model.key import Key
from captchad.model.states import Category
from captchad.policy.breaker import Breaker
from captchad.queue.view import View
from tests.daemon.test_dispatch import PROVIDER, Bench, let_go

OTHER = replace(PROVIDER, key=replace(PROVIDER.key, secret="n" * 32))
MOVED = replace(PROVIDER, key=replace(PROVIDER.key, url="http://127.0.0.1:10"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    yield bench
    bench.close()


PREVIOUS = replace(OTHER, earlier_keys=(OTHER.key, PROVIDER.key))


def keys_of_polls(bench: Bench, number: int) -> dict[int, str]:
    channel = bench.ends[number]
    return {message["n"]: message["key"] for message in channel.receive() if message["m"] == "poll"}


def test_old_captchas_keep_the_old_key_as_long_as_one_needs_it(bench: Bench) -> None:
    first = bench.worker(1)
    n = bench.submit("a", first)
    bench.dispatcher.set_providers({"p": OTHER})
    lane = bench.dispatcher.providers.lanes["p"]
    assert lane.keys == {PROVIDER.key.id: PROVIDER.key, OTHER.key.id: OTHER.key}

    bench.dispatcher.on_death(first, "exit")
    let_go(first)
    bench.worker(2)
    bench.turn()
    assert keys_of_polls(bench, 2) == {n: PROVIDER.key.id}

    bench.dispatcher.outcome(n, {"n": n, "o": "solved", "token": "t", "answer": None, "extra": {}})
    bench.dispatcher.set_providers({"p": OTHER})
    assert lane.old_keys == {}
    bench.dispatcher.providers.key_taken("p")
    assert lane.keys == {OTHER.key.id: OTHER.key}, "nor is it needed to judge the new one"


def test_the_key_is_known_after_a_start_and_one_that_is_gone_is_counted(bench: Bench) -> None:
    worker = bench.worker(1)
    n = bench.submit("a", worker)
    view = View(bench.journal.read)
    for record in [bench.journal.read(entry) for entry in records(bench)]:
        view.replay(record)
    assert view.captchas[n].key_id == PROVIDER.key.id

    providers = bench.dispatcher.providers
    providers.count_without_key("p", PROVIDER.key.id)
    assert providers.lanes["p"].without_key == 0
    providers.count_without_key("p", "gone")
    assert providers.lanes["p"].without_key == 1
    assert providers.key_for("p", "gone") == PROVIDER.key.id


def test_after_a_start_the_previous_key_polls_what_was_submitted_with_it_and_submits_nothing(bench: Bench) -> None:
    first = bench.worker(1)
    n = bench.submit("a", first)
    bench.dispatcher.on_death(first, "exit")
    let_go(first)
    providers = bench.dispatcher.providers
    providers.lanes.clear()  # as after a start: of the keys it has what the configuration gives
    bench.dispatcher.set_providers({"p": PREVIOUS})
    bench.dispatcher.resume()
    assert providers.lanes["p"].keys == {PROVIDER.key.id: PROVIDER.key, OTHER.key.id: OTHER.key}
    assert providers.lanes["p"].without_key == 0

    second = bench.worker(2)
    bench.turn()
    assert keys_of_polls(bench, 2) == {n: PROVIDER.key.id}
    bench.accept("b")
    bench.turn()
    ((_, new),) = [each for each in bench.told(second) if each[0] == "submit"]
    assert bench.queue.view.attempts[new].key_id == OTHER.key.id


def test_a_previous_key_that_no_captcha_needs_goes_to_no_worker(bench: Bench) -> None:
    providers = bench.dispatcher.providers
    providers.lanes.clear()
    bench.dispatcher.set_providers({"p": PREVIOUS})
    assert providers.lanes["p"].keys == {OTHER.key.id: OTHER.key}
    assert PROVIDER.key.secret not in repr(PREVIOUS)


def test_a_provider_that_leaves_is_polled_out_with_its_previous_key_too(bench: Bench) -> None:
    bench.submit("a", bench.worker(1))
    providers = bench.dispatcher.providers
    providers.keep_leaving(PREVIOUS, bench.dispatcher.keys_in_use)
    assert providers.key_for("p", PROVIDER.key.id) == PROVIDER.key.id
    providers.keep_leaving(replace(PREVIOUS, earlier_keys=(OTHER.key,)), bench.dispatcher.keys_in_use)
    assert providers.lanes["p"].keys == {OTHER.key.id: OTHER.key}


def records(bench: Bench) -> list:
    return [record.entry for record in bench.journal.scan(bench.journal.active)]


def test_one_submit_tries_a_new_key_before_the_others_go(bench: Bench) -> None:
    worker = bench.worker(1)
    bench.submit("before", worker)
    bench.dispatcher.set_providers({"p": OTHER})
    providers = bench.dispatcher.providers
    assert providers.lanes["p"].breaker.reason == NEW_KEY
    assert not providers.all_out
    for name in ("a", "b", "c"):
        bench.accept(name)
    bench.turn()
    ((_, n),) = [each for each in bench.told(worker) if each[0] == "submit"]
    assert bench.queue.view.attempts[n].key_id == OTHER.key.id

    bench.says(worker, "begin", n)
    bench.says(worker, "out", n, o="submitted", cid="7")
    bench.turn()
    assert [kind for kind, _ in bench.told(worker)].count("submit") == 2


def test_what_an_earlier_key_is_told_says_nothing_of_the_new_one(bench: Bench) -> None:
    worker = bench.worker(1)
    old = bench.submit("before", worker)
    bench.accept("under-way")
    bench.turn()
    ((_, n),) = [each for each in bench.told(worker) if each[0] == "submit"]
    bench.says(worker, "begin", n)
    bench.dispatcher.set_providers({"p": OTHER})
    providers = bench.dispatcher.providers

    bench.says(worker, "out", n, o="submitted", cid="8")
    lane = providers.lanes["p"]
    assert (lane.breaker.reason, lane.key_works, lane.good_key) == (NEW_KEY, False, PROVIDER.key)
    for name in ("a", "b", "c"):
        bench.accept(name)
    bench.turn()
    assert [kind for kind, _ in bench.told(worker)].count("submit") == 1, "the new one is on trial as before"

    code = "ERROR_KEY_DOES_NOT_EXIST"
    bench.says(worker, "fault", old, provider="p", op="poll", code=code, category="permanent")
    assert (lane.breaker.reason, lane.doubt) == (NEW_KEY, None)


def test_old_captchas_are_polled_at_the_address_that_they_were_submitted_to(bench: Bench) -> None:
    first = bench.worker(1)
    n = bench.submit("a", first)
    bench.dispatcher.set_providers({"p": MOVED})
    lane = bench.dispatcher.providers.lanes["p"]
    assert lane.keys == {PROVIDER.key.id: PROVIDER.key, MOVED.key.id: MOVED.key}
    assert lane.breaker.reason == NEW_KEY

    bench.dispatcher.on_death(first, "exit")
    let_go(first)
    second = bench.worker(2)
    bench.accept("b")
    bench.turn()
    messages = bench.ends[2].receive()
    assert [each["key"] for each in messages if each["m"] == "poll"] == [PROVIDER.key.id]
    (submit,) = [each for each in messages if each["m"] == "submit"]
    assert (submit["key"], second.usable) == (MOVED.key.id, True)
    lane.breaker = Breaker()
    bench.dispatcher.set_providers({"p": replace(MOVED, key=replace(MOVED.key, url=f"{MOVED.key.url}/"))})
    assert (len(lane.keys), lane.breaker) == (2, Breaker()), "an address with a slash at its end is no other one"
    assert n in bench.queue.view.captchas


def test_what_an_earlier_address_says_is_not_held_for_or_against_the_present_one(bench: Bench) -> None:
    worker = bench.worker(1)
    old = bench.submit("before", worker)
    bench.dispatcher.set_providers({"p": MOVED})
    lane = bench.dispatcher.providers.lanes["p"]
    bench.accept("a")
    bench.turn()
    ((_, n),) = [each for each in bench.told(worker) if each[0] == "submit"]
    bench.says(worker, "begin", n)
    bench.says(worker, "out", n, o="submitted", cid="8")
    ban = {"code": "ERROR: 1004", "category": "permanent"}
    threshold = bench.dispatcher.providers.breaker_settings.failure_threshold
    for _ in range(threshold):
        bench.says(worker, "fault", old, provider="p", op="poll", code="NETWORK", category="transient")
    assert not lane.breaker.tripped

    for _ in range(threshold - 1):
        bench.says(worker, "fault", n, provider="p", op="poll", code="NETWORK", category="transient")
    bench.says(worker, "ok", old, provider="p")
    bench.says(worker, "fault", n, provider="p", op="poll", code="NETWORK", category="transient")
    assert lane.breaker.tripped, "a good answer from the earlier one has made nothing good"

    lane.breaker = Breaker()
    bench.says(worker, "fault", old, provider="p", op="poll", **ban)
    assert (lane.breaker.tripped, bench.dispatcher.providers.suspended_s("p") > 0.0) == (False, True)


def test_two_new_keys_in_a_row_do_not_hide_that_one_was_good(bench: Bench) -> None:
    bench.submit("before", bench.worker(1))
    lane = bench.dispatcher.providers.lanes["p"]
    for letter in "no":
        bench.dispatcher.set_providers({"p": replace(PROVIDER, key=Key(PROVIDER.key.url, letter * 32))})
        assert lane.good_key == PROVIDER.key


def test_back_at_the_good_key_there_is_nobody_to_blame(bench: Bench) -> None:
    bench.submit("before", bench.worker(1))
    providers = bench.dispatcher.providers
    bench.dispatcher.set_providers({"p": OTHER})
    bench.dispatcher.set_providers({"p": PROVIDER})
    refuse(bench)
    lane = providers.lanes["p"]
    assert (lane.good_key, lane.doubt, providers.any_unjudged) == (None, None, False)
    bench.dispatcher.set_providers({"p": MOVED})
    assert lane.good_key == PROVIDER.key, "it was good all the same"


def test_a_reload_knows_the_good_key_although_this_life_has_not_seen_it_taken(bench: Bench) -> None:
    bench.dispatcher.set_providers({"p": replace(OTHER, replaces=PROVIDER.key)})
    lane = bench.dispatcher.providers.lanes["p"]
    assert (lane.good_key, lane.keys) == (PROVIDER.key, {key.id: key for key in (PROVIDER.key, OTHER.key)})


def test_all_are_out_only_when_no_configured_one_takes_submits(bench: Bench) -> None:
    providers = bench.dispatcher.providers
    bench.dispatcher.set_providers({"p": PROVIDER, "q": replace(PROVIDER, name="q"), "r": replace(PROVIDER, name="r")})
    bench.dispatcher.set_providers({"p": PROVIDER, "q": replace(PROVIDER, name="q")})
    assert not providers.all_out
    providers.fault("p", "submit", "ERROR_KEY_DOES_NOT_EXIST", Category.PERMANENT)
    assert not providers.all_out
    providers.fault("q", "submit", "ERROR_KEY_DOES_NOT_EXIST", Category.PERMANENT)
    assert providers.all_out, "one that leaves does not count"


def refuse(bench: Bench) -> None:
    """The provider refuses the present key."""
    bench.dispatcher.providers.fault("p", "submit", "ERROR_KEY_DOES_NOT_EXIST", Category.PERMANENT)


class Doubter(Bench):
    """A bench whose provider takes one key, and refuses its successor."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.faults: list[tuple[str, ...]] = []
        self.dispatcher.providers._own_fault = lambda *words: self.faults.append(words)
        self.first = self.worker(1)
        self.submit("before", self.first)
        self.dispatcher.set_providers({"p": OTHER})
        for question in self.asked():
            self.answers(question, code="HTTP_5XX", category="transient", text="")
        refuse(self)

    def asked(self, seconds: float = 0.0) -> list[dict]:
        """The questions that are put when so much time has passed."""
        self.clock.advance(seconds)
        self.dispatcher.tick()
        self.first.channel.flush()
        return [message for message in self.ends[1].receive() if message["m"] == "ask"]

    def doubts(self, seconds: float = 0.0) -> list[dict]:
        """Those about the key before."""
        return [question for question in self.asked(seconds) if question["key"] == PROVIDER.key.id]

    def answers(self, question: dict, **answer: object) -> None:
        self.dispatcher.on_message(self.first, {"m": "told", "q": question["q"], **answer})


@pytest.fixture
def doubter(tmp_path: Path) -> Iterator[Doubter]:
    bench = Doubter(tmp_path / "journal")
    yield bench
    bench.close()


BLAMED = ("provider p refuses the new key (ERROR_KEY_DOES_NOT_EXIST)", "provider.p: its key", "provider.p.url")


def fault(code: str, category: str) -> dict[str, object]:
    return {"code": code, "category": category, "text": ""}


@pytest.mark.parametrize(
    "answer",
    [
        {"balance": 1.0},
        fault("ERROR_ZERO_BALANCE", "budget"),
        fault("ERROR_EMPTY_ACTION", "permanent"),
        fault("HTTP_4XX", "permanent"),
    ],
    ids=["balance", "no money", "no such question", "no such page"],
)
def test_a_refused_new_key_is_the_configurations_fault_if_the_one_before_is_taken(
    doubter: Doubter, answer: dict
) -> None:
    (question,) = doubter.doubts()
    assert (question["what"], doubter.faults) == ("balance", [])
    doubter.answers(question, **answer)
    assert doubter.faults == [BLAMED]
    assert doubter.doubts(100.0) == []
    assert "n" * 32 not in repr(doubter.dispatcher.providers.lanes)


def test_a_provider_that_refuses_the_key_before_as_well_has_a_fault_of_its_own(doubter: Doubter) -> None:
    (question,) = doubter.doubts()
    doubter.answers(question, **fault("ERROR_WRONG_USER_KEY", "permanent"))
    assert (doubter.faults, doubter.doubts(100.0)) == ([], [])
    assert doubter.dispatcher.providers.any_unjudged

    refuse(doubter)  # the next try
    (question,) = doubter.doubts()
    doubter.answers(question, balance=1.0)
    assert doubter.faults == [BLAMED]


@pytest.mark.parametrize("code", ["NETWORK", "ERROR_IP_NOT_ALLOWED"])
def test_what_says_nothing_of_the_key_before_is_asked_again(doubter: Doubter, code: str) -> None:
    (question,) = doubter.doubts()
    assert doubter.doubts(10.0) == [], "one question at a time"
    doubter.answers(question, **fault(code, "permanent" if code != "NETWORK" else "transient"))
    assert doubter.doubts() == []
    (question,) = doubter.doubts(OTHER.pause_s)
    doubter.answers(question, balance=1.0)
    assert doubter.faults == [BLAMED]


def test_nobody_shows_the_key_before_during_a_ban(doubter: Doubter) -> None:
    (question,) = doubter.doubts()
    doubter.answers(question, **fault("ERROR: 1004", "permanent"))
    assert (doubter.doubts(599.0), doubter.faults) == ([], [])
    assert len(doubter.doubts(1.0)) == 1


def test_an_answer_about_a_key_that_is_gone_or_was_taken_blames_nobody(doubter: Doubter) -> None:
    (question,) = doubter.doubts()
    doubter.dispatcher.providers.key_taken("p", OTHER.key.id)
    doubter.answers(question, balance=1.0)
    assert doubter.faults == []
    lane = doubter.dispatcher.providers.lanes["p"]
    assert lane.keys.keys() == {PROVIDER.key.id, OTHER.key.id}, "a captcha needs the old one"


def test_nobody_blames_the_key_of_a_provider_that_has_left(doubter: Doubter) -> None:
    (question,) = doubter.doubts()
    doubter.dispatcher.set_providers({})
    doubter.answers(question, balance=1.0)
    assert doubter.faults == []


def test_a_new_key_is_asked_about_until_somebody_can_say_whether_it_is_good(bench: Bench) -> None:
    first = bench.worker(1)
    bench.submit("before", first)
    bench.dispatcher.set_providers({"p": OTHER})
    providers = bench.dispatcher.providers

    def asked(seconds: float) -> list[dict]:
        bench.clock.advance(seconds)
        bench.dispatcher.tick()
        first.channel.flush()
        return [message for message in bench.ends[1].receive() if message["m"] == "ask"]

    for _ in range(3):
        for _ in ("threads", "balance"):
            (question,) = asked(OTHER.pause_s)
            bench.dispatcher.on_message(first, {"m": "told", "q": question["q"], **fault("NETWORK", "transient")})
        assert (question["what"], question["key"], providers.any_unjudged) == ("balance", OTHER.key.id, True)
        providers.fault("p", "submit", "NETWORK", Category.TRANSIENT)
    (question,) = asked(OTHER.pause_s)
    bench.dispatcher.on_message(first, {"m": "told", "q": question["q"], "threads": 9, "working": 0})
    assert not providers.any_unjudged
