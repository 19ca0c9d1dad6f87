"""What a message is expected to cost, and how long it takes: what the choice of the cheapest channel goes by."""

from __future__ import annotations

from functools import lru_cache

from messages.policy import Price, duration

_milliseconds = lru_cache(maxsize=256)(duration)


def cost(price: Price | None, country: str | None, segments: int = 1) -> float:
    """The cost in the deployment's currency, each segment at the country's price, else the default; without a price 0."""
    if price is None:
        return 0.0
    each = price.default if country is None else price.countries.get(country, price.default)
    return each * segments


def latency(price: Price | None) -> int:
    """The latency to expect, in milliseconds; 0 where none is stated."""
    return 0 if price is None or price.latency is None else _milliseconds(price.latency)
