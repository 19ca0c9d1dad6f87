"""The cast of the demo: users by name, what happens to each, and the reasons that come of it.

``CAST`` is the table of how every reason is provoked. ``TUNING`` is what the demo changes in the packaged policies while
the job runs: some windows are hours there, and this stack has neither e-mail nor SMS. Tests run every line of the table
through the decision core, so that a promise made here is one that it keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from cli.synthetic import event
from messages.codec import encode_json
from messages.policy import BudgetExhausted, CategoryPatch, Override, Pause
from messages.words import DEFAULT_TENANT, Lane, user_key
from policy.local_time import day_name

TUNING: dict[str, dict[str, Any]] = {
    # Nothing of the flood is to wait for somebody's morning: in quiet hours the inbox takes it.
    "order_updates": {"quiet_hours": "in_app"},
    "chat": {"quiet_hours": "in_app"},
    "tips": {"quiet_hours": "in_app"},
    # Digests that close while one looks on.
    "mentions": {"quiet_hours": "in_app", "digest": {"window": "15s"}},
    "social": {"quiet_hours": "in_app", "digest": {"window": "15s", "maximum": "30s"}},
    "payments": {"digest": {"window": "10s", "maximum": "20s"}},
    # Channels that this stack has: a choice between two, and a ladder of two steps.
    "delivery_updates": {"channels": ["push", "in_app"], "budgets": None, "quiet_hours": "defer"},
    "security_alert": {"steps": [{"channels": ["in_app"], "wait": "15s"}, {"channels": ["push"]}]},
}
"""Category → JSON merge patch: overrides over the packaged policies, put into force as `herald policy override` does."""

PAUSED = Pause(scope="category", name="account_statement")
"""The pause that is lifted in the course of the demo."""

BUDGET = "flash_sale", "push"
"""The budget that is spent, as a spend aggregator would say: category and channel."""

LASTS = 120
"""Seconds after its beginning at which nobody of the cast waits for anything any more, if nothing delays the job."""

TOLD = ("mateo", "nadia", "ugo")
"""Whose stories the demo tells at its end."""


class Sends(msgspec.Struct, frozen=True, kw_only=True):
    """``number`` events at once, each ``copies`` times with the same id; ``age`` seconds old, not to be sent for ``later``
    seconds. ``lane`` is their topic's.
    """

    category: str
    text: str
    source: str = "shop"
    number: int = 1
    copies: int = 1
    age: int = 0
    later: int | None = None
    lane: Lane = "background"
    content: tuple[str, ...] = ("push", "in_app")
    data: dict[str, Any] = {}


class Tells(msgspec.Struct, frozen=True, kw_only=True):
    """A command on the user's changes, ``after`` so many seconds."""

    after: int
    change: dict[str, Any]


class Reads(msgspec.Struct, frozen=True, kw_only=True):
    """The user reads, in the inbox, what came of the first event."""

    after: int


Act = Sends | Tells | Reads


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One of the cast. ``reasons`` are all that are recorded, of whole notifications and of single channels; ``sent`` too.

    ``known`` are the commands that make the profile beforehand; ``briefly_quiet``: its quiet hours end soon.
    """

    user: str
    story: str
    reasons: tuple[str, ...]
    acts: tuple[Act, ...]
    known: tuple[dict[str, Any], ...] = ()
    briefly_quiet: bool = False


def _replace(user: str, provider: str | None = "fcm", **profile: Any) -> dict[str, Any]:
    endpoints = [{"id": f"{user}-phone", "provider": provider, "address": f"token-of-{user}s-phone"}] if provider else []
    return {"kind": "replace_profile", "profile": {"time_zone": "UTC", "endpoints": endpoints} | profile}


def _member(user: str, story: str, reasons: str, *acts: Act, **more: Any) -> Member:
    known = more.pop("known", (_replace(user),))
    return Member(user=user, story=story, reasons=tuple(reasons.split()), acts=acts, known=known, **more)


def _chat(text: str, **more: Any) -> Sends:
    return Sends(category="chat", text=text, source="chat", **more)


def _order(text: str, **more: Any) -> Sends:
    return Sends(category="order_updates", text=text, **more)


def _offer(text: str, **more: Any) -> Sends:
    return Sends(category="promotions", text=text, **more)


CAST = (
    _member(
        "anna", "A message that was good for a minute comes after ten.", "expired", _chat("?", age=600, data={"ttl": 60})
    ),
    _member("bela", "A replayed log brings yesterday's offer.", "stale", _offer("Only today", age=30 * 3600)),
    _member("carla", "A producer sends an event again.", "sent duplicate_event", _order("Shipped", copies=2)),
    _member(
        "dario",
        "Two events, one dedup_key: somebody clicked twice.",
        "sent duplicate_content",
        _order("Paid", number=2, data={"dedup_key": "order-17-paid"}),
    ),
    _member("elias", "An offer for somebody whom nobody knows.", "parking unknown_user", _offer("Welcome"), known=()),
    _member(
        "farah",
        "An update is faster than the profile of the new user that it is for.",
        "parking sent",
        _order("Thank you"),
        Tells(after=4, change=_replace("farah")),
        known=(),
    ),
    _member("goran", "Not before twelve seconds from now.", "not_before sent", _order("It begins", later=12)),
    _member(
        "hanna",
        "No promotions, please.",
        "opted_out",
        _offer("Half price"),
        known=(_replace("hanna", preferences=[{"category": "promotions", "allow": False}]),),
    ),
    _member("igor", "A chat goes to phones, and he has none.", "no_endpoint", _chat("Hi"), known=(_replace("igor", None),)),
    _member(
        "jana",
        "The app is no longer on her phone, and its token dead.",
        "endpoint_suppressed",
        _chat("Hello?"),
        known=(
            _replace("jana"),
            {"kind": "suppress_endpoint", "endpoint_id": "jana-phone", "reason": "token_dead"},
        ),
    ),
    _member(
        "kofi", "An iPhone, and no worker for APNs here.", "no_provider", _chat("Hi"), known=(_replace("kofi", "apns"),)
    ),
    _member(
        "lena",
        "An offer in quiet hours is dropped.",
        "quiet_hours",
        _offer("Good night"),
        known=(_replace("lena", quiet_hours=[{"start": "00:00", "end": "24:00"}]),),
    ),
    _member(
        "mateo",
        "The courier's news waits for the end of quiet hours.",
        "quiet_hours sent",
        Sends(
            category="delivery_updates",
            text="Three stops away",
            lane="urgent",
            # What may not be too late is spread over less time.
            data={"channels": ["push"], "ttl": 120},
        ),
        briefly_quiet=True,
    ),
    _member(
        "nadia",
        "Three likes go out as one.",
        "digest digested sent",
        Sends(category="social", text="Somebody likes your photo", source="chat", number=3, data={"tags": ["like"]}),
    ),
    _member(
        "omar",
        "A payment is told at once, two more after it together; the inbox has each.",
        "sent digest digested",
        Sends(category="payments", text="You paid 5.00", source="bank", number=3),
    ),
    _member("priya", "22 messages at once where 20 a minute go: two wait.", "sent throttled", _chat("Listen", number=22)),
    _member("quentin", "The fourth offer of the hour is dropped.", "sent throttled", _offer("Last chance", number=4)),
    _member("rosa", "Nobody is told more than 40 times in 24 hours.", "sent capped", _order("Shipped", number=41)),
    _member(
        "sven",
        "The day's budget for it is spent.",
        "over_budget",
        Sends(category="flash_sale", text="Now", content=("push",)),
    ),
    _member(
        "tara",
        "Push or inbox: the same price, and the inbox is faster.",
        "sent not_chosen",
        Sends(category="delivery_updates", text="Two stops away"),
    ),
    _member(
        "ugo",
        "He reads the alarm in his inbox, and the phone stays silent.",
        "sent escalation cancelled",
        Sends(category="security_alert", text="A sign-in from Oslo", source="bank", lane="urgent"),
        Reads(after=2),
    ),
    _member(
        "vera",
        "Nobody looks at the alarm in the inbox: it goes to the phone.",
        "sent escalation",
        Sends(category="security_alert", text="A sign-in from Lima", source="bank", lane="urgent"),
    ),
    _member(
        "wanda",
        "65 reminders for later are more than wait for one user; then the producer cancels them.",
        "not_before pending_full cancelled",
        _order("Remember", number=65, later=90, data={"cancellation_key": "reminders"}),
        Tells(after=15, change={"kind": "cancel", "source": "shop", "cancellation_key": "reminders"}),
    ),
    _member(
        "xavier",
        "What was to be told later is superseded by newer news.",
        "not_before superseded sent",
        _order("Late", age=5, later=60, data={"collapse_key": "train-7"}),
        _order("On time after all", data={"collapse_key": "train-7"}),
    ),
    _member("yara", "No policy knows this category.", "unknown_category", Sends(category="gossip", text="Psst")),
    _member("zoe", "A chat without a text for phones.", "no_channel", _chat("Hi", content=("in_app",))),
    _member("adam", "An event with a field that there is not.", "invalid_event", _order("Hi", data={"colour": "red"})),
    _member(
        "boris",
        "Account statements are paused: held whole, and released when the pause is lifted.",
        "paused sent",
        Sends(category="account_statement", text="November", source="bank"),
    ),
    _member(
        "chen",
        "The courier is expected to send two a second: what is beyond is held until somebody has looked at it.",
        "sent source_quarantined",
        Sends(category="delivery_updates", text="Here", source="courier", number=20, data={"channels": ["push"]}),
    ),
    _member(
        "dora",
        "The bank may not advertise.",
        "category_not_allowed",
        _offer("A loan", source="bank"),
    ),
)

HELD = ("paused", "source_quarantined")
"""The reasons for which an event is held whole: nothing is decided of it before it is released."""


class EventCue(msgspec.Struct, frozen=True):
    """An event is produced, at the beginning."""

    user: str
    lane: Lane
    payload: bytes


class CommandCue(msgspec.Struct, frozen=True):
    """A command is produced, ``after`` so many seconds."""

    after: int
    user: str
    payload: bytes


class ReadCue(msgspec.Struct, frozen=True):
    """The user reads what came of an event."""

    after: int
    user: str
    source: str
    event_id: str


Cue = EventCue | CommandCue | ReadCue


def overrides(now: datetime, time_zone: str) -> list[Override]:
    """What lies over the packaged policies from the start; ``time_zone`` is the deployment's."""
    category, channel = BUDGET
    day = day_name(time_zone, int(now.timestamp() * 1000))
    return [
        *(
            CategoryPatch(name=name, patch={key: msgspec.Raw(encode_json(value)) for key, value in patch.items()})
            for name, patch in TUNING.items()
        ),
        BudgetExhausted(category=category, channel=channel, day=day),  # type: ignore[arg-type]
        PAUSED,
    ]


def quiet_until(now: datetime) -> datetime:
    """When the quiet hours end that end soon: the first full minute that is half a minute away."""
    return (now + timedelta(seconds=90)).replace(second=0, microsecond=0)


def profile_commands(now: datetime) -> Iterator[tuple[str, bytes]]:
    """(key, command): the profiles of the cast as they are at the beginning, shortly after ``now``."""
    end = quiet_until(now.astimezone(UTC))
    soon = {"start": f"{end - timedelta(hours=2):%H:%M}", "end": f"{end:%H:%M}"}
    for member in CAST:
        for number, change in enumerate(member.known):
            command = {"id": f"cast-{member.user}-{number}-{now.timestamp():.0f}"} | change
            if member.briefly_quiet:
                command["profile"] = command["profile"] | {"quiet_hours": [soon]}
            yield user_key(DEFAULT_TENANT, member.user), json.dumps(command).encode()


def cues(member: Member, now: datetime) -> list[Cue]:
    """What happens to a member, in its order, where it begins at ``now``. Events are numbered: anna-1, anna-2."""
    found: list[Cue] = []
    first, number = "", 0
    for act in member.acts:
        match act:
            case Sends():
                for _ in range(act.number):
                    number += 1
                    first = first or act.source
                    payload = _payload(member.user, number, act, now)
                    found += [EventCue(member.user, act.lane, payload)] * act.copies
            case Tells():
                identity = f"cast-{member.user}-after-{act.after}"
                found.append(CommandCue(act.after, member.user, json.dumps({"id": identity} | act.change).encode()))
            case Reads():
                found.append(ReadCue(act.after, member.user, first, f"{member.user}-1"))
    return found


def _payload(user: str, number: int, act: Sends, now: datetime) -> bytes:
    text = {"title": act.category.replace("_", " ").capitalize(), "body": act.text}
    data: dict[str, Any] = {"content": dict.fromkeys(act.content, text)} | act.data
    if act.later is not None:
        data["not_before"] = (now + timedelta(seconds=act.later)).isoformat()
    happened = (now - timedelta(seconds=act.age)).astimezone(UTC)
    return event(f"{user}-{number}", [user], act.category, happened, source=act.source, **data)
