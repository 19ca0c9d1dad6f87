"""The demo: a stack of its own, synthetic users, a flood with one-time codes beside it, and the account of it all."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import redis
import requests
from confluent_kafka import Consumer, Producer, TopicPartition
from msgspec.structs import replace

from cli.job_control import JobControl
from cli.stack.stack import Stack
from cli.stack.stack_settings import absolute, with_free_ports
from cli.stack.worker_programs import api_key_file
from cli.synthetic import background_events, event, profile_commands, user_name
from connectors.conservation import Reader, Report
from connectors.log_positions import end_offsets, wait_until_read
from connectors.settings import ROOT, Settings
from messages.topics import CHANGES, DECISIONS, EVENTS, OUTCOMES, PARTITIONER, REJECTED

REPORT = ROOT / "var" / "demo" / "report.json"
CODES_A_SECOND = 50

Say = Callable[[str], None]


class Percentiles(msgspec.Struct):
    """Milliseconds."""

    p50: float | None
    p99: float | None
    samples: int


class ProviderCount(msgspec.Struct):
    """What a provider's own books say."""

    accepted: int
    duplicates: int


class DemoReport(msgspec.Struct, kw_only=True):
    """What came of it. ``outcomes`` maps a reason, ``sent`` for a plain send, to notifications."""

    users: int
    events: int
    urgent_events: int
    outcomes: dict[str, int]
    providers: dict[str, ProviderCount]
    deliveries: int
    delivery_outcomes: dict[str, int]
    latency_ms: dict[str, Percentiles]
    malformed: int
    rejected: int
    conservation_difference: int
    seconds: float
    failures: list[str]


class Progress(msgspec.Struct):
    """What is shown while it runs."""

    phase: str = "starting"
    sent: int = 0
    codes: int = 0
    decided: int = 0
    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    deliveries: int = 0
    accepted: Counter[str] = msgspec.field(default_factory=Counter)


class Demo:
    """One run. ``progress`` is updated as it goes; ``say`` takes a line where a phase ends."""

    def __init__(self, settings: Settings, users: int, events: int, say: Say) -> None:
        directory = absolute("var/demo/stack")
        self.settings = with_free_ports(replace(settings, stack=replace(settings.stack, directory=str(directory))))
        self.stack = Stack(self.settings, say=say)
        self.settings = self.stack.settings
        self.progress = Progress()
        self._users = users
        self._events = events
        self._say = say
        self._job = JobControl(self.settings, say=say)

    def up(self) -> None:
        """A fresh stack with the job on it; what a run before left is removed."""
        previous = Stack(self.settings, say=self._say)
        previous.down()
        shutil.rmtree(self.stack.directory, ignore_errors=True)
        self.stack.up()
        self.progress.phase = "starting the job"
        self._job.start()

    def run(self) -> DemoReport:
        """Send everything, wait until all of it has ended, and write the account to ``REPORT``."""
        self.progress.phase = "loading profiles"
        self._load_profiles()
        began = time.monotonic()
        watch = _Watch(self.settings, self.progress)
        self.progress.phase = "events"
        with _OneTimeCodes(self.settings, self._users, self.progress) as codes:
            malformed = self._flood()
            self._say(f"{self._events:,} events are in the log after {time.monotonic() - began:.0f} s")
            conservation = self._drain(watch, codes)
        seconds = time.monotonic() - began
        report = self._report(watch, conservation, codes.sent, malformed, seconds)
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
        return report

    def _produce(self, topic: str, records: Iterable[tuple[str | None, bytes]], count: Callable[[], None]) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka.bootstrap,
                "partitioner": PARTITIONER,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 20,
                "queue.buffering.max.messages": 20_000,
            }
        )
        lost: list[Any] = []
        for key, value in records:
            while True:
                try:
                    producer.produce(
                        self.settings.kafka.prefix + topic,
                        key=key,
                        value=value,
                        on_delivery=lambda error, _: lost.append(error) if error else count(),
                    )
                    break
                except BufferError:
                    producer.poll(0.05)
            producer.poll(0)
        if producer.flush(60) or lost:
            raise RuntimeError(f"the broker did not take all records of {topic}: {lost[:1]}")

    def _load_profiles(self) -> None:
        def loaded() -> None:
            self.progress.sent += 1

        self._produce(CHANGES, profile_commands(self._users), loaded)
        kafka = self.settings.kafka
        wait_until_read(kafka, kafka.prefix + self.settings.job.group, end_offsets(kafka, CHANGES), 300)
        self._say(f"{self._users:,} profiles are loaded")
        self.progress.sent = 0

    def _flood(self) -> int:
        malformed = 0

        def records() -> Iterable[tuple[str | None, bytes]]:
            nonlocal malformed
            for synthetic in background_events(self._events, self._users, datetime.now(UTC)):
                malformed += synthetic.malformed
                yield None, synthetic.payload

        def sent() -> None:
            self.progress.sent += 1

        self._produce(EVENTS["background"], records(), sent)
        return malformed

    def _drain(self, watch: _Watch, codes: _OneTimeCodes, seconds: float = 1200) -> Report:
        """Wait until every notification has ended and every delivery is reported; the codes stop with the background."""
        reader = Reader(self.settings.kafka)
        deadline = time.monotonic() + seconds
        total = self._events
        try:
            while True:
                reader.read()
                report = reader.ledger.report(_now())
                watch.read()
                progress = self.progress
                progress.decided = sum(cohort.decided for cohort in report.cohorts)
                progress.outcomes = Counter(_by_reason(report))
                done = report.counted + report.unreadable >= total and not report.pending
                if codes.running and done and not watch.open_in("background"):
                    codes.stop()
                    total += codes.sent
                    progress.phase = "the last ones"
                elif not codes.running and done and watch.complete():
                    return report
                if time.monotonic() > deadline:
                    self._say(f"not all had ended after {seconds:.0f} s: the report tells what is missing")
                    return report
                time.sleep(1)
        finally:
            reader.close()
            watch.close()

    def _report(self, watch: _Watch, balance: Report, codes: int, malformed: int, seconds: float) -> DemoReport:
        providers = {"fcm": self._fcm_books(), "inapp": self._inbox_books()}
        rejected = self._rejected()
        failures = []
        if balance.difference:
            failures.append(f"conservation: {balance.difference} notifications are not accounted for")
        failures += [f"{name}: {books.duplicates} duplicates" for name, books in providers.items() if books.duplicates]
        if rejected != malformed:
            failures.append(f"{malformed} malformed events were sent, {rejected} are in rejected")
        for name, books in providers.items():
            reported = watch.accepted[name]
            if books.accepted != reported:
                failures.append(f"{name} accepted {books.accepted}, the outcomes say {reported}")
        if not watch.complete():
            failures.append(f"{len(watch.open)} deliveries have no outcome")
        return DemoReport(
            users=self._users,
            events=self._events,
            urgent_events=codes,
            outcomes=_by_reason(balance),
            providers=providers,
            deliveries=watch.decided,
            delivery_outcomes=dict(watch.statuses),
            latency_ms=watch.latencies(self._received()),
            malformed=malformed,
            rejected=rejected,
            conservation_difference=balance.difference,
            seconds=round(seconds, 1),
            failures=failures,
        )

    def _emulator(self, path: str) -> requests.Response:
        fcm = self.settings.fcm
        answer = requests.get(f"{fcm.url}{path}", verify=fcm.ca_file or True, timeout=60)
        answer.raise_for_status()
        return answer

    def _fcm_books(self) -> ProviderCount:
        stats = self._emulator("/admin/stats").json()
        return ProviderCount(stats["accepted"], stats["duplicates"])

    def _received(self) -> dict[str, int]:
        lines = self._emulator("/admin/messages").content.splitlines()
        messages = [msgspec.json.decode(line) for line in lines]
        return {message["delivery_id"]: message["received_at"] for message in reversed(messages)}

    def _inbox_books(self) -> ProviderCount:
        client = redis.Redis.from_url(self.settings.redis.url)
        items = 0
        pattern = f"*{self.settings.kafka.prefix}inbox:*:order"
        keys = list(client.scan_iter(match=pattern, count=5000))
        for start in range(0, len(keys), 1000):
            pipeline = client.pipeline(transaction=False)
            for key in keys[start : start + 1000]:
                pipeline.zcard(key)
            items += sum(pipeline.execute())
        # An inbox holds an item once, whatever was written: a second one cannot appear.
        return ProviderCount(items, 0)

    def _rejected(self) -> int:
        """Rejected events, as they lie on the topic."""
        found = 0
        for message in _read_all(self.settings, REJECTED):
            stage = dict(message.headers() or []).get("stage")
            found += stage in (b"read", b"decide")
        return found


class _Watch:
    """Follows ``decisions`` and ``outcomes``: which deliveries were decided, and what became of each."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.open: dict[str, str] = {}
        self.decided = 0
        self.statuses: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self._early: set[str] = set()
        self._outcomes: dict[str, tuple[str, int]] = {}
        self._released: set[str] = set()
        self._progress = progress
        self._prefix = settings.kafka.prefix
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka.bootstrap,
                "group.id": f"{self._prefix}demo",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        self._consumer.subscribe([self._prefix + DECISIONS, self._prefix + OUTCOMES])

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
                    record = msgspec.json.decode(value)
                    (self._outcome if message.topic() == self._prefix + OUTCOMES else self._decision)(record)
        self._progress.deliveries = self.decided
        self._progress.accepted = self.accepted

    def _decision(self, record: dict[str, Any]) -> None:
        for delivery in record.get("deliveries", ()):
            self.decided += 1
            if record.get("step"):
                self._released.add(delivery)
            if delivery in self._early:
                self._early.remove(delivery)
            else:
                self.open[delivery] = record["lane"]

    def _outcome(self, record: dict[str, Any]) -> None:
        delivery = record["delivery_id"]
        if delivery in self._outcomes:  # reported again after a restart
            return
        self._outcomes[delivery] = record["lane"], record["arrived_at"]
        self.statuses[record["status"]] += 1
        if record["status"] == "accepted":
            self.accepted[record["provider"]] += 1
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


class _OneTimeCodes:
    """A trickle of urgent events through the gateway, beside whatever else goes on."""

    def __init__(self, settings: Settings, users: int, progress: Progress) -> None:
        self.sent = 0
        self.running = False
        self._users = users
        self._progress = progress
        self._url = f"http://127.0.0.1:{settings.gateway.port}/v1/events"
        self._key = api_key_file(Path(settings.stack.directory)).read_text().strip()
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _OneTimeCodes:
        self.running = True
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the trickle; raises what went wrong in it."""
        self._ended.set()
        self._thread.join(30)
        self.running = False
        if self._failure is not None:
            raise RuntimeError(f"the gateway did not take a one-time code: {self._failure}") from self._failure

    def _run(self) -> None:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self._key}"
        session.headers["Content-Type"] = "application/json"
        began = time.monotonic()
        run = int(time.time())
        try:
            while not self._ended.wait(max(0.0, began + self.sent / CODES_A_SECOND - time.monotonic())):
                user = user_name(self.sent * 7919 % self._users)
                code = event(f"code-{run}-{self.sent}", [user], "one_time_code", datetime.now(UTC), priority="urgent")
                answer = session.post(self._url, data=code, timeout=30)
                if answer.status_code == 503 and not self._ended.is_set():
                    continue  # Kafka has not acknowledged: the same event again is harmless
                if answer.status_code != 202:
                    raise RuntimeError(f"{answer.status_code} {answer.text[:200]}")
                self.sent += 1
                self._progress.codes = self.sent
        except Exception as error:
            self._failure = error


def _read_all(settings: Settings, topic: str) -> Iterable[Any]:
    """Every committed record that ``topic`` holds now."""
    name = settings.kafka.prefix + topic
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka.bootstrap, "group.id": "demo", "isolation.level": "read_committed"}
    )
    try:
        for partition in consumer.list_topics(name, timeout=10).topics[name].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=10)
            place = TopicPartition(name, partition, low)
            consumer.assign([place])
            position = low
            while position < high:
                yield from consumer.consume(5000, timeout=0.3)
                reached = consumer.position([place])[0].offset
                position = max(position, reached)
    finally:
        consumer.close()


def _by_reason(report: Report) -> dict[str, int]:
    found: Counter[str] = Counter()
    for outcome, reasons in report.outcomes.items():
        for reason, number in reasons.items():
            found["sent" if outcome == "sent" else reason] += number
    return dict(found.most_common())


def _percentiles(values: list[int]) -> Percentiles:
    if not values:
        return Percentiles(None, None, 0)
    values.sort()
    return Percentiles(values[len(values) // 2], values[min(len(values) - 1, len(values) * 99 // 100)], len(values))


def _now() -> int:
    return time.time_ns() // 1_000_000
