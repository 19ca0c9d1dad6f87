"""How fast one API key and source may send: a token bucket, kept as the one instant at which it is full again."""

from __future__ import annotations

from collections.abc import Hashable

_MOST_BUCKETS = 10_000


class RateLimit:
    """``rate`` units a second, ``burst`` at once, for each key; at most some thousand keys are remembered.

    What is forgotten past that bound is the bucket that was used first; it starts full again.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1.0 / rate
        self._depth = burst * self._interval
        self._full_at: dict[Hashable, float] = {}

    def take(self, key: Hashable, now: float) -> float:
        """Take one unit at ``now`` (seconds, never going back): 0.0, or the seconds until there will be one."""
        full_at = max(self._full_at.get(key, now), now) + self._interval
        wait = full_at - now - self._depth
        if wait > 1e-9:
            return wait
        if len(self._full_at) >= _MOST_BUCKETS and key not in self._full_at:
            del self._full_at[next(iter(self._full_at))]
        self._full_at[key] = full_at
        return 0.0
