"""What an account says: why it refuses work, whether its money runs low, whether an answer may be reported."""

__all__ = ["Verdict", "explain", "is_low", "is_not_offered", "may_be_reported", "report_refusal"]

from enum import StrEnum

from captchad.model.money import amount
from captchad.model.states import Category, State

#: Between a refusal and the question after it some captchas end: so large a share of free threads is none.
_SLACK = 0.1

#: An answer may be reported for so long after its submit.
REPORT_S = 900.0

#: Answers of a provider that does not know a question, besides codes that blame the question itself.
_UNKNOWN_ACTION = frozenset({"ERROR_EMPTY_ACTION", "HTTP_4XX"})


class Verdict(StrEnum):
    """What ERROR_ZERO_BALANCE meant."""

    BUSY = "busy"  # every thread of the plan works
    NO_FUNDS = "no funds"  # no money, or a plan that has ended
    UNTOLD = "untold"


def explain(threads: tuple[int, int] | None, balance: float | None, price: int) -> Verdict:
    """Tell no funds from no free thread (protocol notes 1.5 and 3).

    `threads` (of the plan, working) and `balance` are None where the provider does not say; `price` is that of one
    captcha in millionths, 0 when it is not known.
    """
    if threads is not None:
        total, working = threads
        if 0 < working >= total - max(1.0, total * _SLACK):
            return Verdict.BUSY
    if balance is not None:
        return Verdict.NO_FUNDS if balance <= 0.0 or balance < amount(price) else Verdict.UNTOLD
    # Free threads, and yet it refuses: the plan has ended.
    return Verdict.UNTOLD if threads is None else Verdict.NO_FUNDS


def is_low(balance: float | None, threshold: float) -> bool:
    """Whether `balance` is below the threshold; 0 is no threshold."""
    return balance is not None and threshold > 0.0 and balance < threshold


def is_not_offered(code: str, category: Category) -> bool:
    """Whether this answer to a question means that the provider does not know it."""
    return category is Category.TASK or code in _UNKNOWN_ACTION


def may_be_reported(submitted_at: float, now: float) -> bool:
    """Whether it is early enough to report an answer (protocol notes 1.3)."""
    return now - submitted_at <= REPORT_S


def report_refusal(
    state: State, captcha_id: str | None, charges: int, reported: str, submitted_at: float | None, now: float
) -> str:
    """Why the answer of a task cannot be reported; "" if it can. Times are UTC."""
    if state is not State.SOLVED:
        return f"it is {state}, not solved"
    if reported:
        return f"it is reported already, as {reported}; a captcha is reported once"
    if submitted_at is not None and not may_be_reported(submitted_at, now):
        return f"it was submitted more than {REPORT_S / 60:.0f} minutes ago"
    if not charges:
        return "its answer is that of another task with the same dedupe_key: report that one"
    if captcha_id is None or submitted_at is None:
        return "its captcha id is not known any more"
    return ""
