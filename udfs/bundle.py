"""The wire between the operator and Python: a bundle in, an answer out, as docs/runtime.md has them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache

import msgspec

TIMER, BACKGROUND, URGENT, CHANGE, PROFILE = -1, 0, 1, 2, 3

KEEP, CLEAR, UPDATE = b"\0", b"\1", b"\2"

u32 = struct.Struct(">I").pack
_timers = struct.Struct(">qq").pack
_NULL = u32(0xFFFFFFFF)


class Slot(msgspec.Struct, array_like=True):
    """A user of the bundle with the encoded states; ``pending`` is None where the operator had no reason to read it."""

    key: str
    profile: bytes | None
    activity: bytes | None
    pending: dict[str, bytes] | None


class Entry(msgspec.Struct, array_like=True):
    """One input: what it is, where it came from, its bytes. A timer's ``offset`` is the instant it was set for."""

    kind: int
    topic: str
    partition: int
    offset: int
    timestamp: int
    payload: bytes

    @property
    def origin(self) -> str:
        """topic/partition/offset."""
        return f"{self.topic}/{self.partition}/{self.offset}"


read_bundle = msgspec.msgpack.Decoder(tuple[list[Slot], list[tuple[int, Entry]]]).decode


def chunk(value: bytes | None) -> bytes:
    """Length and bytes; None has a length of its own."""
    return _NULL if value is None else u32(len(value)) + value


def state_operation(changed: bool, value: bytes | None) -> bytes:
    """Keep what is stored, clear it, or replace it by ``value``."""
    if not changed:
        return KEEP
    return CLEAR if value is None else UPDATE + chunk(value)


def timers(before: int, due: int) -> bytes:
    """The timer that was set and the one to set instead, in milliseconds; 0 is none."""
    return _timers(before, due)


@cache
def _topic_chunk(topic: str) -> bytes:
    return chunk(topic.encode())


_NO_HEADERS = u32(0)


def keyed_row(topic: str, key_chunk: bytes, value: bytes) -> bytes:
    """One output record without headers; the key is a chunk already, since a user's records share it."""
    return b"".join((_topic_chunk(topic), key_chunk, u32(len(value)), value, _NO_HEADERS))


def row(topic: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """One output record; header values are text."""
    encoded = [chunk(name.encode()) + chunk(text.encode("utf-8", "backslashreplace")) for name, text in headers]
    return b"".join((_topic_chunk(topic), chunk(key), chunk(value), u32(len(encoded)), *encoded))
