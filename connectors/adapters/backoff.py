"""How long to wait before the next attempt: full jitter, capped, and never less than the provider asked for."""

from __future__ import annotations

from random import Random


def backoff(
    attempt: int, *, base: int, cap: int, random: Random, retry_after: int | None = None, retry_after_cap: int = 300_000
) -> int:
    """Milliseconds to wait after the ``attempt``-th try (from 1): uniform in [0, min(cap, base × 2^(attempt-1))].

    A ``retry_after`` of the provider, itself capped, is waited in full and the jitter comes on top, so that a whole
    fleet told "60 seconds" does not come back in one instant.
    """
    ceiling = min(cap, base * 2 ** min(attempt - 1, 32))
    jitter = random.randint(0, ceiling)
    return jitter if retry_after is None else min(max(retry_after, 0), retry_after_cap) + jitter
