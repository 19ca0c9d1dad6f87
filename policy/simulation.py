"""What a set of policies makes of recorded input: one user's inputs in, decisions with their costs out.

Time is virtual: an input is judged at the instant at which it came, a timer fires exactly when it is due.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from messages.codec import DecodeError
from messages.decision import DecisionRecord
from messages.delivery import Delivery
from messages.event import MAX_EVENT_BYTES, MAX_EXPANDED_BYTES, check_data, decode_event
from messages.policy import Override, Pause, Policy
from messages.profile import Profile
from messages.words import DEFAULT_TENANT, Channel, Lane, Provider, Tenant, UserId
from policy.core import Arrival, Change, Due, Item, decide
from policy.identity import notification_id
from policy.overrides import lie_over
from policy.policies import Policies, compile_policies
from policy.prices import cost
from policy.profiles import ChangeRefused
from policy.segments import segments
from policy.source_guard import SourceRules, judge_event
from policy.state import Kind, UserState
from policy.step import Bound, Decided

BILLION = 1_000_000_000
"""Costs are whole billionths of the currency: sums of them do not depend on the order."""


class Side(msgspec.Struct, frozen=True):
    """A set of policies to replay under, and what it lets its sources send: their categories, not their rates."""

    policies: Policies
    sources: SourceRules


class Invalid(msgspec.Struct):
    """An event that names its recipients and is not valid otherwise, with what can be read of it."""

    source: str
    event_id: str
    category: str
    campaign: str | None
    lane: Lane
    origin: str
    arrived_at: int
    detail: str


class Input(msgspec.Struct):
    """An item of one user, and the instant in milliseconds at which it is judged."""

    at: int
    item: Arrival | Change | Invalid


class Judged(msgspec.Struct):
    """A decision, and what went out by it: (channel, cost in billionths) of each delivery."""

    record: DecisionRecord
    deliveries: list[tuple[Channel, int]] = []


class Replayed(msgspec.Struct):
    """What came of a user's inputs. ``waiting`` is what was left, by kind; ``refused`` counts commands."""

    decisions: list[Judged] = []
    waiting: dict[Kind, int] = {}
    refused: int = 0
    bounds_hit: dict[Bound, int] = {}


def side_of(document: Policy, overrides: Mapping[str, Override], providers: frozenset[Provider]) -> Side:
    """The set with ``overrides`` over it, except pauses: they hold events, and decide none of them."""
    lying = {key: override for key, override in overrides.items() if not isinstance(override, Pause)}
    effective = lie_over(document, lying)
    return Side(
        compile_policies(effective.document, providers, effective.overrides, effective.patched),
        SourceRules({name: replace(source, rate=None) for name, source in effective.document.sources.items()}),
    )


class _Recipients(msgspec.Struct):
    users: list[UserId] = []
    topics: list[Any] = []
    exclude: list[UserId] = []


class _Data(msgspec.Struct):
    recipients: _Recipients = msgspec.field(default_factory=_Recipients)


class _Head(msgspec.Struct):
    tenant: Tenant = DEFAULT_TENANT
    data: _Data = msgspec.field(default_factory=_Data)


_decode_head = msgspec.json.Decoder(_Head).decode
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def expand(payload: bytes) -> tuple[str, list[str], bytes] | None:
    """Tenant, recipients in their order, and the event for each of them; None where it reaches nobody.

    The expand step of the job does the same (EventHead.java); the event for several is written anew without their names.
    """
    if len(payload) > MAX_EVENT_BYTES:
        return None
    try:
        head = _decode_head(payload)
    except _BROKEN:
        return None
    named = head.data.recipients
    if named.topics:
        return None
    users = list(dict.fromkeys(user for user in named.users if user not in named.exclude))
    if len(named.users) > 1 or named.exclude:
        document = msgspec.json.decode(payload)
        document["data"]["recipients"] |= {"users": [], "exclude": []}
        payload = msgspec.json.encode(document)
    return (head.tenant, users, payload) if users and len(users) * len(payload) <= MAX_EXPANDED_BYTES else None


def arrived(payload: bytes, lane: Lane, origin: str, at: int) -> Arrival | Invalid:
    """An event as it comes out of ``expand``: what the core decides, or why it is rejected."""
    try:
        event = decode_event(payload)
        check_data(event, len(payload))
    except DecodeError as error:
        return _invalid(payload, lane, origin, at, str(error))
    return Arrival(event, payload, lane, origin, at)


def _invalid(payload: bytes, lane: Lane, origin: str, at: int, detail: str) -> Invalid:
    document = msgspec.json.decode(payload)
    data = document.get("data", {})
    return Invalid(
        _text(document.get("source")),
        _text(document.get("id")),
        _text(data.get("category")),
        _text(data.get("campaign")) or None,
        lane,
        origin,
        at,
        detail,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= 256 else ""


class _Culprit(Exception):
    """The core failed on the input at this position."""

    def __init__(self, position: int, detail: str) -> None:
        super().__init__(detail)
        self.position = position
        self.detail = detail


def replay(side: Side, tenant: str, user: str, profile: Profile | None, inputs: Sequence[Input], until: int) -> Replayed:
    """Decide a user's inputs, in their order, and after them what is due by ``until`` (milliseconds).

    The profile is the one at the start; nothing is remembered from before. Neither it nor an input is changed. An input
    on which the core fails ends as ``internal_error``, as if it alone had not been there.
    """
    failed: dict[int, str] = {}
    while True:
        try:
            return _Run(side, UserState(tenant, user, profile), inputs, failed, Replayed()).through(until)
        except _Culprit as culprit:
            failed[culprit.position] = culprit.detail


class _Run(msgspec.Struct):
    """One way through a user's inputs; ``failed`` are those that are left out, and why."""

    side: Side
    state: UserState
    inputs: Sequence[Input]
    failed: dict[int, str]
    result: Replayed

    def through(self, until: int) -> Replayed:
        for position, given in enumerate(self.inputs):
            self._fire_until(given.at)
            self._take(position, given)
        self._fire_until(until)
        waiting = self.result.waiting
        for item in self.state.pending.values():
            waiting[item.kind] = waiting.get(item.kind, 0) + 1
        return self.result

    def _fire_until(self, limit: int) -> None:
        while 0 < self.state.activity.due <= limit:
            self._decide(self.state.activity.due, Due(), None)

    def _take(self, position: int, given: Input) -> None:
        item = given.item
        if position in self.failed:
            if isinstance(item, Arrival):
                self._reject(_known(item), "internal_error", self.failed[position])
            else:
                self.result.refused += 1
        elif isinstance(item, Invalid):
            self._reject(item, "invalid_event", item.detail)
        elif isinstance(item, Arrival):
            data = item.event.data
            verdict = judge_event(self.side.sources, item.event.source, data.category, data.campaign, None, given.at)
            if verdict.ruling == "category_not_allowed":
                self._reject(_known(item), "category_not_allowed", verdict.detail)
            else:
                self._decide(given.at, item, position)
        else:
            self._decide(given.at, item, position)

    def _decide(self, now: int, item: Item, position: int | None) -> None:
        try:
            out = decide(now, self.side.policies, self.state, item)
        except ChangeRefused:
            self.result.refused += 1
            return
        except Exception as error:
            culprit = self._culprit(position)
            if culprit is None:
                raise
            raise _Culprit(culprit, f"{type(error).__name__}: {error}") from error
        self._note(out)

    def _culprit(self, position: int | None) -> int | None:
        """The input that the core failed on: the one whose item was being judged again, else the current one."""
        if self.state.releasing is not None:
            origin = self.state.releasing[1].origin
            for index, given in enumerate(self.inputs):
                if index not in self.failed and isinstance(given.item, Arrival) and given.item.origin == origin:
                    return index
        return position

    def _note(self, out: Decided) -> None:
        result, by_id = self.result, {delivery.id: delivery for delivery in out.deliveries}
        for record in out.decisions:
            sent = [by_id[identity] for identity in record.deliveries]
            result.decisions.append(Judged(record, [(delivery.channel, self._cost(delivery)) for delivery in sent]))
        for bound, times in out.bounds_hit.items():
            result.bounds_hit[bound] = result.bounds_hit.get(bound, 0) + times

    def _cost(self, delivery: Delivery) -> int:
        policies, profile = self.side.policies, self.state.profile
        price = policies.prices.get(delivery.channel)
        if price is None:
            return 0
        country = (profile.country if profile is not None else None) or policies.country
        body = delivery.content.body if delivery.content is not None else None
        parts = segments(body or "") if delivery.channel == "sms" else 1
        return round(cost(price, country, parts) * BILLION)

    def _reject(self, event: Invalid, reason: str, detail: str) -> None:
        """Record what never came to the core, as the job does."""
        # Without an id of its own it is known by its place; no event has an empty source.
        identity = (event.source, event.event_id) if event.source and event.event_id else ("", event.origin)
        record = DecisionRecord(
            notification_id=notification_id(self.state.tenant, *identity, self.state.user),
            tenant=self.state.tenant,
            user=self.state.user,
            event_id=event.event_id,
            source=event.source,
            category=event.category,
            lane=event.lane,
            outcome="rejected",
            reason=reason,
            detail=detail,
            policy_version=self.side.policies.version,
            origin=event.origin,
            arrived_at=event.arrived_at,
            decided_at=event.arrived_at,
            campaign=event.campaign,
        )
        self.result.decisions.append(Judged(record))


def _known(arrival: Arrival) -> Invalid:
    event, data = arrival.event, arrival.event.data
    return Invalid(
        event.source, event.id, data.category, data.campaign, arrival.lane, arrival.origin, arrival.arrived_at, ""
    )
