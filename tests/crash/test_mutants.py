"""The checkers are checked: every fault put into the journal is found by the slice of the sweep that it names."""

import pytest

from tests.crash.checker import Checker
from tests.crash.mutants import MUTANTS
from tests.crash.sweeps import SLICES


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_in_the_journal_is_found(fast_dir, monkeypatch, mutant):
    mutant.apply(monkeypatch)
    checker = Checker(fast_dir / "state")
    found = next(SLICES[mutant.slice](checker, fast_dir / "live", mutant.begin), None)
    assert found is not None, f"survived {checker.tally}"
    print(f"{mutant.name}: {found.breach.check} ({found.breach.text}; {found.where}; {checker.tally})")
