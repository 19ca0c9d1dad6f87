"""The job's topics as a test sees them: what producers send, and every record that came out, by topic and by user."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from kafka.admin import KafkaAdminClient

from connectors.settings import KafkaSettings
from messages.decision import DecisionRecord, decode_decision
from messages.delivery import Delivery, decode_delivery
from messages.topics import COUNTS, DECISIONS, DELIVERIES, PARTITIONER, PROFILES, REJECTED
from tests.waiting import until

OUTPUTS = (COUNTS, DECISIONS, PROFILES, REJECTED, *DELIVERIES.values())


class Record(NamedTuple):
    """One record, as the broker has it."""

    key: str | None
    value: bytes
    headers: dict[str, str]


class Origin(NamedTuple):
    """Where a record that was sent lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Sender:
    """A producer as a careful one is; ``send`` returns when the broker has everything."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._prefix = settings.prefix
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap,
                "partitioner": PARTITIONER,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "queue.buffering.max.messages": 200_000,
                # What is larger than the broker's limit gets there compressed.
                "compression.type": "gzip",
                "message.max.bytes": 10_000_000,
                "log_level": 0,
            }
        )

    def send(self, topic: str, records: Iterable[tuple[str | bytes | None, bytes | None]]) -> list[Origin]:
        """Send (key, value) pairs and return their places, in their order."""
        places: dict[int, Origin] = {}
        failures: list[object] = []
        count = 0
        for number, (key, value) in enumerate(records):
            count += 1

            def done(error: object, message: Message, number: int = number) -> None:
                if error is not None:
                    failures.append(error)
                else:
                    places[number] = Origin(message.topic() or "", message.partition() or 0, message.offset() or 0)

            self._producer.produce(self._prefix + topic, key=key, value=value, on_delivery=done)
            self._producer.poll(0)
        assert self._producer.flush(120) == 0
        assert not failures, failures
        return [places[number] for number in range(count)]


class View:
    """Everything that came out of the job so far, by topic and by user. ``committed`` hides what may yet be undone."""

    def __init__(self, settings: KafkaSettings, committed: bool = True, topics: Sequence[str] = OUTPUTS) -> None:
        self._prefix = settings.prefix
        self.records: dict[str, list[Record]] = defaultdict(list)
        self.decisions: dict[str, list[DecisionRecord]] = defaultdict(list)
        self.deliveries: dict[str, list[Delivery]] = defaultdict(list)
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap,
                "group.id": f"{settings.prefix}view",
                "enable.auto.commit": False,
                "isolation.level": "read_committed" if committed else "read_uncommitted",
                "log_level": 0,
            }
        )
        names = [settings.prefix + topic for topic in topics]
        cluster = self._consumer.list_topics(timeout=30).topics
        self._places = [TopicPartition(name, partition, 0) for name in names for partition in cluster[name].partitions]
        self._consumer.assign(self._places)
        self._bootstrap = settings.bootstrap
        self._isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED

    def refresh(self, seconds: float = 60) -> View:
        """Take all that is there now; TimeoutError where that takes longer than ``seconds``."""
        deadline = time.monotonic() + seconds
        ends = until(self._ends, seconds)
        while True:
            # The position passes transactions' markers, which are never handed out.
            positions = self._consumer.position(self._places)
            if all(max(place.offset, 0) >= ends[place.topic, place.partition] for place in positions):
                return self
            if time.monotonic() > deadline:
                raise TimeoutError("the end of the topics is not reached")
            for message in self._consumer.consume(20_000, timeout=0.05):
                self._take(message)

    def _ends(self) -> dict[tuple[str, int], int]:
        """The end of every partition, or nothing while the broker is away or has just come back."""
        latest = {TopicPartition(place.topic, place.partition): OffsetSpec.latest() for place in self._places}
        # A client of its own each time: one that was there before a broker's restart goes on with leaders of the past.
        admin = AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 0})
        answer = admin.list_offsets(latest, isolation_level=self._isolation)
        try:
            return {(place.topic, place.partition): end.result(30).offset for place, end in answer.items()}
        except KafkaException:
            return {}

    def _take(self, message: Message) -> None:
        # A broker that is restarted is a passing error.
        if message.error() is not None:
            return
        topic = (message.topic() or "").removeprefix(self._prefix)
        key, value = message.key(), message.value() or b""
        headers = {name: (content or b"").decode() for name, content in message.headers() or []}
        self.records[topic].append(Record(None if key is None else key.decode(), value, headers))
        if topic == DECISIONS:
            record = decode_decision(value)
            self.decisions[record.user].append(record)
        elif topic.startswith("deliveries."):
            delivery = decode_delivery(value)
            self.deliveries[delivery.user].append(delivery)

    def outcomes(self, user: str, origin: Origin | None = None) -> list[tuple[str, str | None]]:
        """(outcome, reason) of the user's decisions, of one event where ``origin`` names it, in their order."""
        found = [record for record in self.decisions[user] if origin is None or record.origin == str(origin)]
        return [(record.outcome, record.reason) for record in found]

    def rejected(self, origin: Origin) -> list[Record]:
        """The records of ``rejected`` that the record at ``origin`` caused."""
        place = {
            "source_topic": origin.topic,
            "source_partition": str(origin.partition),
            "source_offset": str(origin.offset),
        }
        return [record for record in self.records[REJECTED] if place.items() <= record.headers.items()]

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def create_topic(settings: KafkaSettings, name: str, partitions: int = 1) -> None:
    """Create a topic that the registry does not know."""
    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap)
    try:
        admin.create_topics({settings.prefix + name: {"num_partitions": partitions, "replication_factor": 1}})
        admin.wait_for_topics([settings.prefix + name])
    finally:
        admin.close()
