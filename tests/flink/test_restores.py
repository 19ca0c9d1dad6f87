"""The job stopped, changed and started again: state, timers and offsets go on; nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.job_control import JobError
from cli.synthetic import event
from connectors.log_positions import end_offsets, wait_until_read
from messages.topics import CHANGES, EVENTS, PROFILES
from tests.flink.cluster import HUSHED, PATIENCE, Cluster, command, events, policy
from tests.flink.edition import copy_of_the_code
from tests.flink.log import Origin
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)


def concluded(cluster: Cluster, user: str, origin: Origin) -> list[tuple[str, str | None]]:
    """The outcomes of one event for one user, as soon as there is one for good."""
    return until(lambda: cluster.log.refresh().outcomes(user, origin), PATIENCE, f"{user} {origin}")


def test_stop_and_resume_with_another_parallelism(cluster: Cluster, crowd: list[str]) -> None:
    users = [f"saver-{number}" for number in range(40)]
    cluster.know(users)
    control = cluster.running()
    tips = [cluster.notify("background", "tips", users, f"tip-{number}") for number in range(3)]
    again = events("again", "orders", users)
    first = cluster.sender.send(EVENTS["background"], again)

    def waits(user: str) -> bool:
        return sum(outcome == "deferred" for outcome, _ in cluster.soon.outcomes(user)) >= 2

    until(lambda: cluster.soon.refresh() and all(waits(user) for user in users), PATIENCE)
    invalid = cluster.publish({"version": 40, "categories": {}})
    cluster.publish(policy(40))
    until(lambda: cluster.policy_version(users[0]) == 40, PATIENCE)

    savepoint = control.stop()
    # What arrives meanwhile is decided afterwards; the policy in force is the restored one, not the older packaged one.
    meanwhile = cluster.notify("background", "orders", users, "meanwhile")
    cluster.start(savepoint, policies=policy(1), parallelism=1)
    repeats = cluster.sender.send(EVENTS["background"], again)
    cluster.balanced()

    cluster.log.refresh()
    for number, user in enumerate(users):
        assert concluded(cluster, user, first[number]) == [("sent", None)]
        assert concluded(cluster, user, repeats[number]) == [("suppressed", "duplicate_event")]
        assert concluded(cluster, user, meanwhile[number]) == [("sent", None)]
        chains = sorted((cluster.log.outcomes(user, tip[number]) for tip in tips), key=len)
        assert [chain[-1] for chain in chains] == [("sent", None)] * 3
        assert len(chains[0]) == 1
        assert {waited for chain in chains for waited in chain[:-1]} == {("deferred", "throttled")}
        assert min(len(chain) for chain in chains[1:]) > 1
    assert cluster.policy_version(users[0]) == 40
    assert [record.headers["reason"] for record in cluster.log.rejected(invalid)] == ["invalid_policy"]
    cluster.assert_delivered_once()


def test_new_code_a_source_and_a_sink_take_up_the_old_state(cluster: Cluster, crowd: list[str], tmp_path: Path) -> None:
    user = "owner-of-a-tablet"
    tablet = {"id": "tablet", "provider": "apns", "address": "token-of-a-tablet"}
    cluster.know([user], endpoints=[tablet])
    before = cluster.notify("background", "orders", [user], "before", channels=["push"])[0]
    unheard = [("suppressed", "no_provider")]
    until(lambda: cluster.soon.refresh().outcomes(user, before) == unheard, PATIENCE)
    known = events("known", "orders", crowd[:20])
    cluster.sender.send(EVENTS["background"], known)
    cluster.balanced()
    savepoint = cluster.running().stop()
    root = copy_of_the_code(tmp_path, lambda core: core.replace('return "stale"', 'return "far_too_old"'))

    everything = "events,changes,profiles"
    cluster.start(savepoint, policies=policy(41), providers=["fcm", "inapp", "apns"], root=root, inputs=everything)
    heard = cluster.notify("background", "orders", [user], "after", channels=["push"])[0]
    old = event("old", [user], "orders", datetime.now(UTC) - timedelta(days=3))
    stale = cluster.sender.send(EVENTS["background"], [(None, old)])[0]
    repeats = cluster.sender.send(EVENTS["background"], known)
    assert concluded(cluster, user, heard) == [("sent", None)], "the new sink"
    assert [delivery.provider for delivery in cluster.log.deliveries[user]] == ["apns"]
    assert concluded(cluster, user, stale) == [("suppressed", "far_too_old")], "the new code"
    for name, origin in zip(crowd, repeats, strict=False):
        assert concluded(cluster, name, origin) == [("suppressed", "duplicate_event")], "the old state"
    assert cluster.policy_version(user) == 41, "the packaged policies are newer than the restored"
    cluster.balanced()
    cluster.assert_delivered_once()


def test_a_job_that_lost_its_state_is_bootstrapped(cluster: Cluster, crowd: list[str]) -> None:
    control = cluster.running()
    cluster.balanced()
    # What was decided since the last committed offset would be decided again: only state remembers it.
    kafka = cluster.settings.kafka
    for topic in EVENTS.values():
        wait_until_read(kafka, kafka.prefix + cluster.settings.job.group, end_offsets(kafka, topic), PATIENCE)
    control.cancel()
    with pytest.raises(JobError, match="herald job bootstrap"):
        control.start()
    # A change that no job has seen, and the repeat of one that every job has.
    shy = "shy-of-late"
    cluster.sender.send(CHANGES, [(f"default/{shy}", command("shy", {"allow": False}))])
    repeat = json.dumps({"kind": "set_preferences", "id": "again", "preferences": [{"category": "news", "allow": False}]})
    cluster.sender.send(CHANGES, [(f"default/{crowd[0]}", repeat.encode())] * 2)

    savepoint = control.bootstrap()
    cluster.log.refresh()
    written = [json.loads(record.value) for record in cluster.log.records[PROFILES] if record.key == f"default/{crowd[0]}"]
    assert written[-1]["applied"].count("again") == 1

    cluster.start(savepoint, policies=policy(42))
    origins = [cluster.notify("urgent", "news", [name], "bootstrapped")[0] for name in (HUSHED, shy, crowd[0], crowd[1])]
    refused = [("suppressed", "opted_out")]
    found = [concluded(cluster, name, origin) for name, origin in zip((HUSHED, shy, *crowd), origins, strict=False)]
    assert found == [refused, refused, refused, [("sent", None)]]
    cluster.balanced()
