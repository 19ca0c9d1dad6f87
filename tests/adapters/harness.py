"""One line of delivery for a test: topics of its own, a real worker process, the real provider side, and what came out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import redis
import requests
from confluent_kafka import Producer
from kafka import KafkaConsumer, TopicPartition
from msgspec.structs import replace

from connectors.settings import ROOT, AdapterSettings, FcmSettings, KafkaSettings, RedisSettings, Settings
from messages.codec import encode_json
from messages.delivery import Delivery, Outcome, Target, decode_outcome
from messages.event import Content
from messages.profile import ProfileChange, decode_change
from messages.topics import CHANGES, OUTCOMES, PARTITIONER, REJECTED, deliveries
from messages.words import PROVIDERS, user_key
from tests.waiting import until

SECRET_TOKEN = "device-token-that-no-log-may-show"

QUICK = AdapterSettings(
    in_flight={"urgent": 32, "background": 64},
    attempts=4,
    backoff_base=20,
    backoff_cap=200,
    request_timeout=2_000,
    commit_interval=100,
    session_timeout=6_000,
    stop_within=8_000,
)


def now_millis() -> int:
    return time.time_ns() // 1_000_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def delivery(provider: str = "fcm", **changes: Any) -> Delivery:
    """A plain delivery; ``changes`` by field."""
    user = changes.pop("user", f"user-{uuid.uuid4().hex[:8]}")
    address = changes.pop("address", f"{SECRET_TOKEN}-{user}")
    plain = Delivery(
        id=uuid.uuid4().hex,
        tenant="default",
        user=user,
        event_id="event-1",
        source="tests",
        category="news",
        category_class="transactional",
        lane="urgent",
        channel=PROVIDERS[provider],  # type: ignore[index]
        provider=provider,  # type: ignore[arg-type]
        endpoint=Target(id=f"endpoint-{user}", address=address, registered_at=1_700_000_000_000),
        content=Content(title="Hello", body="World"),
        arrived_at=now_millis(),
        decided_at=now_millis(),
        policy_version=1,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    return replace(plain, **changes)


class Process:
    """A Python module as a process of its own; what it prints goes to ``log``."""

    def __init__(self, module: str, arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self._process.kill()
        self._process.wait(10)

    def terminate(self, within: float = 20) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(within)

    def suspend(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        if self.running():
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)


class FcmEmulator:
    """The emulator on a port of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        arguments = ["--port", str(self.port), "--directory", str(self.directory)]
        self.process = Process("emulators.fcm", arguments, self.directory / "emulator.log")
        until(self._healthy, 20, "the emulator is healthy")

    def _healthy(self) -> bool:
        if not (self.directory / "ca.pem").exists():
            return False
        try:
            return self._get("/healthz").ok
        except requests.RequestException:
            return False

    def _get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, verify=str(self.directory / "ca.pem"), timeout=10)

    def _post(self, path: str, document: Any = None) -> None:
        answer = requests.post(self.url + path, json=document, verify=str(self.directory / "ca.pem"), timeout=10)
        assert answer.ok, answer.text

    def faults(self, **faults: Any) -> None:
        """Put exactly these faults in force."""
        self._post("/admin/faults", faults)

    def reset(self) -> None:
        self._post("/admin/reset")

    def revoke(self) -> None:
        self._post("/admin/revoke")

    def goaway(self) -> None:
        self._post("/admin/goaway")

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self._get("/admin/stats").json()
        return stats

    def messages(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self._get("/admin/messages").content.splitlines()]

    def settings(self) -> FcmSettings:
        return FcmSettings(
            url=self.url,
            credentials_file=str(self.directory / "credentials.json"),
            ca_file=str(self.directory / "ca.pem"),
        )

    def stop(self) -> None:
        self.process.end()


class Topic:
    """Everything on one topic, read by an independent client; ``records`` grows with each look."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level="read_committed"
        )
        partitions = until(lambda: self._consumer.partitions_for_topic(name), 20, f"{name} exists")
        self._partitions = [TopicPartition(name, number) for number in sorted(partitions)]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)
        self._records: list[Any] = []

    def records(self) -> list[Any]:
        """All records up to the end as it is now."""
        ends = self._consumer.end_offsets(self._partitions)
        deadline = time.monotonic() + 15
        while any(self._consumer.position(each) < end for each, end in ends.items()):
            for batch in self._consumer.poll(timeout_ms=200).values():
                self._records += batch
            assert time.monotonic() < deadline, f"{self._partitions} could not be read to {ends}"
        return self._records

    def close(self) -> None:
        self._consumer.close()


class Line:
    """Topics, a provider side and workers for one test. ``received`` counts what arrived there by delivery id."""

    def __init__(
        self, provider: str, kafka: KafkaSettings, redis_url: str, directory: Path, emulator: FcmEmulator | None
    ) -> None:
        self.provider = provider
        self.kafka = kafka
        self.emulator = emulator
        self.directory = directory
        self.adapters = QUICK
        self.redis = redis.Redis.from_url(redis_url)
        self._redis_url = redis_url
        self._workers: list[Process] = []
        self._topics: dict[str, Topic] = {}
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": PARTITIONER})
        self._sent: dict[str, Delivery] = {}

    # Workers.

    def settings_file(self) -> Path:
        settings = Settings(
            kafka=self.kafka,
            redis=RedisSettings(url=self._redis_url),
            adapters=self.adapters,
            fcm=self.emulator.settings() if self.emulator is not None else FcmSettings(),
        )
        file = self.directory / "herald.yaml"
        file.write_bytes(msgspec.yaml.encode(settings))
        return file

    def worker(self, lanes: str = "urgent,background", wait: bool = True) -> Process:
        """Start a worker; ``wait``: until it has its partitions."""
        number = len(self._workers)
        ready = self.directory / f"ready-{number}"
        arguments = ["--provider", self.provider, "--lanes", lanes, "--config", str(self.settings_file())]
        process = Process(
            "connectors.adapters", [*arguments, "--ready-file", str(ready)], self.directory / f"worker-{number}.log"
        )
        self._workers.append(process)
        if wait:
            until(lambda: ready.exists() or not process.running(), 40, "the worker is ready")
            assert process.running(), process.log.read_text()
        return process

    def logs(self) -> str:
        return "".join(worker.log.read_text(errors="replace") for worker in self._workers)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the workers' journals by event."""
        lines = [msgspec.json.decode(line) for line in self.logs().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def slow(self, milliseconds: int) -> None:
        """Let the provider take so long for an answer, where it is one that can."""
        if self.emulator is not None:
            self.emulator.faults(latency_ms=milliseconds)

    # In.

    def delivery(self, **changes: Any) -> Delivery:
        return delivery(self.provider, **changes)

    def send(self, *items: Delivery) -> None:
        """Put deliveries on their topics, acknowledged."""
        for item in items:
            self._sent[item.id] = item
            self.send_raw(encode_json(item), user_key(item.tenant, item.user), item.lane)
        self.flush()

    def send_raw(self, value: bytes | None, key: str, lane: str = "urgent") -> None:
        topic = self.kafka.prefix + deliveries(self.provider, lane)
        while True:
            try:
                self._producer.produce(topic, key=key, value=value)
                return
            except BufferError:
                self._producer.poll(0.1)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    # Out.

    def topic(self, name: str) -> Topic:
        if name not in self._topics:
            self._topics[name] = Topic(self.kafka.bootstrap, self.kafka.prefix + name)
        return self._topics[name]

    def outcomes(self, identity: str | None = None) -> list[Outcome]:
        decoded = [decode_outcome(record.value) for record in self.topic(OUTCOMES).records()]
        return [each for each in decoded if identity is None or each.delivery_id == identity]

    def outcome(self, identity: str, seconds: float = 20) -> Outcome:
        """The first outcome of a delivery."""
        return until(lambda: self.outcomes(identity), seconds, f"outcome of {identity}\n{self.logs()[-3000:]}")[0]

    def changes(self) -> list[ProfileChange]:
        return [decode_change(record.value) for record in self.topic(CHANGES).records()]

    def rejected(self) -> list[Any]:
        return self.topic(REJECTED).records()

    def received(self) -> Counter[str]:
        """How often each delivery arrived at the provider."""
        if self.emulator is not None:
            return Counter(message["delivery_id"] for message in self.emulator.messages())
        counts: Counter[str] = Counter()
        for key in self.redis.scan_iter(match=f"herald:{self.kafka.prefix}inbox:*:order", count=1000):
            counts.update(identity.decode() for identity in self.redis.zrange(key, 0, -1))
        return counts

    def committed(self, lane: str = "urgent") -> dict[int, int]:
        """Committed offsets by partition."""
        topic = self.kafka.prefix + deliveries(self.provider, lane)
        consumer = KafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap,
            group_id=f"{self.kafka.prefix}adapter-{self.provider}-{lane}",
            enable_auto_commit=False,
        )
        try:
            found = {number: consumer.committed(TopicPartition(topic, number)) for number in range(self.kafka.partitions)}
            return {number: offset for number, offset in found.items() if offset is not None}
        finally:
            consumer.close()

    def ends(self, lane: str = "urgent") -> dict[int, int]:
        """End offsets by partition, of those that are not empty."""
        topic = self.kafka.prefix + deliveries(self.provider, lane)
        consumer = KafkaConsumer(bootstrap_servers=self.kafka.bootstrap)
        try:
            ends = consumer.end_offsets([TopicPartition(topic, number) for number in range(self.kafka.partitions)])
            return {each.partition: end for each, end in ends.items() if end}
        finally:
            consumer.close()

    def all_ended(self, identities: Iterable[str], seconds: float = 60) -> dict[str, list[Outcome]]:
        """Wait until every delivery has an outcome; all outcomes by delivery."""
        wanted = set(identities)

        def missing() -> bool:
            return wanted <= {outcome.delivery_id for outcome in self.outcomes()}

        until(missing, seconds, f"{len(wanted)} deliveries have an outcome\n{self.logs()[-3000:]}")
        found: dict[str, list[Outcome]] = {identity: [] for identity in wanted}
        for outcome in self.outcomes():
            if outcome.delivery_id in found:
                found[outcome.delivery_id].append(outcome)
        return found

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        for topic in self._topics.values():
            topic.close()
        self.redis.close()
