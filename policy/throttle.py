"""Token buckets with continuous refill, in whole numbers: exact for any limit, period and burst."""

from __future__ import annotations

from policy.policies import Limit
from policy.state import BucketState


def refill(bucket: BucketState | None, rule: Limit, now: int) -> BucketState:
    """The bucket as it stands at ``now``, under ``rule``; a bucket that does not exist is full.

    A bucket that was written under another rule keeps its number of tokens, at most the new burst. A clock that went
    back refills nothing.
    """
    full = rule.burst * rule.period
    if bucket is None:
        return BucketState(full, now, rule.period)
    level = bucket.level if bucket.period == rule.period else bucket.level * rule.period // bucket.period
    elapsed = max(0, now - bucket.at)
    return BucketState(min(full, level + elapsed * rule.limit), now, rule.period)


def wait_for_token(bucket: BucketState, rule: Limit, ahead: int) -> int:
    """Milliseconds until a token is due for one behind whom ``ahead`` others queue; 0 is now."""
    missing = (1 + ahead) * rule.period - bucket.level
    return 0 if missing <= 0 else -(-missing // rule.limit)


def forget_past(buckets: dict[str, BucketState], bound: int) -> int:
    """Drop the least recently used buckets past ``bound``; returns how many. A dropped bucket is a full one again."""
    surplus = len(buckets) - bound
    if surplus <= 0:
        return 0
    for key in sorted(buckets, key=lambda name: buckets[name].at)[:surplus]:
        del buckets[key]
    return surplus
