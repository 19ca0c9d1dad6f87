"""Killed without a savepoint, and started from the last checkpoint under another clock and another policy.

What had left for good stays as it was; what had not is decided anew, by the new clock and policy, once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

from messages.decision import DecisionRecord
from tests.flink.cluster import PATIENCE, Cluster, Traffic, policy
from tests.flink.edition import LATER, copy_of_the_code
from tests.flink.log import View
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

HOUR = 3_600_000
NEWER = policy(50, orders={"class": "transactional", "channels": ["in_app"]})


@pytest.fixture(scope="module")
def restored(cluster: Cluster, crowd: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A run that dies among events, and the one that takes over an hour later by its clock."""
    control = cluster.running()
    with Traffic(cluster, "background", "orders", crowd, "brief", size=200, ttl=HOUR // 2000):

        def half_committed() -> bool:
            """Whether some decisions are out, and many more are not covered by any checkpoint."""
            out = len(decided(cluster.log.refresh()))
            return 0 < out < len(decided(cluster.soon.refresh())) - 200

        until(half_committed, PATIENCE)
        control.cancel()
    root = copy_of_the_code(tmp_path_factory.mktemp("later"), lambda core: core + LATER.format(milliseconds=HOUR))
    # A provider that is dropped here would take what its sink has not committed with it.
    providers = [*cluster.settings.job.providers, "apns"]
    again = cluster.start(control.latest_checkpoint(), policies=NEWER, providers=providers, root=root)
    cluster.balanced()
    cluster.log.refresh()
    cluster.soon.refresh()
    yield cluster
    # Nobody else wants that clock.
    again.stop()


def decided(view: View) -> dict[str, list[DecisionRecord]]:
    """The decisions on the events that were on their way, by place."""
    found: dict[str, list[DecisionRecord]] = defaultdict(list)
    for records in view.decisions.values():
        for record in records:
            if record.event_id.startswith("brief-"):
                found[record.origin].append(record)
    return found


def test_decisions_were_undone_and_taken_again(restored: Cluster) -> None:
    twice = [records for records in decided(restored.soon).values() if len(records) > 1]
    assert twice
    for first, second in twice:
        assert (first.outcome, second.reason) == ("sent", "expired")


def test_each_event_has_one_outcome_of_one_run(restored: Cluster) -> None:
    outcomes = decided(restored.log)
    assert {len(records) for records in outcomes.values()} == {1}
    newer = {
        record.policy_version == NEWER["version"]: record.outcome for records in outcomes.values() for record in records
    }
    assert newer == {False: "sent", True: "suppressed"}
    for (record,) in outcomes.values():
        assert (record.outcome == "suppressed") == (record.policy_version == NEWER["version"])


def test_what_left_for_good_was_not_contradicted(restored: Cluster) -> None:
    restored.assert_delivered_once()
