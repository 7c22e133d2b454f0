"""The table of outcomes that nobody has confirmed."""

import pytest

from captchad.worker.unconfirmed import Unconfirmed

SUBMITTED = {"o": "submitted", "cid": "77"}
SOLVED = {"o": "solved", "token": "t"}


@pytest.fixture
def table() -> Unconfirmed:
    return Unconfirmed()


def test_an_outcome_stays_until_it_is_acknowledged(table):
    table.add(1, SUBMITTED)
    table.add(2, {"o": "unknown"})

    table.ack(1)
    table.ack(1)
    table.ack(9)

    assert table.all() == [{"n": 2, "o": "unknown"}]
    assert 2 in table
    assert 1 not in table


def test_each_acknowledgement_answers_the_oldest_outcome_only(table):
    table.add(1, SUBMITTED)
    table.add(1, SOLVED)

    table.ack(1)

    assert table.all() == [{"n": 1, **SOLVED}]
    table.ack(1)
    assert len(table) == 0


def test_a_dropped_captcha_leaves_what_was_paid(table):
    table.add(1, SUBMITTED)
    table.add(1, SOLVED)
    table.add(2, {"o": "failed"})
    for n in (1, 2, 3):
        table.drop(n)

    assert table.all() == [{"n": 1, **SUBMITTED}]


def test_only_outcomes_of_polls_are_answers(table):
    table.add(1, SUBMITTED)
    assert not table.answered(1)
    table.add(1, SOLVED)
    assert table.answered(1)
    assert not table.answered(2)
