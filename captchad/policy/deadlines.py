"""Whether a task can still make its deadline. One that cannot is not submitted: it would be paid for in vain."""

__all__ = ["can_make"]


def can_make(deadline_at: float | None, now: float, least_s: float) -> bool:
    """Whether an answer may come in time if the task is submitted at `now` (UTC).

    `least_s`: the age at which the captcha would be polled for the first time. None is found before.
    """
    return deadline_at is None or now + least_s < deadline_at
