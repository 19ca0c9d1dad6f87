"""One gateway, broker and Redis for the session; tests keep to users and event ids of their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from connectors import topics as administration
from connectors.settings import KafkaSettings, RedisSettings, Settings
from messages.topics import CHANGES, EVENTS
from tests.conftest import Kafka, RedisServer, free_settings, fresh_prefix
from tests.gateway.gateway_process import Gateway, Topics


@pytest.fixture(scope="session")
def gateway_settings(
    kafka: Kafka, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Settings of a gateway on the session's broker and Redis, with topics of its own."""
    settings = free_settings(tmp_path_factory.mktemp("gateway"))
    kafka_settings = KafkaSettings(bootstrap=kafka.bootstrap, prefix=fresh_prefix(), partitions=2)
    administration.create_missing(kafka_settings)
    yield replace(settings, kafka=kafka_settings, redis=RedisSettings(url=redis_server.url))
    administration.delete(kafka_settings)


def with_keys_in(settings: Settings, directory: Path) -> Settings:
    """``settings`` with a keys file in ``directory`` and a free port."""
    port = free_settings(directory).gateway.port
    gateway = replace(settings.gateway, keys_file=str(directory / "gateway-keys.json"), port=port)
    return replace(settings, gateway=gateway)


@pytest.fixture(scope="session")
def gateway(gateway_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The session's gateway."""
    directory = tmp_path_factory.mktemp("gateway-process")
    running = Gateway(with_keys_in(gateway_settings, directory), directory)
    running.wait_until_well()
    yield running
    running.kill()


@pytest.fixture(scope="session")
def written(gateway_settings: Settings) -> Iterator[Topics]:
    """What the gateway wrote."""
    topics = Topics(gateway_settings.kafka, [*EVENTS.values(), CHANGES])
    yield topics
    topics.close()


@pytest.fixture
def fresh() -> str:
    """A text that nobody used before, for ids and users."""
    return uuid.uuid4().hex
