"""What a newer version of Herald wrote is read by this one, and nothing that it, or an older one, wrote is lost.

Each fixture holds every field that its type had when it was made, none at its default, and fields that a newer version
added, at the top and inside. A fixture is never changed, only joined by another one, whose name has the next number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from messages.codec import DecodeError, encode_json
from messages.decision import decode_count, decode_decision
from messages.delivery import decode_delivery, decode_outcome
from messages.profile import decode_profile

FIXTURES = Path(__file__).parent / "fixtures"

# The decoder, and the paths of the fields that this version does not know.
NEWER: dict[str, tuple[Callable[[bytes], Any], list[str]]] = {
    "profile.newer": (decode_profile, ["nickname", "endpoints.0.last_seen"]),
    "profile.newer-2": (decode_profile, ["mood", "endpoints.0.last_seen", "consents.promotions/sms.language"]),
    "delivery.newer": (decode_delivery, ["cost_limit", "endpoint.environment", "content.image"]),
    "outcome.newer": (decode_outcome, ["cost"]),
    "decision.newer": (decode_decision, ["experiment", "buckets.0.spent"]),
    "decision.newer-2": (decode_decision, ["budget", "buckets.0.spent", "caps.0.exact"]),
    "count.newer": (decode_count, ["audience"]),
    "count.newer-2": (decode_count, ["audience"]),
}
LATEST = list({name.partition(".")[0]: name for name in NEWER}.values())


def test_every_fixture_is_read() -> None:
    assert {file.name for file in FIXTURES.iterdir()} == {f"{name}.json" for name in NEWER}


def without(document: Any, path: str) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        document = document[int(parent) if parent.isdigit() else parent]
    del document[last]


@pytest.mark.parametrize("name", NEWER)
def test_a_field_of_a_newer_version_does_no_harm(name: str) -> None:
    decode, unknown = NEWER[name]
    written = (FIXTURES / f"{name}.json").read_bytes()
    expected = json.loads(written)
    for path in unknown:
        without(expected, path)
    assert json.loads(encode_json(decode(written))) == expected


@pytest.mark.parametrize("name", LATEST)
def test_the_latest_fixture_has_every_field(name: str) -> None:
    """Else a field could be renamed, and what was written under the old name be lost, without a test that fails."""
    decode, _ = NEWER[name]
    document = json.loads((FIXTURES / f"{name}.json").read_bytes())

    def check(value: Any, document: Any) -> None:
        if isinstance(value, msgspec.Struct):
            for field in msgspec.structs.fields(value):
                assert field.encode_name in document, field.name
                check(getattr(value, field.name), document[field.encode_name])
        elif isinstance(value, list | tuple) and value:
            check(value[0], document[0])
        elif isinstance(value, dict):
            for key in value:
                check(value[key], document[key])

    check(decode(encode_json(document)), document)


@pytest.mark.parametrize("name", NEWER)
def test_a_version_that_cannot_be_read_says_so(name: str) -> None:
    decode, _ = NEWER[name]
    document = json.loads((FIXTURES / f"{name}.json").read_bytes()) | {"v": 2}
    with pytest.raises(DecodeError) as caught:
        decode(encode_json(document))
    assert (caught.value.path, "2" in caught.value.reason) == ("$.v", True)


@pytest.mark.parametrize("name", NEWER)
def test_the_version_is_always_written(name: str) -> None:
    decode, _ = NEWER[name]
    assert json.loads(encode_json(decode((FIXTURES / f"{name}.json").read_bytes())))["v"] == 1


def test_records_without_the_fields_of_today_have_their_defaults() -> None:
    profile = decode_profile((FIXTURES / "profile.newer.json").read_bytes())
    assert (profile.quiet_hours, profile.subscriptions, profile.consents) == ((), {}, {})
    record = decode_decision((FIXTURES / "decision.newer.json").read_bytes())
    assert (record.part, record.retry_at, record.caps, record.rung, record.override) == (None, {}, [], 0, None)
    assert decode_count((FIXTURES / "count.newer.json").read_bytes()).quarantined is False
