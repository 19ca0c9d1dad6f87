"""Flink's SQL client on a real cluster: it changes the running job, and its views say what the log says."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest

from cli.flink_sql import SCRIPTS
from connectors.policy_log import Record, read_records
from connectors.settings import ROOT
from messages.decision import DecisionRecord, decode_count
from messages.policy import CategoryPatch, Pause, decode_override
from messages.topics import COUNTS
from tests.flink.cluster import PATIENCE, Cluster
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

THROTTLED = "throttled-by-sql"
LIFT = "INSERT INTO policies VALUES ('{name}', CAST(NULL AS STRING));\n"
QUESTIONS = """
SELECT lane, category, outcome, reason, SUM(decisions) FROM decisions_by_reason GROUP BY lane, category, outcome, reason;
SELECT `user`, category, channel, times FROM top_throttled_users;
SELECT SUM(notifications), MAX(max_ms), MIN(p50_ms) >= 0 FROM urgent_latency;
SELECT SUM(counted), SUM(held), SUM(sent), SUM(suppressed), SUM(rejected), SUM(ABS(difference)) FROM conservation;
"""


def herald_sql(cluster: Cluster, text: str, directory: Path) -> str:
    """What ``herald sql --file`` prints for these statements."""
    file = directory / "statements.sql"
    file.write_text(text)
    command = [sys.executable, "-m", "cli.main", "--config", str(cluster.stack.file), "sql", "--file", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[ERROR]" not in done.stdout, done.stdout
    return done.stdout


def rows(output: str) -> list[list[list[str]]]:
    """The rows of each answer: what stands between the second and the third border of each table."""
    answers: list[list[list[str]]] = []
    borders = 0
    for line in output.splitlines():
        if re.search(r"\+-[-+]*-\+$", line):
            borders += 1
            if borders % 3 == 2:
                answers.append([])
        elif borders % 3 == 2:
            answers[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return answers


def latest(cluster: Cluster, name: str) -> Record:
    return [record for record in read_records(cluster.settings.kafka) if record.key == name][-1]


def decided(cluster: Cluster, user: str) -> DecisionRecord:
    """The first decision on a new event for the user."""
    origin = cluster.notify("background", "orders", [user], f"sql-{uuid.uuid4()}")[0]

    def found() -> list[DecisionRecord]:
        return [record for record in cluster.soon.refresh().decisions[user] if record.origin == str(origin)]

    return until(found, PATIENCE)[0]


def overridden(cluster: Cluster, user: str, name: str) -> DecisionRecord | None:
    record = decided(cluster, user)
    return record if record.override == name else None


def test_an_insert_changes_the_running_job_and_views_say_what_the_log_says(
    cluster: Cluster, crowd: list[str], tmp_path: Path
) -> None:
    cluster.know([THROTTLED])
    throttle = (SCRIPTS / "throttle.sql").read_text(encoding="utf-8").replace("chat", "orders")
    said = herald_sql(cluster, throttle, tmp_path)
    # The job has all the slots.
    assert "in the client's own process" in said
    override = decode_override(latest(cluster, "category/orders").value or b"")
    assert isinstance(override, CategoryPatch)
    record = until(lambda: overridden(cluster, crowd[0], override.key), PATIENCE)
    assert record is not None
    assert record.buckets
    assert {(bucket.limit, bucket.period) for bucket in record.buckets} == {(5, 60_000)}
    try:
        cluster.notify("background", "orders", [THROTTLED] * 7, "sql-throttled")
        cluster.notify("urgent", "codes", crowd[:50], "sql-urgent")
        report = cluster.balanced()
        decisions = [record for records in cluster.log.refresh().decisions.values() for record in records]
        answers = rows(herald_sql(cluster, LIFT.format(name="category/orders") + QUESTIONS, tmp_path))
    finally:
        if latest(cluster, "category/orders").value is not None:
            cluster.sender.send("policies", [("category/orders", None)])
    until(lambda: decided(cluster, crowd[1]).override is None, PATIENCE)

    by_reason, top, latency, conservation = answers
    expected = Counter((record.lane, record.category, record.outcome, record.reason or "<NULL>") for record in decisions)
    assert {tuple(row[:4]): int(row[4]) for row in by_reason} == expected
    throttled = Counter(
        (record.user, record.category, channel)
        for record in decisions
        for channel, word in record.channels.items()
        if word == "throttled"
    )
    assert {tuple(row[:3]): int(row[3]) for row in top}.items() <= throttled.items()
    assert [int(row[3]) for row in top] == sorted(throttled.values(), reverse=True)[:20]
    assert throttled[THROTTLED, "orders", "push"] >= 2
    urgent = [
        record.decided_at - record.arrived_at
        for record in decisions
        if record.lane == "urgent" and record.step == 0 and not record.child
    ]
    assert latency == [[str(len(urgent)), str(max(urgent)), "TRUE"]]
    counts = [decode_count(record.value) for record in cluster.log.records[COUNTS]]
    counted, held = (sum(count.recipients for count in counts if count.quarantined == kind) for kind in (False, True))
    ended = [sum(report.outcomes.get(outcome, {}).values()) for outcome in ("sent", "suppressed", "rejected")]
    assert conservation == [[str(number) for number in (counted, held, *ended, 0)]]


def test_it_runs_on_the_cluster_where_a_slot_is_free(cluster: Cluster, tmp_path: Path) -> None:
    savepoint = cluster.running().stop()
    try:
        said = herald_sql(cluster, (SCRIPTS / "pause.sql").read_text(encoding="utf-8"), tmp_path)
        assert "own process" not in said
        paused = decode_override(latest(cluster, "pause/category/promotions").value or b"")
        assert paused == Pause(scope="category", name="promotions")
        herald_sql(cluster, LIFT.format(name=paused.key), tmp_path)
        assert latest(cluster, paused.key).value is None
    finally:
        cluster.start(savepoint)
