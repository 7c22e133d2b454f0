"""Money in whole millionths of the provider's currency, so that sums are exact. No currency is converted."""

__all__ = ["MILLION", "amount", "micros"]

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Final

#: Millionths of one unit of money.
MILLION: Final = 1_000_000

#: No captcha costs more: what is said to is a mistake.
_MOST: Final = Decimal(1_000_000)


def micros(value: object) -> int | None:
    """A price as a provider or the configuration says it (`"0.00085"`, 0.00085), in millionths, rounded half up.

    None for what is no price: not a number, below zero, beyond a million.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        price = Decimal(str(value).strip())
    except (InvalidOperation, ValueError):
        return None
    if not price.is_finite() or not 0 <= price <= _MOST:
        return None
    return int((price * MILLION).quantize(Decimal(1), ROUND_HALF_UP))


def amount(millionths: int) -> float:
    """Whole units of money, to be written down: JSON and text show exactly the decimal that is meant. Not for sums."""
    return millionths / MILLION
