"""The source guard on a real cluster: a pause in the middle of the traffic, a restart in the middle of a pause, a flood."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from click.testing import CliRunner

from cli.job_control import JobControl
from cli.main import main
from cli.synthetic import event
from connectors.conservation import Reader, Report, now_ms
from connectors.log_positions import end_offsets, wait_until_read
from messages.codec import encode_json
from messages.policy import Pause
from messages.topics import COUNTS, EVENTS, POLICIES, QUARANTINED
from messages.words import LANES, Lane
from tests.flink.cluster import PARTITIONS, PATIENCE, Cluster, Traffic, events, policy
from tests.flink.edition import copy_of_the_code
from tests.flink.log import Origin, Record, View
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

NEWS = Pause(scope="category", name="news")


@pytest.fixture(scope="module")
def job(cluster: Cluster, crowd: list[str], tmp_path_factory: pytest.TempPathFactory) -> JobControl:
    """The control of a job that looks every second, not every five minutes, at what it had expanded just before a pause."""

    def impatient(core: str) -> str:
        assert core.count("PAUSED_FOR = 5 * 60_000") == 1
        return core.replace("PAUSED_FOR = 5 * 60_000", "PAUSED_FOR = 1_000")

    savepoint = cluster.running().stop()
    root = copy_of_the_code(tmp_path_factory.mktemp("code") / "root", impatient)
    return cluster.start(savepoint, policies=policy(29), root=root)


@pytest.fixture
def held(cluster: Cluster) -> Iterator[View]:
    """What is in the quarantine for good."""
    view = View(cluster.settings.kafka, topics=[QUARANTINED])
    yield view
    view.close()


def herald(cluster: Cluster, *arguments: str) -> str:
    result = CliRunner().invoke(main, ["--config", str(cluster.stack.file), *arguments])
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def released(cluster: Cluster, *arguments: str) -> int:
    return int(json.loads(herald(cluster, "quarantine", "release", "--json", *arguments))["released"])


def accounted(cluster: Cluster) -> Report:
    """The balance, once all that was sent is read and nothing is missing; what a pause defers may wait."""
    kafka = cluster.settings.kafka
    for topic in EVENTS.values():
        wait_until_read(kafka, kafka.prefix + cluster.settings.job.group, end_offsets(kafka, topic), PATIENCE)
    reader = Reader(kafka)

    def balance() -> Report | None:
        reader.read()
        report = reader.ledger.report(now_ms())
        return report if report.difference == 0 else None

    try:
        return until(balance, PATIENCE)
    finally:
        reader.close()


def origin(record: Record) -> Origin:
    headers = record.headers
    return Origin(headers["source_topic"], int(headers["source_partition"]), int(headers["source_offset"]))


def origins(view: View) -> set[Origin]:
    return {origin(record) for record in view.refresh().records[QUARANTINED]}


def spread(cluster: Cluster, lane: Lane, users: list[str], batch: str) -> list[Origin]:
    """Send news for each user, to every partition of a lane: without keys they would keep together."""
    values = [value for _, value in events(batch, "news", users)]
    places = cluster.sender.send(EVENTS[lane], [(f"key-{number}", value) for number, value in enumerate(values)])
    assert len({place.partition for place in places}) == PARTITIONS
    return places


def passes_again(cluster: Cluster, user: str) -> None:
    """Wait until every partition of both lanes lets news pass."""

    def sent() -> bool:
        # Ids of their own: a bootstrapped job does not remember those of the job before.
        batch = f"probe-{uuid4()}"
        places = [place for lane in LANES for place in spread(cluster, lane, [user] * 40, f"{batch}-{lane}")]
        counted = [f'"{place}"' for place in places]

        def counts() -> list[str] | None:
            texts = [record.value.decode() for record in cluster.log.refresh().records[COUNTS]]
            found = [text for text in texts if any(place in text for place in counted)]
            return found if len(found) == len(places) else None

        return not any("quarantined" in text for text in until(counts, PATIENCE))

    until(sent, PATIENCE, "the pause is lifted")


def sent_by_event(cluster: Cluster, prefix: str) -> Counter[tuple[str, str]]:
    """How often each (event id, user) of a batch was sent."""
    records = [record for user in cluster.log.refresh().decisions.values() for record in user]
    return Counter(
        (record.event_id, record.user)
        for record in records
        if record.event_id.startswith(prefix) and record.outcome == "sent" and not record.child
    )


def test_a_pause_holds_whole_and_what_is_released_is_sent_once(
    cluster: Cluster, crowd: list[str], job: JobControl, held: View
) -> None:
    cluster.balanced()
    users = crowd[:200]
    with (
        Traffic(cluster, "urgent", "news", users, "hot-u") as urgent,
        Traffic(cluster, "background", "news", users, "hot-b") as background,
        Traffic(cluster, "urgent", "codes", users[:20], "free") as free,
    ):
        until(lambda: sent_by_event(cluster, "hot-u") and sent_by_event(cluster, "hot-b"), PATIENCE)
        cluster.sender.send(POLICIES, [(NEWS.key, encode_json(NEWS))])
        until(lambda: len({place[:2] for place in origins(held)}) == 2 * PARTITIONS, PATIENCE, "all partitions hold")
        before = len(free.origins)
        until(lambda: len(free.origins) > before + 50)
    # An event for many is held as one.
    time = datetime.now(UTC)
    many = event("many", users[:50], "news", time, campaign="autumn")
    (place,) = cluster.sender.send(EVENTS["background"], [("the key", many)])
    report = accounted(cluster)

    kept = origins(held)
    assert place in kept
    first: dict[tuple[str, int], int] = {}
    for each in kept:
        first[each[:2]] = min(each.offset, first.get(each[:2], each.offset))
    news = [*urgent.origins, *background.origins, place]
    assert {each for each in news if each.offset >= first[each[:2]]} == kept, "from then on all of it is held"
    assert not kept & set(free.origins)
    decided = {record.origin for user in cluster.log.refresh().decisions.values() for record in user}
    assert not decided & {str(each) for each in kept}, "nothing of it is decided, nothing sent"
    assert set(report.pending) <= {"deferred"}, "expanded just before the pause"
    assert report.outcomes["quarantined"] == {"paused": len(kept) - 1 + 50}
    (whole,) = [record for record in held.records[QUARANTINED] if origin(record) == place]
    assert (whole.key, whole.value) == ("the key", many)
    assert {record.headers["stage"] + record.headers["reason"] for record in held.records[QUARANTINED]} == {"readpaused"}

    ids = {json.loads(record.value)["id"] for record in held.records[QUARANTINED]}
    herald(cluster, "resume", "category", "news")
    passes_again(cluster, users[0])
    kept_more = len(origins(held)) - len(kept)
    assert released(cluster, "--category", "news") == len(kept) + kept_more
    assert released(cluster, "--category", "news") == 0
    report = cluster.balanced()
    assert "quarantined" not in report.outcomes
    sent = sent_by_event(cluster, "hot-") + sent_by_event(cluster, "many")
    assert set(sent.values()) == {1}
    assert {id for id, _ in sent} >= ids
    assert {user for id, user in sent if id == "many"} == set(users[:50])
    cluster.assert_delivered_once()


def test_a_restored_job_holds_before_it_has_read_the_topic_again(
    cluster: Cluster, crowd: list[str], job: JobControl, held: View
) -> None:
    herald(cluster, "pause", "category", "news")
    known = origins(held)

    def holds() -> bool:
        spread(cluster, "background", crowd[:40], "before-the-stop")
        return len({place[:2] for place in origins(held) - known}) == PARTITIONS

    until(holds, PATIENCE)
    savepoint = job.stop()
    meanwhile = [place for lane in LANES for place in spread(cluster, lane, crowd[:40], f"meanwhile-{lane}")]
    job.start(savepoint)
    report = accounted(cluster)
    assert set(meanwhile) <= origins(held)
    assert report.outcomes["quarantined"]["paused"] == len(origins(held) - known)
    assert not sent_by_event(cluster, "meanwhile")

    herald(cluster, "resume", "category", "news")
    passes_again(cluster, crowd[0])
    released(cluster, "--category", "news")
    cluster.balanced()
    assert set(sent_by_event(cluster, "meanwhile").values()) == {1}


def test_a_source_over_its_rate_is_held_and_its_release_is_not(
    cluster: Cluster, crowd: list[str], job: JobControl, held: View
) -> None:
    cluster.balanced()
    sources = {"flood": {"rate": 1, "burst": 20, "categories": ["orders"]}}
    cluster.start(job.stop(), policies=policy(31) | {"sources": sources})
    time = datetime.now(UTC)

    def from_flood(id: str, user: str, category: str) -> tuple[None, bytes]:
        return None, event(id, [user], category, time).replace(b'"source": "shop"', b'"source": "flood"')

    flood = cluster.sender.send(
        EVENTS["background"], [from_flood(f"gush-{number}", crowd[number], "orders") for number in range(400)]
    )
    foreign = cluster.sender.send(EVENTS["background"], [from_flood("foreign", crowd[0], "news")])[0]
    usual = cluster.notify("background", "orders", crowd[:100], "usual")
    report = cluster.balanced()
    kept = origins(held) & set(flood)
    assert 0 < len(kept) < len(flood)
    assert report.outcomes["quarantined"] == {"source_quarantined": len(kept)}
    assert len(sent_by_event(cluster, "gush-")) == len(flood) - len(kept)
    assert not origins(held) & set(usual)
    (refused,) = cluster.log.rejected(foreign)
    assert (refused.headers["stage"], refused.headers["reason"]) == ("read", "category_not_allowed")

    assert released(cluster, "--source", "flood") == len(kept)
    report = cluster.balanced()
    assert "quarantined" not in report.outcomes
    assert sent_by_event(cluster, "gush-") == Counter({(f"gush-{number}", crowd[number]): 1 for number in range(400)})


def test_a_bootstrapped_job_holds_what_was_paused_before_it(cluster: Cluster, crowd: list[str], held: View) -> None:
    """Its expand step has no state, and its reader of the policies is past the pause."""
    control = cluster.running()
    cluster.balanced()
    control.cancel()
    herald(cluster, "pause", "category", "news")
    meanwhile = [place for lane in LANES for place in spread(cluster, lane, crowd[:40], f"unguarded-{lane}")]
    cluster.start(control.bootstrap(), policies=policy(32))
    accounted(cluster)
    assert set(meanwhile) <= origins(held)
    assert not sent_by_event(cluster, "unguarded")

    herald(cluster, "resume", "category", "news")
    passes_again(cluster, crowd[0])
    released(cluster, "--category", "news")
    cluster.balanced()
    assert set(sent_by_event(cluster, "unguarded").values()) == {1}
