"""States as this version of the code encodes them, kept as files: every later version must still read them.

``python -m tests.udfs.make_fixtures`` writes the files of the present version that are missing; it never replaces one. A
new version of the encoding adds its files and leaves the old ones, and their expected content here, as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from messages.profile import Consent, Endpoint, Profile
from messages.windows import Window
from policy.state import Activity, BucketState, DigestState, Pending
from udfs import state as stored

DIRECTORY = Path(__file__).parent / "fixtures"


def _log(*entries: tuple[int, int]) -> bytes:
    """(number, instant) as policy/seen.py packs them."""
    return b"".join(at.to_bytes(6, "big") + number.to_bytes(8, "big") for number, at in entries)


PROFILES = {
    "profile-empty": Profile(),
    "profile": Profile(
        version=12,
        country="DE",
        time_zone="Europe/Berlin",
        locale="de-DE",
        endpoints=[
            Endpoint(id="phone", provider="fcm", address="token", app="shop", registered_at=1_790_000_000_000),
            Endpoint(id="number", provider="twilio", address="+491700000000", suppressed="stop"),
        ],
        preferences={"*/sms": False, "news/*": True},
        replaced_with=3,
        applied=["c1", "c2"],
        position=(2, 47),
    ),
    "profile-choices": Profile(
        version=3,
        quiet_hours=(Window(start="22:00", end="06:00", days=("mon", "sun")), Window(start="00:00", end="24:00")),
        subscriptions={"football": False, "news": True},
        consents={"offers/sms": Consent(at=1_790_000_000_000, where="app", text_version="7")},
    ),
}
ACTIVITIES = {
    "activity-pending": (True, Activity(due=1_790_000_030_000, sequence=1)),
    "activity": (
        False,
        Activity(
            identities=_log((2**64 - 1, 1_790_000_000_000), (0, 1_790_000_000_001)),
            buckets={"news/push": BucketState(2_999, 1_790_000_000_002, 10_000), "key:k/in_app": BucketState(0, -5, 1)},
            due=0,
            sequence=9,
        ),
    ),
    "activity-whole": (
        True,
        Activity(
            identities=_log((5, 1_790_000_000_000)),
            due=1_790_000_090_000,
            sequence=3,
            contents=_log((6, 1_790_000_000_001)),
            cancels=_log((7, 1_790_000_000_002), (8, 1_790_000_000_003)),
            caps={"daily": (1_790_000_000_000).to_bytes(6, "big")},
            digests={"social": DigestState(1_790_000_000_000, 1_790_000_090_000, 2)},
        ),
    ),
}
PENDING = {
    "pending-parked": Pending(
        kind="parked",
        cause="parking",
        release_at=1_790_000_030_000,
        sequence=1,
        step=0,
        child=False,
        channels=None,
        queues=(),
        lane="urgent",
        origin="events.urgent/3/17",
        arrived_at=1_790_000_000_000,
        payload=b'{"id":"x"}',
    ),
    "pending-child": Pending(
        kind="deferred",
        cause="throttled",
        release_at=1_790_000_030_000,
        sequence=2,
        step=4,
        child=True,
        channels=("push", "in_app"),
        queues=("news/push", "news/in_app"),
        lane="background",
        origin="events.background/3/17",
        arrived_at=1_790_000_000_000,
        payload=bytes(range(256)),
    ),
    "pending-ladder": Pending(
        kind="escalating",
        cause="escalation",
        release_at=1_790_000_300_000,
        sequence=4,
        step=1,
        child=True,
        channels=None,
        queues=(),
        lane="urgent",
        origin="events.urgent/0/9",
        arrived_at=1_790_000_000_000,
        payload=b"{}",
        happened=1_789_999_999_000,
        collapse_key="c",
        cancellation_key="k",
        reserved_at=1_790_000_000_000,
        digest="social",
        closing=True,
        rung=1,
        outstanding=("573a748fea2a62e185b2e77bba99ed67",),
    ),
}


def encoded() -> dict[str, bytes]:
    """Every example as this version encodes it, by the name of its file."""
    out = {name: stored.encode_profile(profile) for name, profile in PROFILES.items()}
    out |= {name: stored.encode_pending(item) for name, item in PENDING.items()}
    for name, (pending, activity) in ACTIVITIES.items():
        data = stored.encode_activity(activity, pending)
        assert data is not None
        out[name] = data
    return {f"state-v{stored.VERSION}-{name}.bin": data for name, data in out.items()}


def decoders() -> dict[str, tuple[Callable[[bytes], object], object]]:
    """By the name of an example: how it is decoded, and what must come out."""
    out: dict[str, tuple[Callable[[bytes], object], object]] = {}
    out |= {name: (stored.decode_profile, profile) for name, profile in PROFILES.items()}
    out |= {name: (stored.decode_activity, activity) for name, (_, activity) in ACTIVITIES.items()}
    out |= {name: (stored.decode_pending, item) for name, item in PENDING.items()}
    return out


if __name__ == "__main__":
    for name, data in encoded().items():
        if not (DIRECTORY / name).exists():
            (DIRECTORY / name).write_bytes(data)
            print(f"written: {name}")
