"""The record of one decision, and the count of one event: the two sides of conservation."""

from __future__ import annotations

from typing import Literal

import msgspec

from messages.codec import json_decoder
from messages.words import CategoryClass, Lane

DecisionOutcome = Literal["sent", "suppressed", "rejected", "deferred", "parked", "collected", "escalating"]
PENDING: tuple[DecisionOutcome, ...] = ("deferred", "parked", "collected", "escalating")
"""Outcomes after which another record of the same notification follows."""


class Bucket(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The state of one token bucket when a decision was taken: ``tokens`` before any charge, ``limit`` a ``period`` (ms)."""

    key: str
    tokens: float
    limit: int
    period: int
    burst: int


class CapCount(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A frequency cap when a decision was taken: how many of its ``limit`` had been ``taken`` in ``window``, before it."""

    name: str
    taken: int
    limit: int
    window: str


class DecisionRecord(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="v", tag=1):
    """What was decided for one notification, and why. Times are milliseconds since the epoch.

    ``notification_id`` and ``origin`` (topic/partition/offset of the event) name the notification; ``step`` counts its
    decisions from 0. ``child`` marks the deferral of the channels that waited while others were sent; it is outside its
    cohort's conservation, as are the rungs of a ladder after the first that was sent; ``part`` says which of these it is.
    ``reason`` is a stable code, None for a plain send. ``channels`` has a word for every channel
    judged: ``sent`` or a reason; ``scopes`` the preference that denied it, ``retry_at`` the instant from which it could
    pass, where there is one. ``buckets`` and ``caps`` are the counters that were looked at. ``override`` names the one that
    lay over the category. ``rung`` is the step of an escalation ladder.
    """

    notification_id: str
    tenant: str
    user: str
    event_id: str
    source: str
    category: str
    category_class: CategoryClass | None = None
    lane: Lane
    outcome: DecisionOutcome
    reason: str | None = None
    detail: str | None = None
    step: int = 0
    child: bool = False
    part: str | None = None
    channels: dict[str, str] = {}
    scopes: dict[str, str] = {}
    retry_at: dict[str, int] = {}
    buckets: list[Bucket] = []
    caps: list[CapCount] = []
    rung: int = 0
    deliveries: list[str] = []
    release_at: int | None = None
    policy_version: int
    override: str | None = None
    profile_version: int | None = None
    origin: str
    arrived_at: int
    decided_at: int
    campaign: str | None = None
    traceparent: str | None = None


class CountRecord(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="v", tag=1):
    """How many notifications one event became: ``recipients``, or 0 with ``unreadable`` where it ended in ``rejected``.

    ``quarantined``: it would have become that many, and is held whole.
    """

    origin: str
    recipients: int
    unreadable: bool = False
    quarantined: bool = False
    arrived_at: int
    campaign: str | None = None


decode_decision = json_decoder(DecisionRecord)
decode_count = json_decoder(CountRecord)
