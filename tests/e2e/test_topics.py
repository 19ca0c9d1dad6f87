"""The registry's topics on a real broker, and the partition that every client must choose."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from kafka import KafkaConsumer
from kafka.admin import KafkaAdminClient

from cli.main import main
from cli.stack.kafka_program import JARS
from cli.stack.stack_settings import write_settings
from connectors import topics as administration
from connectors.settings import KafkaSettings, Settings
from connectors.topics import Difference, TopicsError
from messages.topics import PARTITIONER, REJECTED, registry
from messages.words import user_key
from tests.conftest import Kafka, fresh_prefix

KEYS = [user_key("acme", f"user-{number}") for number in range(1999)] + [user_key("acme", "Jörg/☃")]


@pytest.fixture
def settings(kafka: Kafka) -> KafkaSettings:
    """Settings with a prefix of their own, nothing created."""
    return KafkaSettings(bootstrap=kafka.bootstrap, prefix=fresh_prefix(), partitions=3)


def herald(settings: KafkaSettings, file: Path, *arguments: str) -> Result:
    write_settings(Settings(kafka=settings), file)
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, ["--config", str(file), "topics", *arguments])


def described(settings: KafkaSettings) -> dict[str, int]:
    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap)
    try:
        names = [name for name in admin.list_topics() if name.startswith(settings.prefix)]
        return {
            topic["name"].removeprefix(settings.prefix): len(topic["partitions"]) for topic in admin.describe_topics(names)
        }
    finally:
        admin.close()


def test_apply_creates_the_registry_once(settings: KafkaSettings, tmp_path: Path) -> None:
    file = tmp_path / "herald.yaml"
    missing = herald(settings, file, "diff")
    assert missing.exit_code == 1
    assert missing.output.count("missing") == len(registry(3))

    created = herald(settings, file, "apply")
    assert created.exit_code == 0, created.output
    assert created.output.count("created ") == len(registry(3))
    assert described(settings) == {name: topic.partitions for name, topic in registry(3).items()}

    again = herald(settings, file, "apply")
    assert again.exit_code == 0
    assert "created" not in again.output
    assert herald(settings, file, "diff").exit_code == 0


def test_a_difference_is_shown_and_left(settings: KafkaSettings, tmp_path: Path) -> None:
    name = f"{settings.prefix}{REJECTED}"
    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap)
    wrong = {"retention.ms": "1000", "cleanup.policy": "compact", "max.message.bytes": "5000"}
    admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1, "configs": wrong}}, wait_for_metadata=True)
    admin.close()

    expected = [
        Difference(name, "partitions", "1", "2"),
        Difference(name, "cleanup.policy", "delete", "compact"),
        Difference(name, "max.message.bytes", "2097164", "5000"),
        Difference(name, "retention.ms", str(30 * 86_400_000), "1000"),
    ]
    result = herald(settings, tmp_path / "herald.yaml", "apply")
    assert result.exit_code == 1
    assert all(
        word in result.output for word in ("partitions", "cleanup.policy", "max.message.bytes", "retention.ms", "5000")
    )
    assert administration.differences(settings) == expected
    assert len(described(settings)) == len(registry(3))

    shown = herald(settings, tmp_path / "herald.yaml", "diff", "--json")
    assert shown.exit_code == 1
    assert [Difference(**entry) for entry in json.loads(shown.output)] == expected


def test_two_appliers_at_once_do_no_harm(settings: KafkaSettings) -> None:
    failures = []

    def apply() -> None:
        try:
            administration.create_missing(settings)
        except TopicsError as error:
            failures.append(error)

    appliers = [threading.Thread(target=apply) for _ in range(3)]
    for applier in appliers:
        applier.start()
    for applier in appliers:
        applier.join()
    assert failures == []
    assert administration.differences(settings) == []


def test_a_broker_that_is_away_is_an_error_that_names_it() -> None:
    with pytest.raises(TopicsError, match=r"Kafka at 127\.0\.0\.1:1: "):
        administration.create_missing(KafkaSettings(bootstrap="127.0.0.1:1"))


def test_topics_without_prefix_are_never_deleted(kafka: Kafka) -> None:
    with pytest.raises(TopicsError, match="without a prefix"):
        administration.delete(KafkaSettings(bootstrap=kafka.bootstrap))


def test_the_registry_is_listed(settings: KafkaSettings, tmp_path: Path) -> None:
    result = herald(settings, tmp_path / "herald.yaml", "list", "--json")
    assert {entry["name"] for entry in json.loads(result.output)} == {settings.prefix + name for name in registry(3)}


def test_python_and_java_choose_the_same_partition(topics: Callable[..., KafkaSettings]) -> None:
    """A key's records must share a partition, whoever writes them: 2,000 keys on 8 partitions."""
    settings = topics(partitions=8)
    by_java, by_python, by_default = (f"{settings.prefix}{name}" for name in ("changes", "profiles", "outcomes"))

    producing = [
        "java",
        "-cp",
        f"{JARS}/*",
        str(Path(__file__).parent / "java" / "Produce.java"),
        settings.bootstrap,
        by_java,
    ]
    subprocess.run(producing, input="\n".join(KEYS).encode(), check=True, capture_output=True)
    send(settings, by_python, {"partitioner": PARTITIONER})
    send(settings, by_default, {})

    java = partitions_by_key(settings, by_java)
    assert len(java) == len(KEYS)
    assert len(set(java.values())) == 8
    assert partitions_by_key(settings, by_python) == java
    assert partitions_by_key(settings, by_default) != java, (
        "the client's own default would do, and PARTITIONER is not needed"
    )


def send(settings: KafkaSettings, topic: str, options: dict[str, str]) -> None:
    producer = Producer({"bootstrap.servers": settings.bootstrap, **options})
    for key in KEYS:
        producer.produce(topic, key=key.encode(), value=b"python")
    assert producer.flush(30) == 0


def partitions_by_key(settings: KafkaSettings, topic: str) -> dict[str, int]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=settings.bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=10_000,
    )
    found: dict[str, int] = {}
    try:
        for record in consumer:
            found[record.key.decode()] = record.partition
            if len(found) == len(KEYS):
                break
    finally:
        consumer.close()
    return found
