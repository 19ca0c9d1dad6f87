"""What dies under the job: afterwards nothing is lost, and what leaves exactly once has left once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from messages.topics import DELIVERIES, EVENTS, REJECTED
from tests.conftest import free_settings
from tests.flink import metrics
from tests.flink.cluster import PATIENCE, Cluster, Traffic
from tests.flink.log import Origin, View
from tests.flink.second_broker import SecondBroker
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

FLOOD = 60_000
AWAY = 30
"""Seconds without a checkpoint: the controller waits 9 before it calls a broker dead, a producer 30 for its answer."""

LONGEST_PAUSE = 30
"""Seconds between two restarts of the job at most, by flink-conf/config.yaml."""


def kill(cluster: Cluster, program: str) -> None:
    record = cluster.stack.record(program)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)


def test_a_taskmanager_killed_in_a_flood(cluster: Cluster, crowd: list[str]) -> None:
    job = cluster.running().running() or ""
    before = len(cluster.failures(job))
    codes: list[Origin] = []

    def decided() -> Counter[str]:
        """How often each event of the flood was decided; an urgent event is sent at every look."""
        codes.extend(cluster.notify("urgent", "codes", [crowd[len(codes)]], "code"))
        records = (record for user in crowd for record in cluster.soon.decisions[user])
        return Counter(record.origin for record in records if record.event_id.startswith("flood-"))

    def look(number: int) -> bool:
        cluster.soon.refresh()
        return len(decided()) >= number

    def open_ended() -> bool:
        """Whether much was decided that no checkpoint covers yet."""
        cluster.log.refresh()
        committed = sum(record.event_id.startswith("flood-") for user in crowd for record in cluster.log.decisions[user])
        return look(committed + FLOOD // 20)

    with Traffic(cluster, "background", "orders", crowd, "flood", size=2_000, channels=["push"]) as flood:
        until(open_ended, PATIENCE)
        kill(cluster, "taskmanager-1")
        until(lambda: len(cluster.failures(job)) > before, PATIENCE)
        until(lambda: look(1) and len(flood.origins) >= FLOOD, PATIENCE)
    until(lambda: look(len(flood.origins)), PATIENCE)

    assert max(decided().values()) > 1, "nothing had to be done again: it was not in the middle"
    cluster.balanced()
    cluster.assert_delivered_once()
    for user, origin in zip(crowd, codes, strict=False):
        assert cluster.log.outcomes(user, origin) == [("sent", None)]
    assert cluster.running().running() == job


def test_the_broker_restarted_while_events_flow(cluster: Cluster, crowd: list[str]) -> None:
    job = cluster.running().running()
    with Traffic(cluster, "background", "orders", crowd, "through") as traffic:
        until(lambda: cluster.soon.refresh().outcomes(crowd[0], traffic.origins[0]) if traffic.origins else [], PATIENCE)
        cluster.stack.restart("kafka")
        known = len(traffic.origins)
        until(lambda: len(traffic.origins) > known, PATIENCE)
    cluster.balanced()
    cluster.assert_delivered_once()
    # By their ids: of what it had to send again a producer may not know the place.
    records = [record for user in crowd for record in cluster.log.decisions[user]]
    outcomes = Counter((record.event_id, record.outcome) for record in records if record.event_id.startswith("through-"))
    assert len(outcomes) == len(traffic.origins)
    assert {outcome for _, outcome in outcomes} == {"sent"}
    assert set(outcomes.values()) == {1}
    assert cluster.running().running() == job


def test_the_leader_of_rejected_away_while_urgent_messages_flow(cluster: Cluster, crowd: list[str], tmp_path: Path) -> None:
    """The sinks share a task: docs/operations.md says what this looks like, and for how long."""
    job = cluster.running().running()
    deliveries = View(cluster.settings.kafka, topics=[DELIVERIES[provider, "urgent"] for provider in ("fcm", "inapp")])

    def arrived() -> dict[str, int]:
        """Milliseconds from arrival to decision of each urgent event that has left."""
        deliveries.refresh()
        seen = (delivery for user in crowd for delivery in deliveries.deliveries[user])
        return {found.event_id: found.decided_at - found.arrived_at for found in seen if found.event_id.startswith("away-")}

    port = free_settings(tmp_path).gateway.port
    with SecondBroker(cluster.settings, port, tmp_path) as second:
        second.move(REJECTED)
        with Traffic(cluster, "urgent", "codes", crowd, "away", size=1) as traffic:
            until(lambda: len(arrived()) >= 10, PATIENCE)
            second.freeze()
            bad = cluster.sender.send(EVENTS["background"], [(None, b"no event")])[0]
            # What HeraldCheckpointsStandStill watches.
            until(lambda: time.time() - checkpoint_completed(cluster) > AWAY, 3 * AWAY)
            second.thaw()
            until(lambda: len(arrived()) >= len(traffic.origins), PATIENCE)
        cluster.balanced()
        cluster.assert_delivered_once()
        assert len(cluster.log.rejected(bad)) == 1
        assert cluster.running().running() == job
        slowest = max(arrived().values()) / 1000
        assert slowest < AWAY + LONGEST_PAUSE + PATIENCE / 2, "longer than the outage, a pause between restarts, and a start"
    deliveries.close()


def checkpoint_completed(cluster: Cluster) -> float:
    """When the last checkpoint was completed, in seconds, as Prometheus would see it."""
    return metrics.value(cluster.settings.stack.metrics_port, "flink_jobmanager_job_lastCheckpointCompletedTimestamp") / 1000
