"""One cluster for all tests of the job: a start costs more than what most of them do with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import free_settings
from tests.flink.cluster import CROWD, HUSH, HUSHED, Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Kafka and Flink; no job runs before a test wants one."""
    cluster = Cluster(free_settings(tmp_path_factory.mktemp("flink")))
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def crowd(cluster: Cluster) -> list[str]:
    """10,000 users whom the job has known for a while, and HUSHED, who wants no news."""
    cluster.running()
    cluster.know(CROWD)
    cluster.know([HUSHED], HUSH)
    return CROWD
