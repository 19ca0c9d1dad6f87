"""Expected costs and latencies from the price table."""

from __future__ import annotations

import pytest

from messages.policy import Price
from policy.prices import cost, latency

SMS = Price(default=0.05, countries={"US": 0.0079, "DE": 0.11, "ZZ": 0.0}, latency="5s")


@pytest.mark.parametrize(
    ("price", "country", "segments", "expected"),
    [
        (SMS, "US", 1, 0.0079),
        (SMS, "DE", 3, 0.33),
        (SMS, "FR", 2, 0.1),
        (SMS, None, 1, 0.05),
        (SMS, "ZZ", 4, 0.0),  # free of charge there, which is a price and no reason to take the default
        (Price(), "US", 7, 0.0),
        (None, "US", 7, 0.0),
        (None, None, 1, 0.0),
    ],
)
def test_the_cost_is_the_countrys_price_for_each_segment(
    price: Price | None, country: str | None, segments: int, expected: float
) -> None:
    assert cost(price, country, segments) == pytest.approx(expected)


def test_one_segment_is_the_default() -> None:
    assert cost(SMS, "DE") == cost(SMS, "DE", 1) == 0.11


@pytest.mark.parametrize(
    ("price", "expected"),
    [(SMS, 5_000), (Price(latency="2m"), 120_000), (Price(latency="150ms"), 150), (Price(), 0), (None, 0)],
)
def test_the_latency_is_in_milliseconds(price: Price | None, expected: int) -> None:
    assert latency(price) == expected
