"""The policies topic followed from outside the job: what is in force, and what a broker's absence does to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.stack.stack import Stack
from connectors.policy_feed import PolicyDocuments, PolicyFeed, read_documents
from connectors.policy_log import PolicyLogError, Record, publish
from connectors.settings import KafkaSettings
from messages.codec import DecodeError, encode_json
from messages.policy import POLICY_SET, Pause
from tests.conftest import free_settings
from tests.waiting import until

NEWS = Pause(scope="category", name="news")
SHOP = Pause(scope="source", name="shop")


def policies(version: int, **sources: object) -> bytes:
    category = {"class": "marketing", "channels": ["push"]}
    return json.dumps({"version": version, "categories": {"news": category}, "sources": sources}).encode()


def record(key: str, value: bytes | None) -> Record:
    return Record(0, 0, key, value)


def test_documents_are_in_force_as_the_job_takes_them() -> None:
    documents = PolicyDocuments()
    documents.take(record(NEWS.key, encode_json(NEWS)))
    documents.take(record(POLICY_SET, policies(3, shop={"rate": 5})))
    documents.take(record(POLICY_SET, policies(3, shop={"rate": 5})))
    for key, value in (
        (POLICY_SET, policies(3, shop={"rate": 6})),
        (POLICY_SET, policies(2)),
        (POLICY_SET, b"{}"),
        (NEWS.key, encode_json(SHOP)),
        ("limits", policies(9)),
    ):
        with pytest.raises(DecodeError):
            documents.take(record(key, value))
    rules = documents.rules()
    assert (rules.paused, rules.sources["shop"].rate) == ({("category", "news")}, 5)
    assert documents.raw.keys() == {POLICY_SET, NEWS.key}
    documents.take(record(NEWS.key, None))
    documents.take(record(POLICY_SET, None))
    assert (documents.rules().paused, documents.rules().sources, documents.raw) == (frozenset(), {}, {})
    documents.take(record(POLICY_SET, policies(1)))


def test_what_is_in_force_now_is_read_in_one_go(topics: Callable[..., KafkaSettings]) -> None:
    kafka = topics()
    assert read_documents(kafka).raw == {}
    for key, value in ((SHOP.key, encode_json(SHOP)), (NEWS.key, encode_json(NEWS)), (SHOP.key, None), (NEWS.key, b"{}")):
        publish(kafka, key, value)
    assert read_documents(kafka).in_force.overrides == {NEWS.key: NEWS}


def test_without_its_topic_it_says_what_to_do(topics: Callable[..., KafkaSettings]) -> None:
    kafka = topics()
    strange = KafkaSettings(bootstrap=kafka.bootstrap, prefix=f"{kafka.prefix}not-there.")
    with pytest.raises(PolicyLogError, match="herald topics apply"):
        read_documents(strange)


def test_it_keeps_what_it_knows_while_the_broker_is_away_and_goes_on(tmp_path: Path) -> None:
    stack = Stack(free_settings(tmp_path), ["kafka"])
    stack.up()
    kafka = stack.settings.kafka
    said: list[str] = []
    feed = PolicyFeed(kafka, said.append)
    try:
        publish(kafka, NEWS.key, encode_json(NEWS))
        until(lambda: feed.rules.paused == {("category", "news")})
        publish(kafka, SHOP.key, b"not a pause")
        until(lambda: any("is not used" in line for line in said))
        stack.stop("kafka")
        until(lambda: any(line.startswith("Kafka: ") for line in said), what="the absence is noticed")
        assert feed.rules.paused == {("category", "news")}
        assert feed.caught_up.is_set()
        stack.start("kafka")
        publish(kafka, SHOP.key, encode_json(SHOP))
        until(lambda: feed.rules.paused == {("category", "news"), ("source", "shop")})
        publish(kafka, NEWS.key, None)
        until(lambda: feed.rules.paused == {("source", "shop")})
    finally:
        feed.close()
        stack.down()
