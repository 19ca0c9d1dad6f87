"""The exported JSON Schemas are current, deterministic, and say what the decoders do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from cli.commands_schemas import DIRECTORY, documents
from cli.main import main
from connectors.policy_files import read_value
from connectors.settings import ROOT
from messages.codec import DecodeError, encode_json
from messages.event import decode_event
from messages.profile import decode_change
from tests.messages.test_compatibility import FIXTURES
from tests.messages.test_decoding import POLICY, TRACE, event


def schemas(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["schemas", *arguments])
    return result.exit_code, result.output


def test_the_files_are_current() -> None:
    assert schemas("--check") == (0, "All schemas are current.\n")
    assert {file.name for file in DIRECTORY.iterdir()} == set(documents())


def test_a_stale_a_missing_and_a_strange_file_are_found_and_mended(tmp_path: Path) -> None:
    assert schemas("--directory", str(tmp_path))[0] == 0
    assert schemas("--check", "--directory", str(tmp_path))[0] == 0
    (tmp_path / "event.json").write_text("{}")
    (tmp_path / "policy.json").unlink()
    (tmp_path / "strange.json").write_text("{}")
    code, output = schemas("--check", "--directory", str(tmp_path))
    assert code == 1
    for name in ("event.json", "policy.json", "strange.json"):
        assert f"{name} is not current" in output
    assert "herald schemas" in output
    assert "strange.json is the schema of no message" in schemas("--directory", str(tmp_path))[1]
    (tmp_path / "strange.json").unlink()
    assert schemas("--check", "--directory", str(tmp_path))[0] == 0


def test_another_process_makes_the_same_bytes() -> None:
    """Whatever the seed of its hashes."""
    program = (
        "import sys; from cli.commands_schemas import documents; sys.stdout.buffer.write(b''.join(documents().values()))"
    )
    for seed in ("1", "2"):
        made = subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True)
        assert made.stdout == b"".join(documents().values())


@pytest.mark.parametrize("name", documents())
def test_each_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(documents()[name]))


def valid(name: str, document: Any) -> bool:
    schema = json.loads((DIRECTORY / f"{name}.json").read_bytes())
    return jsonschema.Draft202012Validator(schema).is_valid(document)


@pytest.mark.parametrize(
    ("schema", "fixture"),
    [
        ("profile", "profile.newer"),
        ("profile", "profile.newer-2"),
        ("delivery", "delivery.newer"),
        ("outcome", "outcome.newer"),
        ("decision-record", "decision.newer"),
        ("decision-record", "decision.newer-2"),
        ("count-record", "count.newer"),
        ("count-record", "count.newer-2"),
    ],
)
def test_what_components_write_is_valid_with_fields_of_a_newer_version(schema: str, fixture: str) -> None:
    assert valid(schema, json.loads((FIXTURES / f"{fixture}.json").read_bytes()))


@pytest.mark.parametrize(
    "document",
    [
        event(),
        event(traceparent=TRACE, data={"content": {"push": {"title": "x"}}, "tags": ["a"], "ttl": 60}),
        event(traceparent="x"),
        event(colour=1),
        event(data={"colour": 1}),
        event(data={"priority": "asap"}),
        event(data={"content": {"fax": {}}}),
        event(data={"content": {"push": {"colour": 1}}}),
        event(data={"recipients": {"users": [5]}}),
        event(data={"ttl": 0}),
        {},
        [],
    ],
)
def test_schema_and_decoder_agree_on_events(document: Any) -> None:
    assert valid("event", document) == decodes(decode_event, document)


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "replace_profile", "id": "1", "profile": {"country": "DE"}},
        {"kind": "remove_endpoint", "id": "1", "endpoint_id": "a"},
        {"kind": "remove_endpoint", "id": "1"},
        {"kind": "set_preferences", "id": "1", "preferences": []},
        {"kind": "erase", "id": "1"},
        {"kind": "set_quiet_hours", "id": "1", "quiet_hours": [{"start": "22:00", "end": "24:00", "days": ["mon"]}]},
        {"kind": "set_quiet_hours", "id": "1", "quiet_hours": [{"start": "24:00", "end": "07:00"}]},
        {"kind": "set_quiet_hours", "id": "1", "quiet_hours": [{"start": "22:00", "end": "07:00\n"}]},
        {"kind": "subscribe", "id": "1", "topic": "sport", "subscribed": False},
        {"kind": "give_consent", "id": "1", "consent": {"at": 1, "where": "web", "text_version": "3", "channel": "sms"}},
        {"kind": "give_consent", "id": "1", "consent": {"at": 1, "where": "web"}},
        {"kind": "withdraw_consent", "id": "1"},
        {"kind": "cancel", "id": "1", "source": "shop", "event_id": "e"},
        {"kind": "read", "id": "1", "source": "shop", "event_id": "e"},
        {"kind": "open", "id": "1", "source": "shop", "event_id": "e", "machine": True},
        {"kind": "failed", "id": "1", "source": "shop", "event_id": "e"},
        {"kind": "stalled", "id": "1", "source": "shop", "event_id": "e", "delivery_id": "d"},
        {"id": "1"},
    ],
)
def test_schema_and_decoder_agree_on_changes(document: Any) -> None:
    assert valid("command", document) == decodes(decode_change, document)


def test_the_policy_of_the_tests_is_valid() -> None:
    assert valid("policy", POLICY)
    assert not valid("policy", POLICY | {"colour": 1})


def test_a_policy_file_is_a_part_of_the_set() -> None:
    part = {name: value for name, value in POLICY.items() if name != "version"}
    assert valid("policy-file", part)
    assert not valid("policy", part)
    assert not valid("policy-file", part | {"colour": 1})
    assert not valid("policy-file", {"categories": {"news": {"class": "marketing"}}})


@pytest.mark.parametrize("file", sorted((ROOT / "flink-conf" / "policies").glob("*.yaml")), ids=lambda file: file.name)
def test_the_packaged_files_are_valid_and_tell_editors_their_schema(file: Path) -> None:
    first, _, text = file.read_text(encoding="utf-8").partition("\n")
    schema = file.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert schema.resolve() == DIRECTORY / "policy-file.json"
    assert valid("policy-file", read_value(text))


def decodes(decode: Any, document: Any) -> bool:
    try:
        decode(encode_json(document))
    except DecodeError:
        return False
    return True
