"""A user's state, as the core sees it: profile, activity, pending work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from messages.profile import Profile
from messages.words import Channel, Lane

Part = Literal["rest", "digest", "ladder"]
"""A part of a notification that waits on its own: the channels that had to wait while others went out, those that a digest
takes, the rungs that are left."""

PARTS: tuple[Part, ...] = ("rest", "digest", "ladder")

Kind = Literal["deferred", "parked", "collected", "escalating"]


class BucketState(msgspec.Struct, array_like=True):
    """A token bucket: ``level`` in units of which one token is ``period`` and a millisecond refills ``limit``.

    Whole numbers only, so that nothing is lost to rounding. ``at`` is when the level was right, in milliseconds.
    """

    level: int
    at: int
    period: int


class DigestState(msgspec.Struct, array_like=True):
    """An open digest: when it was opened and when it closes, in milliseconds, and how many items wait in it."""

    opened_at: int
    close_at: int
    items: int


class Activity(msgspec.Struct, array_like=True):
    """What changes with most decisions.

    ``identities``, ``contents``, ``cancels``: logs of policy/seen.py, of notifications, of content keys and of cancel
    commands. ``caps``: for each cap the instants of its latest units (policy/caps.py). ``due``: the one timer that is set, 0
    for none. ``sequence``: the number of the next pending item; pending work is served in this order.
    """

    identities: bytes = b""
    buckets: dict[str, BucketState] = {}
    due: int = 0
    sequence: int = 0
    contents: bytes = b""
    cancels: bytes = b""
    caps: dict[str, bytes] = {}
    digests: dict[str, DigestState] = {}


class Pending(msgspec.Struct, array_like=True):
    """A notification that waits, or a part of one (``child``).

    ``payload`` is the event as it arrived; it is decoded again at the release. ``channels`` are the ones that wait, None
    for all; ``queues`` the token buckets and caps it queues at. ``happened`` is the event's time, ``reserved_at`` when it
    reserved its content key (0: it has none), ``digest`` the one that takes it. ``closing``: it is itself a digest.
    ``rung`` is the next step of its ladder, ``outstanding`` the deliveries of the step before that have not failed. Times
    in milliseconds.
    """

    kind: Kind
    cause: str
    release_at: int
    sequence: int
    step: int
    child: bool
    channels: tuple[Channel, ...] | None
    queues: tuple[str, ...]
    lane: Lane
    origin: str
    arrived_at: int
    payload: bytes
    happened: int = 0
    collapse_key: str | None = None
    cancellation_key: str | None = None
    reserved_at: int = 0
    digest: str | None = None
    closing: bool = False
    rung: int = 0
    outstanding: tuple[str, ...] = ()


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

    def done_waiting(self, key: str) -> Pending:
        """Remove a pending item, and return it."""
        self.changed_pending.add(key)
        return self.pending.pop(key)


def part_key(notification: str, part: Part | None, rung: int = 0) -> str:
    """The id under which a notification, or a part of it, waits; the rest of every rung of a ladder has its own."""
    if part is None:
        return notification
    return f"{notification}/{part}.{rung}" if rung and part == "rest" else f"{notification}/{part}"


def parts_of(pending: Iterable[str], notification: str) -> list[str]:
    """The ids of ``pending`` under which a notification and its parts wait."""
    return [key for key in pending if key.startswith(notification)]


def split_part(key: str) -> tuple[str, Part | None]:
    """The notification and the part of such an id."""
    notification, _, found = key.partition("/")
    found, _, _ = found.partition(".")
    return notification, next((part for part in PARTS if part == found), None)
