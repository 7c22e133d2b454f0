"""Probation under a made-up clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.config.probation import Confirmation, Decision, Probation, Verdict

RUNNING = Decision(Verdict.RUNNING)
PROMOTE = Decision(Verdict.PROMOTE)


def rollback(reason):
    return Decision(Verdict.ROLLBACK, reason)


def play(trial, *events):
    """Tell the events, each `(name, *arguments)`; returns what the ticks said."""
    said = []
    for name, *arguments in events:
        answer = getattr(trial, name)(*arguments)
        if name == "tick":
            said.append(answer)
    return said


@pytest.mark.parametrize(
    ("events", "said"),
    [
        # Good after its time, counted from the start and not from before.
        ([("tick", 50), ("started", 100), ("tick", 109.9), ("tick", 110)], [RUNNING, RUNNING, PROMOTE]),
        ([("tick", 1000)], [RUNNING]),
        # A fault of its own, early or late, before the start, in an outage.
        ([("started", 0), ("own_fault", "x"), ("tick", 1)], [rollback("x")]),
        ([("own_fault", "x"), ("tick", 1)], [rollback("x")]),
        ([("started", 0), ("own_fault", "x"), ("own_fault", "y"), ("tick", 99)], [rollback("x")]),
        ([("started", 0), ("outage", 1), ("own_fault", "x"), ("tick", 1)], [rollback("x")]),
        # An outage stops the clock, however long, and is never held against it.
        ([("started", 0), ("outage", 4), ("tick", 1000), ("outage_over", 2000), ("tick", 2005.9)], [RUNNING, RUNNING]),
        ([("started", 0), ("outage", 4), ("outage_over", 2000), ("tick", 2006)], [PROMOTE]),
        ([("outage", 0), ("started", 1), ("tick", 100), ("outage_over", 100), ("tick", 110)], [RUNNING, PROMOTE]),
        # The same said twice changes nothing.
        ([("started", 0), ("outage", 4), ("outage", 5), ("outage_over", 6), ("tick", 11.9)], [RUNNING]),
        ([("started", 0), ("started", 5), ("outage_over", 6), ("tick", 10)], [PROMOTE]),
        # The first verdict stands.
        ([("started", 0), ("tick", 10), ("own_fault", "x"), ("tick", 11)], [PROMOTE, PROMOTE]),
        ([("own_fault", "x"), ("tick", 0), ("started", 1), ("tick", 99)], [rollback("x"), rollback("x")]),
        # A fault that is known when the time is over wins.
        ([("started", 0), ("own_fault", "x"), ("tick", 10)], [rollback("x")]),
    ],
)
def test_probation(events, said):
    assert play(Probation(10.0), *events) == said


def test_no_probation_is_over_at_the_first_tick():
    assert play(Probation(0.0), ("tick", 1), ("started", 1), ("tick", 1)) == [RUNNING, PROMOTE]


def test_what_is_to_be_confirmed_is_rolled_back_in_time_whatever_else_is():
    word = Confirmation(100.0, "nobody did")
    said = [RUNNING, RUNNING, rollback("nobody did"), rollback("nobody did")]
    ticks = [("tick", 50), ("tick", 99.9), ("tick", 100), ("tick", 101)]
    assert play(Probation(10.0, word), ("started", 0), *ticks) == said
    assert play(Probation(10.0, word), ("started", 0), ("outage", 1), *ticks) == said
    assert play(Probation(10.0, word), *ticks) == said
    assert play(Probation(10.0, word), ("own_fault", "x"), ("tick", 1)) == [rollback("x")]


def test_what_remains():
    trial = Probation(10.0)
    play(trial, ("started", 0), ("tick", 3))
    assert trial.remaining_s == 7.0
    play(trial, ("tick", 50))
    assert trial.remaining_s == 0.0


@given(st.lists(st.tuples(st.sampled_from(["outage", "outage_over", "tick"]), st.integers(0, 20)), max_size=20))
def test_only_time_without_an_outage_counts(steps):
    trial, now, good, down = Probation(30.0), 0, 0, False
    trial.started(0)
    for name, wait in steps:
        now += wait
        good += 0 if down else wait
        down = name == "outage" or (down and name != "outage_over")
        play(trial, (name, now))
    # Asked at last, it says what a plain sum says (unless an earlier tick said it already).
    assert trial.tick(now) == (PROMOTE if good >= 30 else RUNNING)
