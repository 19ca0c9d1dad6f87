"""The policies topic, followed: what of it is in force, for those outside the job who act on pauses and source rules."""

from __future__ import annotations

import threading
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.policy_log import Record, read_records
from connectors.settings import KafkaSettings
from messages.codec import DecodeError
from messages.topics import POLICIES
from policy.overrides import InForce
from policy.source_guard import SourceRules, source_rules

_WAIT = 0.25
_AGAIN = 1.0

Say = Callable[[str], None]


class PolicyDocuments:
    """What is in force of the topic's records, given in their order. ``raw`` has the bytes by name.

    The job's packaged set is not known here.
    """

    def __init__(self) -> None:
        self.in_force = InForce.of(None)
        self.raw: dict[str, bytes] = {}

    def take(self, record: Record) -> None:
        """Take one record; DecodeError, and nothing changes, where it is not valid or not newer."""
        self.in_force.take(record.key, record.value)
        if record.value is None:
            self.raw.pop(record.key, None)
        else:
            self.raw[record.key] = record.value

    def rules(self) -> SourceRules:
        """What the source guard goes by."""
        return source_rules(self.in_force.policy, self.in_force.overrides.values())


def read_documents(kafka: KafkaSettings) -> PolicyDocuments:
    """What is in force on the topic as it is now, whatever is not valid left out. PolicyLogError where it cannot be read."""
    documents = PolicyDocuments()
    for record in read_records(kafka):
        try:
            documents.take(record)
        except DecodeError:
            continue  # The job has reported it.
    return documents


class PolicyFeed:
    """Reads the topic from its start in a thread of its own, and follows it until ``close``.

    ``rules`` is what is in force as far as it was read: nothing at first. ``caught_up`` is set when the topic's end was
    reached for the first time. While Kafka is away the last rules hold. ``say`` takes a line of trouble.
    """

    def __init__(self, kafka: KafkaSettings, say: Say) -> None:
        self.rules = SourceRules()
        self.caught_up = threading.Event()
        self._kafka = kafka
        self._say = say
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy-feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._kafka.bootstrap,
                "client.id": "herald-policy-feed",
                "group.id": f"{self._kafka.prefix}policy-feed",  # nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "reconnect.backoff.max.ms": 1_000,
                "error_cb": lambda error: self._say(f"Kafka: {error}"),
                "log_level": 0,
            }
        )
        try:
            while not self._stopping.is_set():
                try:
                    self._follow(consumer)
                except KafkaException as error:
                    self._say(f"the policies cannot be read: {error.args[0].str()}")
                    self._stopping.wait(_AGAIN)
        finally:
            consumer.close()

    def _follow(self, consumer: Consumer) -> None:
        """Read from the start; KafkaException where that has to be begun again."""
        documents, at_end = PolicyDocuments(), False
        consumer.assign([TopicPartition(self._kafka.prefix + POLICIES, 0, 0)])
        while not self._stopping.is_set():
            message = consumer.poll(_WAIT)
            if message is None:
                continue
            error = message.error()
            if error is None:
                self._take(documents, message)
            elif error.code() == KafkaError._PARTITION_EOF:
                at_end = True
            else:
                raise KafkaException(error)
            # Before the end is reached, what is lifted further on would hold again.
            if at_end:
                self.rules = documents.rules()
                self.caught_up.set()

    def _take(self, documents: PolicyDocuments, message: Message) -> None:
        name = (message.key() or b"").decode(errors="replace")
        record = Record(message.offset() or 0, message.timestamp()[1], name, message.value())
        try:
            documents.take(record)
        except DecodeError as error:
            self._say(f"the policies' record `{name}` at offset {record.offset} is not used: {error}")
