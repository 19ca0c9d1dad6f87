"""Synthetic users and events, the same for the same seed: what the demo and the benchmarks send."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

ZONES = ("Europe/Berlin", "Europe/Lisbon", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata", "Asia/Tokyo")
CAMPAIGNS = ("autumn", "black-friday", None, None)

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
    """(key, ReplaceProfile) for users 0 to ``users`` - 1: most reachable, some opted out, some without any device."""
    chance = random.Random(seed)  # noqa: S311 - synthetic data
    for number in range(users):
        devices = chance.choices((0, 1, 2, 3), (4, 80, 12, 4))[0]
        preferences = []
        if chance.random() < 0.25:
            preferences.append({"category": "promotions", "allow": False})
        if chance.random() < 0.05:
            preferences.append({"channel": "push", "allow": False})
        if chance.random() < 0.02:
            preferences.append({"allow": False})
        profile = {
            "time_zone": chance.choice(ZONES),
            "locale": chance.choice(("en", "de", "pt-BR")),
            "endpoints": [
                {"id": f"device-{number}-{device}", "provider": "fcm", "address": f"{chance.getrandbits(480):0120x}"}
                for device in range(devices)
            ],
            "preferences": preferences,
        }
        command = {"kind": "replace_profile", "id": f"synthetic-{seed}-{number}", "profile": profile}
        yield f"default/{user_name(number)}", json.dumps(command).encode()


def event(
    identity: str, users: list[str], category: str, time: datetime, campaign: str | None = None, **more: object
) -> bytes:
    """One CloudEvent with literal content for push and in-app."""
    text = {"title": category.replace("_", " "), "body": f"Something happened that {users[0]} should know: {identity}"}
    data = {"recipients": {"users": users}, "category": category, "content": {"push": text, "in_app": text}} | more
    if campaign is not None:
        data["campaign"] = campaign
    return json.dumps(
        {
            "specversion": "1.0",
            "id": identity,
            "source": "shop",
            "type": f"demo.{category}",
            "time": time.isoformat(),
            "data": data,
        }
    ).encode()


def background_events(number: int, users: int, now: datetime, seed: int = 2) -> Iterator[SyntheticEvent]:
    """A flood as a shop's: mostly plain; duplicates, bursts at one user, strangers, late, expired and malformed ones."""
    chance = random.Random(seed)  # noqa: S311 - synthetic data
    time = now.astimezone(UTC)
    run = f"{int(now.timestamp())}-{seed}"
    recent: list[bytes] = []
    burst: tuple[str, int] = "", 0
    for position in range(number):
        identity = f"{run}-{position}"
        user = user_name(chance.randrange(users))
        campaign = chance.choice(CAMPAIGNS)
        if burst[1]:
            user, left = burst
            burst = user, left - 1
            yield SyntheticEvent(event(identity, [user], "tips", time, campaign))
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
            burst = user, 5
            yield SyntheticEvent(event(identity, [user], "tips", time, campaign))
        else:
            category = chance.choices(("order_updates", "chat", "promotions"), (20, 50, 30))[0]
            payload = event(identity, [user], category, time, campaign)
            recent = [*recent[-200:], payload]
            yield SyntheticEvent(payload)
