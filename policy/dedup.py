"""Identity and content dedup: the same event, and the same content, for the same user inside a window is seen once.

A window is closed: an event is stale when *more* than its category's ``max_age`` has passed, and no instant may lie between
the two. A repeat never extends a window.
"""

from __future__ import annotations

from policy.seen import ENTRY, INSTANT, find, instant, latest, remember, without


def seen_before(log: bytes, wanted: bytes, now: int, since: int, window: int, bound: int) -> tuple[bool, bytes, int]:
    """Whether ``wanted`` was seen at most ``window`` milliseconds ago; if not, it is remembered as seen at ``since``.

    Returns (seen, log, how many entries were forgotten early).
    """
    horizon = now - window
    at = find(log, wanted)
    if at != -1 and instant(log, at) >= horizon:
        return True, log, 0
    return False, *remember(log, at, wanted, since, horizon, bound)


def reserve(log: bytes, key: bytes, now: int, window: int, longest: int, bound: int) -> tuple[bool, bytes, int]:
    """As ``seen_before`` for a content key: its first holder reserves it at ``now``. ``longest`` is the longest window of
    any category: for that long a reservation is kept, beside later ones that a shorter window allowed.
    """
    if latest(log, key) >= now - window:
        return True, log, 0
    return False, *remember(log, -1, key, now, now - max(window, longest), bound)


def release(log: bytes, key: bytes, reserved_at: int) -> bytes:
    """The log without the reservation that was made at ``reserved_at``; one that somebody else has made since stays."""
    entry = reserved_at.to_bytes(INSTANT, "big") + key
    at = log.find(entry)
    while at != -1 and at % ENTRY:
        at = log.find(entry, at + 1)
    return log if at == -1 else without(log, at)
