"""``herald policy`` beside a running job: it says when the job has taken what was applied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flink.cluster import PATIENCE, Cluster, policy
from tests.herald import herald
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)


def herald_policy(cluster: Cluster, *arguments: str) -> str:
    result = herald("--config", str(cluster.stack.file), "policy", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_apply_and_rollback_wait_until_every_subtask_decides_by_the_set(
    cluster: Cluster, crowd: list[str], tmp_path: Path
) -> None:
    cluster.running()
    user = crowd[0]
    before = cluster.policy_version(user)
    denied = policy(1, orders={"class": "transactional", "channels": ["push"], "default": "deny"})
    (tmp_path / "all.yaml").write_text(json.dumps(denied))

    said = herald_policy(cluster, "apply", str(tmp_path), "--timeout", str(PATIENCE))
    assert "in all of its 2 subtasks" in said
    applied = cluster.policy_version(user)
    assert applied > before
    assert f"Version {applied} is in force" in said
    orders = cluster.notify("background", "orders", [user], "denied")[0]
    until(lambda: cluster.log.refresh().outcomes(user, orders) == [("suppressed", "opted_out")], PATIENCE)

    said = herald_policy(cluster, "rollback", str(before), "--timeout", str(PATIENCE))
    assert "in all of its 2 subtasks" in said
    assert cluster.policy_version(user) == applied + 1
    orders = cluster.notify("background", "orders", [user], "allowed")[0]
    until(lambda: cluster.log.refresh().outcomes(user, orders) == [("sent", None)], PATIENCE)
