"""Administration of the registry's topics: what is missing is created, what differs is shown and never changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from connectors.settings import KafkaSettings
from messages.topics import Topic, registry

# Milliseconds.
_CONNECT_WITHIN = 10_000

_UNLIMITED = "-1"

_CONFIGS = ("cleanup.policy", "retention.ms", "max.message.bytes")


class TopicsError(Exception):
    """The broker did not do what was asked; the message says what it answered."""


class Difference(msgspec.Struct, frozen=True):
    """One property of a topic that is not as the registry has it; ``actual`` is None where the topic is missing."""

    topic: str
    setting: str
    wanted: str
    actual: str | None


def wanted(settings: KafkaSettings) -> dict[str, Topic]:
    """The registry's topics by the names that they have on the broker, the prefix included."""
    return {settings.prefix + topic.name: topic for topic in registry(settings.partitions).values()}


def configs(topic: Topic) -> dict[str, str]:
    """The broker's settings of ``topic``. Retention is left to the broker where compaction alone decides."""
    chosen = {"cleanup.policy": topic.cleanup, "max.message.bytes": str(topic.max_message_bytes)}
    if topic.retention_ms is not None:
        chosen["retention.ms"] = str(topic.retention_ms)
    elif topic.cleanup == "delete":
        chosen["retention.ms"] = _UNLIMITED
    return chosen


def create_missing(settings: KafkaSettings) -> list[str]:
    """Create the topics that the broker lacks and return their names, once each of their partitions has a leader.

    What exists stays as it is. Two callers at once do no harm. TopicsError where the broker refuses or is away.
    """
    topics = wanted(settings)
    with _admin(settings) as admin:
        missing = sorted(topics.keys() - set(admin.list_topics()))
        if missing:
            request = {
                name: {
                    "num_partitions": topics[name].partitions,
                    "replication_factor": settings.replication,
                    "configs": configs(topics[name]),
                }
                for name in missing
            }
            answer = admin.create_topics(request, raise_errors=False)
            for topic in answer["topics"]:
                error = for_code(topic["error_code"])
                if topic["error_code"] and error is not TopicAlreadyExistsError:
                    raise TopicsError(f"{topic['name']}: {topic['error_message'] or error.__name__}")
            admin.wait_for_topics(missing)
        return missing


def differences(settings: KafkaSettings) -> list[Difference]:
    """What the broker has otherwise than the registry; empty where all is as it should be."""
    topics = wanted(settings)
    with _admin(settings) as admin:
        existing = set(admin.list_topics())
        present = sorted(topics.keys() & existing)
        partitions = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(present)} if present else {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name, list(_CONFIGS)) for name in present]
        actual = admin.describe_configs(resources, config_filter="all")["topic"] if present else {}
    found = [Difference(name, "topic", "exists", None) for name in sorted(topics.keys() - existing)]
    for name in present:
        values = {"partitions": str(partitions[name]), **{key: entry["value"] for key, entry in actual[name].items()}}
        target = {"partitions": str(topics[name].partitions), **configs(topics[name])}
        found += [
            Difference(name, setting, value, values[setting])
            for setting, value in target.items()
            if values[setting] != value
        ]
    return found


def delete(settings: KafkaSettings) -> None:
    """Delete every topic of the registry under the prefix of ``settings``; refused where that is empty."""
    if not settings.prefix:
        raise TopicsError("topics without a prefix are not deleted")
    with _admin(settings) as admin:
        present = sorted(wanted(settings).keys() & set(admin.list_topics()))
        if present:
            admin.delete_topics(present)


@contextmanager
def _admin(settings: KafkaSettings) -> Iterator[Any]:
    admin = None
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=settings.bootstrap, request_timeout_ms=15_000, bootstrap_timeout_ms=_CONNECT_WITHIN
        )
        yield admin
    except KafkaError as error:
        raise TopicsError(f"Kafka at {settings.bootstrap}: {error}") from error
    finally:
        if admin is not None:
            admin.close()
