"""How many descriptors a load needs, and what fits into fewer."""

import pytest

from captchad.policy.descriptors import parent_needs, threads_that_fit, worker_needs


@pytest.mark.parametrize(("threads", "providers"), [(1, 1), (16, 1), (16, 3), (32, 2)])
def test_threads_fit_into_what_they_need_and_not_into_less(threads: int, providers: int) -> None:
    needs = worker_needs(threads, providers)
    assert threads_that_fit(needs, providers, 99) == threads
    assert threads_that_fit(needs - 1, providers, 99) == max(1, threads - 1)


def test_never_more_than_wanted_and_never_none() -> None:
    assert threads_that_fit(10**6, 1, 16) == 16
    assert threads_that_fit(3, 5, 16) == 1


def test_each_worker_costs_its_parent_two() -> None:
    assert parent_needs(9) - parent_needs(8) == 2
    assert parent_needs(0) > 64
