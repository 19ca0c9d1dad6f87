"""The encodings of a user's state: a version byte, then msgpack; every version that ever was can still be read.

``profile``: version, Profile. ``activity``: one byte that is 1 exactly if the user has pending items (the operator reads
``pending`` by it), version, Activity. ``pending``, an entry an id: version, Pending.

Version 1 kept identities as a map of numbers to instants; version 2 has them packed.
"""

from __future__ import annotations

import msgspec

from messages.profile import Profile
from policy.seen import INSTANT
from policy.state import Activity, BucketState, Pending

VERSION = 2
_KNOWN = frozenset({1, VERSION})
_V = bytes([VERSION])
_EMPTY = Activity()


class _ActivityV1(msgspec.Struct, array_like=True):
    identities: dict[int, int] = {}
    buckets: dict[str, BucketState] = {}
    due: int = 0
    sequence: int = 0


_encode = msgspec.msgpack.Encoder().encode
_profile = msgspec.msgpack.Decoder(Profile).decode
_activity = msgspec.msgpack.Decoder(Activity).decode
_activity_v1 = msgspec.msgpack.Decoder(_ActivityV1).decode
_pending = msgspec.msgpack.Decoder(Pending).decode


class StateError(ValueError):
    """State that this version of the code cannot read."""


def _body(data: bytes, at: int, name: str) -> memoryview:
    if len(data) <= at or data[at] not in _KNOWN:
        found = data[at] if len(data) > at else "none"
        raise StateError(f"{name}: version {found} of the encoding is not known to this version of the code ({VERSION})")
    return memoryview(data)[at + 1 :]


def encode_profile(profile: Profile) -> bytes:
    """The bytes of a profile."""
    return _V + _encode(profile)


def decode_profile(data: bytes) -> Profile:
    """The profile of these bytes; StateError for an unknown version."""
    return _profile(_body(data, 0, "profile"))


def encode_activity(activity: Activity, has_pending: bool) -> bytes | None:
    """The bytes of an activity, or None where there is nothing to remember."""
    if not has_pending and activity == _EMPTY:
        return None
    return (b"\1" if has_pending else b"\0") + _V + _encode(activity)


def decode_activity(data: bytes) -> Activity:
    """The activity of these bytes; StateError for an unknown version."""
    body = _body(data, 1, "activity")
    if data[1] == VERSION:
        return _activity(body)
    old = _activity_v1(body)
    log = b"".join(at.to_bytes(INSTANT, "big") + number.to_bytes(8, "big") for number, at in old.identities.items())
    return Activity(log, old.buckets, old.due, old.sequence)


def encode_pending(item: Pending) -> bytes:
    """The bytes of a pending item."""
    return _V + _encode(item)


def decode_pending(data: bytes) -> Pending:
    """The pending item of these bytes; StateError for an unknown version."""
    return _pending(_body(data, 0, "pending"))
