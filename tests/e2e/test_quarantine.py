"""``herald quarantine`` and ``herald pause`` on a real broker: seen, released once, discarded, killed half way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from cli.main import main
from connectors.conservation import Ledger
from connectors.policy_feed import read_documents
from connectors.quarantine import Quarantine
from connectors.settings import ROOT, KafkaSettings, Settings
from messages.codec import encode_json
from messages.policy import Pause
from messages.topics import EVENTS, PARTITIONER, POLICIES, QUARANTINE_STATUS, QUARANTINED, deliveries
from tests.adapters.harness import Topic, delivery
from tests.gateway.gateway_process import event
from tests.waiting import until


class Place:
    """A broker's topics with a settings file for the command, and what is on the topics."""

    def __init__(self, kafka: KafkaSettings, directory: Path) -> None:
        self.kafka = kafka
        self.file = directory / "herald.yaml"
        self.file.write_bytes(msgspec.yaml.encode(Settings(kafka=kafka)))
        self._topics: dict[str, Topic] = {}
        self.producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": PARTITIONER})

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(self.file), *arguments])

    def say(self, *arguments: str) -> str:
        """The output of a command that has to work."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.say("quarantine", "list", "--json", *arguments))
        return found

    def on(self, topic: str) -> list[Any]:
        if topic not in self._topics:
            self._topics[topic] = Topic(self.kafka.bootstrap, self.kafka.prefix + topic)
        return self._topics[topic].records()

    def hold(self, number: int, value: bytes, key: bytes | None = None, **changes: Any) -> None:
        """Put a record into the quarantine as the job does."""
        headers = {
            "stage": "read",
            "reason": "paused",
            "path": "$.data.category",
            "detail": "the category is paused",
            "source_topic": self.kafka.prefix + EVENTS["background"],
            "source_partition": "0",
            "source_offset": str(number),
        } | changes
        at = int(headers.pop("at", 0))
        pairs = [(name, text.encode()) for name, text in headers.items()]
        self.producer.produce(self.kafka.prefix + QUARANTINED, key=key, value=value, headers=pairs, timestamp=at)
        assert self.producer.flush(30) == 0

    def hold_event(self, number: int, **more: Any) -> bytes:
        source = more.pop("source", "shop")
        data = {name: more.pop(name) for name in ("category", "campaign") if name in more}
        value = encode_json({**event(f"e-{number}", f"u-{number}", **data), "source": source})
        self.hold(number, value, f"default/u-{number}".encode(), **more)
        return value

    def close(self) -> None:
        for topic in self._topics.values():
            topic.close()


@pytest.fixture
def place(topics: Callable[..., KafkaSettings], tmp_path: Path) -> Iterator[Place]:
    found = Place(topics(4), tmp_path)
    yield found
    found.close()


def test_what_is_held_is_listed_by_what_it_is(place: Place) -> None:
    assert "Nothing is held" in place.say("quarantine", "list")
    place.hold_event(0, category="news")
    place.hold_event(1, source="bank", campaign="spring", at=1_700_000_000_000)
    place.hold_event(2, reason="source_quarantined", stage="gateway")
    item = delivery(category="orders", campaign="spring")
    place.hold(3, encode_json(item), b"\xff", stage="deliver", source_topic=place.kafka.prefix + deliveries("fcm", "urgent"))
    place.hold(4, b"\xff no JSON")

    found = place.listed()
    assert [each["place"] for each in found] == ["0/0", "0/1", "0/2", "0/3", "0/4"]
    assert [each["event_id"] for each in found] == ["e-0", "e-1", "e-2", "event-1", ""]
    assert [each["category"] for each in found] == ["news", "order_updates", "order_updates", "orders", ""]
    assert json.loads(found[0]["value"])["id"] == "e-0"
    for arguments, numbers in {
        ("--source", "bank"): [1],
        ("--category", "news"): [0],
        ("--campaign", "spring"): [1, 3],
        ("--campaign", "spring", "--stage", "deliver"): [3],
        ("--reason", "source_quarantined"): [2],
        ("--stage", "gateway"): [2],
        ("--since", "1h"): [0, 2, 3, 4],
        ("--until", "2023-11-14T22:13:20.001Z"): [1],
        ("--until", "2023-11-14T22:13:20Z"): [],
        ("--since", "2023-11-14T23:13:20+01:00", "--until", "1m"): [1],
        ("--limit", "2"): [3, 4],
    }.items():
        assert [int(each["place"][2:]) for each in place.listed(*arguments)] == numbers, arguments
    table = place.say("quarantine", "list", "--limit", "3")
    assert "5 in all; the latest 3 are shown" in table
    assert "e-2" in table
    assert "e-1" not in table


def test_what_is_released_is_on_its_topic_as_it_was_and_once(place: Place) -> None:
    values = [place.hold_event(number) for number in range(30)]
    place.hold(30, b'{"data": {"category": "order_updates"}}', None)
    item = encode_json(delivery())
    place.hold(31, item, b"default/\xff", stage="deliver", source_topic=place.kafka.prefix + deliveries("fcm", "urgent"))
    other = place.hold_event(32, source="bank")
    summary = json.loads(place.say("quarantine", "release", "--all", "--dry-run", "--json"))
    assert summary == {"matched": 33, "released": 0, "dry_run": True}
    assert place.on(EVENTS["background"]) == []

    assert json.loads(place.say("quarantine", "release", "--source", "shop", "--limit", "10", "--json"))["released"] == 10
    assert sorted(record.value for record in place.on(EVENTS["background"])) == sorted(values[:10])
    assert "20 released." in place.say("quarantine", "release", "--source", "shop")
    assert "3 released." in place.say("quarantine", "release", "--all")
    records = place.on(EVENTS["background"])
    assert Counter(record.value for record in records) == Counter(
        [*values, b'{"data": {"category": "order_updates"}}', other]
    )
    assert {tuple(record.headers) for record in records} == {(("released", b"1"),)}

    # The key decides the partition as it does for everybody else.
    keyed = {record.key: record.partition for record in records if record.key}
    assert keyed.keys() == {f"default/u-{number}".encode() for number in (*range(30), 32)}
    for key in keyed:
        place.producer.produce(place.kafka.prefix + "changes", key=key, value=b"{}")
    assert place.producer.flush(30) == 0
    assert {record.key: record.partition for record in place.on("changes")} == keyed
    (back,) = place.on(deliveries("fcm", "urgent"))
    assert (back.key, back.value) == (b"default/\xff", item)

    assert "0 released." in place.say("quarantine", "release", "--all")
    assert len(place.on(EVENTS["background"])) == 32
    assert place.listed() == []
    assert {each["became"] for each in place.listed("--all")} == {"released"}


def test_a_release_that_is_killed_half_way_is_completed_by_the_next(place: Place) -> None:
    values = [place.hold_event(number) for number in range(200)]
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "--config",
        str(place.file),
        "quarantine",
        "release",
        "--all",
        "--rate",
        "40",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(place.on(EVENTS["background"])) >= 50)
    process.kill()
    process.wait(10)
    before = len(place.on(EVENTS["background"]))
    assert before < 200
    left = json.loads(place.say("quarantine", "release", "--all", "--json"))["released"]
    times = Counter(record.value for record in place.on(EVENTS["background"]))
    assert times.keys() == set(values), "lost"
    assert times.total() == before + left
    assert sum(count - 1 for count in times.values()) <= 10, "only what was under way comes twice"
    assert "0 released." in place.say("quarantine", "release", "--all")


def test_a_release_that_is_ended_notes_what_it_did(place: Place) -> None:
    for number in range(200):
        place.hold_event(number)
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "--config",
        str(place.file),
        "quarantine",
        "release",
        "--all",
        "--rate",
        "40",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(place.on(EVENTS["background"])) >= 20)
    process.terminate()
    assert process.wait(30) == 143
    before = len(place.on(EVENTS["background"]))
    assert len(place.listed("--limit", "1000")) == 200 - before
    place.say("quarantine", "release", "--all")
    assert set(Counter(record.value for record in place.on(EVENTS["background"])).values()) == {1}


def test_what_is_still_paused_is_not_released(place: Place) -> None:
    place.hold_event(0, category="news")
    place.hold_event(1)
    place.hold(
        2,
        encode_json(delivery(source="bank", category="orders")),
        stage="deliver",
        source_topic=place.kafka.prefix + "deliveries.fcm.urgent",
    )
    place.say("pause", "category", "news")
    place.say("pause", "source", "bank")
    refused = place.run("quarantine", "release", "--all")
    assert refused.exit_code == 1
    assert "2 of 3 would come straight back" in refused.stderr
    assert "category news is paused (1)" in refused.stderr
    assert place.on(EVENTS["background"]) == []
    assert "1 released." in place.say("quarantine", "release", "--category", "order_updates")
    place.say("resume", "category", "news")
    assert "1 released." in place.say("quarantine", "release", "--category", "news")
    assert "1 released." in place.say("quarantine", "release", "--all", "--force")


def test_what_is_discarded_is_never_released(place: Place) -> None:
    for number in range(3):
        place.hold_event(number, category="news" if number else "order_updates")
    unsure = place.run("quarantine", "discard", "--category", "news")
    assert (unsure.exit_code, "2 would be discarded for good; say --yes" in unsure.stderr) == (2, True)
    assert "Would discard 2" in place.say("quarantine", "discard", "--category", "news", "--dry-run")
    assert len(place.listed()) == 3
    assert "2 discarded." in place.say("quarantine", "discard", "--category", "news", "--yes")
    assert "0 discarded." in place.say("quarantine", "discard", "--category", "news", "--yes")
    assert "1 released." in place.say("quarantine", "release", "--all")
    assert [each["became"] for each in place.listed("--all")] == ["released", "discarded", "discarded"]


def test_the_account_takes_the_marks_as_they_are_written(place: Place) -> None:
    for number in range(2):
        place.hold_event(number)
    place.say("quarantine", "release", "--all", "--limit", "1")
    place.say("quarantine", "discard", "--source", "shop", "--yes")
    ledger = Ledger()
    for number in range(2):
        origin = f"{place.kafka.prefix}{EVENTS['background']}/0/{number}"
        ledger.count(encode_json({"origin": origin, "recipients": 3, "quarantined": True, "arrived_at": 0}))
    for record in place.on(QUARANTINED):
        ledger.hold(f"{record.partition}/{record.offset}", record.headers)
    for record in place.on(QUARANTINE_STATUS):
        ledger.mark(record.key.decode(), record.value)
    report = ledger.report(0)
    assert (report.difference, report.outcomes) == (0, {"quarantined": {"paused": 3}})


def test_a_record_of_another_deployment_is_refused_and_what_came_before_is_noted(place: Place) -> None:
    place.hold_event(0)
    place.hold_event(1, source_topic="foreign.events.background")
    place.hold_event(2, source_topic=place.kafka.prefix + POLICIES)
    refused = place.run("quarantine", "release", "--all")
    assert refused.exit_code == 1
    assert "0/1: `foreign.events.background` is no topic of this deployment" in refused.stderr
    assert [each["place"] for each in place.listed()] == ["0/1", "0/2"]
    assert len(place.on(EVENTS["background"])) == 1


@pytest.mark.parametrize("command", ["release", "discard"])
def test_what_is_meant_must_be_said(place: Place, command: str) -> None:
    for arguments in ((), ("--all", "--source", "shop")):
        refused = place.run("quarantine", command, *arguments)
        assert refused.exit_code == 2
        assert "name what is meant" in refused.stderr
    refused = place.run("quarantine", command, "--since", "yesterday")
    assert "`yesterday`: write an instant as" in refused.stderr
    assert "has no offset" in place.run("quarantine", command, "--since", "2026-01-01T00:00:00").stderr


def test_marks_of_what_is_gone_are_forgotten(place: Place) -> None:
    for number in range(4):
        place.hold_event(number)
    place.say("quarantine", "discard", "--all", "--yes", "--limit", "3")
    admin = AdminClient({"bootstrap.servers": place.kafka.bootstrap})
    (done,) = admin.delete_records([TopicPartition(place.kafka.prefix + QUARANTINED, 0, 2)]).values()
    done.result(30)
    assert Quarantine(place.kafka).forget() == 2
    assert Quarantine(place.kafka).forget() == 0
    assert [each["place"] for each in place.listed()] == ["0/3"]
    assert [each["place"] for each in place.listed("--all")] == ["0/2", "0/3"]


def test_pauses_are_documents_over_the_policies(place: Place) -> None:
    assert "Nothing is paused." in place.say("pause", "list")
    place.say("pause", "campaign", "spring/2026")
    place.say("pause", "campaign", "spring/2026")
    place.say("pause", "source", "shop")
    assert json.loads(place.say("pause", "list", "--json")) == [
        {"scope": "campaign", "name": "spring/2026"},
        {"scope": "source", "name": "shop"},
    ]
    assert "spring/2026" in place.say("pause", "list")
    written = place.on(POLICIES)[0]
    assert written.key == b"pause/campaign/spring/2026"
    assert json.loads(written.value) == {"kind": "pause", "scope": "campaign", "name": "spring/2026"}
    place.say("resume", "campaign", "spring/2026")
    assert read_documents(place.kafka).in_force.overrides == {"pause/source/shop": Pause(scope="source", name="shop")}
    again = place.run("resume", "campaign", "spring/2026")
    assert (again.exit_code, "is not paused" in again.stderr) == (1, True)
    assert "Expected `str` of length <= 256" in place.run("pause", "source", "x" * 257).stderr

    document = {"version": 1, "categories": {"news": {"class": "marketing", "channels": ["push"]}}}
    place.producer.produce(place.kafka.prefix + POLICIES, key="policies", value=encode_json(document))
    assert place.producer.flush(30) == 0
    assert "is it spelt right" in place.run("pause", "category", "nws").stderr
    assert place.run("pause", "category", "news").stderr == ""
