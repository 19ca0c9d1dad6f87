"""The quarantine: what is held there, letting it out, and noting what was let out or discarded.

A record stays where it is until its topic's retention ends; what became of it is a mark on ``quarantine.status``, under its
place. A release first puts the original back on its topic and writes the mark when every in-sync replica has it. If the
process dies between the two, the next release repeats that record: identity dedup drops the repeat of an event, the claim
that of a delivery. So does a release that runs beside another one. Nothing is lost either way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from connectors.settings import KafkaSettings
from messages.codec import encode_json
from messages.quarantine import EventHeaders, QuarantinedHeaders, QuarantineMark, decode_mark
from messages.topics import DELIVERIES, EVENTS, PARTITIONER, QUARANTINE_STATUS, QUARANTINED
from policy.source_guard import SourceRules, pause_of

_PATIENCE = 15.0
_LOOK = 0.2
_IN_FLIGHT = 500
_TEXT = 256


class QuarantineError(Exception):
    """The quarantine cannot be read, or a record not be let out; the message says what to do."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the quarantine. ``place`` is its partition/offset; ``held_at`` is in milliseconds since the epoch.

    ``topic`` is where it belongs, prefix included. What cannot be read of its document is an empty text.
    """

    place: str
    held_at: int
    stage: str
    reason: str
    detail: str
    topic: str
    source: str
    category: str
    campaign: str
    event_id: str
    key: bytes | None
    value: bytes
    mark: QuarantineMark | None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which records: all of what is given has to fit. ``since`` and ``until`` bound ``held_at``, the latter exclusively."""

    source: str | None = None
    category: str | None = None
    campaign: str | None = None
    reason: str | None = None
    stage: str | None = None
    since: int | None = None
    until: int | None = None

    def fits(self, held: Held) -> bool:
        """Whether a record is one of them."""
        return (
            all(
                wanted in (None, found)
                for wanted, found in (
                    (self.source, held.source),
                    (self.category, held.category),
                    (self.campaign, held.campaign),
                    (self.reason, held.reason),
                    (self.stage, held.stage),
                )
            )
            and (self.since is None or held.held_at >= self.since)
            and (self.until is None or held.held_at < self.until)
        )


class Quarantine:
    """The quarantine as it is when this is made: what comes later is not seen, released records that come back included."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._marks = {place: decode_mark(value) for place, value in self._latest(self._read(QUARANTINE_STATUS)).items()}
        self._ends: dict[int, int] | None = None

    def records(self, wanted: Wanted) -> Iterator[Held]:
        """The records that fit, the oldest first, those with a mark included. QuarantineError."""
        for message in self._read(QUARANTINED, self._ends):
            held = self._held(message)
            if wanted.fits(held):
                yield held

    def waiting(self, wanted: Wanted, limit: int | None = None) -> Iterator[Held]:
        """The records that fit and were neither released nor discarded, the oldest first, at most ``limit``."""
        left = limit
        for held in self.records(wanted):
            if held.mark is None:
                if left == 0:
                    return
                left = None if left is None else left - 1
                yield held

    def release(
        self,
        chosen: Iterable[Held],
        rate: float | None = None,
        released: Callable[[], None] = lambda: None,
        stopping: Callable[[], object] = lambda: False,
    ) -> int:
        """Put records back, at most ``rate`` a second; returns how many. ``released`` is called for each.

        Where ``stopping`` becomes true it ends early. QuarantineError at the first one that cannot be written. Either way
        those before it are released and noted.
        """
        return _Release(self._kafka, rate, released, stopping).run(chosen)

    def discard(self, chosen: Iterable[Held]) -> int:
        """Note records as discarded; returns how many."""
        marks = _Marks(self._kafka)
        number = 0
        try:
            for held in chosen:
                marks.write(held.place, "discarded")
                number += 1
        finally:
            marks.close()
        return number

    def forget(self) -> int:
        """Remove the marks of records that are there no longer; returns how many."""
        consumer = self._consumer()
        lows: dict[int, int] = {}
        marks = _Marks(self._kafka)
        try:
            gone = []
            for place in self._marks:
                partition, offset = map(int, place.split("/"))
                if partition not in lows:
                    topic = TopicPartition(self._kafka.prefix + QUARANTINED, partition)
                    lows[partition] = consumer.get_watermark_offsets(topic, timeout=_PATIENCE)[0]
                if offset < lows[partition]:
                    gone.append(place)
            for place in gone:
                marks.remove(place)
            return len(gone)
        finally:
            marks.close()
            consumer.close()

    def _held(self, message: Message) -> Held:
        headers = {
            name: value.decode(errors="replace")
            for name, value in dict(message.headers() or []).items()
            if isinstance(value, bytes)
        }
        value = message.value() or b""
        stage = headers.get(QuarantinedHeaders.STAGE, "")
        place = f"{message.partition()}/{message.offset()}"
        document = _object(value)
        data = document if stage == "deliver" else _nested(document.get("data"))
        return Held(
            place=place,
            held_at=message.timestamp()[1],
            stage=stage,
            reason=headers.get(QuarantinedHeaders.REASON, ""),
            detail=headers.get(QuarantinedHeaders.DETAIL, ""),
            topic=headers.get(QuarantinedHeaders.TOPIC, ""),
            source=_text(document.get("source")),
            category=_text(data.get("category")),
            campaign=_text(data.get("campaign")),
            event_id=_text(document.get("event_id" if stage == "deliver" else "id")),
            key=message.key(),
            value=value,
            mark=self._marks.get(place),
        )

    @staticmethod
    def _latest(messages: Iterable[Message]) -> dict[str, bytes]:
        """The last value of each key, tombstones left out."""
        found = {bytes(message.key() or b"").decode(): message.value() for message in messages}
        return {key: value for key, value in found.items() if value is not None}

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._kafka.bootstrap,
                "group.id": f"{self._kafka.prefix}quarantine",  # nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )

    def _read(self, topic: str, ends: dict[int, int] | None = None) -> Iterator[Message]:
        """A topic from its start to ``ends``, or to where it ends now; the quarantine's ends are kept for the next time."""
        name = self._kafka.prefix + topic
        consumer = self._consumer()
        found: dict[int, int] = {}
        try:
            partitions = consumer.list_topics(name, timeout=_PATIENCE).topics[name].partitions
            if not partitions:
                raise QuarantineError(f"no topic {name} on {self._kafka.bootstrap}; create it with `herald topics apply`")
            consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number in partitions])
            while len(found) < len(partitions):
                message = consumer.poll(_PATIENCE)
                if message is None:
                    raise QuarantineError(f"Kafka at {self._kafka.bootstrap}: {name} is not read to its end; try again")
                partition, offset = message.partition() or 0, message.offset() or 0
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                if error is not None or (ends is not None and offset >= ends.get(partition, 0)):
                    found.setdefault(partition, offset)
                elif partition not in found:
                    yield message
            if topic == QUARANTINED and self._ends is None:
                self._ends = found
        except KafkaException as error:
            reason = error.args[0].str()
            raise QuarantineError(f"Kafka at {self._kafka.bootstrap}: {reason}; is it up (herald status)?") from None
        finally:
            consumer.close()


def paused(chosen: Iterable[Held], rules: SourceRules) -> tuple[int, Counter[str]]:
    """How many there are, and how many of them would come straight back, by the pause that holds them (``scope name``)."""
    number, found = 0, Counter[str]()
    for held in chosen:
        number += 1
        pause = pause_of(rules, held.source, held.category, held.campaign or None)
        if pause is not None:
            found[" ".join(pause)] += 1
    return number, found


class _Marks:
    """Writes marks; ``close`` waits until they are acknowledged."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._topic = kafka.prefix + QUARANTINE_STATUS
        self._producer = _producer(kafka)
        self._failure: KafkaError | None = None

    def write(self, place: str, status: Any) -> None:
        self._write(place, encode_json(QuarantineMark(status=status, at=time.time_ns() // 1_000_000)))

    def remove(self, place: str) -> None:
        self._write(place, None)

    def _write(self, place: str, value: bytes | None) -> None:
        while self._failure is None:
            try:
                self._producer.produce(self._topic, key=place, value=value, on_delivery=self._delivered)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self._failure = self._failure or error

    def close(self) -> None:
        left = self._producer.flush(_PATIENCE)
        if left or self._failure is not None:
            reason = self._failure.str() if self._failure is not None else "no answer"
            raise QuarantineError(
                f"{self._topic}: {reason}. What was done is not noted as a whole: the next call may do some of it again, "
                "which is harmless"
            )


class _Release:
    """One release: originals out, and a mark for each that was acknowledged, whatever ends it."""

    def __init__(
        self, kafka: KafkaSettings, rate: float | None, released: Callable[[], None], stopping: Callable[[], object]
    ) -> None:
        self._kafka = kafka
        self._interval = 0.0 if rate is None else 1 / rate
        self._released = released
        self._stopping = stopping
        self._producer = _producer(kafka)
        self._marks = _Marks(kafka)
        self._failure: tuple[str, KafkaError] | None = None
        self._number = 0
        self._topics = {
            stage: {kafka.prefix + topic for topic in topics}
            for stage, topics in (("gateway", EVENTS.values()), ("read", EVENTS.values()), ("deliver", DELIVERIES.values()))
        }

    def run(self, chosen: Iterable[Held]) -> int:
        due = time.monotonic()
        try:
            for held in chosen:
                while (wait := due - time.monotonic()) > 0 and not self._stopping():
                    self._producer.poll(min(wait, _LOOK))
                if self._failure is not None or self._stopping():
                    break
                due = max(due + self._interval, time.monotonic() - 1)
                self._produce(held)
        finally:
            left = self._producer.flush(_PATIENCE)
            self._marks.close()
        if self._failure is not None or left:
            place, reason = (self._failure[0], self._failure[1].str()) if self._failure else ("", "no answer")
            raise QuarantineError(
                f"{self._number:,} released, then {place or left}: {reason}. The rest is held as before: release it again"
            )
        return self._number

    def _produce(self, held: Held) -> None:
        if held.topic not in self._topics.get(held.stage, ()):
            raise QuarantineError(
                f"{held.place}: `{held.topic}` is no topic of this deployment that stage `{held.stage}` has. "
                "Narrow the choice, or discard it; what came before it is released"
            )

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                self._failure = self._failure or (held.place, error)
                return
            self._marks.write(held.place, "released")
            self._number += 1
            self._released()

        while len(self._producer) > _IN_FLIGHT and self._failure is None:
            self._producer.poll(0.1)
        headers: list[tuple[str, str | bytes | None]] = [(EventHeaders.RELEASED, b"1")]
        try:
            self._producer.produce(held.topic, key=held.key, value=held.value, headers=headers, on_delivery=delivered)
        except KafkaException as error:
            self._failure = self._failure or (held.place, error.args[0])
        self._producer.poll(0)


def _producer(kafka: KafkaSettings) -> Producer:
    return Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "client.id": "herald-quarantine",
            "partitioner": PARTITIONER,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 5,
            "delivery.timeout.ms": int(_PATIENCE * 1_000) - 1_000,
            "message.max.bytes": 2_097_164,
            # An original may be as large as its topic takes; there has to be room for a header.
            "compression.type": "gzip",
            "log_level": 0,
        }
    )


def _object(value: bytes) -> dict[str, Any]:
    try:
        return _nested(msgspec.json.decode(value))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _nested(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= _TEXT else ""
