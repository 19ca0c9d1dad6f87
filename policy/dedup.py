"""Identity dedup: the same event for the same user inside the window is seen once."""

from __future__ import annotations


def seen_before(identities: dict[int, int], identity: int, now: int, window: int, bound: int) -> tuple[bool, int]:
    """Whether ``identity`` was seen less than ``window`` milliseconds ago; if not, it is remembered from ``now``.

    A repeat never extends the window. ``identities`` is oldest first; what has left the window is dropped, and past
    ``bound`` entries the oldest are forgotten. Returns (seen, how many were forgotten early).
    """
    horizon = now - window
    while identities:
        oldest = next(iter(identities))
        if identities[oldest] > horizon:
            break
        del identities[oldest]
    if identities.get(identity, horizon) > horizon:
        return True, 0
    # After a clock that stood still or went back an older entry may lie behind a newer one.
    identities.pop(identity, None)
    identities[identity] = now
    forgotten = 0
    while len(identities) > bound:
        del identities[next(iter(identities))]
        forgotten += 1
    return False, forgotten
