"""Prices as they are said, and what is made of them."""

import json
from decimal import Decimal

import pytest

from captchad.model.money import amount, micros


@pytest.mark.parametrize(
    ("said", "millionths"),
    [
        ("0.00085", 850),
        (0.00085, 850),
        (" 0.00299 ", 2990),
        (0, 0),
        ("0", 0),
        (2, 2_000_000),
        ("0.0000005", 1),
        ("0.00000049", 0),
        ("1e-3", 1000),
        (1_000_000, 10**12),
    ],
)
def test_a_price_is_taken_exactly(said: object, millionths: int) -> None:
    assert micros(said) == millionths


@pytest.mark.parametrize(
    "said",
    [None, True, "", "free", "-0.1", -1, "nan", "inf", float("inf"), "1000000.1", "1e999999", 10**30, [1], "0.1|0.2"],
)
def test_what_is_no_price_is_none(said: object) -> None:
    assert micros(said) is None


def test_what_is_written_down_is_the_decimal_that_is_meant() -> None:
    for millionths in (0, 1, 850, 299_000, 123_456_789, 10**12 - 1):
        text = json.dumps(amount(millionths))
        assert Decimal(text) * 1_000_000 == millionths
        assert micros(text) == millionths
