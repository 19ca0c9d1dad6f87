"""Many records to the broker, every one of them acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import Producer

from connectors.settings import KafkaSettings
from messages.topics import PARTITIONER

Record = tuple[str, str | None, bytes]
"""Topic without its prefix, key, value."""


def produce(kafka: KafkaSettings, records: Iterable[Record], acknowledged: Callable[[], None] = lambda: None) -> None:
    """Write ``records`` in their order; ``acknowledged`` is called for each. RuntimeError where one was not taken."""
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "partitioner": PARTITIONER,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "queue.buffering.max.messages": 20_000,
        }
    )
    lost: list[Any] = []
    for topic, key, value in records:
        while True:
            try:
                producer.produce(
                    kafka.prefix + topic,
                    key=key,
                    value=value,
                    on_delivery=lambda error, _: lost.append(error) if error else acknowledged(),
                )
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if producer.flush(60) or lost:
        raise RuntimeError(f"the broker did not take all records: {lost[:1]}")
