"""The same scenarios with real processes and on the simulated machine: the same decisions, for the same reasons."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.pool import AsyncResult

import pytest

from tests.supervisor.scenarios import LATE_S, SCENARIOS, TRIES, Entry, play_in_time, play_simulated

#: Played at once: each one mostly waits.
AT_ONCE = 4

Played = dict[str, "AsyncResult[tuple[list[Entry], float]]"]


@pytest.fixture(scope="module")
def played() -> Iterator[Played]:
    """All of them, each in a process of its own, for its workers become the children of it."""
    with multiprocessing.get_context("fork").Pool(AT_ONCE, maxtasksperchild=1) as pool:
        yield {name: pool.apply_async(play_in_time, [scenario]) for name, scenario in SCENARIOS.items()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_real_processes_are_treated_as_simulated_ones(name: str, played: Played) -> None:
    found, late_s = played[name].get(timeout=280.0)
    wanted = play_simulated(SCENARIOS[name])
    if found != wanted and late_s >= LATE_S:
        pytest.skip(f"{TRIES} tries, and this machine was late in each, by {late_s:.1f} s in the last")
    assert found == wanted


def test_every_scenario_but_the_harmless_one_needs_a_decision() -> None:
    for name, scenario in SCENARIOS.items():
        decided = [entry for entry in play_simulated(scenario) if entry[0] != "start"]
        assert bool(decided) == (name != "slow calls"), name
