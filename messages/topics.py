"""The registry of topics: name, key, value, partitions, cleanup and retention of every topic, in one place.

Every producer, in any language, must choose a record's partition as Java's client does (murmur2 of the key): then all
records of a user share a partition index on every topic with the same count. confluent-kafka needs the setting
``PARTITIONER`` for that.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from messages.words import LANES, PROVIDERS

PARTITIONER = "murmur2_random"

HOUR = 3_600_000
DAY = 24 * HOUR

Cleanup = Literal["delete", "compact"]


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic as it should be; ``retention_ms`` is None where compaction alone decides, or where all is kept."""

    name: str
    key: str
    value: str
    cleanup: Cleanup
    retention_ms: int | None
    partitions: int
    max_message_bytes: int = 1_048_588


EVENTS = {lane: f"events.{lane}" for lane in LANES}
CHANGES = "changes"
PROFILES = "profiles"
POLICIES = "policies"
OUTCOMES = "outcomes"
DECISIONS = "decisions"
COUNTS = "counts"
REJECTED = "rejected"
QUARANTINED = "quarantined"
QUARANTINE_STATUS = "quarantine.status"


def deliveries(provider: str, lane: str) -> str:
    """The topic that an adapter of ``provider`` reads for ``lane``."""
    return f"deliveries.{provider}.{lane}"


DELIVERIES = {(provider, lane): deliveries(provider, lane) for provider in PROVIDERS for lane in LANES}


def registry(partitions: int) -> dict[str, Topic]:
    """Every topic by name; ``partitions`` is the count of all but the small ones."""
    user = "tenant/user"
    topics = [
        *(
            Topic(name=name, key="any", value="Event", cleanup="delete", retention_ms=7 * DAY, partitions=partitions)
            for name in EVENTS.values()
        ),
        Topic(name=CHANGES, key=user, value="Command", cleanup="delete", retention_ms=7 * DAY, partitions=partitions),
        Topic(name=PROFILES, key=user, value="Profile", cleanup="compact", retention_ms=None, partitions=partitions),
        # All of it is kept: it is small, and its history is the audit log. One partition: sets and overrides have one order.
        Topic(
            name=POLICIES, key="policy name", value="Policy or Override", cleanup="delete", retention_ms=None, partitions=1
        ),
        *(
            Topic(name=name, key=user, value="Delivery", cleanup="delete", retention_ms=3 * DAY, partitions=partitions)
            for name in DELIVERIES.values()
        ),
        Topic(name=OUTCOMES, key=user, value="Outcome", cleanup="delete", retention_ms=30 * DAY, partitions=partitions),
        Topic(
            name=DECISIONS, key=user, value="DecisionRecord", cleanup="delete", retention_ms=3 * DAY, partitions=partitions
        ),
        Topic(name=COUNTS, key="-", value="CountRecord", cleanup="delete", retention_ms=3 * DAY, partitions=partitions),
        # Such a record is the original and a few headers: the limit leaves room for them.
        *(
            Topic(
                name=name,
                key=key,
                value="original bytes",
                cleanup="delete",
                retention_ms=30 * DAY,
                partitions=1,
                max_message_bytes=2_097_164,
            )
            for name, key in ((REJECTED, "-"), (QUARANTINED, "the original's"))
        ),
        Topic(
            name=QUARANTINE_STATUS,
            key="partition/offset on quarantined",
            value="QuarantineMark",
            cleanup="compact",
            retention_ms=None,
            partitions=1,
        ),
    ]
    return {topic.name: topic for topic in topics}


class RejectedHeaders:
    """Names of the headers of a record on ``rejected``; all values are UTF-8 text.

    ``STAGE`` is ``read`` (no recipient could be read: one record an event), ``decide`` (one a notification, which has a
    DecisionRecord too), ``change``, ``policy`` or ``deliver`` (an adapter could not read a delivery).
    """

    STAGE = "stage"
    REASON = "reason"
    PATH = "path"
    DETAIL = "detail"
    TOPIC = "source_topic"
    PARTITION = "source_partition"
    OFFSET = "source_offset"
    KEY = "source_key"
