"""The lifecycle table: whole, closed, and the docs are made from it."""

import re
from itertools import product
from pathlib import Path

import pytest

from captchad.model.states import State
from captchad.policy.lifecycle import TRANSITIONS, Kind, NotAllowed, next_state, table_markdown

STATES = (None, *State)
SNAPSHOTS = {Kind.KEEP, Kind.KEEP_ANSWER, Kind.ENDED}


def test_an_unlisted_pair_raises() -> None:
    for state, kind in product(STATES, Kind):
        if (state, kind) not in TRANSITIONS:
            with pytest.raises(NotAllowed, match=kind):
                next_state(state, kind)


def test_an_ended_task_ends_only_once() -> None:
    for (state, kind), after in TRANSITIONS.items():
        if state is not None and state.ended and after is not state:
            assert (kind, after) in {(Kind.REDRIVE, State.PENDING), (Kind.FORGET, None)}


def test_only_the_dead_are_redriven() -> None:
    assert [state for (state, kind) in TRANSITIONS if kind is Kind.REDRIVE] == [State.DEAD]


def test_every_state_is_reached_and_every_unfinished_one_can_end() -> None:
    reached = {after for after in TRANSITIONS.values() if after is not None}
    assert reached == set(State)
    for state in State:
        if not state.ended:
            for kind in (Kind.SOLVED, Kind.DEAD, Kind.EXPIRED, Kind.CANCELLED):
                assert next_state(state, kind).ended


def test_every_kind_is_listed() -> None:
    assert {kind for _, kind in TRANSITIONS} | SNAPSHOTS == set(Kind)


def test_nothing_is_submitted_from_anywhere_but_pending() -> None:
    assert [state for (state, kind) in TRANSITIONS if kind is Kind.SUBMITTING] == [State.PENDING]


def test_the_docs_show_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text()
    assert table_markdown() in text


def test_every_kind_of_record_is_described() -> None:
    rows = (Path(__file__).parents[2] / "docs" / "records.md").read_text().splitlines()
    named = {word for row in rows if row.startswith("| `") for word in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == {*map(str, Kind), "epoch", "beat", "totals", "bill", "crew", "crew_log"}
