"""How far a consumer group has read, told by the records themselves: offsets alone count transaction markers too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from connectors.settings import KafkaSettings


class NotRead(TimeoutError):
    """The group did not reach the end in time; the message says what is left."""


@contextmanager
def _consumer(settings: KafkaSettings, group: str | None = None) -> Iterator[Any]:
    consumer = KafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        group_id=group,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    try:
        yield consumer
    finally:
        consumer.close(autocommit=False)


def _partitions(consumer: Any, topic: str) -> list[Any]:
    return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]


def has_records(settings: KafkaSettings, topic: str) -> bool:
    """Whether ``topic`` (its name without prefix) holds any committed record."""
    with _consumer(settings) as consumer:
        partitions = _partitions(consumer, settings.prefix + topic)
        begin, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        return any(_record_between(consumer, partition, begin[partition], end[partition]) for partition in partitions)


def end_offsets(settings: KafkaSettings, topic: str) -> dict[Any, int]:
    """The end of every partition of ``topic`` (its name without prefix)."""
    with _consumer(settings) as consumer:
        ends: dict[Any, int] = consumer.end_offsets(_partitions(consumer, settings.prefix + topic))
        return ends


def wait_until_read(settings: KafkaSettings, group: str, ends: dict[Any, int], seconds: float) -> None:
    """Return when ``group`` has committed past every record before ``ends``; NotRead after ``seconds``."""
    deadline = time.monotonic() + seconds
    with _consumer(settings, group) as consumer:
        left = dict(ends)
        begin = consumer.beginning_offsets(list(left)) if left else {}
        while left:
            for partition, end in list(left.items()):
                committed = consumer.committed(partition)
                start = begin[partition] if committed is None else committed
                if not _record_between(consumer, partition, start, end):
                    del left[partition]
            if left and time.monotonic() > deadline:
                names = ", ".join(f"{partition.topic}/{partition.partition}" for partition in left)
                raise NotRead(f"group {group} has not read {names} to the end within {seconds:.0f} s")
            if left:
                time.sleep(0.5)


def _record_between(consumer: Any, partition: Any, start: int, end: int) -> bool:
    """Whether a committed record lies in [start, end); the rest of a partition may be transaction markers."""
    if start >= end:
        return False
    consumer.assign([partition])
    consumer.seek(partition, start)
    while consumer.position(partition) < end:
        for records in consumer.poll(timeout_ms=500).values():
            return bool(records[0].offset < end)
    return False
