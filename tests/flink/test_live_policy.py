"""Policies on the log: a valid, newer one rules within seconds; any other is recorded and changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from messages.policy import POLICY_SET
from messages.topics import POLICIES
from tests.flink.cluster import PATIENCE, Cluster, policy
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

DENIED = policy(5, news={"class": "marketing", "channels": ["push", "in_app"], "default": "deny"})


def document(**changes: Any) -> bytes:
    return json.dumps(policy(6) | changes).encode()


INVALID = {
    "no JSON": (POLICY_SET, b"version: 7"),
    "an unknown field": (POLICY_SET, document(colour="red")),
    "no categories": (POLICY_SET, document(categories={})),
    "a class that is none": (POLICY_SET, document(categories={"news": {"class": "vital", "channels": ["push"]}})),
    "a gap for repeats": (POLICY_SET, document(identity_window="1h")),
    "not newer": (POLICY_SET, document(version=4)),
    "another name": ("limits", document()),
}


def test_a_running_job_follows_the_newest_valid_policy(cluster: Cluster, crowd: list[str]) -> None:
    job = cluster.running().running() or ""
    failures = len(cluster.failures(job))
    user = crowd[0]
    before = cluster.policy_version(user)
    assert before < DENIED["version"]

    cluster.publish(DENIED)
    until(lambda: cluster.policy_version(user) == DENIED["version"], PATIENCE)
    news = cluster.notify("background", "news", [user], "news")[0]
    until(lambda: cluster.log.refresh().outcomes(user, news) == [("suppressed", "opted_out")], PATIENCE)

    places = {name: cluster.sender.send(POLICIES, [record])[0] for name, record in INVALID.items()}
    until(lambda: all(cluster.log.refresh().rejected(place) for place in places.values()), PATIENCE)
    said = {name: [record.headers for record in cluster.log.rejected(place)] for name, place in places.items()}
    # One record each, however many subtasks refuse it.
    assert {name: [(headers["stage"], headers["reason"]) for headers in found] for name, found in said.items()} == {
        name: [("policy", "invalid_policy")] for name in INVALID
    }
    assert "`colour`" in said["an unknown field"][0]["detail"]
    assert "not above" in said["not newer"][0]["detail"]

    assert cluster.policy_version(user) == DENIED["version"]
    assert len(cluster.failures(job)) == failures
