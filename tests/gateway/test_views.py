"""The views on a real Kafka and Redis: complete, idempotent, and back after a restart of anything."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import redis.asyncio
from confluent_kafka import Producer
from kafka import KafkaAdminClient
from msgspec.structs import replace

from cli.stack.stack import Stack
from cli.stack.stack_settings import write_settings
from connectors import topics as administration
from connectors.settings import ROOT, KafkaSettings, RedisSettings, Settings, ViewSettings
from connectors.view_store import History, ViewKeys, ViewReader, ViewWriter
from connectors.views import GROUP, Views
from messages.codec import encode_json
from messages.decision import CapCount, DecisionRecord
from messages.delivery import Outcome
from messages.profile import Profile
from messages.topics import DECISIONS, OUTCOMES, PARTITIONER, PROFILES
from tests.conftest import Kafka, free_settings, fresh_prefix
from tests.waiting import until

KEEP = 5


class Redis:
    """A Redis of one test, which can be killed and started again without its data."""

    def __init__(self, directory: Path) -> None:
        self.stack = Stack(free_settings(directory), ["redis"])
        self.url = self.stack.settings.redis.url
        self.stack.up()

    def signal(self, number: int) -> None:
        (program,) = [each for each in self.stack.status() if each.name == "redis"]
        psutil.Process(program.pid).send_signal(number)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    made = Redis(tmp_path_factory.mktemp("redis"))
    yield made
    made.stack.down()


@pytest.fixture
def settings(kafka: Kafka, store: Redis, tmp_path: Path) -> Iterator[Settings]:
    kafka_settings = KafkaSettings(bootstrap=kafka.bootstrap, prefix=fresh_prefix(), partitions=2)
    administration.create_missing(kafka_settings)
    yield replace(
        free_settings(tmp_path),
        kafka=kafka_settings,
        redis=RedisSettings(url=store.url),
        views=ViewSettings(ttl=3_600_000, decisions_a_user=KEEP),
    )
    administration.delete(kafka_settings)


class Process:
    """``python -m connectors.views``; ready when made."""

    def __init__(self, settings: Settings, directory: Path, *arguments: str) -> None:
        write_settings(settings, directory / "views.yaml")
        ready = directory / "views.ready"
        ready.unlink(missing_ok=True)
        self.log = directory / "views.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "connectors.views", "--config", str(directory / "views.yaml")),
                    *("--ready-file", str(ready), *arguments),
                ],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            until(ready.exists, what="the views are ready")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def decision(user: str, number: int, **fields: Any) -> DecisionRecord:
    defaults: dict[str, Any] = {"deliveries": [f"{user}-d{number}"], "outcome": "sent", "event_id": f"e{number}"}
    return DecisionRecord(
        notification_id=f"n{number}",
        tenant="default",
        user=user,
        source="shop",
        category="news",
        lane="background",
        policy_version=1,
        origin=f"events.background/0/{number}",
        arrived_at=number,
        decided_at=number,
        **(defaults | fields),
    )


def outcome(user: str, number: int, **fields: Any) -> Outcome:
    defaults: dict[str, Any] = {"status": "accepted"}
    return Outcome(
        delivery_id=f"{user}-d{number}",
        tenant="default",
        user=user,
        event_id=f"e{number}",
        source="shop",
        category="news",
        lane="background",
        channel="push",
        provider="fcm",
        endpoint_id="phone",
        at=number,
        **(defaults | fields),
    )


class Writer:
    """Writes to the topics as the job and the adapters do."""

    def __init__(self, kafka: KafkaSettings, transaction: str | None = None) -> None:
        self._prefix = kafka.prefix
        self._errors: list[Any] = []
        options = {"transactional.id": kafka.prefix + transaction} if transaction else {}
        self.producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": PARTITIONER, **options})

    def write(self, topic: str, user: str, *values: Any) -> None:
        for value in values:
            data = value if isinstance(value, bytes | None) else encode_json(value)
            self.producer.produce(self._prefix + topic, data, f"default/{user}".encode(), on_delivery=self._delivered)

    def _delivered(self, error: Any, _: Any) -> None:
        self._errors += [error] if error is not None else []

    def flush(self) -> None:
        assert self.producer.flush(30) == 0
        assert not self._errors


def read(settings: Settings, user: str) -> tuple[Profile | None, History]:
    async def reading() -> tuple[Profile | None, History]:
        client = redis.asyncio.Redis.from_url(settings.redis.url)
        try:
            reader = ViewReader(client, settings.kafka)
            return await reader.profile("default", user), await reader.history("default", user)
        finally:
            await client.aclose()

    return asyncio.run(reading())


def seen(settings: Settings, user: str) -> list[str]:
    return [record.event_id for record in read(settings, user)[1].decisions]


def committed(settings: Settings) -> dict[str, int]:
    """Committed offsets by topic, summed over partitions."""
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    try:
        group = settings.kafka.prefix + GROUP
        found: dict[str, int] = {}
        for partition, offset in admin.list_group_offsets(group)[group].items():
            name = partition.topic.removeprefix(settings.kafka.prefix)
            found[name] = found.get(name, 0) + max(0, offset.offset)
        return found
    finally:
        admin.close()


def test_the_views_show_what_is_on_the_topics(settings: Settings, tmp_path: Path) -> None:
    views = Process(settings, tmp_path)
    try:
        writer = Writer(settings.kafka)
        writer.write(PROFILES, "ada/1", Profile(version=1, locale="de"), Profile(version=2, locale="en"))
        writer.write(DECISIONS, "ada/1", decision("ada/1", 1))
        writer.write(OUTCOMES, "ada/1", outcome("ada/1", 1))
        writer.flush()
        until(lambda: "ada/1-d1" in read(settings, "ada/1")[1].outcomes, what="the outcome")
        profile, history = until(lambda: (found := read(settings, "ada/1"))[0] and found, what="the profile")
        assert (profile.version, profile.locale) == (2, "en")
        assert history.decisions == [decision("ada/1", 1)]
        assert history.outcomes == {"ada/1-d1": outcome("ada/1", 1)}
        assert views.stop() == 0
    finally:
        views.kill()


def test_every_key_expires_and_the_decisions_are_bounded(settings: Settings, tmp_path: Path) -> None:
    writer = Writer(settings.kafka)
    writer.write(PROFILES, "ada", Profile(version=1))
    writer.write(DECISIONS, "ada", *(decision("ada", number) for number in range(1, 13)))
    writer.write(OUTCOMES, "ada", *(outcome("ada", number) for number in range(1, 13)))
    writer.flush()
    views = Process(settings, tmp_path)
    try:
        last = [f"e{number}" for number in range(13 - KEEP, 13)]
        until(lambda: seen(settings, "ada") == last, what="the last decisions")
        until(lambda: len(read(settings, "ada")[1].outcomes) == KEEP, what="their outcomes")
        until(lambda: read(settings, "ada")[0], what="the profile")
        client = redis.Redis.from_url(settings.redis.url)
        keys = client.keys(f"herald:{settings.kafka.prefix}*")
        assert len(keys) == 14
        assert all(0 < client.pttl(key) <= settings.views.ttl for key in keys)
    finally:
        views.kill()


def test_a_chain_is_kept_until_after_what_it_waits_for(settings: Settings) -> None:
    """Beyond the views' time, but not for longer than the topic holds it; a later record does not shorten that."""
    client = redis.Redis.from_url(settings.redis.url)
    writer, keys = ViewWriter(settings.kafka, settings.views), ViewKeys(settings.kafka)
    ttl, hour = settings.views.ttl, 3_600_000

    def left(user: str, *records: DecisionRecord) -> int:
        key = f"default/{user}".encode()
        for record in records:
            client.execute_command(*writer.decision(key, encode_json(record)))
        milliseconds: int = client.pttl(keys.decisions(key))
        return milliseconds

    waits = decision("ada", 1, outcome="deferred", deliveries=[], release_at=1 + 24 * hour)
    assert ttl + 23 * hour < left("ada", waits) <= ttl + 24 * hour
    assert ttl + 23 * hour < left("ada", decision("ada", 2)) <= ttl + 24 * hour
    assert left("eve", replace(waits, release_at=1 + 1_000 * hour)) <= 72 * hour
    assert 71 * hour < left("eve")
    assert left("bob", replace(waits, release_at=0)) <= ttl


def test_the_records_of_one_instant_are_read_as_they_were_written(settings: Settings) -> None:
    client = redis.Redis.from_url(settings.redis.url)
    writer = ViewWriter(settings.kafka, settings.views)
    full = decision(
        "ada",
        1,
        outcome="escalating",
        reason="escalation",
        child=True,
        part="ladder",
        channels={"push": "quiet_hours"},
        retry_at={"push": 7},
        caps=[CapCount(name="daily", taken=1, limit=2, window="day")],
        rung=1,
        override="category/news",
        release_at=9,
    )
    sent = decision("ada", 1)
    for record in (sent, full, full):
        client.execute_command(*writer.decision(b"default/ada", encode_json(record)))
    assert sorted(read(settings, "ada")[1].decisions, key=lambda record: record.child) == [sent, full]


def test_a_removed_profile_is_gone(settings: Settings, tmp_path: Path) -> None:
    views = Process(settings, tmp_path)
    try:
        writer = Writer(settings.kafka)
        writer.write(PROFILES, "ada", Profile(version=1))
        writer.flush()
        until(lambda: read(settings, "ada")[0], what="the profile")
        writer.write(PROFILES, "ada", None)
        writer.flush()
        until(lambda: read(settings, "ada")[0] is None, what="the profile goes")
    finally:
        views.kill()


def test_what_was_not_committed_is_not_shown(settings: Settings, tmp_path: Path) -> None:
    views = Process(settings, tmp_path)
    try:
        writer = Writer(settings.kafka, transaction="test")
        writer.producer.init_transactions(30)
        for number, end in ((1, writer.producer.abort_transaction), (2, writer.producer.commit_transaction)):
            writer.producer.begin_transaction()
            writer.write(DECISIONS, "ada", decision("ada", number))
            writer.flush()
            end(30)
        until(lambda: seen(settings, "ada"), what="the committed one")
        assert seen(settings, "ada") == ["e2"]
    finally:
        views.kill()


def test_a_repeated_report_does_not_replace_the_first(settings: Settings, tmp_path: Path) -> None:
    views = Process(settings, tmp_path)
    try:
        writer = Writer(settings.kafka)
        writer.write(DECISIONS, "ada", decision("ada", 1), decision("ada", 2))
        first = outcome("ada", 1, provider_message_id="m-1")
        repeat = outcome("ada", 1, repeat=True, status="unknown")
        writer.write(OUTCOMES, "ada", first, repeat, outcome("ada", 2, repeat=True))
        writer.flush()
        until(lambda: len(read(settings, "ada")[1].outcomes) == 2, what="both outcomes")
        assert read(settings, "ada")[1].outcomes["ada-d1"] == first
    finally:
        views.kill()


def test_what_is_no_record_is_passed_over(settings: Settings, tmp_path: Path) -> None:
    views = Process(settings, tmp_path)
    try:
        writer = Writer(settings.kafka)
        writer.write(DECISIONS, "ada", b"{", b"\xff", b"[]", None, decision("ada", 1))
        writer.write(OUTCOMES, "ada", b"", b'{"delivery_id": 5}', outcome("ada", 1))
        writer.flush()
        until(lambda: "ada-d1" in read(settings, "ada")[1].outcomes, what="what comes after it")
        until(lambda: seen(settings, "ada") == ["e1"], what="what comes after it")
        until(lambda: views.log.read_text().count("is not shown") == 6, what="a line in the log for each")
    finally:
        views.kill()


def test_after_a_kill_nothing_is_missing_and_nothing_twice(settings: Settings, tmp_path: Path) -> None:
    writer = Writer(settings.kafka)
    users = [f"u{number}" for number in range(200)]
    everything = {user: [f"e{number}" for number in range(1, KEEP + 1)] for user in users}
    for number in range(1, KEEP + 1):
        for user in users:
            writer.write(DECISIONS, user, decision(user, number))
    writer.flush()
    views = Process(settings, tmp_path)
    try:
        until(lambda: seen(settings, users[0]), what="the first writes")
        views.kill()
        views = Process(settings, tmp_path)
        until(lambda: committed(settings).get(DECISIONS) == KEEP * len(users), what="the offsets")
        assert {user: seen(settings, user) for user in users} == everything
    finally:
        views.kill()


def test_offsets_wait_for_redis(settings: Settings, store: Redis, tmp_path: Path) -> None:
    """Redis hangs, then dies and comes back: nothing is committed before it is written, and all is written."""
    views = Process(settings, tmp_path)
    try:
        writer = Writer(settings.kafka)
        writer.write(DECISIONS, "ada", decision("ada", 1))
        writer.flush()
        until(lambda: committed(settings).get(DECISIONS) == 1, what="the first offset")
        store.signal(signal.SIGSTOP)
        try:
            writer.write(DECISIONS, "ada", decision("ada", 2), decision("ada", 3))
            writer.flush()
            until(lambda: "trying again" in views.log.read_text(), what="the complaint")
            assert committed(settings)[DECISIONS] == 1
        finally:
            # SIGKILL reaches a stopped process; its supervisor starts it again.
            store.signal(signal.SIGKILL)
        until(lambda: committed(settings).get(DECISIONS) == 3, what="the other offsets")
        until(lambda: {"e2", "e3"} <= set(seen(settings, "ada")), what="the other decisions")
    finally:
        views.kill()


def test_an_empty_redis_is_filled_again_on_request(settings: Settings, tmp_path: Path) -> None:
    writer = Writer(settings.kafka)
    writer.write(PROFILES, "ada", Profile(version=1))
    writer.write(DECISIONS, "ada", decision("ada", 1))
    writer.flush()
    views = Process(settings, tmp_path)
    try:
        until(lambda: committed(settings).get(DECISIONS) == 1 and committed(settings).get(PROFILES) == 1, what="offsets")
        assert views.stop() == 0
        client = redis.Redis.from_url(settings.redis.url)
        client.delete(*client.keys(f"herald:{settings.kafka.prefix}*"))
        views = Process(settings, tmp_path)
        writer.write(DECISIONS, "eve", decision("eve", 2))
        writer.flush()
        until(lambda: seen(settings, "eve"), what="what is new")
        assert seen(settings, "ada") == []
        assert views.stop() == 0
        views = Process(settings, tmp_path, "--rebuild")
        until(lambda: read(settings, "ada")[0], what="the profile is back")
        until(lambda: seen(settings, "ada") == ["e1"], what="the decision is back")
    finally:
        views.kill()


def test_a_stop_ends_while_redis_is_away(settings: Settings) -> None:
    away = replace(settings, redis=RedisSettings(url="redis://127.0.0.1:1/0"))
    stopping = threading.Event()
    told: list[str] = []
    running = threading.Thread(target=lambda: Views(away, stopping).run(ready=lambda: told.append("ready")))
    running.start()
    stopping.set()
    running.join(30)
    assert not running.is_alive()
    assert told == []
