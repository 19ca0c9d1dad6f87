"""Urgent latency through the job: sends at a fixed rate, and reads what comes out, in a process of its own.

``python -m benchmarks.urgent BOOTSTRAP PREFIX USERS RATE SECONDS`` prints one line of JSON: latencies in milliseconds
from the instant at which each event was due to be sent, so that a stall counts for everything it held up.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from cli.synthetic import event, user_name
from messages.topics import DELIVERIES, EVENTS, PARTITIONER

GRACE = 20.0
"""Seconds to wait for the last ones."""


def main(bootstrap: str, prefix: str, users: int, rate: float, seconds: float) -> dict[str, float | int]:
    """Send and receive; the result has ``sent``, ``samples``, ``repeats``, ``p50``, ``p99``, ``max``."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": PARTITIONER, "acks": "all", "linger.ms": 0})
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "urgent-benchmark", "fetch.wait.max.ms": 5})
    topic = prefix + DELIVERIES["fcm", "urgent"]
    partitions = [
        TopicPartition(topic, number) for number in consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ]
    for partition in partitions:
        partition.offset = consumer.get_watermark_offsets(partition, timeout=10)[1]
    consumer.assign(partitions)
    run = time.time_ns()
    began = time.time()
    due: dict[str, float] = {}
    latencies: list[float] = []
    repeats = sent = 0
    total = int(rate * seconds)
    deadline = began + seconds + GRACE
    while time.time() < deadline and (sent < total or due):
        while sent < total and (planned := began + sent / rate) <= time.time():
            identity = f"u-{run}-{sent}"
            user = user_name(sent * 7919 % users)
            payload = event(identity, [user], "one_time_code", datetime.now(UTC), channels=["push"])
            due[identity] = planned
            producer.produce(prefix + EVENTS["urgent"], value=payload)
            sent += 1
        producer.poll(0)
        # Asleep until a delivery or the next event is due: this process shares the cores that it measures.
        message = consumer.poll(min(0.1, max(0.0, began + sent / rate - time.time())) if sent < total else 0.1)
        if message is None or message.error() is not None:
            continue
        now = time.time()
        planned_at = due.pop(msgspec.json.decode(message.value())["event_id"], None)
        if planned_at is None:
            repeats += 1
        else:
            latencies.append((now - planned_at) * 1000)
    producer.flush(10)
    consumer.close()
    latencies.sort()
    at = [latencies[min(len(latencies) - 1, int(len(latencies) * share))] for share in (0.5, 0.99, 1.0)] if latencies else []
    figures = dict(zip(("p50", "p99", "max"), (round(value, 1) for value in at), strict=False))
    return {"sent": sent, "samples": len(latencies), "repeats": repeats} | figures


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))))
