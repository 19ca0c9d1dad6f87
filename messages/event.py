"""The event a producer emits: a CloudEvents 1.0 envelope in structured JSON, decoded strictly.

Source of the envelope's rules: CloudEvents 1.0.2, sections 2 and 3.1 of the JSON format.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from messages.codec import DecodeError, encode_json, json_decoder
from messages.words import CHANNELS, DEFAULT_TENANT, Channel, Identifier, Key, Lane, Tenant, Traceparent, UserId

Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset.")]

MAX_EXPANDED_BYTES = 16 * 1024 * 1024
"""Recipients times the event's size without its recipient list may not exceed this many bytes."""

MAX_EVENT_BYTES = 1024 * 1024
"""The largest event that the broker's default record limit lets through."""

MAX_DATA_BYTES = 512 * 1024
"""Bytes of an event's data without its recipients, as it would be written into each delivery: with an endpoint that must
fit one record."""

LARGE_EVENT = 128 * 1024
"""Bytes up to which an event needs no second look: written again (a number may grow) its data is below MAX_DATA_BYTES."""


class Recipients(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Who an event is for. A repeated user counts once; ``topics`` is refused until audiences exist."""

    users: list[UserId] = []
    topics: list[str] = []
    exclude: list[UserId] = []


class Content(msgspec.Struct, omit_defaults=True):
    """Literal content for one channel, as a delivery carries it; what a channel does not use it ignores."""

    title: Annotated[str, Meta(max_length=1024)] | None = None
    body: str | None = None
    data: dict[str, str] = {}


class ContentInput(Content, forbid_unknown_fields=True, omit_defaults=True):
    """Literal content for one channel, as an outsider writes it."""


# msgspec's decoder checks the keys of a mapping; its schema does not say so by itself.
_CHANNEL_NAMES = {"propertyNames": {"enum": list(CHANNELS)}}


class EventData(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What is to be told, to whom, and under which constraints."""

    recipients: Recipients = msgspec.field(default_factory=Recipients)
    category: Identifier
    priority: Lane = "background"
    template: Identifier | None = None
    params: dict[str, Any] | None = None
    content: Annotated[dict[Channel, ContentInput], Meta(extra_json_schema=_CHANNEL_NAMES)] | None = None
    channels: list[Channel] | None = None
    dedup_key: Key | None = None
    throttle_key: Key | None = None
    collapse_key: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    cancellation_key: Key | None = None
    expires_at: Instant | None = None
    ttl: (
        Annotated[int, Meta(ge=1, le=2_419_200, description="Seconds from the event's time; four weeks at most.")] | None
    ) = None
    not_before: Instant | None = None
    campaign: Identifier | None = None
    tags: list[Key] | None = None

    def __post_init__(self) -> None:
        if self.ttl is not None and self.expires_at is not None:
            raise ValueError("`ttl` and `expires_at` exclude each other")
        if self.template is None and not self.content:
            raise ValueError("Object needs `template` or `content`")


class Event(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One CloudEvent. ``source`` and ``id`` together are its identity."""

    specversion: Literal["1.0"]
    id: Identifier
    source: Identifier
    type: Identifier
    time: Instant
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str | None = None
    subject: str | None = None
    tenant: Tenant = DEFAULT_TENANT
    traceparent: Traceparent | None = None
    tracestate: str | None = None
    data: EventData


decode_event = json_decoder(Event)


def check_data(event: Event, size: int) -> None:
    """Raise DecodeError where the event, of ``size`` bytes, has more data than fits into a delivery."""
    if size <= LARGE_EVENT:
        return
    data = len(encode_json(replace(event.data, recipients=Recipients())))
    if data > MAX_DATA_BYTES:
        raise DecodeError(f"{data:,} bytes would not fit into a delivery; {MAX_DATA_BYTES:,} at most", "$.data")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def milliseconds(instant: datetime) -> int:
    """An aware datetime as milliseconds since the epoch, rounded down; in whole numbers, hence exact in every year."""
    return (instant - _EPOCH) // _MILLISECOND


def expiry_of(event: Event) -> int | None:
    """The instant from which the event may no longer be sent, in milliseconds, or None."""
    data = event.data
    if data.expires_at is not None:
        return milliseconds(data.expires_at)
    if data.ttl is not None:
        return milliseconds(event.time) + data.ttl * 1000
    return None
