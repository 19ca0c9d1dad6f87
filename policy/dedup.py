"""Identity dedup: the same event for the same user inside the window is seen once."""

from __future__ import annotations


def seen_before(
    identities: dict[int, int], identity: int, now: int, since: int, window: int, bound: int
) -> tuple[bool, int]:
    """Whether ``identity`` was seen at most ``window`` milliseconds ago; if not, it is remembered as seen at ``since``.

    The window is closed: an event is stale when *more* than its category's ``max_age`` has passed, and no instant may lie
    between the two. A repeat never extends the window. ``identities`` is oldest first; what has left the window is
    dropped, and past ``bound`` entries the oldest are forgotten. Returns (seen, how many were forgotten early).
    """
    horizon = now - window
    while identities:
        oldest = next(iter(identities))
        if identities[oldest] >= horizon:
            break
        del identities[oldest]
    seen_at = identities.get(identity)
    if seen_at is not None and seen_at >= horizon:
        return True, 0
    # After a clock that went back, or an event from the future, an older entry may lie behind a newer one.
    identities.pop(identity, None)
    identities[identity] = since
    forgotten = 0
    while len(identities) > bound:
        del identities[next(iter(identities))]
        forgotten += 1
    return False, forgotten
