"""Real Kafka and Redis for the tests, started by the code of ``herald up`` on free ports in temporary directories."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from xdist.scheduler.loadscope import LoadScopeScheduling

from cli.stack.stack import Stack
from cli.stack.stack_settings import with_free_ports
from connectors import topics as topic_administration
from connectors.settings import KafkaSettings, Settings

TESTS = Path(__file__).parent


class ByDirectory(LoadScopeScheduling):
    """A directory's tests stay in one worker: they share processes that take long to start."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.removeprefix("tests/").partition("/")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByDirectory:
    """How tests are shared out between workers."""
    return ByDirectory(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The directory that takes longest comes first."""
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] != "flink")


class Kafka:
    """A running broker at ``bootstrap``; ``stack`` can restart it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.bootstrap = stack.settings.kafka.bootstrap


class RedisServer:
    """A running Redis at ``url``."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.url = stack.settings.redis.url


def fresh_prefix() -> str:
    """A prefix for topics, groups and transactional ids that nobody used before."""
    return f"t{uuid.uuid4().hex[:12]}."


def free_settings(directory: Path) -> Settings:
    """Settings of a stack in ``directory`` on ports that are free."""
    settings = Settings()
    return with_free_ports(replace(settings, stack=replace(settings.stack, directory=str(directory))))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker for the whole session, without topics."""
    stack = Stack(free_settings(tmp_path_factory.mktemp("kafka")), ["kafka"], create_topics=False)
    stack.up()
    yield Kafka(stack)
    stack.down()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the whole session; tests keep to keys of their own."""
    stack = Stack(free_settings(tmp_path_factory.mktemp("redis")), ["redis"])
    stack.up()
    yield RedisServer(stack)
    stack.down()


@pytest.fixture
def topics(kafka: Kafka) -> Iterator[Callable[..., KafkaSettings]]:
    """``topics(partitions=2)`` creates the registry's topics under a fresh prefix and returns the settings to use them."""
    made: list[KafkaSettings] = []

    def create(partitions: int = 2) -> KafkaSettings:
        settings = KafkaSettings(bootstrap=kafka.bootstrap, prefix=fresh_prefix(), partitions=partitions)
        made.append(settings)
        topic_administration.create_missing(settings)
        return settings

    yield create
    for settings in made:
        topic_administration.delete(settings)
