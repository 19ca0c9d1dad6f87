"""Synthetic users and events, the same for the same seed: what the demo and the benchmarks send."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

ZONES = {
    "DE": "Europe/Berlin",
    "PT": "Europe/Lisbon",
    "US": "America/New_York",
    "BR": "America/Sao_Paulo",
    "IN": "Asia/Kolkata",
    "JP": "Asia/Tokyo",
}
NIGHT = {"start": "22:00", "end": "07:00"}
QUIET_HOURS = (
    [NIGHT],
    [{"start": "23:30", "end": "06:00", "days": ["mon", "tue", "wed", "thu", "sun"]}, NIGHT | {"days": ["fri", "sat"]}],
    [NIGHT, {"start": "12:00", "end": "13:00", "days": ["mon", "tue", "wed", "thu", "fri"]}],
)
CAMPAIGNS = ("autumn", "black-friday", None, None)
CATEGORIES = {"order_updates": 18, "chat": 42, "promotions": 24, "delivery_updates": 6, "mentions": 3, "social": 7}
"""What the flood is about, in parts of a hundred."""

MALFORMED = (
    b'{"specversion": "1.0", "id": ',
    b"[1, 2, 3]",
    b'{"specversion": "1.0"} trailing',
    b'\xff\xfe{"specversion": "1.0"}',
    b'{"specversion":"1.0","id":"m","source":"shop","type":"t","time":"2026-01-01T00:00:00Z","data":{"recipients":{"users":[]}}}',
    b'{"specversion":"1.0","id":"m","source":"shop","type":"t","time":"2026-01-01T00:00:00Z","data":{"recipients":{"users":[7]}}}',
    b'{"specversion":"1.0","id":"m","source":"shop","type":"t","time":"yesterday","data":{"recipients":{"users":["user-1"]},'
    b'"category":"chat","content":{"push":{"body":"x"}}}}',
    b'{"specversion":"1.0","id":"m","source":"shop","type":"t","time":"2026-01-01T00:00:00Z","data":{"recipients":{"users":'
    b'["user-2"]},"category":"chat","content":{"push":{"body":"x"}},"colour":"red"}}',
)
"""Events that nobody can decide, each bad in its own way, each for one user at most."""


class SyntheticEvent(msgspec.Struct):
    """One event as its producer sends it; ``malformed`` ones must end in ``rejected``."""

    payload: bytes
    malformed: bool = False


def user_name(number: int) -> str:
    """The id of a synthetic user."""
    return f"user-{number}"


def profile_commands(users: int, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """(key, ReplaceProfile) for users 0 to ``users`` - 1: most reachable, some opted out, some without any device.

    Three in ten have quiet hours, in six zones. Nobody denies the inbox alone, so that it can always stand in.
    """
    chance = random.Random(seed)  # noqa: S311 - synthetic data
    for number in range(users):
        command = {"kind": "replace_profile", "id": f"synthetic-{seed}-{number}", "profile": _profile(number, chance)}
        yield f"default/{user_name(number)}", json.dumps(command).encode()


def _profile(number: int, chance: random.Random) -> dict[str, Any]:
    country = chance.choice(tuple(ZONES))
    profile: dict[str, Any] = {
        "country": country,
        "locale": chance.choice(("en", "de", "pt-BR")),
        "endpoints": _endpoints(number, chance),
        "preferences": _preferences(chance),
    }
    if chance.random() < 0.8:  # the others live by their country's zone
        profile["time_zone"] = ZONES[country]
    if chance.random() < 0.3:
        profile["quiet_hours"] = chance.choice(QUIET_HOURS)
    if chance.random() < 0.1:
        profile["subscriptions"] = {"like": False, "sale": True}
    if chance.random() < 0.1:
        profile["consents"] = [
            {"category": "newsletter", "channel": "email", "at": 1_767_225_600_000, "where": "checkout", "text_version": "3"}
        ]
    return profile


def _endpoints(number: int, chance: random.Random) -> list[dict[str, str]]:
    devices = chance.choices((0, 1, 2, 3), (4, 80, 12, 4))[0]
    found = [
        {"id": f"device-{number}-{device}", "provider": "fcm", "address": f"{chance.getrandbits(480):0120x}"}
        for device in range(devices)
    ]
    if chance.random() < 0.1:
        found.append({"id": f"iphone-{number}", "provider": "apns", "address": f"{chance.getrandbits(256):064x}"})
    if chance.random() < 0.2:
        found.append({"id": f"mail-{number}", "provider": "ses", "address": f"{user_name(number)}@example.com"})
    return found


def _preferences(chance: random.Random) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if chance.random() < 0.25:
        found.append({"category": "promotions", "allow": False})
    if chance.random() < 0.05:
        found.append({"channel": "push", "allow": False})
    if chance.random() < 0.02:
        found.append({"allow": False})
    return found


def event(
    identity: str,
    users: list[str],
    category: str,
    time: datetime,
    campaign: str | None = None,
    source: str = "shop",
    **more: object,
) -> bytes:
    """One CloudEvent with literal content for push and in-app; ``more`` adds to its data, or replaces what is there."""
    text = {"title": category.replace("_", " "), "body": f"Something happened that {users[0]} should know: {identity}"}
    data = {"recipients": {"users": users}, "category": category, "content": {"push": text, "in_app": text}} | more
    if campaign is not None:
        data["campaign"] = campaign
    return json.dumps(
        {
            "specversion": "1.0",
            "id": identity,
            "source": source,
            "type": f"demo.{category}",
            "time": time.isoformat(),
            "data": data,
        }
    ).encode()


def background_events(number: int, users: int, now: datetime, seed: int = 2) -> Iterator[SyntheticEvent]:
    """A flood as a shop's: mostly plain; duplicates, bursts at one user, double clicks, strangers, late, expired and
    malformed ones.
    """
    chance = random.Random(seed)  # noqa: S311 - synthetic data
    time = now.astimezone(UTC)
    run = f"{int(now.timestamp())}-{seed}"
    recent: deque[bytes] = deque(maxlen=200)
    following: deque[tuple[str, str, dict[str, Any]]] = deque()
    for position in range(number):
        identity = f"{run}-{position}"
        user = user_name(chance.randrange(users))
        campaign = chance.choice(CAMPAIGNS)
        if following:
            user, category, more = following.popleft()
            yield SyntheticEvent(event(identity, [user], category, time, campaign, **more))
            continue
        dice = chance.random()
        if dice < 0.01:
            yield SyntheticEvent(chance.choice(MALFORMED), malformed=True)
        elif dice < 0.04 and recent:
            yield SyntheticEvent(chance.choice(recent))
        elif dice < 0.05:
            yield SyntheticEvent(event(identity, [f"stranger-{position}"], "order_updates", time, campaign))
        elif dice < 0.055:
            yield SyntheticEvent(event(identity, [user], "promotions", time - timedelta(hours=30), campaign))
        elif dice < 0.06:
            yield SyntheticEvent(event(identity, [user], "chat", time - timedelta(minutes=10), campaign, ttl=60))
        elif dice < 0.066:
            # Half of the bursts are about one thing, of which only the latest still matters.
            more = {"collapse_key": f"tip-{position}"} if chance.random() < 0.5 else {}
            following.extend([(user, "tips", more)] * 5)
            yield SyntheticEvent(event(identity, [user], "tips", time, campaign, **more))
        elif dice < 0.076:
            clicked: dict[str, Any] = {"dedup_key": f"order-{position}-paid"}
            following.append((user, "order_updates", clicked))
            yield SyntheticEvent(event(identity, [user], "order_updates", time, campaign, **clicked))
        else:
            category = chance.choices(tuple(CATEGORIES), tuple(CATEGORIES.values()))[0]
            payload = _plain(identity, user, category, time, campaign, users, chance)
            recent.append(payload)
            yield SyntheticEvent(payload)


def _plain(
    identity: str, user: str, category: str, time: datetime, campaign: str | None, users: int, chance: random.Random
) -> bytes:
    match category:
        case "social":  # one in twenty users is somebody whom others like
            tag = chance.choice(("like", "follow"))
            popular = user_name(chance.randrange(max(1, users // 20)))
            more: dict[str, Any] = {"template": tag, "params": {"who": user}, "content": None, "tags": ["social", tag]}
            return event(identity, [popular], category, time, campaign, **more)
        case "mentions" | "chat":
            return event(identity, [user], category, time, campaign, collapse_key=f"thread-{chance.randrange(10)}")
        case "promotions":
            return event(identity, [user], category, time, campaign, tags=["sale"])
    return event(identity, [user], category, time, campaign)
