"""From the bytes of one event to the records that carry it: strict decoding, the edge's own rules, splitting.

A record's value is the producer's bytes of that event. Only where a field has to be filled in (``traceparent``,
``tenant``) or the recipients are split is the envelope put together anew, from the untouched bytes of its fields.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from connectors.gateway.answers import Refusal
from connectors.gateway.keys import ApiKey
from messages.codec import DecodeError
from messages.event import MAX_EVENT_BYTES, MAX_EXPANDED_BYTES, Event, check_data, decode_event
from messages.quarantine import HoldReason
from messages.topics import EVENTS
from messages.words import Lane, Traceparent, user_key

RECIPIENTS_A_RECORD = 500
"""An event for more users than this becomes several records with the same id and source, and disjoint recipients."""

EVENT_LIMIT = MAX_EVENT_BYTES - 4_096
"""The largest event taken, in bytes; the rest is room for the record's key, frame and the fields filled in."""

DEEPEST = 100
LONGEST_NUMBER = 1_000
"""The most levels of nesting, and of characters of a number, that the decision job's reader takes (EventHead.java)."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Record(NamedTuple):
    """One record for Kafka; ``topic`` is without the prefix."""

    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Admitted(NamedTuple):
    """An event that may go to Kafka, and the records that carry it.

    ``held``: they go to the quarantine, for this reason; ``detail`` and ``path`` say more.
    """

    id: str
    source: str
    category: str
    campaign: str | None
    lane: Lane
    records: list[Record]
    held: HoldReason | None = None
    detail: str | None = None
    path: str | None = None


class _Identity(msgspec.Struct):
    id: str


_identity = msgspec.json.Decoder(_Identity).decode


def identity_of(raw: bytes | memoryview) -> str | None:
    """The id of an event that is otherwise not a valid one, if it can be read."""
    try:
        return _identity(raw).id[:256]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def fresh_traceparent() -> str:
    """A new W3C trace context, sampled."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def usable_traceparent(header: str | None) -> str | None:
    """A ``traceparent`` header's value if it may be carried on, else None (W3C Trace Context, section 3.2.2)."""
    if header is None:
        return None
    try:
        value = msgspec.convert(header, Traceparent)
    except msgspec.ValidationError:
        return None
    version, trace, parent, _ = value.split("-")
    return None if version == "ff" or set(trace) == {"0"} or set(parent) == {"0"} else value


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DecodeError(f"Object has the field `{twice}` twice")


def _number(text: str) -> None:
    if len(text) > LONGEST_NUMBER:
        raise DecodeError(f"a number has more than {LONGEST_NUMBER:,} characters")


_walk = json.JSONDecoder(object_pairs_hook=_once, parse_int=_number, parse_float=_number).decode


def check_plain(raw: bytes) -> None:
    """Raise DecodeError for a valid document that not every JSON reader takes, or takes in the same way.

    That is: a field twice in one object, of which readers take the first, the last or none; a number or a nesting
    beyond what the decision job's reader takes.
    """
    try:
        _walk(raw.decode())
    except RecursionError:
        raise DecodeError(f"more than {DEEPEST} levels of nesting") from None
    if raw.count(b"{") + raw.count(b"[") > DEEPEST and _depth(msgspec.json.decode(raw)) > DEEPEST:
        raise DecodeError(f"more than {DEEPEST} levels of nesting")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def admit(raw: bytes, caller: ApiKey, traceparent: str | None) -> Admitted:
    """Decode and judge one event and return its records; Refusal says why not.

    ``traceparent`` is the request's trace context; an event without one of its own gets this, or else a new one.
    """
    if len(raw) > EVENT_LIMIT:
        raise Refusal(
            "event_too_large", f"the event has {len(raw):,} bytes; {EVENT_LIMIT:,} is the most", "$", id=identity_of(raw)
        )
    try:
        event = decode_event(raw)
        check_plain(raw)
    except DecodeError as error:
        refusal = Refusal.of(error, "invalid_event")
        refusal.id = identity_of(raw)
        raise refusal from None
    try:
        check_data(event, len(raw))
    except DecodeError as error:
        raise Refusal("event_too_large", error.reason, error.path, id=event.id) from None
    try:
        data = event.data
        records = list(_records(raw, event, caller, traceparent))
        return Admitted(event.id, event.source, data.category, data.campaign, data.priority, records)
    except Refusal as refusal:
        refusal.id = event.id
        raise


def _records(raw: bytes, event: Event, caller: ApiKey, traceparent: str | None) -> Iterator[Record]:
    if not caller.speaks_for(event.source):
        raise Refusal("forbidden", f"this API key may not speak for the source `{event.source}`", "$.source")
    tenant, fields = event.tenant, None
    if event.traceparent is None or tenant != caller.tenant:
        fields = _fields(raw)
        if tenant != caller.tenant:
            if "tenant" in fields:
                raise Refusal("forbidden", f"this API key belongs to the tenant `{caller.tenant}`", "$.tenant")
            tenant = caller.tenant
            fields["tenant"] = msgspec.Raw(_encode(tenant))
        if event.traceparent is None:
            fields["traceparent"] = msgspec.Raw(_encode(traceparent or fresh_traceparent()))
        raw = _encode(fields)

    users = _users(event)
    topic = EVENTS[event.data.priority]
    small = len(users) * len(raw) <= MAX_EXPANDED_BYTES
    if small and len(users) <= RECIPIENTS_A_RECORD:
        yield Record(topic, user_key(tenant, users[0]).encode() if len(users) == 1 else None, raw)
        return

    fields = fields or _fields(raw)
    data = _fields(fields["data"])
    shared = len(raw) - len(bytes(data["recipients"]))
    if len(users) * shared > MAX_EXPANDED_BYTES:
        raise Refusal(
            "event_too_large",
            f"{len(users):,} recipients times {shared:,} bytes (the event without its recipient list) is more than "
            f"{MAX_EXPANDED_BYTES:,}; send several events",
            "$.data.recipients",
        )
    for start in range(0, len(users), RECIPIENTS_A_RECORD):
        some = users[start : start + RECIPIENTS_A_RECORD]
        data["recipients"] = msgspec.Raw(_encode({"users": some}))
        fields["data"] = msgspec.Raw(_encode(data))
        yield Record(topic, user_key(tenant, some[0]).encode() if len(some) == 1 else None, _encode(fields))


def _users(event: Event) -> list[str]:
    recipients = event.data.recipients
    if recipients.topics:
        raise Refusal("recipients_topics_unsupported", "audiences do not exist yet; name users", "$.data.recipients.topics")
    users = recipients.users
    if len(users) > 1 or recipients.exclude:
        excluded = set(recipients.exclude)
        users = [user for user in dict.fromkeys(users) if user not in excluded]
    if not users:
        raise Refusal("no_recipients", "no user is left to tell; name at least one", "$.data.recipients")
    return users
