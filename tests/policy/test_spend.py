"""Caps on charges: never exceeded in any stretch of an hour or a day, and given back when their time is over."""

import json
import math
from bisect import bisect_right

from hypothesis import given, settings
from hypothesis import strategies as st

from captchad.journal.records import MAX_RECORD
from captchad.policy.spend import ALL, TAGS_MOST, Caps, Spent, tag_of

START = 1_763_800_000.0
HOUR, DAY = 3600.0, 86400.0


def most_within(times: list[float], span: float) -> int:
    """The most of `times` (in order) in any stretch of `span` seconds."""
    return max((bisect_right(times, at + span - 1e-6) - index for index, at in enumerate(times)), default=0)


@settings(max_examples=60)
@given(
    waits=st.lists(st.sampled_from([0.0, 0.3, 7.0, 59.9, 60.0, 900.0, 3599.0, 20000.0]), max_size=150),
    hour=st.integers(0, 9),
    day=st.integers(0, 20),
)
def test_no_stretch_of_time_sees_more_than_the_cap(waits: list[float], hour: int, day: int) -> None:
    spent, caps, now, charged = Spent(), Caps(hour, day), START, []
    for wait in waits:
        now += wait
        held = spent.held("p", caps, 0, now)
        if held is None:
            spent.add(now, "p")
            charged.append(now)
            continue
        assert spent.held("p", caps, 0, held.until - 0.01) is not None
        assert spent.held("p", caps, 0, held.until) is None
        assert now < held.until <= now + (HOUR + 60 if held.length == "hour" else DAY + HOUR)
    assert most_within(charged, HOUR) <= (hour or math.inf)
    assert most_within(charged, DAY) <= (day or math.inf)


def test_all_together_and_each_provider_are_counted_apart() -> None:
    spent = Spent()
    for provider in ("a", "a", "b"):
        spent.add(START, provider)
    assert [spent.count(who, "hour", START) for who in (ALL, "a", "b", "c")] == [3, 2, 1, 0]
    assert spent.held("a", Caps(hour=2), 0, START) is not None
    assert spent.held("b", Caps(hour=2), 0, START) is None


def test_submits_under_way_take_their_room() -> None:
    spent = Spent()
    spent.add(START, "a")
    assert spent.held(ALL, Caps(hour=3), 1, START) is None
    held = spent.held(ALL, Caps(hour=3), 2, START)
    assert held is not None
    assert held.until > START
    full = spent.held(ALL, Caps(hour=3), 3, START)
    assert full is not None
    assert full.until == math.inf, "time alone makes no room"


def test_of_two_caps_the_one_that_holds_longer_is_named() -> None:
    spent = Spent()
    spent.add(START, "a")
    held = spent.held(ALL, Caps(1, 1), 0, START)
    assert held is not None
    assert (held.length, held.cap) == ("day", 1)


def test_memory_is_bounded_however_long_it_runs() -> None:
    spent = Spent()
    for minute in range(10 * 24 * 60):
        spent.add(START + 60.0 * minute, "a")
    sizes = {len(counts) for each in spent.record().values() for counts in each.values()}
    assert max(sizes) <= 62


def test_a_clock_that_was_far_ahead_for_a_while_holds_nothing() -> None:
    spent = Spent()
    spent.add(START + 400 * DAY, "a")
    assert spent.held(ALL, Caps(1, 1), 0, START) is None
    spent.add(START, "a")
    assert spent.count(ALL, "day", START) == 1


def test_a_record_says_all_of_it() -> None:
    spent = Spent()
    for second in range(0, 40000, 700):
        spent.add(START + second, "ab"[second % 2])
    again = Spent.of_record(json.loads(json.dumps(spent.record())))
    assert again.record() == spent.record()
    assert again.count("a", "day", START + 40000) == spent.count("a", "day", START + 40000) > 0


def test_each_value_of_a_tag_is_counted_apart_until_there_are_too_many() -> None:
    spent = Spent()
    for number in range(TAGS_MOST + 50):
        spent.add(START + number % 90000, "p", tag_of(f"c{number}"))
    assert spent.count(tag_of("c1"), "day", START) == 1
    assert spent.held(tag_of("c1"), Caps(day=1), 0, START) is not None
    late = tag_of(f"c{TAGS_MOST + 49}")
    assert spent.count(late, "day", START) > 1, "the further ones share a cap"
    assert len(spent.tags()) <= TAGS_MOST
    spent.add(START + 3 * DAY, "p", late)
    assert spent.tags() == [late]


def test_however_many_and_long_the_values_a_record_of_them_is_no_too_long_one() -> None:
    spent = Spent()
    for number in range(TAGS_MOST):
        for hour in range(25):
            spent.add(START + HOUR * hour, "p", tag_of(f"{number:04}" + "\U0001f600" * (number % 2 * 2000 or 30)))
    assert len(json.dumps(spent.record())) < MAX_RECORD - 10_000
