"""Deterministic identities: the same after any replay, so that every hop can drop a repeat."""

from __future__ import annotations

from hashlib import blake2b


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


# Lengths before the texts: ("ab", "c") and ("a", "bc") are different identities.


def notification_id(tenant: str, source: str, event_id: str, user: str) -> str:
    """The identity of one event for one user: 32 hexadecimal digits of BLAKE2b-128."""
    return _digest(f"{len(tenant)}:{tenant}{len(source)}:{source}{len(event_id)}:{event_id}{len(user)}:{user}")


def delivery_id(notification: str, channel: str, endpoint_id: str, step: int) -> str:
    """The identity of a notification on one channel to one endpoint at one step of a ladder, of the same form."""
    number = str(step)
    return _digest(
        f"{len(notification)}:{notification}{len(channel)}:{channel}{len(endpoint_id)}:{endpoint_id}{len(number)}:{number}"
    )


def identity_number(notification: str) -> bytes:
    """The first 64 bits of a notification's id: what a user's dedup window remembers of it."""
    return bytes.fromhex(notification[:16])
