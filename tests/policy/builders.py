"""Events, policies and users for the tests of the core; every field that a test does not care about has a value here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from messages.codec import encode_json
from messages.decision import DecisionRecord
from messages.event import Content, Event, EventData, decode_event
from messages.policy import Bounds, Category, Override, Policy, Throttle
from messages.profile import AddEndpoint, Endpoint, EndpointInput, PendingChange, Profile, ProfileChange
from messages.windows import Window
from messages.words import CHANNELS, PROVIDERS, Lane
from policy.core import Arrival, Change, Due, decide
from policy.policies import Policies, compile_policies
from policy.state import UserState
from policy.step import Decided

NOW = 1_790_000_000_000
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
ALL_PROVIDERS = frozenset(PROVIDERS)


def instant(at: int) -> datetime:
    """Milliseconds since the epoch as an aware datetime."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)


def category(kind: str = "transactional", channels: tuple[str, ...] = ("push",), **settings: Any) -> Category:
    """A category as the policy document has it."""
    return Category(category_class=kind, channels=list(channels), **settings)


def throttle(limit: int, period: str, burst: int | None = None, action: str = "defer") -> Throttle:
    """A category's throttle."""
    return Throttle(limit=limit, period=period, burst=burst, action=action)


def window(start: str, end: str, *days: str) -> Window:
    """A window of quiet hours; without days every day."""
    return Window(start=start, end=end, **({"days": days} if days else {}))


def policies(
    version: int = 1,
    bounds: Bounds | None = None,
    providers: frozenset[str] = ALL_PROVIDERS,
    overrides: tuple[Override, ...] = (),
    **settings: Any,
) -> Policies:
    """A compiled set; keyword arguments that are categories become them, the others are the document's own."""
    categories = {name: value for name, value in settings.items() if isinstance(value, Category)}
    rest = {name: value for name, value in settings.items() if name not in categories}
    document = Policy(version=version, bounds=bounds or Bounds(), categories=categories, **rest)
    # Through the wire, as a document really comes: the checks of its fields happen there.
    return compile_policies(msgspec.json.decode(msgspec.json.encode(document), type=Policy), providers, overrides)


def event(number: int | str = 1, kind: str = "news", at: int = NOW, source: str = "tests", **data: Any) -> Event:
    """An event of that category; ``expires_at`` and ``not_before`` in milliseconds. Literal content on every channel."""
    for name in ("expires_at", "not_before"):
        if data.get(name) is not None:
            data[name] = instant(data[name])
    if "template" not in data and "content" not in data:
        data["content"] = {channel: Content(body="hello") for channel in CHANNELS}
    return decode_event(
        encode_json(
            Event(
                specversion="1.0",
                id=f"event-{number}",
                source=source,
                type="test",
                time=instant(at),
                data=EventData(category=kind, **data),
            )
        )
    )


def arrival(what: Event, at: int = NOW, offset: int = 0, lane: Lane = "background") -> Arrival:
    """That event as it arrives for the user."""
    return Arrival(what, encode_json(what), lane, f"events.{lane}/0/{offset}", at)


def endpoint(name: str = "phone", provider: str = "fcm", **fields: Any) -> Endpoint:
    """An endpoint as a profile keeps it."""
    return Endpoint(id=name, provider=provider, address=fields.pop("address", f"address-of-{name}"), **fields)


def user(*endpoints: Endpoint, preferences: dict[str, bool] | None = None, known: bool = True, **fields: Any) -> UserState:
    """A user with these endpoints, by default one phone; ``known`` False has no profile at all."""
    if not known:
        return UserState("default", "ada")
    profile = Profile(version=1, endpoints=list(endpoints) or [endpoint()], preferences=preferences or {}, **fields)
    return UserState("default", "ada", profile)


def command(change: ProfileChange | PendingChange, offset: int, partition: int = 0, at: int = NOW) -> Change:
    """A command with its place on the topic, and when it was given."""
    return Change(change, (partition, offset), at)


def add_endpoint(number: int, name: str = "phone", provider: str = "fcm", address: str | None = None) -> AddEndpoint:
    """The command that registers an endpoint."""
    return AddEndpoint(
        id=f"command-{number}", endpoint=EndpointInput(id=name, provider=provider, address=address or f"address-of-{name}")
    )


def only(out: Decided) -> DecisionRecord:
    """The one decision of a step."""
    assert len(out.decisions) == 1, out.decisions
    return out.decisions[0]


def verdict(out: Decided) -> tuple[str, str | None]:
    """(outcome, reason) of the one decision of a step."""
    record = only(out)
    return record.outcome, record.reason


def ends(out: Decided) -> dict[str, str | None]:
    """Of a step the events that ended in it without a send, with their reasons."""
    return {record.event_id: record.reason for record in out.decisions if record.outcome in ("suppressed", "rejected")}


def sent(*outs: Decided) -> list[tuple[str, str]]:
    """The deliveries of some steps, each as event and channel."""
    return [(delivery.event_id, delivery.channel) for out in outs for delivery in out.deliveries]


def run(rules: Policies, state: UserState, until: int | None = None) -> list[Decided]:
    """Every timer fires, exactly when it is due, as long as there is one, or up to an instant (that one included)."""
    outs = []
    while state.activity.due and (until is None or state.activity.due <= until):
        outs.append(fire(rules, state))
        assert len(outs) < 10_000, "the timers have no end"
    return outs


def fire(rules: Policies, state: UserState) -> Decided:
    """The user's timer fires, exactly when it is due."""
    assert state.activity.due, "no timer is set"
    return decide(state.activity.due, rules, state, Due())
