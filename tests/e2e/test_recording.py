"""Recorded input is read from a real broker: what is committed, in its window, up to the end as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from msgspec.structs import replace

from cli.main import main
from cli.stack.stack_settings import write_settings
from connectors.policy_files import load_policies
from connectors.policy_log import publish
from connectors.recording import FileInput, Input, KafkaInput, Recorded, RecordingError, Window
from connectors.settings import ROOT, KafkaSettings, Settings
from messages.codec import encode_json
from messages.policy import POLICY_SET
from messages.topics import CHANGES, EVENTS, PARTITIONER, PROFILES

NOON = 1_790_078_400_000
HOUR = 3_600_000

POLICIES = """
version: {version}
categories:
  news: {{class: marketing, channels: [in_app], throttle: {{limit: {limit}, period: 1d, action: drop}}}}
"""


def an_event(number: int, at: int, *users: str) -> tuple[str, str | None, bytes, int]:
    time = "2026-09-22T12:00:00Z"
    data = {"recipients": {"users": list(users)}, "category": "news", "content": {"in_app": {"body": "x"}}}
    value = {"specversion": "1.0", "id": f"e{number}", "source": "s", "type": "t", "time": time, "data": data}
    return EVENTS["background"], None, json.dumps(value).encode(), at


def a_profile(user: str, version: int) -> tuple[str, str | None, bytes, int]:
    return PROFILES, f"default/{user}", json.dumps({"v": 1, "version": version}).encode(), NOON


@pytest.fixture
def kafka_settings(topics: Callable[..., KafkaSettings]) -> KafkaSettings:
    return topics()


@pytest.fixture
def write(kafka_settings: KafkaSettings) -> Callable[..., None]:
    """Writes (topic, key, value, time) in a transaction of its own."""
    producer = Producer(
        {
            "bootstrap.servers": kafka_settings.bootstrap,
            "partitioner": PARTITIONER,
            "transactional.id": kafka_settings.prefix,
        }
    )
    producer.init_transactions(10)

    def written(*records: tuple[str, str | None, bytes, int], commit: bool = True) -> None:
        producer.begin_transaction()
        for topic, key, value, at in records:
            producer.produce(kafka_settings.prefix + topic, key=key, value=value, timestamp=at)
        (producer.commit_transaction if commit else producer.abort_transaction)(10)

    return written


def read(given: Input, wanted: Callable[[str], bool] = lambda key: True) -> list[Recorded]:
    done: list[int] = []
    found = list(given.records(wanted, done.append))
    assert sum(done) == given.total
    return sorted(found, key=lambda each: (each.topic, each.partition, each.offset))


def test_committed_records_are_read_and_others_are_not(kafka_settings: KafkaSettings, write: Callable[..., None]) -> None:
    write(an_event(1, NOON, "ada"), (CHANGES, "default/ada", b"{}", NOON), a_profile("ada", 1))
    write(an_event(2, NOON, "ada"), commit=False)
    write(an_event(3, NOON + 1, "ben"), a_profile("ben", 1), a_profile("ada", 2))
    found = read(KafkaInput(kafka_settings, Window()), lambda key: key == "default/ada")
    assert [(each.topic, each.key, each.at) for each in found if each.topic != PROFILES] == [
        (CHANGES, "default/ada", NOON),
        *((each.topic, None, each.at) for each in found if each.topic == EVENTS["background"]),
    ]
    events = {json.loads(each.value or b"")["id"] for each in found if each.topic == EVENTS["background"]}
    assert events == {"e1", "e3"}
    profiles = [json.loads(each.value or b"")["version"] for each in found if each.topic == PROFILES]
    assert profiles == [1, 2]


def test_the_window_is_of_the_broker_s_times_whatever_their_order(
    kafka_settings: KafkaSettings, write: Callable[..., None]
) -> None:
    write(*(an_event(hour, NOON + hour * HOUR, "ada") for hour in (0, 1, 3, 2, 4)))
    found = read(KafkaInput(kafka_settings, Window(NOON + HOUR, NOON + 3 * HOUR)))
    assert {each.at for each in found} == {NOON + HOUR, NOON + 2 * HOUR}
    assert read(KafkaInput(kafka_settings, Window(since=NOON + 9 * HOUR))) == []


def test_what_comes_after_the_start_is_not_read(kafka_settings: KafkaSettings, write: Callable[..., None]) -> None:
    write(an_event(1, NOON, "ada"))
    given = KafkaInput(kafka_settings, Window())
    write(an_event(2, NOON, "ada"))
    assert [json.loads(each.value or b"")["id"] for each in read(given)] == ["e1"]


def test_a_topic_that_is_missing_and_a_broker_that_is_away_are_named(kafka_settings: KafkaSettings) -> None:
    with pytest.raises(RecordingError, match=r"no topic nowhere\.events\.urgent .* `herald topics apply`"):
        KafkaInput(replace(kafka_settings, prefix="nowhere."), Window())


def test_the_topics_and_a_recording_of_them_give_the_same_against_what_is_in_force(
    tmp_path: Path, kafka_settings: KafkaSettings, write: Callable[..., None]
) -> None:
    def policies(name: str, version: int, limit: int) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "default.yaml").write_text(POLICIES.format(version=version, limit=limit), encoding="utf-8")
        return tmp_path / name

    publish(kafka_settings, POLICY_SET, encode_json(load_policies(policies("one", 50, limit=1))))
    publish(kafka_settings, POLICY_SET, encode_json(load_policies(policies("two", 51, limit=2))))
    candidate = policies("candidate", 1, limit=3)
    write(
        a_profile("ada", 1),
        a_profile("stranger", 1),
        *(an_event(number, NOON + number, "ada", "ben") for number in range(4)),
        (CHANGES, "default/ada", b'{"kind":"set_quiet_hours","id":"q","quiet_hours":[]}', NOON),
        (EVENTS["urgent"], None, b"\xff broken", NOON),
    )
    write_settings(replace(Settings(), kafka=kafka_settings), tmp_path / "herald.yaml")

    def herald(*arguments: object) -> str:
        run = CliRunner().invoke(main, ["--config", str(tmp_path / "herald.yaml"), "policy", *map(str, arguments)])
        assert run.exit_code == 0, run.output
        return run.stdout

    def simulated(*more: object) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(herald("simulate", "--policies", candidate, "--json", *more))
        return report

    live = simulated()
    assert (live["base"]["set"], live["base"]["version"], live["notes"]) == ("in force", 51, [])
    sent = live["result"]["outcomes"][0]
    assert (sent["name"], sent["base"], sent["candidate"]) == ("sent", 2, 3)
    assert live["read"] | {"profiles": 0} == {
        "events": 5,
        "unreachable": 1,
        "notifications": 8,
        "commands": 1,
        "profiles": 0,
        "first": NOON,
        "last": NOON + 3,
    }
    assert simulated("--against", 50)["result"]["outcomes"][0]["base"] == 1

    file = tmp_path / "recording.jsonl"
    herald("record", "--out", file)
    assert file.stat().st_mode & 0o077 == 0
    assert {each.key for each in read(FileInput(file, Window())) if each.topic == PROFILES} == {"default/ada"}
    recorded = simulated("--from", file)
    assert (recorded["result"], recorded["read"]) == (live["result"], live["read"])
    # What lies over the set lies over both sides; a pause over neither.
    patch = b'{"kind":"category","name":"news","patch":{"channels":["push"]}}'
    publish(kafka_settings, "category/news", patch)
    publish(kafka_settings, "pause/category/news", b'{"kind":"pause","scope":"category","name":"news"}')
    under = simulated("--from", file)
    assert under["base"]["overrides"] == under["candidate"]["overrides"] == ["category/news"]
    assert [note for note in under["notes"] if "pauses are left out" in note]
    assert [row["name"] for row in under["result"]["outcomes"]] == ["suppressed: unknown_user", "rejected: no_channel"]


def test_a_file_needs_no_broker_and_says_which_base_it_took(tmp_path: Path) -> None:
    settings = replace(Settings(), kafka=KafkaSettings(bootstrap="127.0.0.1:1"))
    write_settings(settings, tmp_path / "herald.yaml")
    arguments = ["--config", str(tmp_path / "herald.yaml"), "policy", "simulate", "--json"]
    arguments += ["--policies", str(ROOT / "flink-conf/policies"), "--from", str(ROOT / "docs/examples/recording.jsonl")]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["base"]["set"] == f"packaged, {settings.job.policies}"
    assert "Kafka at 127.0.0.1:1 does not answer: the base is the packaged set" in report["notes"][0]
