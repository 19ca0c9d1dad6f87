"""What waits for more than a token goes through a savepoint, and a log that is replayed sends nothing."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.synthetic import event
from messages.topics import CHANGES, EVENTS
from tests.flink.cluster import PATIENCE, Cluster, events, policy
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

RULES: dict[str, dict[str, Any]] = {
    "social": {"class": "transactional", "channels": ["push"], "digest": {"window": "20s"}},
    "alarm": {
        "class": "critical",
        "channels": ["push", "in_app"],
        "choice": "escalation",
        "steps": [{"channels": ["push"], "wait": "20s"}, {"channels": ["in_app"]}],
    },
}
ITEMS = 3


def in_force(cluster: Cluster, user: str, **categories: dict[str, Any]) -> None:
    """Put these categories into force beside the ones that there are."""
    version = cluster.policy_version(user) + 1
    cluster.publish(policy(version, **categories))
    until(lambda: cluster.policy_version(user) == version, PATIENCE)


def test_quiet_hours_digests_and_ladders_go_through_a_savepoint(cluster: Cluster) -> None:
    reader, canceller, *others = users = [f"waits-{number}" for number in range(6)]
    cluster.running()
    now = datetime.now(UTC)
    quiet = {"start": f"{now - timedelta(minutes=1):%H:%M}", "end": f"{now + timedelta(minutes=2):%H:%M}"}
    cluster.know(users, time_zone="UTC", quiet_hours=[quiet])
    in_force(cluster, "watcher", **RULES)
    likes = [cluster.notify("background", "social", users, f"like-{n}", channels=["push"]) for n in range(ITEMS)]
    alarms = cluster.notify("urgent", "alarm", users, "alarm")
    orders = cluster.notify("background", "orders", users, "order", channels=["push"])

    def reasons(user: str) -> Counter[str | None]:
        return Counter(reason for _, reason in cluster.soon.outcomes(user))

    def all_wait(user: str) -> bool:
        # Quiet hours come before the digest: what they defer is collected when they are over.
        found = reasons(user)
        return found["quiet_hours"] == 1 + ITEMS and found["escalation"] == 1

    until(lambda: cluster.soon.refresh() and all(all_wait(user) for user in users), PATIENCE)
    cancel = {"kind": "cancel", "id": "c1", "source": "shop", "event_id": f"order-{canceller}-{users.index(canceller)}"}
    read = {"kind": "read", "id": "r1", "source": "shop", "event_id": f"alarm-{reader}-{users.index(reader)}"}
    cluster.sender.send(CHANGES, [(f"default/{canceller}", json.dumps(cancel).encode())])
    cluster.sender.send(CHANGES, [(f"default/{reader}", json.dumps(read).encode())])

    control = cluster.running()
    cluster.start(control.stop(), policies=policy(1))
    cluster.balanced(PATIENCE + 180)

    cluster.log.refresh()
    for number, user in enumerate(users):
        assert cluster.log.outcomes(user, orders[number]) == [
            ("deferred", "quiet_hours"),
            ("suppressed", "cancelled") if user == canceller else ("sent", None),
        ]
        for like in likes:
            assert cluster.log.outcomes(user, like[number]) == [
                ("deferred", "quiet_hours"),
                ("collected", "digest"),
                ("suppressed", "digested"),
            ]
        (digest,) = [found for found in cluster.log.deliveries[user] if found.source == "herald"]
        assert digest.params is not None
        assert (digest.params["count"], [item["id"] for item in digest.params["first"]]) == (
            ITEMS,
            [f"like-{n}-{user}-{number}" for n in range(ITEMS)],
        )
        chain = cluster.log.outcomes(user, alarms[number])
        answered = ("suppressed", "cancelled") if user == reader else ("sent", None)
        assert chain == [("sent", None), ("escalating", "escalation"), answered]
    climbed = Counter(
        found.channel for user in others for found in cluster.log.deliveries[user] if found.category == "alarm"
    )
    assert climbed == {"push": len(others), "in_app": len(others)}
    cluster.assert_delivered_once()


def test_a_log_that_is_replayed_sends_nothing(cluster: Cluster) -> None:
    users = [f"replayed-{number}" for number in range(20)]
    cluster.running()
    cluster.know(users)
    log = events("first", "orders", users)
    yesterday = datetime.now(UTC) - timedelta(hours=25)
    log += [(None, event(f"old-{user}", [user], "orders", yesterday)) for user in users]
    cluster.sender.send(EVENTS["background"], log)
    cluster.balanced()
    cluster.log.refresh()
    sent = {user: len(cluster.log.deliveries[user]) for user in users}
    assert set(sent.values()) == {2}

    again = cluster.sender.send(EVENTS["background"], log)
    cluster.balanced()
    cluster.log.refresh()
    assert {user: len(cluster.log.deliveries[user]) for user in users} == sent
    for number, user in enumerate(users):
        assert cluster.log.outcomes(user, again[number]) == [("suppressed", "duplicate_event")]
        assert cluster.log.outcomes(user, again[len(users) + number]) == [("suppressed", "stale")]
    cluster.assert_delivered_once()
