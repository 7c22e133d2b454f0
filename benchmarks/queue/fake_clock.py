"""A clock that is moved by hand, so that a day of ids can pass in a second."""

__all__ = ["FakeClock"]


class FakeClock:
    """Both of its times move together."""

    def __init__(self, start: float) -> None:
        """`start` is UTC, for what is written down."""
        self._utc = start
        self._passed = 0.0

    def monotonic(self) -> float:
        return self._passed

    def time(self) -> float:
        return self._utc + self._passed

    def advance(self, seconds: float) -> None:
        self._passed += seconds
