"""Stopped with a savepoint and resumed: with other code, other policies, another parallelism and a wider graph at once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from messages.decision import DecisionRecord
from messages.topics import EVENTS
from tests.flink import wider_graph
from tests.flink.cluster import PATIENCE, Cluster, events, policy
from tests.flink.edition import MARKED, copy_of_the_code
from tests.flink.log import Origin, create_topic
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

MARK = "second edition"
BACKGROUND = EVENTS["background"]
IN_FORCE = policy(6)
# Lower than what is in force: it must not win.
PACKAGED = policy(3, tips={"class": "transactional", "channels": ["push"]})


class Redeployed(NamedTuple):
    """What two runs made of the same users: places by user, and the second run's id."""

    cluster: Cluster
    job: str
    tips: dict[str, Origin]
    orders: dict[str, Origin]
    repeats: dict[str, Origin]
    partner: Origin


@pytest.fixture(scope="module")
def redeployed(cluster: Cluster, crowd: list[str], tmp_path_factory: pytest.TempPathFactory) -> Redeployed:
    """Work left waiting by one run, and what the next one makes of it."""
    control = cluster.running()
    users = crowd[:200]
    cluster.publish(IN_FORCE)
    cluster.publish(policy(7) | {"colour": "red"})
    until(lambda: cluster.policy_version(crowd[0]) == IN_FORCE["version"], PATIENCE)
    order = events("earlier", "orders", users)
    orders = cluster.sender.send(BACKGROUND, order)
    cluster.notify("background", "tips", users, "first tip")
    tips = cluster.notify("background", "tips", users, "second tip")
    until(lambda: all(map(cluster.soon.refresh().outcomes, users, tips)), PATIENCE)
    savepoint = control.stop()

    added = MARKED.format(mark=MARK)
    root = copy_of_the_code(tmp_path_factory.mktemp("edition"), added, (Path(wider_graph.__file__),))
    create_topic(cluster.settings.kafka, wider_graph.PARTNER)
    providers = [*cluster.settings.job.providers, "apns"]
    again = cluster.start(
        savepoint, policies=PACKAGED, providers=providers, root=root, module="jobs.wider_graph", parallelism=1
    )
    repeats = cluster.sender.send(BACKGROUND, order)
    partner = cluster.sender.send(wider_graph.PARTNER, events("partner", "orders", users[:1]))[0]
    cluster.know(["apple"], endpoints=[{"id": "tablet", "provider": "apns", "address": "token"}])
    cluster.notify("background", "orders", ["apple"], "apple")
    cluster.balanced()
    cluster.log.refresh()
    return Redeployed(
        cluster,
        again.running() or "",
        dict(zip(users, tips, strict=True)),
        dict(zip(users, orders, strict=True)),
        dict(zip(users, repeats, strict=True)),
        partner,
    )


def records(redeployed: Redeployed, user: str, origin: Origin) -> list[DecisionRecord]:
    return [record for record in redeployed.cluster.log.decisions[user] if record.origin == str(origin)]


def test_what_waited_is_released_once_by_the_run_after(redeployed: Redeployed) -> None:
    for user, origin in redeployed.tips.items():
        deferred, released = records(redeployed, user, origin)
        assert (deferred.outcome, deferred.reason, released.outcome) == ("deferred", "throttled", "sent")
        assert deferred.release_at is not None
        assert deferred.release_at <= released.decided_at
        assert (deferred.detail, released.detail) == (None, MARK)


def test_repeats_of_what_the_run_before_decided_are_recognised(redeployed: Redeployed) -> None:
    for user in redeployed.repeats:
        assert redeployed.cluster.log.outcomes(user, redeployed.orders[user]) == [("sent", None)]
        assert redeployed.cluster.log.outcomes(user, redeployed.repeats[user]) == [("suppressed", "duplicate_event")]


def test_new_code_runs_although_the_project_is_installed(redeployed: Redeployed) -> None:
    user, origin = next(iter(redeployed.orders.items()))
    assert [record.detail for record in records(redeployed, user, origin)] == [None]
    assert [record.detail for record in records(redeployed, user, redeployed.repeats[user])] == [MARK]


def test_the_higher_version_wins_over_the_packaged_one(redeployed: Redeployed) -> None:
    user, origin = next(iter(redeployed.repeats.items()))
    assert [record.policy_version for record in records(redeployed, user, origin)] == [IN_FORCE["version"]]


def test_a_source_and_a_sink_were_added(redeployed: Redeployed) -> None:
    log = redeployed.cluster.log
    assert log.outcomes(next(iter(redeployed.orders)), redeployed.partner) == [("sent", None)]
    assert {delivery.provider for delivery in log.deliveries["apple"]} == {"apns", "inapp"}


def test_nothing_is_lost_or_doubled(redeployed: Redeployed) -> None:
    redeployed.cluster.assert_delivered_once()
    assert redeployed.cluster.failures(redeployed.job) == []


def test_the_parallelism_is_the_new_one(redeployed: Redeployed) -> None:
    plan = requests.get(f"{redeployed.cluster.settings.job.rest}/jobs/{redeployed.job}", timeout=30).json()
    assert {vertex["parallelism"] for vertex in plan["vertices"]} == {1}
