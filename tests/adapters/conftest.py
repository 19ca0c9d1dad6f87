from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from connectors.settings import KafkaSettings
from tests.adapters.harness import FcmEmulator, Line
from tests.conftest import RedisServer

# An example's time says nothing on a machine that others use too.
hypothesis.settings.register_profile("adapters", deadline=None)
hypothesis.settings.load_profile("adapters")


@pytest.fixture(scope="session")
def fcm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FcmEmulator]:
    """An FCM emulator for the whole session."""
    emulator = FcmEmulator(tmp_path_factory.mktemp("fcm"))
    yield emulator
    emulator.stop()


@pytest.fixture
def fcm(fcm_process: FcmEmulator) -> FcmEmulator:
    """The emulator, without messages and faults."""
    fcm_process.reset()
    return fcm_process


@pytest.fixture
def fcm_line(
    fcm: FcmEmulator, topics: Callable[..., KafkaSettings], redis_server: RedisServer, tmp_path: Path
) -> Iterator[Line]:
    """A line of delivery to FCM."""
    line = Line("fcm", topics(), redis_server.url, tmp_path, fcm)
    yield line
    line.close()


@pytest.fixture
def inapp_line(topics: Callable[..., KafkaSettings], redis_server: RedisServer, tmp_path: Path) -> Iterator[Line]:
    """A line of delivery to inboxes."""
    line = Line("inapp", topics(), redis_server.url, tmp_path, None)
    yield line
    line.close()


@pytest.fixture(params=["fcm", "inapp"])
def line(request: pytest.FixtureRequest) -> Line:
    """A line of delivery to each channel: what a new channel has to pass."""
    found: Line = request.getfixturevalue(f"{request.param}_line")
    return found
