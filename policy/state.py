"""A user's state, as the core sees it: profile, activity, pending work."""

from __future__ import annotations

from typing import Literal

import msgspec

from messages.profile import Profile
from messages.words import Channel, Lane


class BucketState(msgspec.Struct, array_like=True):
    """A token bucket: ``level`` in units of which one token is ``period`` and a millisecond refills ``limit``.

    Whole numbers only, so that nothing is lost to rounding. ``at`` is when the level was right, in milliseconds.
    """

    level: int
    at: int
    period: int


class Activity(msgspec.Struct, array_like=True):
    """What changes with most decisions.

    ``identities``: 64-bit identity of a seen notification → when, in milliseconds, oldest first. ``due``: the one timer
    that is set, 0 for none. ``sequence``: the number of the next pending item; pending work is served in this order.
    """

    identities: dict[int, int] = {}
    buckets: dict[str, BucketState] = {}
    due: int = 0
    sequence: int = 0


class Pending(msgspec.Struct, array_like=True):
    """A notification that waits, or the rest of one (``child``) whose other channels were sent.

    ``payload`` is the event as it arrived; it is decoded again at the release. ``channels`` are the ones that wait, None
    for all; ``buckets`` the token buckets it queues at. Times in milliseconds.
    """

    kind: Literal["deferred", "parked"]
    cause: str
    release_at: int
    sequence: int
    step: int
    child: bool
    channels: tuple[Channel, ...] | None
    buckets: tuple[str, ...]
    lane: Lane
    origin: str
    arrived_at: int
    payload: bytes


class UserState(msgspec.Struct):
    """All state of one user. ``decide`` changes it in place; the caller keeps the encoded original until it is done.

    ``changed_pending`` holds the ids of pending items that were added, replaced or removed; ``releasing`` is the id and
    the item that is being judged again, so that a caller knows which one an exception is about.
    """

    tenant: str
    user: str
    profile: Profile | None = None
    activity: Activity = msgspec.field(default_factory=Activity)
    pending: dict[str, Pending] = {}
    changed_profile: bool = False
    changed_activity: bool = False
    changed_pending: set[str] = msgspec.field(default_factory=set)
    releasing: tuple[str, Pending] | None = None

    def wait(self, key: str, item: Pending) -> None:
        """Add or replace a pending item."""
        self.pending[key] = item
        self.changed_pending.add(key)

    def done_waiting(self, key: str) -> None:
        """Remove a pending item."""
        del self.pending[key]
        self.changed_pending.add(key)
