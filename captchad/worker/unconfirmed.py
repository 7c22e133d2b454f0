"""Outcomes that the parent has not confirmed: what a worker must not forget. Pure.

An attempt has at most two outcomes, that of its submit and that of its polls; each is sent once and acknowledged once,
in that order.
"""

__all__ = ["Outcome", "Unconfirmed"]

from typing import Any

#: The fields of an `out` message without `m` and `n`; `o` names the kind.
Outcome = dict[str, Any]

_OF_POLLS = frozenset({"solved", "failed"})


class Unconfirmed:
    """Outcomes by attempt, oldest first."""

    def __init__(self) -> None:
        self._outcomes: dict[int, list[Outcome]] = {}

    def __contains__(self, n: int) -> bool:
        return n in self._outcomes

    def __len__(self) -> int:
        """Attempts with an outcome that is not confirmed."""
        return len(self._outcomes)

    def add(self, n: int, outcome: Outcome) -> None:
        """Keep `outcome` until it is acknowledged."""
        self._outcomes.setdefault(n, []).append(outcome)

    def ack(self, n: int) -> None:
        """The parent has committed the oldest outcome of `n`: forget it. One that is not here is fine."""
        if n in self._outcomes:
            del self._outcomes[n][0]
            self._tidy(n)

    def drop(self, n: int) -> None:
        """Nobody wants the answer of `n`. What its submit came to stays: money may hang on it."""
        if n in self._outcomes:
            self._outcomes[n] = [each for each in self._outcomes[n] if each["o"] not in _OF_POLLS]
            self._tidy(n)

    def answered(self, n: int) -> bool:
        """Whether the polls of `n` have come to an end here."""
        return any(each["o"] in _OF_POLLS for each in self._outcomes.get(n, ()))

    def all(self) -> list[Outcome]:
        """Every outcome, each with its `n`."""
        return [{"n": n, **each} for n, outcomes in self._outcomes.items() for each in outcomes]

    def _tidy(self, n: int) -> None:
        if not self._outcomes[n]:
            del self._outcomes[n]
