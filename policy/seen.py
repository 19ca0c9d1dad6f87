"""What has been seen, and when: a packed log that is searched and extended without decoding it.

An entry is 14 bytes: the instant in milliseconds (6 bytes, big-endian) and a 64-bit number. Entries are in the order in
which they were made; after a clock that went back an older instant may lie behind a newer one.
"""

from __future__ import annotations

from hashlib import blake2b

INSTANT = 6
ENTRY = INSTANT + 8


def number(text: str) -> bytes:
    """Eight bytes that stand for ``text``."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def find(log: bytes, wanted: bytes) -> int:
    """Where the entry of the number ``wanted`` begins, or -1."""
    at = log.find(wanted)
    while at != -1 and at % ENTRY != INSTANT:
        at = log.find(wanted, at + 1)
    return at - INSTANT if at != -1 else -1


def latest(log: bytes, wanted: bytes) -> int:
    """The latest instant at which the number ``wanted`` was seen, or -1."""
    seen = -1
    at = log.find(wanted)
    while at != -1:
        if at % ENTRY == INSTANT:
            seen = max(seen, instant(log, at - INSTANT))
        at = log.find(wanted, at + 1)
    return seen


def instant(log: bytes, at: int) -> int:
    """The instant of the entry that begins at ``at``."""
    return int.from_bytes(log[at : at + INSTANT], "big")


def without(log: bytes, at: int) -> bytes:
    """The log less the entry that begins at ``at``."""
    return log[:at] + log[at + ENTRY :]


def remember(log: bytes, at: int, wanted: bytes, since: int, horizon: int, bound: int) -> tuple[bytes, int]:
    """The log with ``wanted`` as its newest entry, seen at ``since``, instead of its entry that begins at ``at`` (-1: none).

    What is older than ``horizon`` is dropped from its head, and past ``bound`` entries the oldest are forgotten. Returns
    (log, how many were forgotten early).
    """
    if at != -1:
        log = without(log, at)
    start = 0
    # As bytes instants compare as they do as numbers.
    oldest = max(0, horizon).to_bytes(INSTANT, "big")
    while log[start : start + INSTANT] < oldest and start < len(log):
        start += ENTRY
    log = log[start:] + since.to_bytes(INSTANT, "big") + wanted
    surplus = len(log) // ENTRY - bound
    return (log, 0) if surplus <= 0 else (log[surplus * ENTRY :], surplus)
