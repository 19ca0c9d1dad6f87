"""The source guard at the gateway: held whole, put back by nobody but an operator, and what the caller is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from connectors import topics as administration
from connectors.gateway.intake import EVENT_LIMIT
from connectors.policy_log import publish
from connectors.settings import KafkaSettings, Settings
from messages.codec import encode_json
from messages.policy import POLICY_SET, Pause
from messages.topics import EVENTS, QUARANTINED
from tests.adapters.harness import Topic
from tests.conftest import Kafka, fresh_prefix
from tests.gateway.conftest import with_keys_in
from tests.gateway.gateway_process import Gateway, Topics, event
from tests.waiting import until


@pytest.fixture(scope="session")
def quarantined(gateway_settings: Settings) -> Iterator[Topic]:
    topic = Topic(gateway_settings.kafka.bootstrap, gateway_settings.kafka.prefix + QUARANTINED)
    yield topic
    topic.close()


def held(quarantined: Topic, text: str) -> list[Any]:
    return [record for record in quarantined.records() if text.encode() in record.value]


def headers(record: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}


def probe(gateway: Gateway, fresh: str, **data: Any) -> str:
    """The status of an event that nobody looks for."""
    answer = gateway.send(event(f"probe-{fresh}", **data))
    return str(answer.json()["status"])


@pytest.fixture
def paused(gateway: Gateway, gateway_settings: Settings, fresh: str) -> Iterator[str]:
    """A campaign that the gateway knows to be paused."""
    pause = Pause(scope="campaign", name=f"campaign-{fresh}")
    publish(gateway_settings.kafka, pause.key, encode_json(pause))
    until(lambda: probe(gateway, fresh, campaign=pause.name) == "held")
    yield pause.name
    publish(gateway_settings.kafka, pause.key, None)


@pytest.fixture
def rules(gateway_settings: Settings) -> Iterator[Any]:
    """``rules(version, sources)`` puts a set on the topic; it is taken away again."""

    def apply(version: int, sources: dict[str, Any]) -> None:
        category = {"class": "transactional", "channels": ["push"]}
        categories = dict.fromkeys(("order_updates", "news"), category)
        document = {"version": version, "categories": categories, "sources": sources}
        publish(gateway_settings.kafka, POLICY_SET, json.dumps(document).encode())

    yield apply
    publish(gateway_settings.kafka, POLICY_SET, None)


def test_a_paused_campaign_is_held_with_its_bytes_and_its_key(
    gateway: Gateway, quarantined: Topic, written: Topics, paused: str, fresh: str, gateway_settings: Settings
) -> None:
    answer = gateway.send(event(fresh, f"u-{fresh}", campaign=paused, priority="urgent"))
    assert answer.status_code == 202
    assert answer.json() == {
        "id": fresh,
        "status": "held",
        "reason": "paused",
        "detail": f"the campaign `{paused}` is paused",
        "path": "$.data.campaign",
    }
    (record,) = held(quarantined, f"u-{fresh}")
    assert json.loads(record.value)["id"] == fresh
    assert record.key == f"default/u-{fresh}".encode()
    assert headers(record) == {
        "stage": "gateway",
        "reason": "paused",
        "path": "$.data.campaign",
        "detail": f"the campaign `{paused}` is paused",
        "source_topic": gateway_settings.kafka.prefix + EVENTS["urgent"],
        "source_partition": "-1",
        "source_offset": "-1",
        "source_key": f"default/u-{fresh}",
    }
    assert not written.has(f"u-{fresh}")


def test_a_batch_says_of_each_event_what_became_of_it(gateway: Gateway, quarantined: Topic, paused: str, fresh: str) -> None:
    free, stopped = event(f"{fresh}-free"), event(f"{fresh}-held", campaign=paused)
    answer = gateway.send([free, stopped])
    assert (answer.status_code, answer.json()["accepted"], answer.json()["held"]) == (202, 1, 1)
    assert [(each["status"], each.get("path")) for each in answer.json()["results"]] == [
        ("accepted", None),
        ("held", "$[1].data.campaign"),
    ]
    assert len(held(quarantined, f"{fresh}-held")) == 1
    assert not held(quarantined, f"{fresh}-free")
    assert gateway.send([stopped, {"id": "x"}]).status_code == 207
    assert gateway.send([stopped]).status_code == 202


def test_an_event_for_many_is_held_whole(gateway: Gateway, quarantined: Topic, written: Topics, paused: str) -> None:
    users = [f"{paused}-user-{number}" for number in range(1_200)]
    assert gateway.send(event("many", users, campaign=paused)).json()["status"] == "held"
    parts = [record for record in held(quarantined, f"{paused}-user-") if json.loads(record.value)["id"] == "many"]
    assert sorted(user for part in parts for user in json.loads(part.value)["data"]["recipients"]["users"]) == sorted(users)
    assert not written.has(f"{paused}-user-")


def test_the_largest_event_fits_the_quarantine(gateway: Gateway, quarantined: Topic, paused: str, fresh: str) -> None:
    document = event(fresh, "ü" * 255, campaign=paused) | {"subject": ""}
    document["subject"] = "x" * (EVENT_LIMIT - len(json.dumps(document)))
    assert gateway.send(document).json()["status"] == "held"
    (record,) = [record for record in held(quarantined, fresh) if json.loads(record.value)["id"] == fresh]
    assert len(record.value) > EVENT_LIMIT


def test_a_lifted_pause_lets_pass(
    gateway: Gateway, gateway_settings: Settings, written: Topics, paused: str, fresh: str
) -> None:
    publish(gateway_settings.kafka, Pause(scope="campaign", name=paused).key, None)
    until(lambda: probe(gateway, fresh, campaign=paused) == "accepted")
    assert gateway.send(event(fresh, campaign=paused)).json()["status"] == "accepted"
    assert written.has(fresh)


def test_a_source_keeps_to_its_categories_and_its_rate(
    gateway: Gateway, quarantined: Topic, written: Topics, rules: Any, gateway_settings: Settings, fresh: str
) -> None:
    strict, slow = f"strict-{fresh}", f"slow-{fresh}"
    rules(1, {strict: {"categories": ["order_updates"]}, slow: {"rate": 0.001, "burst": 3_000}})

    def send(source: str, id: str, category: str = "order_updates", **more: Any) -> Any:
        return gateway.send({**event(id, category=category, **more), "source": source})

    until(lambda: send(strict, fresh, "news").status_code == 403)
    refused = send(strict, fresh, "news").json()
    assert refused == {
        "id": fresh,
        "status": "rejected",
        "reason": "category_not_allowed",
        "detail": "the source may not use the category `news`",
        "path": "$.data.category",
    }
    assert send(strict, f"{fresh}-allowed").json()["status"] == "accepted"

    first = [send(slow, f"{fresh}-{number}").json()["status"] for number in range(5)]
    assert first == ["accepted"] * 3 + ["held"] * 2
    assert send(slow, f"{fresh}-urgent", priority="urgent").json()["status"] == "accepted", "each lane has its own bucket"
    records = held(quarantined, slow)
    assert [headers(record)["reason"] for record in records] == ["source_quarantined"] * 2
    assert headers(records[0])["detail"] == "the source is over its rate of 0.001 events a second"

    # What the gateway has charged the job does not charge again; what had no rate it has to judge itself.
    topic = Topic(gateway_settings.kafka.bootstrap, gateway_settings.kafka.prefix + EVENTS["background"])
    charged = {
        json.loads(record.value)["id"]: headers(record) for record in topic.records() if fresh.encode() in record.value
    }
    topic.close()
    assert charged == {f"{fresh}-{number}": {"admitted": "1"} for number in range(3)} | {f"{fresh}-allowed": {}}


def test_a_document_that_is_not_valid_changes_nothing(
    gateway: Gateway, gateway_settings: Settings, rules: Any, fresh: str
) -> None:
    source = f"strict-{fresh}"
    rules(1, {source: {"categories": ["order_updates"]}})
    until(lambda: gateway.send({**event(fresh, category="news"), "source": source}).status_code == 403)
    for key, value in (
        (POLICY_SET, b"version: 7"),
        (POLICY_SET, b'{"version": 9, "categories": {}}'),
        (f"pause/source/{source}", encode_json(Pause(scope="source", name="another"))),
    ):
        publish(gateway_settings.kafka, key, value)
    pause = Pause(scope="campaign", name=fresh)
    publish(gateway_settings.kafka, pause.key, encode_json(pause))
    until(lambda: probe(gateway, fresh, campaign=fresh) == "held", what="all before it is read")
    publish(gateway_settings.kafka, pause.key, None)
    assert gateway.send({**event(fresh, category="news"), "source": source}).status_code == 403
    assert gateway.send({**event(fresh), "source": source}).json()["status"] == "accepted"


def test_it_is_not_ready_before_it_knows_what_is_paused(gateway_settings: Settings, kafka: Kafka, tmp_path: Path) -> None:
    own = KafkaSettings(bootstrap=kafka.bootstrap, prefix=fresh_prefix(), partitions=2)
    gateway = Gateway(with_keys_in(replace(gateway_settings, kafka=own), tmp_path), tmp_path)
    try:
        health = gateway.call("GET", "/healthz", key=None)
        assert (health.status_code, health.json()["policies"]) == (503, "not read yet: what is paused is not known")
        administration.create_missing(own)
        pause = Pause(scope="category", name="order_updates")
        publish(own, pause.key, encode_json(pause))
        until(lambda: gateway.call("GET", "/healthz", key=None).status_code == 200)
        assert gateway.send(event("first")).json()["status"] == "held"
    finally:
        gateway.kill()
        administration.delete(own)
