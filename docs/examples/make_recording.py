"""Writes recording.jsonl, beside this file: a day of five users, with something for every rule of docs/policy.md.

Run it from the repository's root: ``python docs/examples/make_recording.py``. It writes the same bytes each time.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("recording.jsonl")

# A Monday in winter.
DAY = datetime(2026, 11, 16, tzinfo=UTC)

NIGHT = [{"start": "22:00", "end": "07:00"}]


def at(time: str, day: int = 0) -> datetime:
    """``HH:MM[:SS]``, UTC, on Monday or ``day`` days later."""
    hours, minutes, *seconds = map(int, time.split(":"))
    return DAY + timedelta(days=day, hours=hours, minutes=minutes, seconds=seconds[0] if seconds else 0)


def text(moment: datetime) -> str:
    """RFC 3339."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def profile(user: str, country: str, zone: str, **more: Any) -> dict[str, Any]:
    """The profile of a user with a phone, an address and a number."""
    endpoints = [
        {"id": "phone", "provider": "fcm", "address": f"token-of-{user}"},
        {"id": "mail", "provider": "ses", "address": f"{user}@example.com"},
        {"id": "number", "provider": "twilio", "address": f"+49170555{len(user):04}"},
    ]
    value = {"v": 1, "version": 1, "country": country, "time_zone": zone, "endpoints": endpoints} | more
    return {"topic": "profiles", "key": f"default/{user}", "value": value}


PROFILES = [
    profile("ada", "GB", "Europe/London", quiet_hours=NIGHT),
    profile(
        "ben",
        "DE",
        "Europe/Berlin",
        quiet_hours=[{"start": "21:00", "end": "08:00", "days": ["mon", "tue", "wed", "thu", "sun"]}],
        consents={"flash_sale/sms": {"at": 1_760_000_000_000, "where": "checkout", "text_version": "3"}},
    ),
    profile("chloe", "US", "America/New_York", quiet_hours=NIGHT, preferences={"promotions/*": False}),
    profile("dev", "IN", "Asia/Kolkata", preferences={"newsletter/email": True}),
    # And eve, whom nobody knows.
]


def event(
    time: str, number: int, source: str, category: str, users: str, *, happened: datetime | None = None, **data: Any
) -> dict[str, Any]:
    """An event as it arrived then; ``happened`` is its own time, where that is another."""
    arrived = at(time)
    if "template" not in data:
        body = data.pop("body", f"About {category.replace('_', ' ')}, number {number}.")
        data["content"] = {channel: {"body": body} for channel in ("push", "email", "sms", "in_app")}
    value = {
        "specversion": "1.0",
        "id": f"{category}-{number}",
        "source": source,
        "type": f"example.{category}",
        "time": text(happened or arrived),
        "data": {"recipients": {"users": users.split()}, "category": category} | data,
    }
    lane = data.get("priority", "background")
    return {"topic": f"events.{lane}", "timestamp": text(arrived), "value": value}


def command(time: str, user: str, **value: Any) -> dict[str, Any]:
    """A command on what waits for a user."""
    return {"topic": "changes", "key": f"default/{user}", "timestamp": text(at(time)), "value": value}


RECORDS = [
    event("08:00", 1, "shop", "newsletter", "ada dev"),
    event("08:00", 2, "bank", "one_time_code", "ada", priority="urgent", dedup_key="login-ada"),
    # A double click: the same dedup_key, within a minute.
    event("08:00:20", 3, "bank", "one_time_code", "ada", priority="urgent", dedup_key="login-ada"),
    event("09:00", 4, "shop", "order_updates", "ada ben"),
    # The producer sends it again, and names somebody nobody knows.
    event("09:00:05", 4, "shop", "order_updates", "ada eve"),
    *(event(f"10:{minute:02}", 5 + minute, "shop", "promotions", "ada chloe dev") for minute in range(4)),
    event("11:00", 9, "shop", "flash_sale", "ada ben", dedup_key="autumn", body="Half price until two. " * 10),
    event("11:30", 10, "shop", "delivery_updates", "dev", body="Three stops away."),
    *(event(f"12:00:{second:02}", 11 + second, "shop", "tips", "ben") for second in range(3)),
    event("12:30", 14, "bank", "security_alert", "ada", priority="urgent"),
    command("12:31", "ada", kind="read", id="read-14", source="bank", event_id="security_alert-14"),
    event("12:40", 15, "bank", "security_alert", "dev", priority="urgent"),
    *(event(f"14:{minute:02}", 16 + minute, "bank", "payments", "chloe") for minute in range(3)),
    # Whatever is of another time: too old, expired, and too early.
    event("15:00", 19, "shop", "order_updates", "ben", happened=at("12:00", -2)),
    event("15:00", 20, "chat", "chat", "ben", happened=at("14:50"), ttl=60),
    event("15:00", 21, "shop", "order_updates", "ben", not_before=text(at("16:00"))),
    command("15:30", "ben", kind="cancel", id="cancel-21", source="shop", event_id="order_updates-21"),
    *(event(f"16:{minute:02}", 22 + minute, "chat", "social", "dev", tags=["like"]) for minute in range(3)),
    # At night, for those in Europe; the later message of a conversation takes the earlier one's place.
    event("22:30", 25, "chat", "chat", "ada", collapse_key="thread-7"),
    event("23:00", 26, "chat", "chat", "ada", collapse_key="thread-7"),
    event("23:10", 27, "chat", "mentions", "ben", collapse_key="thread"),
    event("23:20", 28, "shop", "promotions", "ben"),
    event("23:30", 29, "shop", "of_no_category", "ada"),
    {"topic": "events.background", "timestamp": text(at("23:40")), "value": '{"specversion": "1.0", "id": '},
]


def lines() -> str:
    """The file's text."""
    return "".join(json.dumps(record) + "\n" for record in [*PROFILES, *RECORDS])


if __name__ == "__main__":
    FILE.write_text(lines(), encoding="utf-8")
