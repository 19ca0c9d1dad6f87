"""Conservation: every counted notification ended in one recorded outcome, or waits; told from the topics alone.

Per arrival cohort (minute, campaign): counted = sent + suppressed + rejected + quarantined + pending. The reader takes
``counts``, committed ``decisions``, ``rejected`` and ``quarantined``, derives what is pending from the decisions, and shares
no code with the job: not even the message types, so that a mistake there cannot hide here.

What is held whole is counted where it was held, as ``quarantined``, and leaves the account again when an operator has
released it (``quarantine.status``): it arrives anew then, under another origin. Discarded, it stays. What the gateway holds
has not arrived.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable

import msgspec
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from connectors.settings import KafkaSettings
from messages.topics import COUNTS, DECISIONS, QUARANTINE_STATUS, QUARANTINED, REJECTED

MINUTE = 60_000
OVERDUE = 60_000
"""Milliseconds after its release from which a pending notification counts as lost."""


_WAITING = ("deferred", "parked", "collected", "escalating")


class _Counted(msgspec.Struct):
    origin: str
    recipients: int
    arrived_at: int
    unreadable: bool = False
    quarantined: bool = False
    campaign: str | None = None


class _Held(msgspec.Struct):
    """An event that is held whole, as far as it is known: the topics are read in no order between them.

    ``place`` and ``reason`` are of its record on ``quarantined``, ``entered`` says whether that is in the account.
    """

    count: _Counted | None = None
    place: str | None = None
    reason: str = ""
    entered: bool = False


class _Mark(msgspec.Struct):
    status: str


class _Decided(msgspec.Struct):
    user: str
    tenant: str
    origin: str
    outcome: str
    arrived_at: int
    step: int = 0
    child: bool = False
    reason: str | None = None
    release_at: int | None = None
    campaign: str | None = None


_counted = msgspec.json.Decoder(_Counted).decode
_decided = msgspec.json.Decoder(_Decided).decode
_mark = msgspec.json.Decoder(_Mark).decode


class Cohort(msgspec.Struct):
    """The notifications that arrived in one minute for one campaign. ``outcomes`` maps outcome → reason → number."""

    minute: int
    campaign: str | None
    counted: int = 0
    decided: int = 0
    outcomes: dict[str, dict[str, int]] = {}

    @property
    def difference(self) -> int:
        """Counted, and no outcome; negative where there are outcomes of what was never counted."""
        return self.counted - self.decided


class Report(msgspec.Struct, kw_only=True):
    """The balance. ``difference`` is 0 exactly if nothing is missing, doubled, overdue or unaccounted for."""

    counted: int
    outcomes: dict[str, dict[str, int]]
    pending: dict[str, int]
    unreadable: int
    rejected_unread: int
    doubled: int
    overdue: int
    difference: int
    cohorts: list[Cohort]


class Ledger:
    """Keeps the account of records given in the order of their partitions.

    Memory: 8 bytes a decision, the pending, and what is held.
    """

    def __init__(self) -> None:
        self._cohorts: dict[tuple[int, str | None], Cohort] = {}
        self._seen: set[int] = set()
        self._doubled = 0
        self._pending: dict[tuple[str, str], _Decided] = {}
        self._unreadable: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._held: dict[str, _Held] = {}
        self._origins: dict[str, str] = {}
        self._released: set[str] = set()

    def count(self, value: bytes) -> None:
        """Take a record of ``counts``."""
        record = _counted(value)
        if record.unreadable:
            self._unreadable[record.origin] += 1
        if record.quarantined:
            held = self._held.setdefault(record.origin, _Held())
            if held.place in self._released:
                return
            held.count = record
            self._enter(held)
        self._cohort(record.arrived_at, record.campaign).counted += record.recipients

    def decide(self, value: bytes) -> None:
        """Take a record of ``decisions``. What a child deferral does lies outside its cohort."""
        record = _decided(value)
        if record.child:
            return
        user = f"{record.tenant}/{record.user}"
        digest = hashlib.blake2b(f"{record.origin} {user} {record.step}".encode(), digest_size=8).digest()
        identity = int.from_bytes(digest, "big")
        if identity in self._seen:
            self._doubled += 1
            return
        self._seen.add(identity)
        cohort = self._cohort(record.arrived_at, record.campaign)
        waited = self._pending.pop((record.origin, user), None)
        if waited is None:
            cohort.decided += 1
        else:
            self._add(cohort, waited, -1)
        if record.outcome in _WAITING:
            self._pending[record.origin, user] = record
        self._add(cohort, record, 1)

    def reject(self, headers: Iterable[tuple[str, bytes]]) -> None:
        """Take the headers of a record of ``rejected``; only what no decision speaks of matters here."""
        found = {name: value.decode() for name, value in headers}
        if found["stage"] == "read":
            self._rejected[f"{found['source_topic']}/{found['source_partition']}/{found['source_offset']}"] += 1

    def hold(self, place: str, headers: Iterable[tuple[str, bytes]]) -> None:
        """Take the headers of a record of ``quarantined`` at ``place`` (partition/offset); what was counted matters."""
        found = {name: value.decode() for name, value in headers}
        if found["stage"] != "read":
            return
        origin = f"{found['source_topic']}/{found['source_partition']}/{found['source_offset']}"
        held = self._held.setdefault(origin, _Held())
        if held.place is not None:
            self._doubled += held.place != place
            return
        held.place, held.reason = place, found["reason"]
        self._origins[place] = origin
        self._enter(held)
        if place in self._released:
            self._leave(held)

    def mark(self, place: str, value: bytes) -> None:
        """Take a record of ``quarantine.status``: what was released has arrived anew, and is counted there."""
        if _mark(value).status != "released" or place in self._released:
            return
        self._released.add(place)
        origin = self._origins.get(place)
        if origin is not None:
            self._leave(self._held[origin])

    def _enter(self, held: _Held) -> None:
        """Put what is both counted and in the quarantine down as such."""
        if held.count is not None and held.place is not None and not held.entered:
            held.entered = True
            self._quarantined(held, held.count, 1)

    def _leave(self, held: _Held) -> None:
        """Take what was released out of the account; where its count comes later, that is not taken in."""
        if held.count is None:
            return
        if held.entered:
            self._quarantined(held, held.count, -1)
        self._cohort(held.count.arrived_at, held.count.campaign).counted -= held.count.recipients
        held.count = None

    def _quarantined(self, held: _Held, count: _Counted, sign: int) -> None:
        cohort = self._cohort(count.arrived_at, count.campaign)
        cohort.decided += sign * count.recipients
        reasons = cohort.outcomes.setdefault("quarantined", {})
        reasons[held.reason] = reasons.get(held.reason, 0) + sign * count.recipients

    def report(self, now: int) -> Report:
        """The balance at ``now`` (milliseconds)."""
        overdue = sum((item.release_at or 0) + OVERDUE < now for item in self._pending.values())
        unread = self._unreadable - self._rejected
        unread.update(self._rejected - self._unreadable)
        outcomes: dict[str, Counter[str]] = {}
        for cohort in self._cohorts.values():
            for outcome, reasons in cohort.outcomes.items():
                outcomes.setdefault(outcome, Counter()).update(reasons)
        cohorts = sorted(self._cohorts.values(), key=lambda cohort: (cohort.minute, cohort.campaign or ""))
        return Report(
            counted=sum(cohort.counted for cohort in cohorts),
            outcomes={outcome: dict(+reasons) for outcome, reasons in outcomes.items() if +reasons},
            pending=dict(Counter(item.outcome for item in self._pending.values())),
            unreadable=self._unreadable.total(),
            rejected_unread=self._rejected.total(),
            doubled=self._doubled,
            overdue=overdue,
            difference=sum(abs(cohort.difference) for cohort in cohorts) + unread.total() + self._doubled + overdue,
            cohorts=cohorts,
        )

    def _cohort(self, arrived_at: int, campaign: str | None) -> Cohort:
        key = arrived_at // MINUTE * MINUTE, campaign
        cohort = self._cohorts.get(key)
        if cohort is None:
            cohort = self._cohorts[key] = Cohort(*key)
        return cohort

    @staticmethod
    def _add(cohort: Cohort, record: _Decided, number: int) -> None:
        reasons = cohort.outcomes.setdefault(record.outcome, {})
        reason = record.reason or "none"
        reasons[reason] = reasons.get(reason, 0) + number


class Reader:
    """Feeds a ledger from the broker; ``read`` goes on where the last call ended."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.ledger = Ledger()
        self._prefix = settings.prefix
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap,
                "group.id": f"{settings.prefix}conservation",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": False,
            }
        )
        self._next: dict[tuple[str, int], int] = {}

    def read(self, seconds: float = 60) -> None:
        """Take all records up to the end as it is now; TimeoutError after ``seconds``, KafkaException where it is away."""
        ends: dict[tuple[str, int], int] = {}
        for topic in (COUNTS, DECISIONS, REJECTED, QUARANTINED, QUARANTINE_STATUS):
            name = self._prefix + topic
            for partition in self._consumer.list_topics(name, timeout=10).topics[name].partitions:
                low, high = self._consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=10)
                self._next.setdefault((name, partition), low)
                ends[name, partition] = high
        left = {place for place, end in ends.items() if self._next[place] < end}
        self._consumer.assign([TopicPartition(*place, self._next[place]) for place in left])
        deadline = time.monotonic() + seconds
        while left:
            for message in self._consumer.consume(5000, timeout=0.2):
                self._take(message)
            # The position passes transaction markers and aborted records, which are never handed out.
            for position in self._consumer.position([TopicPartition(*place) for place in left]):
                place = position.topic, position.partition
                self._next[place] = max(self._next[place], position.offset)
            left = {place for place in left if self._next[place] < ends[place]}
            if left and time.monotonic() > deadline:
                raise TimeoutError(f"the end of {sorted(left)} was not reached: is a transaction open?")
        self._consumer.unassign()

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            raise KafkaException(error)
        place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        if offset < self._next[place]:
            return
        # At once: a failure on a later record of the batch must not have this one taken again.
        self._next[place] = offset + 1
        value = message.value() or b""
        topic = place[0].removeprefix(self._prefix)
        if topic == COUNTS:
            self.ledger.count(value)
        elif topic == DECISIONS:
            self.ledger.decide(value)
        elif topic == QUARANTINE_STATUS:
            if value:
                self.ledger.mark((message.key() or b"").decode(), value)
        else:
            found = dict(message.headers() or [])
            headers = [(name, content) for name, content in found.items() if isinstance(content, bytes)]
            if topic == REJECTED:
                self.ledger.reject(headers)
            else:
                self.ledger.hold(f"{place[1]}/{offset}", headers)


def now_ms() -> int:
    """The wall clock in milliseconds."""
    return time.time_ns() // 1_000_000
