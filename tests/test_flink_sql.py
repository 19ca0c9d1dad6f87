"""The SQL of the tables keeps up with the topics and the messages."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec.structs import fields

from cli.flink_sql import SCRIPTS, fill
from cli.stack.program import StackError
from connectors.settings import KafkaSettings
from messages.decision import CountRecord, DecisionRecord
from messages.delivery import Delivery, Outcome
from messages.event import Event, EventData
from messages.profile import Profile
from messages.quarantine import QuarantineMark
from messages.topics import RejectedHeaders, registry

KAFKA = KafkaSettings(bootstrap="broker:9092", prefix="it's.")
TABLES = (SCRIPTS / "tables.sql").read_text(encoding="utf-8")


def table(name: str) -> str:
    found = re.search(rf"^CREATE TABLE {name} \(\n(.*?)^\)", TABLES, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def columns(name: str) -> set[str]:
    """What stands in the record itself, fields of rows apart."""
    lines = re.findall(r"^  `?(\w+)`? +(?!AS )(.*)$", table(name), re.MULTILINE)
    return {column for column, kind in lines if "METADATA" not in kind}


def test_every_topic_has_a_table() -> None:
    filled = fill(TABLES, KAFKA, follow=False)
    read = {topic for line in re.findall(r"^  'topic' = '(.*)',$", filled, re.MULTILINE) for topic in line.split(";")}
    assert read == {f"it''s.{name}" for name in registry(1)}


@pytest.mark.parametrize(
    ("name", "kind", "key"),
    [
        ("events", Event, "event_key"),
        ("profiles", Profile, "user_key"),
        ("deliveries", Delivery, "user_key"),
        ("outcomes", Outcome, "user_key"),
        ("decisions", DecisionRecord, "user_key"),
        ("counts", CountRecord, "count_key"),
        ("quarantine_status", QuarantineMark, "place"),
    ],
)
def test_the_columns_are_the_messages_fields(name: str, kind: Any, key: str) -> None:
    wanted = {field.encode_name for field in fields(kind)} | {key}
    # Of no use in a query, or an operator's own bookkeeping.
    unused = {
        "specversion",
        "datacontenttype",
        "dataschema",
        "subject",
        "tracestate",
        "replaced_with",
        "applied",
        "position",
    }
    assert columns(name) == wanted - unused


def test_all_of_an_events_data_can_be_asked_for() -> None:
    assert set(re.findall(r"^    (\w+) ", table("events"), re.MULTILINE)) == {field.name for field in fields(EventData)}


@pytest.mark.parametrize("name", ["rejected", "quarantined"])
def test_all_headers_are_columns(name: str) -> None:
    headers = {value for key, value in vars(RejectedHeaders).items() if key.isupper()}
    assert set(re.findall(r"CAST\(headers\['(\w+)'\] AS STRING\)", table(name))) == headers


def test_tables_end_now_or_go_on() -> None:
    assert "'scan.bounded.mode' = 'latest-offset'" in fill(TABLES, KAFKA, follow=False)
    assert "'scan.bounded.mode' = 'unbounded'" in fill(TABLES, KAFKA, follow=True)
    for follow in (False, True):
        assert "${" not in fill(TABLES, KAFKA, follow).partition("\n")[2]


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(StackError, match=r"\$\{brokers\}.*bootstrap"):
        fill("'${brokers}'", KAFKA, follow=False)
