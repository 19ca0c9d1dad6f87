"""Encodings of a user's state: what was ever written can be read, what cannot be read is said so."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.state import Activity, BucketState, Pending
from tests.udfs.make_fixtures import DIRECTORY, decoders, encoded
from udfs import state as stored

FIXTURES = sorted(DIRECTORY.glob("state-v*-*.bin"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_what_was_ever_written_can_still_be_read(path: Path) -> None:
    decode, expected = decoders()[path.stem.split("-", 2)[2]]
    assert decode(path.read_bytes()) == expected


def test_every_example_of_the_present_version_is_among_the_files() -> None:
    assert set(encoded()) <= {path.name for path in FIXTURES}, "run python -m tests.udfs.make_fixtures"
    # The first byte after the flag is the version: an encoding may not change under the same number.
    for name, data in encoded().items():
        assert (DIRECTORY / name).read_bytes() == data, f"{name}: another encoding needs another version number"


@pytest.mark.parametrize("version", [0, stored.VERSION + 1, 255])
def test_an_unknown_version_is_an_error_that_names_both(version: int) -> None:
    for name, data in encoded().items():
        at = 1 if "activity" in name else 0
        foreign = data[:at] + bytes([version]) + data[at + 1 :]
        decode, _ = decoders()[name.removesuffix(".bin").split("-", 2)[2]]
        with pytest.raises(stored.StateError, match=f"version {version} .*\\({stored.VERSION}\\)"):
            decode(foreign)


@pytest.mark.parametrize("decode", [stored.decode_profile, stored.decode_activity, stored.decode_pending])
def test_no_bytes_are_an_error_too(decode: object) -> None:
    with pytest.raises(stored.StateError, match="version none"):
        decode(b"")  # type: ignore[operator]


def test_a_field_that_a_newer_version_appended_does_no_harm() -> None:
    """Rolled back, the code reads what the newer one wrote, as long as the version is the same."""
    _, activity = decoders()["activity"]
    data = stored.encode_activity(activity, False)  # type: ignore[arg-type]
    assert data is not None
    fields = msgspec.msgpack.decode(data[2:])
    longer = data[:2] + msgspec.msgpack.encode([*fields, {"new": 1}])
    assert stored.decode_activity(longer) == activity


def test_nothing_to_remember_is_no_bytes() -> None:
    assert stored.encode_activity(Activity(), False) is None
    assert stored.encode_activity(Activity(), True) is not None


logs = st.binary(max_size=5 * 14)
longest = 366 * 86_400_000 * 1_000_000
buckets = st.dictionaries(
    st.text(max_size=8),
    st.builds(BucketState, st.integers(0, longest), st.integers(0, 2**62), st.integers(1, 2**40)),
    max_size=3,
)


@given(st.builds(Activity, logs, buckets, st.integers(0, 2**62), st.integers(0, 2**62)), st.booleans())
def test_activities_survive_the_way_there_and_back(activity: Activity, pending: bool) -> None:
    data = stored.encode_activity(activity, pending)
    if data is None:
        assert activity == Activity()
        return
    assert data[0] == pending
    assert stored.decode_activity(data) == activity


@given(
    st.builds(
        Pending,
        kind=st.sampled_from(["deferred", "parked"]),
        cause=st.text(max_size=5),
        release_at=st.integers(0, 2**62),
        sequence=st.integers(0, 2**62),
        step=st.integers(0, 2**31),
        child=st.booleans(),
        channels=st.one_of(st.none(), st.tuples(st.sampled_from(["push", "email"]))),
        queues=st.lists(st.text(max_size=5), max_size=2).map(tuple),
        lane=st.sampled_from(["urgent", "background"]),
        origin=st.text(max_size=9),
        arrived_at=st.integers(-(2**62), 2**62),
        payload=st.binary(max_size=50),
    )
)
def test_pending_items_survive_the_way_there_and_back(item: Pending) -> None:
    assert stored.decode_pending(stored.encode_pending(item)) == item
