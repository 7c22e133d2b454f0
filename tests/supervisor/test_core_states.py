"""The two tables: whole, without dead ends, and shown in the documents as they are."""

from itertools import product
from pathlib import Path

import pytest

from captchad.supervisor.core import states
from captchad.supervisor.core.states import (
    FAULTS,
    SEATS,
    STALLS,
    WORKERS,
    NotAllowed,
    Reason,
    SeatEvent,
    SeatState,
    WorkerEvent,
    WorkerState,
    after,
)

DOCS = Path(__file__).resolve().parents[2] / "docs" / "supervision.md"


@pytest.mark.parametrize(("state", "event"), list(product(WorkerState, WorkerEvent)))
def test_a_pair_of_a_worker_is_in_the_table_or_raises(state, event):
    if (state, event) in WORKERS:
        assert after(WORKERS, state, event) is WORKERS[state, event]
    else:
        with pytest.raises(NotAllowed, match=f"{state} takes no {event}"):
            after(WORKERS, state, event)


@pytest.mark.parametrize(("state", "event"), list(product(SeatState, SeatEvent)))
def test_a_pair_of_a_seat_is_in_the_table_or_raises(state, event):
    if (state, event) in SEATS:
        assert after(SEATS, state, event) is SEATS[state, event]
    else:
        with pytest.raises(NotAllowed):
            after(SEATS, state, event)


@pytest.mark.parametrize("state", [state for state in WorkerState if state is not WorkerState.DEAD])
def test_whatever_state_a_worker_is_in_it_can_die(state):
    event = WorkerEvent.FORK_FAIL if state is WorkerState.FORKING else WorkerEvent.DIE
    assert WORKERS[state, event] is WorkerState.DEAD


@pytest.mark.parametrize("state", [s for s in WorkerState if s not in (WorkerState.DEAD, WorkerState.FORKING)])
def test_whatever_state_a_process_is_in_it_can_be_killed(state):
    assert WORKERS[state, WorkerEvent.KILL] is WorkerState.KILLED


def test_no_way_leads_back_from_a_kill():
    reached = {then for (state, _), then in WORKERS.items() if state is WorkerState.KILLED}
    assert reached == {WorkerState.KILLED, WorkerState.DEAD}
    assert not [pair for pair in WORKERS if pair[0] is WorkerState.DEAD]


def test_every_state_is_reached():
    assert {then for (_, _), then in WORKERS.items()} | {WorkerState.FORKING} == set(WorkerState)
    assert {then for (_, _), then in SEATS.items()} == set(SeatState)


def test_a_stall_is_a_fault_and_an_ordered_end_is_none():
    assert {Reason.SILENT, Reason.WEDGED, Reason.BOOT_TIMEOUT} == STALLS
    assert STALLS < FAULTS
    ordered = {Reason.EXIT, Reason.STOP, Reason.STOP_AGAIN, Reason.DRAIN_OVERDUE, Reason.RELOAD, Reason.OPERATOR}
    assert not FAULTS & ordered


def test_the_table_is_written_as_markdown():
    assert states.table_markdown(SEATS).splitlines()[:4] == [
        "| state | event | becomes |",
        "|---|---|---|",
        "| empty | `take` | taken |",
        "| empty | `delay` | waiting |",
    ]
    assert states.table_markdown(SEATS).endswith("|\n")


def test_the_diagram_has_an_arrow_for_each_change():
    assert states.diagram(SEATS) == (
        "stateDiagram-v2\n"
        "    [*] --> empty\n"
        "    empty --> taken: take\n"
        "    empty --> waiting: delay\n"
        "    waiting --> taken: take\n"
        "    taken --> empty: leave\n"
    )
    assert "    booting --> draining: retire\n" in states.diagram(WORKERS)
    assert "killed --> killed" not in states.diagram(WORKERS)


@pytest.mark.parametrize("table", [WORKERS, SEATS], ids=["workers", "seats"])
def test_the_documents_show_the_tables_as_they_are(table):
    text = DOCS.read_text()
    assert states.diagram(table) in text
    assert states.table_markdown(table) in text
