"""Frequency caps, exact: a log of the instants at which units were taken, six bytes each (milliseconds), in order.

A log keeps the last ``limit`` units and needs no more. If even the oldest of them counts, the cap is full, whatever was
before; if it does not, nothing before it counts either. When enough units are free again is likewise a matter of the last
ones. Past a change of policy that raises the limit, what went before is not known: it is as if it had not been.
"""

from __future__ import annotations

from policy.local_time import day_start, next_day, next_week, week_start
from policy.policies import CapRule

_SIZE = 6


def taken(log: bytes, rule: CapRule, zone: str, now: int) -> int:
    """How many units count at ``now``.

    Rolling: a unit taken at t counts while now < t + window. Calendar: the units since the start of the user's local day
    or week count. A unit from the future, as a clock that went back leaves it, counts.
    """
    size = len(log)
    if not size:
        return 0
    if rule.rolling is not None:
        since = now - rule.rolling + 1
    else:
        since = day_start(zone, now) if rule.window == "day" else week_start(zone, now)
    return (size - _position(log, since)) // _SIZE


def free_at(log: bytes, rule: CapRule, zone: str, now: int, ahead: int) -> int:
    """The first instant, not before ``now``, at which a unit is free behind ``ahead`` others, if nothing else is taken.

    There are never more than ``limit`` free at once: whoever has as many or more ahead is told when all of them are.
    """
    others = max(0, rule.limit - 1 - ahead)
    last = len(log) - _SIZE * others
    if last <= 0:
        return now
    # When at most `others` units count, the one before them has ceased to.
    at = int.from_bytes(log[last - _SIZE : last], "big")
    if rule.rolling is not None:
        ends = at + rule.rolling
    else:
        ends = next_day(zone, at) if rule.window == "day" else next_week(zone, at)
    return max(now, ends)


def take(log: bytes, rule: CapRule, now: int, units: int) -> bytes:
    """The log with ``units`` taken at ``now``, and no more than the last ``limit``.

    After a clock that went back they are put where they belong, so that each counts from its own instant.
    """
    at = _position(log, now + 1)
    return (log[:at] + now.to_bytes(_SIZE, "big") * units + log[at:])[-_SIZE * rule.limit :]


def forget_past(caps: dict[str, bytes], bound: int) -> int:
    """Drop the logs past ``bound`` whose latest unit is oldest; returns how many. A dropped log is an empty one again."""
    surplus = len(caps) - bound
    if surplus <= 0:
        return 0
    for key in sorted(caps, key=lambda name: caps[name][-_SIZE:])[:surplus]:
        del caps[key]
    return surplus


def _position(log: bytes, since: int) -> int:
    """Where in the log the units of ``since`` and later begin."""
    # Compared as bytes, which are in the order of the numbers.
    bound = max(0, since).to_bytes(_SIZE, "big")
    if log[:_SIZE] >= bound:
        return 0
    if log[-_SIZE:] < bound:
        return len(log)
    low, high = 0, len(log) // _SIZE
    while low < high:
        middle = (low + high) // 2
        if log[_SIZE * middle : _SIZE * middle + _SIZE] < bound:
            low = middle + 1
        else:
            high = middle
    return _SIZE * low
