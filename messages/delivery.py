"""A delivery (one notification on one channel to one endpoint), and the outcome an adapter reports for it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from messages.codec import json_decoder
from messages.event import Content
from messages.words import CategoryClass, Channel, Lane, Provider

OutcomeClass = Literal["accepted", "recipient_dead", "rejected", "transient", "config", "ambiguous"]
OutcomeStatus = Literal["accepted", "dead", "rejected", "expired", "unknown", "failed"]


class Target(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The endpoint a delivery goes to, as the profile had it at the decision."""

    id: str
    address: str
    app: str | None = None
    registered_at: int = 0


class Delivery(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="v", tag=1):
    """What an adapter is asked to send. Times are milliseconds since the epoch.

    ``id`` is the same after any replay; ``step`` is the position in an escalation ladder. ``arrived_at`` is the
    broker's time of the event, ``decided_at`` the operator's.
    """

    id: str
    tenant: str
    user: str
    event_id: str
    source: str
    category: str
    category_class: CategoryClass
    lane: Lane
    channel: Channel
    provider: Provider
    endpoint: Target
    step: int = 0
    template: str | None = None
    params: dict[str, Any] | None = None
    content: Content | None = None
    locale: str | None = None
    collapse_key: str | None = None
    cancellation_key: str | None = None
    campaign: str | None = None
    expires_at: int | None = None
    arrived_at: int
    decided_at: int
    policy_version: int
    traceparent: str | None = None


class Outcome(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="v", tag=1):
    """What became of a delivery at its provider; ``status`` is final for the adapter.

    ``accepted``: the provider took it. ``dead``: the endpoint will never work. ``rejected``: the message is wrong.
    ``expired``: its time passed before it was accepted. ``unknown``: sent, and the answer was never seen.
    ``failed``: not accepted, attempts used up. ``repeat`` marks a report made again after a restart.
    ``status_code`` and ``error`` are the provider's own words.
    """

    delivery_id: str
    tenant: str
    user: str
    event_id: str
    source: str
    category: str
    lane: Lane
    channel: Channel
    provider: Provider
    endpoint_id: str
    status: OutcomeStatus
    at: int
    attempts: int = 1
    repeat: bool = False
    ambiguous: int = 0
    status_code: int | None = None
    error: str | None = None
    provider_message_id: str | None = None
    arrived_at: int = 0
    campaign: str | None = None
    traceparent: str | None = None


decode_delivery = json_decoder(Delivery)
decode_outcome = json_decoder(Outcome)
