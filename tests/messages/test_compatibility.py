"""What a newer version of Herald wrote is read by this one, and nothing that it wrote before is lost.

Each fixture holds every field that its type has today, none at its default, and fields that a newer version added, at
the top and inside. A fixture is never changed, only joined by another one.
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
    "profile": (decode_profile, ["quiet_hours", "endpoints.0.last_seen"]),
    "delivery": (decode_delivery, ["cost_limit", "endpoint.environment", "content.image"]),
    "outcome": (decode_outcome, ["cost"]),
    "decision": (decode_decision, ["experiment", "buckets.0.spent"]),
    "count": (decode_count, ["audience"]),
}


def without(document: Any, path: str) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        document = document[int(parent) if parent.isdigit() else parent]
    del document[last]


@pytest.mark.parametrize("name", NEWER)
def test_a_field_of_a_newer_version_does_no_harm(name: str) -> None:
    decode, unknown = NEWER[name]
    written = (FIXTURES / f"{name}.newer.json").read_bytes()
    expected = json.loads(written)
    for path in unknown:
        without(expected, path)
    assert json.loads(encode_json(decode(written))) == expected


@pytest.mark.parametrize("name", NEWER)
def test_the_fixture_has_every_field(name: str) -> None:
    """Else a field could be renamed, and what was written under the old name be lost, without a test that fails."""
    decode, _ = NEWER[name]
    document = json.loads((FIXTURES / f"{name}.newer.json").read_bytes())

    def check(value: Any, document: Any) -> None:
        if isinstance(value, msgspec.Struct):
            for field in msgspec.structs.fields(value):
                assert field.encode_name in document, field.name
                check(getattr(value, field.name), document[field.encode_name])
        elif isinstance(value, list) and value:
            check(value[0], document[0])

    check(decode(encode_json(document)), document)


@pytest.mark.parametrize("name", NEWER)
def test_a_version_that_cannot_be_read_says_so(name: str) -> None:
    decode, _ = NEWER[name]
    document = json.loads((FIXTURES / f"{name}.newer.json").read_bytes()) | {"v": 2}
    with pytest.raises(DecodeError) as caught:
        decode(encode_json(document))
    assert (caught.value.path, "2" in caught.value.reason) == ("$.v", True)


@pytest.mark.parametrize("name", NEWER)
def test_the_version_is_always_written(name: str) -> None:
    decode, _ = NEWER[name]
    assert json.loads(encode_json(decode((FIXTURES / f"{name}.newer.json").read_bytes())))["v"] == 1
