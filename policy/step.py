"""One step of the core: what a decision needs, what comes out of it, and how an outcome or a wait is recorded."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from messages.decision import Bucket, CapCount, CountRecord, DecisionOutcome, DecisionRecord
from messages.delivery import Delivery
from messages.event import Event, milliseconds
from messages.profile import Endpoint, Profile
from messages.words import Channel, Lane
from policy import dedup, seen
from policy.policies import CapRule, CategoryRules, Limit, Policies
from policy.quiet_hours import zone_of
from policy.state import BucketState, Kind, Part, Pending, UserState, part_key

SENT: Final = "sent"

Bound = Literal["identities", "contents", "cancels", "buckets", "caps", "digests", "pending"]
BOUNDS: Final[tuple[Bound, ...]] = get_args(Bound)
"""The names under which ``bounds_hit`` counts."""

Left = Literal["entered", "released", "expired", "cancelled", "superseded"]
LEFT: Final[tuple[Left, ...]] = get_args(Left)
"""What becomes of what is deferred: entered = released + expired + cancelled + superseded + what still waits."""

NOBODY = Profile()
"""The profile of a user who has none: the defaults."""


class Decided(msgspec.Struct):
    """What came of an item, in order. ``counts`` are the notifications that the core itself made (digests).

    ``bounds_hit`` counts, by bound, what was forgotten or ended because of it; ``deferred`` what became of deferred work;
    ``budget_exempt`` the deliveries of critical categories whose budget is spent.
    """

    decisions: list[DecisionRecord] = []
    deliveries: list[Delivery] = []
    counts: list[CountRecord] = []
    bounds_hit: dict[Bound, int] = {}
    deferred: dict[Left, int] = {}
    budget_exempt: int = 0

    def hit(self, bound: Bound, times: int = 1) -> None:
        """Count ``times`` that a bound bit."""
        if times:
            self.bounds_hit[bound] = self.bounds_hit.get(bound, 0) + times


class Notification(msgspec.Struct):
    """One event for one user on its way through the rules.

    ``step`` counts its decisions, ``channels`` limits a part of it (``part``: None is the notification itself). ``closing``:
    it is a digest that was closed. ``rung`` is the step of its ladder. ``reserved_at``: see Pending.
    """

    id: str
    event: Event
    category: CategoryRules | None
    lane: Lane
    origin: str
    arrived_at: int
    payload: bytes
    expires_at: int | None
    step: int = 0
    part: Part | None = None
    channels: tuple[Channel, ...] | None = None
    sequence: int | None = None
    closing: bool = False
    rung: int = 0
    reserved_at: int = 0


class Verdicts(msgspec.Struct):
    """What the rules said of each channel.

    ``waiting``: channel → (release, rule, the buckets and caps it queues at). ``collected``: the channels that a digest
    takes; ``opens``: a leading item opens it when it is sent. ``buckets``: bucket → (state now, rule,
    channel), for every channel that the throttle judged; ``caps``: cap → units taken before. ``stand_in``: the channel whose
    content an inbox shows instead.
    """

    words: dict[str, str] = {}
    scopes: dict[str, str] = {}
    retry_at: dict[str, int] = {}
    going: list[tuple[Channel, list[Endpoint]]] = []
    waiting: dict[Channel, tuple[int, str, tuple[str, ...]]] = {}
    collected: list[Channel] = []
    opens: bool = False
    buckets: dict[str, tuple[BucketState, Limit, Channel]] = {}
    caps: dict[str, tuple[int, CapRule]] = {}
    stand_in: Channel | None = None


class Step(msgspec.Struct):
    """The decisions on one item: everything they need, and what comes out. Without one of their own, ``profile`` is
    NOBODY's.
    """

    now: int
    policies: Policies
    state: UserState
    profile: Profile
    out: Decided
    _zone: str | None = None

    @property
    def country(self) -> str | None:
        """The user's country, else the deployment's."""
        return self.profile.country or self.policies.country

    def zone(self) -> str:
        """The user's time zone, else the country's, else the deployment's."""
        if self._zone is None:
            policies = self.policies
            self._zone = zone_of(self.profile.time_zone, self.country, policies.countries, policies.time_zone)
        return self._zone

    def zone_changed(self) -> None:
        """Another profile may have another zone."""
        self._zone = None

    def wait(
        self,
        notification: Notification,
        kind: Kind,
        cause: str,
        release_at: int,
        verdicts: Verdicts | None = None,
        *,
        channels: tuple[Channel, ...] | None = None,
        queues: tuple[str, ...] = (),
        digest: str | None = None,
        outstanding: tuple[str, ...] = (),
    ) -> bool:
        """Keep a notification, or a part of it, until ``release_at`` or its expiry; False where it did not fit and ended."""
        state, bounds = self.state, self.policies.bounds
        waiting_bytes = sum(len(item.payload) for item in state.pending.values())
        if len(state.pending) >= bounds.pending_items or waiting_bytes + len(notification.payload) > bounds.pending_bytes:
            self.out.hit("pending")
            self.end(notification, "suppressed", "pending_full", verdicts)
            return False
        # What a digest has taken ends when that closes.
        if notification.expires_at is not None and kind != "collected":
            release_at = min(release_at, notification.expires_at)
        if notification.sequence is None:
            state.activity.sequence += 1
            state.changed_activity = True
            notification.sequence = state.activity.sequence
        event = notification.event
        state.wait(
            part_key(notification.id, notification.part, notification.rung),
            Pending(
                kind=kind,
                cause=cause,
                release_at=release_at,
                sequence=notification.sequence,
                step=notification.step,
                child=notification.part is not None,
                channels=channels,
                queues=queues,
                lane=notification.lane,
                origin=notification.origin,
                arrived_at=notification.arrived_at,
                payload=notification.payload,
                happened=milliseconds(event.time),
                collapse_key=event.data.collapse_key,
                cancellation_key=event.data.cancellation_key,
                reserved_at=notification.reserved_at,
                digest=digest,
                closing=notification.closing,
                rung=notification.rung,
                outstanding=outstanding,
            ),
        )
        if kind == "deferred":
            self.count("entered")
        self.record(notification, kind, cause, verdicts).release_at = release_at
        return True

    def count(self, what: Left) -> None:
        """Count what became of something deferred."""
        self.out.deferred[what] = self.out.deferred.get(what, 0) + 1

    def end(
        self,
        notification: Notification,
        outcome: DecisionOutcome,
        reason: str,
        verdicts: Verdicts | None = None,
        detail: str | None = None,
    ) -> None:
        """Record the end of a notification that is not sent; a content key that it had reserved is free again."""
        if notification.reserved_at and reason != "digested":
            key = notification.event.data.dedup_key
            activity = self.state.activity
            activity.contents = dedup.release(activity.contents, seen.number(key or ""), notification.reserved_at)
            self.state.changed_activity = True
        self.record(notification, outcome, reason, verdicts).detail = detail

    def record(
        self, notification: Notification, outcome: DecisionOutcome, reason: str | None, verdicts: Verdicts | None
    ) -> DecisionRecord:
        """Record a decision, and return the record for what only this outcome adds."""
        event, category, state = notification.event, notification.category, self.state
        record = DecisionRecord(
            notification_id=notification.id,
            tenant=state.tenant,
            user=state.user,
            event_id=event.id,
            source=event.source,
            category=event.data.category,
            category_class=None if category is None else category.category_class,
            lane=notification.lane,
            outcome=outcome,
            reason=reason,
            step=notification.step,
            child=notification.part is not None,
            part=notification.part,
            rung=notification.rung,
            policy_version=self.policies.version,
            override=None if category is None else category.override,
            profile_version=None if state.profile is None else state.profile.version,
            origin=notification.origin,
            arrived_at=notification.arrived_at,
            decided_at=self.now,
            campaign=event.data.campaign,
            traceparent=event.traceparent,
        )
        if verdicts is not None:
            record.channels = verdicts.words
            record.scopes = verdicts.scopes
            record.retry_at = verdicts.retry_at
            if verdicts.buckets:
                record.buckets = [
                    Bucket(
                        key=name,
                        tokens=round(bucket.level / rule.period, 3),
                        limit=rule.limit,
                        period=rule.period,
                        burst=rule.burst,
                    )
                    for name, (bucket, rule, _) in verdicts.buckets.items()
                ]
            if verdicts.caps:
                record.caps = [
                    CapCount(name=name, taken=taken, limit=rule.limit, window=rule.window)
                    for name, (taken, rule) in verdicts.caps.items()
                ]
        self.out.decisions.append(record)
        return record
