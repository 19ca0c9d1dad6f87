"""What the demo sees on the topics while it runs: events read, waits, deliveries and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
from confluent_kafka import Consumer

from cli.demo.cast import CAST
from connectors.settings import KafkaSettings
from messages.decision import PENDING
from messages.topics import COUNTS, DECISIONS, EVENTS, OUTCOMES
from policy.reasons import REASONS


class Percentiles(msgspec.Struct):
    """Milliseconds."""

    p50: float | None
    p99: float | None
    samples: int


class _Decided(msgspec.Struct):
    user: str
    notification_id: str
    lane: str
    outcome: str
    reason: str | None = None
    step: int = 0
    part: str | None = None
    channels: dict[str, str] = {}
    deliveries: list[str] = []


class _Reported(msgspec.Struct):
    delivery_id: str
    lane: str
    provider: str
    status: str
    arrived_at: int


class _Counted(msgspec.Struct):
    origin: str


_decided = msgspec.json.Decoder(_Decided).decode
_reported = msgspec.json.Decoder(_Reported).decode
_counted = msgspec.json.Decoder(_Counted).decode


class Watch:
    """Follows ``counts``, ``decisions`` and ``outcomes``: how many events were read, by lane; why things waited, and what
    still does; which deliveries were decided, and what became of each.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self.events: Counter[str] = Counter()
        self.pending: Counter[str] = Counter()
        self.channels: Counter[str] = Counter()
        self.waiting: set[tuple[str, str | None]] = set()
        self.recorded: dict[str, set[str]] = {member.user: set() for member in CAST}
        self.open: dict[str, str] = {}
        self.decided = 0
        self.statuses: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self._early: set[str] = set()
        self._outcomes: dict[str, tuple[str, int]] = {}
        self._released: set[str] = set()
        prefix = kafka.prefix
        self._lanes = {prefix + topic: lane for lane, topic in EVENTS.items()}
        self._takes: dict[str, Callable[[bytes], None]] = {
            prefix + COUNTS: self._count,
            prefix + DECISIONS: self._decision,
            prefix + OUTCOMES: self._outcome,
        }
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "group.id": f"{prefix}demo",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        self._consumer.subscribe(list(self._takes))

    def read(self) -> None:
        """Take what is there now."""
        full = 10_000
        taken = full
        while taken == full:
            messages = self._consumer.consume(full, timeout=0.3)
            taken = len(messages)
            for message in messages:
                value = message.value()
                if message.error() is None and value is not None:
                    self._takes[message.topic() or ""](value)

    def _count(self, value: bytes) -> None:
        lane = self._lanes.get(_counted(value).origin.rsplit("/", 2)[0])
        if lane is not None:  # else a digest, which the job itself has made
            self.events[lane] += 1

    def _decision(self, value: bytes) -> None:
        record = _decided(value)
        reason, place = record.reason or record.outcome, (record.notification_id, record.part)
        if record.outcome in PENDING:
            self.pending[reason] += 1
            self.waiting.add(place)
        else:
            self.waiting.discard(place)
        self.channels.update(word for word in record.channels.values() if word in REASONS)
        if record.user in self.recorded:
            self.recorded[record.user].update((reason, *record.channels.values()))
        for delivery in record.deliveries:
            self.decided += 1
            if record.step:
                self._released.add(delivery)
            if delivery in self._early:
                self._early.remove(delivery)
            else:
                self.open[delivery] = record.lane

    def _outcome(self, value: bytes) -> None:
        record = _reported(value)
        delivery = record.delivery_id
        if delivery in self._outcomes:  # reported again after a restart
            return
        self._outcomes[delivery] = record.lane, record.arrived_at
        self.statuses[record.status] += 1
        if record.status == "accepted":
            self.accepted[record.provider] += 1
        if delivery in self.open:
            del self.open[delivery]
        else:  # an urgent delivery is out before its decision is committed
            self._early.add(delivery)

    def open_in(self, lane: str) -> bool:
        """Whether a delivery of ``lane`` has no outcome yet."""
        return lane in self.open.values()

    def complete(self) -> bool:
        """Whether every delivery decided has an outcome, and the other way round."""
        return not self.open and not self._early

    def latencies(self, received: dict[str, int]) -> dict[str, Percentiles]:
        """From the broker's time of the event to the provider's receipt, by lane; what a rule made wait is left out."""
        found: dict[str, list[int]] = {"urgent": [], "background": []}
        for delivery, (lane, arrived_at) in self._outcomes.items():
            if delivery in received and delivery not in self._released:
                found[lane].append(received[delivery] - arrived_at)
        return {lane: _percentiles(values) for lane, values in found.items()}

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def _percentiles(values: list[int]) -> Percentiles:
    if not values:
        return Percentiles(None, None, 0)
    values.sort()
    return Percentiles(values[len(values) // 2], values[min(len(values) - 1, len(values) * 99 // 100)], len(values))
