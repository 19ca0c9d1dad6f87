"""The policies topic: what was ever put into force, what is now, and a new record on it.

Reading it goes by the same rules as the decision job does: a set that is not valid or not newer, or an override under
another's key, changes nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from connectors.settings import KafkaSettings
from messages.codec import DecodeError
from messages.policy import POLICY_SET, Override, Policy, decode_policy
from messages.topics import PARTITIONER, POLICIES
from policy.overrides import InForce

# Seconds that the broker has to answer.
_PATIENCE = 15.0


class PolicyLogError(Exception):
    """The policies topic cannot be read or written; the message says what to do."""


class Difference(msgspec.Struct, frozen=True):
    """One key that two documents have otherwise; ``old`` or ``new`` is None where one of them does not say it."""

    path: tuple[str, ...]
    old: Any
    new: Any


class Record(msgspec.Struct, frozen=True):
    """One record of the topic; ``at`` in milliseconds since the epoch, ``value`` None for a removal."""

    offset: int
    at: int
    key: str
    value: bytes | None


class Entry(msgspec.Struct, frozen=True):
    """What one record did, or why it was ``refused``.

    A set has a ``version`` and its ``differences`` from the one before; ``removed`` is a record without a value.
    """

    offset: int
    at: int
    key: str
    version: int | None = None
    override: Override | None = None
    removed: bool = False
    differences: list[Difference] = []
    refused: str | None = None


class Standing(msgspec.Struct):
    """What the topic makes of the packaged set, where one is known, and how that came about.

    ``sets`` are all that were ever in force, the latest of a version; ``highest`` is the highest version ever written;
    ``entries`` is what happened, in order.
    """

    in_force: InForce
    sets: dict[int, Policy]
    highest: int
    entries: list[Entry]

    @classmethod
    def of(cls, packaged: Policy | None) -> Standing:
        """What is in force where the topic is empty."""
        known = {} if packaged is None else {packaged.version: packaged}
        return cls(InForce.of(packaged), known, max(known, default=0), [])

    @property
    def force(self) -> Policy | None:
        """The set in force."""
        return self.in_force.policy

    @property
    def overrides(self) -> dict[str, Override]:
        """What lies over it, by key."""
        return self.in_force.overrides

    def take(self, record: Record) -> Entry:
        """Take a record in; returns what it did."""
        before = self.force
        entry = Entry(record.offset, record.at, record.key, removed=record.value is None)
        try:
            taken = self.in_force.take(record.key, record.value)
        except DecodeError as error:
            entry = msgspec.structs.replace(entry, version=self._note(record), refused=str(error))
        else:
            if record.key == POLICY_SET:
                entry = msgspec.structs.replace(
                    entry, version=self._note(record), differences=differences(before, self.force)
                )
            elif isinstance(taken, Override):
                entry = msgspec.structs.replace(entry, override=taken)
            if isinstance(taken, Policy):
                self.sets[taken.version] = taken
        self.entries.append(entry)
        return entry

    def _note(self, record: Record) -> int | None:
        """The version that a record asked for, also where it was refused: a next one is to be above it."""
        if record.key != POLICY_SET or record.value is None:
            return None
        try:
            version = decode_policy(record.value).version
        except DecodeError:
            return None
        self.highest = max(self.highest, version)
        return version


def differences(old: object, new: object) -> list[Difference]:
    """What two documents have otherwise, key by key; a list is compared as a whole."""
    return _differences((), _plain(old), _plain(new))


def _differences(path: tuple[str, ...], old: Any, new: Any) -> list[Difference]:
    if old == new:
        return []
    said = [side for side in (old, new) if side is not None]
    if any(said) and all(isinstance(side, dict) for side in said):
        old, new = old or {}, new or {}
        return [
            found for key in dict.fromkeys((*old, *new)) for found in _differences((*path, key), old.get(key), new.get(key))
        ]
    return [Difference(path, old, new)]


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value)


def read_standing(settings: KafkaSettings, packaged: Policy | None) -> Standing:
    """Read the whole topic; PolicyLogError where that cannot be done."""
    standing = Standing.of(packaged)
    for record in read_records(settings):
        standing.take(record)
    return standing


def read_records(settings: KafkaSettings) -> list[Record]:
    """All committed records of the topic, in their order; PolicyLogError."""
    topic = settings.prefix + POLICIES
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "group.id": f"{settings.prefix}policy-log",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=_PATIENCE).topics[topic].partitions
        if not partitions:
            raise PolicyLogError(f"no topic {topic} on {settings.bootstrap}; create the topics with `herald topics apply`")
        consumer.assign([TopicPartition(topic, 0, 0)])
        records: list[Record] = []
        while True:
            message = consumer.poll(_PATIENCE)
            if message is None:
                raise PolicyLogError(f"Kafka at {settings.bootstrap}: {topic} is not read to its end; try again")
            error = message.error()
            if error is None:
                records.append(_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                return records
            else:
                raise KafkaException(error)
    except KafkaException as error:
        raise PolicyLogError(f"Kafka at {settings.bootstrap}: {error.args[0].str()}; is it up (herald status)?") from None
    finally:
        consumer.close()


def _record(message: Message) -> Record:
    key = (message.key() or b"").decode(errors="replace")
    return Record(message.offset() or 0, message.timestamp()[1], key, message.value())


def publish(settings: KafkaSettings, key: str, value: bytes | None) -> int:
    """Write one record (``value`` None removes), wait until the broker has it, and return its offset; PolicyLogError."""
    topic = settings.prefix + POLICIES
    producer = Producer(
        {
            "bootstrap.servers": settings.bootstrap,
            "partitioner": PARTITIONER,
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": int(_PATIENCE * 1_000),
            "message.max.bytes": 2_000_000,
            "log_level": 0,
        }
    )
    ends: list[tuple[KafkaError | None, Message]] = []
    try:
        producer.produce(topic, key=key, value=value, on_delivery=lambda error, message: ends.append((error, message)))
    except KafkaException as error:
        raise PolicyLogError(f"{topic}: {error.args[0].str()}; nothing was written") from None
    producer.flush(_PATIENCE + 5)
    if not ends:
        raise PolicyLogError(f"Kafka at {settings.bootstrap} does not answer; `herald policy history` shows what is written")
    failure, message = ends[0]
    if failure is not None:
        raise PolicyLogError(f"{topic}: {failure.str()}; `herald policy history` shows what is written")
    return message.offset() or 0
