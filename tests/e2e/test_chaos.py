"""Whatever dies: one result a task, and no charge that the daemon does not know of."""

import os
from pathlib import Path

import pytest

from tests.e2e.chaos import PARENT_KILLS, run_chaos

#: `make chaos` runs all; the normal run takes a slice.
SEEDS = int(os.environ.get("CAPTCHAD_CHAOS_SEEDS", "3"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_workers_and_parents_die_and_nothing_is_lost_or_paid_twice(tmp_path: Path, seed: int) -> None:
    chaos = run_chaos(tmp_path, seed=seed)

    print(f"seed {seed}: {chaos.line()}")
    chaos.check(1000)
    assert chaos.orphans == []
    assert chaos.parent_kills == PARENT_KILLS


def test_when_only_the_parent_dies_no_submit_is_unknown(tmp_path: Path) -> None:
    chaos = run_chaos(tmp_path, seed=99, kill_workers=False)

    print(chaos.line())
    chaos.check(1000)
    assert chaos.status["queue"]["unknown_submits"] == 0
    assert sum(chaos.charges.values()) == 1000
    assert chaos.orphans == []
    assert chaos.parent_kills == PARENT_KILLS
