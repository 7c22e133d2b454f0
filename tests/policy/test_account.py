"""Why an account refuses, when its money is low, what may be reported."""

import pytest

from captchad.model.states import Category, State
from captchad.policy.account import REPORT_S, Verdict, explain, is_low, is_not_offered, report_refusal


@pytest.mark.parametrize(
    ("threads", "balance", "price", "verdict"),
    [
        ((10, 10), None, 0, Verdict.BUSY),
        ((10, 12), None, 0, Verdict.BUSY),
        ((10, 9), None, 0, Verdict.BUSY),  # one has ended since the refusal
        ((100, 90), None, 0, Verdict.BUSY),
        ((100, 89), None, 0, Verdict.NO_FUNDS),
        ((1, 1), 0.0, 0, Verdict.BUSY),
        ((1, 0), None, 0, Verdict.NO_FUNDS),
        ((0, 0), None, 0, Verdict.NO_FUNDS),
        ((10, 0), 0.0, 0, Verdict.NO_FUNDS),
        ((10, 0), 5.0, 0, Verdict.UNTOLD),
        (None, 0.0, 0, Verdict.NO_FUNDS),
        (None, -0.1, 0, Verdict.NO_FUNDS),
        (None, 0.001, 2000, Verdict.NO_FUNDS),
        (None, 0.002, 2000, Verdict.UNTOLD),
        (None, None, 2000, Verdict.UNTOLD),
    ],
)
def test_no_funds_and_no_free_thread_are_told_apart(
    threads: tuple[int, int] | None, balance: float | None, price: int, verdict: Verdict
) -> None:
    assert explain(threads, balance, price) is verdict


def test_a_balance_is_low_below_its_threshold_if_there_is_one() -> None:
    assert is_low(1.99, 2.0)
    assert not is_low(2.0, 2.0)
    assert not is_low(0.0, 0.0)
    assert not is_low(None, 2.0)


def test_an_unknown_action_is_no_fault_of_the_moment() -> None:
    assert is_not_offered("ERROR_EMPTY_ACTION", Category.PERMANENT)
    assert is_not_offered("ERROR_WRONG_ACTION", Category.TASK)
    assert is_not_offered("HTTP_4XX", Category.PERMANENT)
    for code, category in (
        ("NETWORK", Category.TRANSIENT),
        ("UNPARSEABLE", Category.TRANSIENT),
        ("HTTP_5XX", Category.TRANSIENT),
        ("ERROR_WRONG_USER_KEY", Category.PERMANENT),
    ):
        assert not is_not_offered(code, category)


def test_a_solved_task_of_ones_own_may_be_reported_once_and_soon() -> None:
    def refusal(
        state: State = State.SOLVED,
        cid: str | None = "7",
        charges: int = 1,
        reported: str = "",
        submitted_at: float | None = 100.0,
        now: float = 100.0 + REPORT_S,
    ) -> str:
        return report_refusal(state, cid, charges, reported, submitted_at, now)

    assert refusal() == ""
    assert refusal(now=101.0 + REPORT_S) == "it was submitted more than 15 minutes ago"
    assert refusal(reported="bad") == "it is reported already, as bad; a captcha is reported once"
    assert "another task" in refusal(charges=0)
    assert refusal(submitted_at=None) == "its captcha id is not known any more"
    assert refusal(cid=None) == "its captcha id is not known any more"
    for state in State:
        if state is not State.SOLVED:
            assert refusal(state=state) == f"it is {state}, not solved"
