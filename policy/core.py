"""``decide``: one item for one user, under the policies and at the instant given, becomes decisions and deliveries.

The rules are those of docs/policy.md, in their order; the first terminal reason wins. At arrival: expiry and staleness,
identity dedup, profile (an unknown user's notification is parked), not_before. At arrival and again at every release:
preferences, endpoints, throttle, emission; a release begins with expiry. Tokens are charged at emission only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

import msgspec

from messages.decision import Bucket, DecisionOutcome, DecisionRecord
from messages.delivery import Delivery, Target
from messages.event import Event, decode_event, expiry_of, milliseconds
from messages.profile import Endpoint, Profile, ProfileChange
from messages.words import Channel, Lane
from policy.dedup import seen_before
from policy.endpoints import usable
from policy.identity import delivery_id, identity_number, notification_id
from policy.policies import CategoryRules, Limit, Policies
from policy.preferences import resolve
from policy.profiles import change_profile
from policy.state import BucketState, Pending, UserState
from policy.throttle import forget_past, refill, wait_for_token

SENT: Final = "sent"
REST = "/rest"
"""What the id of a child deferral adds to its notification's."""

URGENT_FOR = 50 * 60_000
"""Milliseconds after its arrival from which an urgent notification goes out on the background lane: adapters remember
what they sent of the urgent lane, where a delivery may come twice, for an hour."""

# The rule by which the last channel fell is the notification's reason; within rule 8 the more telling one.
_RULE_ORDER = {"opted_out": 0, "no_endpoint": 1, "no_provider": 2, "endpoint_suppressed": 3, "throttled": 4}


class Arrival(msgspec.Struct):
    """A notification that arrives: the event, and its bytes as they will be kept where it has to wait."""

    event: Event
    payload: bytes
    lane: Lane
    origin: str
    arrived_at: int


class Change(msgspec.Struct):
    """A command on the user's profile, with the partition and offset it came from."""

    change: ProfileChange
    position: tuple[int, int]


class Loaded(msgspec.Struct):
    """A whole profile, as a job without state reads it back; it never replaces a newer one."""

    profile: Profile


class Due(msgspec.Struct):
    """The user's timer fired."""


Item = Arrival | Change | Loaded | Due


Bound = Literal["identities", "buckets", "pending"]
BOUNDS: Final[tuple[Bound, ...]] = get_args(Bound)
"""The names under which ``bounds_hit`` counts."""


class Decided(msgspec.Struct):
    """What came of an item, in order. ``bounds_hit`` counts, by bound, what was forgotten or ended because of it."""

    decisions: list[DecisionRecord] = []
    deliveries: list[Delivery] = []
    bounds_hit: dict[Bound, int] = {}

    def hit(self, bound: Bound, times: int = 1) -> None:
        """Count ``times`` that a bound bit."""
        self.bounds_hit[bound] = self.bounds_hit.get(bound, 0) + times


def decide(now: int, policies: Policies, state: UserState, item: Item) -> Decided:
    """Decide ``item`` at ``now`` (milliseconds); ``state`` is changed in place.

    The next timer is ``state.activity.due`` (0: none), always later than ``now``. Raises ChangeRefused where a command
    cannot be applied; the state is then unchanged.
    """
    step = _Step(now, policies, state, Decided())
    match item:
        case Arrival():
            # A timer may be late: what is due goes first, and no stream of arrivals can keep moving its timer away.
            if state.pending:
                step.release()
            step.arrive(item)
        case Change():
            profile = change_profile(now, state.profile, item.change, item.position)
            if profile is not None:
                step.use_profile(profile)
            step.release()
        case Loaded():
            if state.profile is None or state.profile.version < item.profile.version:
                step.use_profile(item.profile)
            step.release()
        case Due():
            step.release()
    step.set_timer()
    return step.out


class _Notification(msgspec.Struct):
    """One event for one user on its way through the rules; ``step`` counts its decisions, ``channels`` limits a child."""

    id: str
    event: Event
    category: CategoryRules | None
    lane: Lane
    origin: str
    arrived_at: int
    payload: bytes
    expires_at: int | None
    step: int = 0
    child: bool = False
    channels: tuple[Channel, ...] | None = None
    sequence: int | None = None


class _Verdicts(msgspec.Struct):
    """What the rules said of each channel.

    ``waiting``: channel → (release, bucket) of what has to wait for a token. ``buckets``: bucket → (state now, rule,
    channel), for every channel that the throttle judged.
    """

    words: dict[str, str] = {}
    scopes: dict[str, str] = {}
    going: list[tuple[Channel, list[Endpoint]]] = []
    waiting: dict[Channel, tuple[int, str]] = {}
    buckets: dict[str, tuple[BucketState, Limit, Channel]] = {}


class _Step(msgspec.Struct):
    """The decisions on one item: everything they need, and what comes out."""

    now: int
    policies: Policies
    state: UserState
    out: Decided

    def arrive(self, arrival: Arrival) -> None:
        """Rules 1 to 6, then the others."""
        event, now, state, policies = arrival.event, self.now, self.state, self.policies
        identity = notification_id(state.tenant, event.source, event.id, state.user)
        category = policies.categories.get(event.data.category)
        notification = _Notification(
            identity,
            event,
            category,
            arrival.lane,
            arrival.origin,
            arrival.arrived_at,
            arrival.payload,
            expiry_of(event),
        )
        if category is None:
            return self.end(notification, "rejected", "unknown_category")
        if notification.expires_at is not None and now >= notification.expires_at:
            return self.end(notification, "suppressed", "expired")
        happened = milliseconds(event.time)
        if now - happened > category.max_age:
            return self.end(notification, "suppressed", "stale")
        if state.pending and (identity in state.pending or identity + REST in state.pending):
            # What waits for longer than the window, or did not fit into it, is known all the same.
            repeated, forgotten = True, 0
        else:
            # An event from the future turns stale later: it is remembered for as long.
            repeated, forgotten = seen_before(
                state.activity.identities,
                identity_number(identity),
                now,
                now if now > happened else happened,
                policies.identity_window,
                policies.bounds.identities,
            )
        if repeated:
            return self.end(notification, "suppressed", "duplicate_event")
        state.changed_activity = True
        if forgotten:
            self.out.hit("identities", forgotten)
        if state.profile is None:
            return self.wait(notification, "parked", "parking", now + policies.park)
        return self.start(notification, category)

    def start(self, notification: _Notification, category: CategoryRules) -> None:
        """Rule 6: the event may ask for a later time."""
        not_before = notification.event.data.not_before
        if not_before is not None and milliseconds(not_before) > self.now:
            return self.wait(notification, "deferred", "not_before", milliseconds(not_before))
        return self.judge(notification, category)

    def use_profile(self, profile: Profile) -> None:
        """Take a profile into use."""
        self.state.profile = profile
        self.state.changed_profile = True

    def release(self) -> None:
        """Judge again, in the order of their arrival, what is due, and what is parked if the profile is there now."""
        state, now = self.state, self.now
        known = state.profile is not None
        due = [
            (item.sequence, key)
            for key, item in state.pending.items()
            if item.release_at <= now or (known and item.kind == "parked")
        ]
        for _, key in sorted(due):
            item = state.pending[key]
            state.releasing = key, item
            state.done_waiting(key)
            if now - item.arrived_at > URGENT_FOR:
                item.lane = "background"
            event = decode_event(item.payload)
            category = self.policies.categories.get(event.data.category)
            notification = _Notification(
                key.removesuffix(REST),
                event,
                category,
                item.lane,
                item.origin,
                item.arrived_at,
                item.payload,
                expiry_of(event),
                item.step + 1,
                item.child,
                item.channels,
                item.sequence,
            )
            if category is None:
                self.end(notification, "rejected", "unknown_category")
            elif notification.expires_at is not None and now >= notification.expires_at:
                self.end(notification, "suppressed", "expired")
            elif item.kind == "parked" and not known and category.category_class == "marketing":
                self.end(notification, "suppressed", "unknown_user")
            else:
                self.start(notification, category)
        state.releasing = None

    def judge(self, notification: _Notification, category: CategoryRules) -> None:
        """Rules 7 to 13, each channel by itself."""
        data = notification.event.data
        channels: Iterable[Channel] = category.channels
        if notification.channels is not None:
            channels = [channel for channel in channels if channel in notification.channels]
        if data.channels is not None:
            channels = [channel for channel in channels if channel in data.channels]
        if data.template is None:
            content = data.content or {}
            channels = [channel for channel in channels if channel in content]
        state = self.state
        profile = state.profile if state.profile is not None else Profile()
        verdicts = _Verdicts()
        words = verdicts.words
        for channel in channels:
            allowed, scope = resolve(profile.preferences, category, channel)
            if not allowed:
                words[channel] = "opted_out"
                verdicts.scopes[channel] = scope
                continue
            endpoints, refusal = usable(profile, state.user, channel, self.policies.providers)
            if refusal is not None:
                words[channel] = refusal
            elif category.throttle is not None and not self.has_token(notification, category.throttle, channel, verdicts):
                words[channel] = "throttled"
            else:
                words[channel] = SENT
                verdicts.going.append((channel, endpoints))
        if not words:
            return self.end(notification, "rejected", "no_channel")
        if verdicts.going:
            self.emit(notification, category, verdicts, profile)
            notification.child = True
        if verdicts.waiting:
            release_at = min(release for release, _ in verdicts.waiting.values())
            self.wait(notification, "deferred", "throttled", release_at, verdicts)
        elif not verdicts.going:
            reason = max(words.values(), key=_RULE_ORDER.__getitem__)
            self.end(notification, "suppressed", reason, verdicts)
        return None

    def has_token(self, notification: _Notification, rule: Limit, channel: Channel, verdicts: _Verdicts) -> bool:
        """Rule 11: whether a token is there for this channel; if not, and the rule defers, the channel waits for one."""
        key = notification.event.data.throttle_key
        name = f"{notification.event.data.category}/{channel}" if key is None else f"key:{key}/{channel}"
        bucket = refill(self.state.activity.buckets.get(name), rule, self.now)
        verdicts.buckets[name] = bucket, rule, channel
        if not self.state.pending:
            wait = wait_for_token(bucket, rule, 0)
        else:
            # What arrived earlier is served first, whether it is due in this very step or later.
            mine = notification.sequence
            ahead = [
                item.release_at
                for item in self.state.pending.values()
                if name in item.buckets and (mine is None or item.sequence < mine)
            ]
            wait = wait_for_token(bucket, rule, len(ahead))
            if ahead and rule.defer:
                # Their releases may be later than a new, more generous policy would have them.
                wait = max(wait, max(ahead) - self.now)
        if wait and rule.defer:
            verdicts.waiting[channel] = self.now + wait, name
        return wait == 0

    def emit(self, notification: _Notification, category: CategoryRules, verdicts: _Verdicts, profile: Profile) -> None:
        """Rule 13: a delivery an endpoint; the channels' tokens are charged here and nowhere else."""
        event, state, now = notification.event, self.state, self.now
        data = event.data
        content = data.content or {}
        ids = []
        for channel, endpoints in verdicts.going:
            for endpoint in endpoints:
                identity = delivery_id(notification.id, channel, endpoint.id, 0)
                ids.append(identity)
                self.out.deliveries.append(
                    Delivery(
                        id=identity,
                        tenant=state.tenant,
                        user=state.user,
                        event_id=event.id,
                        source=event.source,
                        category=category.name,
                        category_class=category.category_class,
                        lane=notification.lane,
                        channel=channel,
                        provider=endpoint.provider,
                        endpoint=Target(
                            id=endpoint.id,
                            address=endpoint.address,
                            app=endpoint.app,
                            registered_at=endpoint.registered_at,
                        ),
                        template=data.template,
                        params=data.params,
                        content=content.get(channel),
                        locale=profile.locale,
                        collapse_key=data.collapse_key,
                        cancellation_key=data.cancellation_key,
                        campaign=data.campaign,
                        expires_at=notification.expires_at,
                        arrived_at=notification.arrived_at,
                        decided_at=now,
                        policy_version=self.policies.version,
                        traceparent=event.traceparent,
                    )
                )
        self.record(notification, SENT, None, verdicts).deliveries = ids
        if verdicts.buckets:
            self.charge(verdicts)

    def charge(self, verdicts: _Verdicts) -> None:
        """Take a token for every channel that goes out."""
        buckets = self.state.activity.buckets
        for name, (bucket, rule, channel) in verdicts.buckets.items():
            if verdicts.words[channel] == SENT:
                buckets[name] = BucketState(bucket.level - rule.period, bucket.at, bucket.period)
        forgotten = forget_past(buckets, self.policies.bounds.buckets)
        if forgotten:
            self.out.hit("buckets", forgotten)
        self.state.changed_activity = True

    def wait(
        self,
        notification: _Notification,
        kind: Literal["deferred", "parked"],
        cause: str,
        release_at: int,
        verdicts: _Verdicts | None = None,
    ) -> None:
        """Keep a notification, or of a child the channels that wait, until ``release_at`` or its expiry."""
        state, bounds = self.state, self.policies.bounds
        waiting_bytes = sum(len(item.payload) for item in state.pending.values())
        if len(state.pending) >= bounds.pending_items or waiting_bytes + len(notification.payload) > bounds.pending_bytes:
            self.out.hit("pending")
            return self.end(notification, "suppressed", "pending_full", verdicts)
        if notification.expires_at is not None:
            release_at = min(release_at, notification.expires_at)
        if notification.sequence is None:
            state.activity.sequence += 1
            state.changed_activity = True
            notification.sequence = state.activity.sequence
        waiting = {} if verdicts is None else verdicts.waiting
        state.wait(
            notification.id + REST if notification.child else notification.id,
            Pending(
                kind=kind,
                cause=cause,
                release_at=release_at,
                sequence=notification.sequence,
                step=notification.step,
                child=notification.child,
                channels=tuple(waiting) if notification.child else None,
                buckets=tuple(bucket for _, bucket in waiting.values()),
                lane=notification.lane,
                origin=notification.origin,
                arrived_at=notification.arrived_at,
                payload=notification.payload,
            ),
        )
        self.record(notification, kind, cause, verdicts).release_at = release_at
        return None

    def end(
        self, notification: _Notification, outcome: DecisionOutcome, reason: str, verdicts: _Verdicts | None = None
    ) -> None:
        """Record the end of a notification that is not sent."""
        self.record(notification, outcome, reason, verdicts)

    def record(
        self, notification: _Notification, outcome: DecisionOutcome, reason: str | None, verdicts: _Verdicts | None
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
            child=notification.child,
            policy_version=self.policies.version,
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
        self.out.decisions.append(record)
        return record

    def set_timer(self) -> None:
        """One timer a user: the earliest release, always later than now."""
        state = self.state
        due = 0
        if state.pending:
            due = max(self.now + 1, min(item.release_at for item in state.pending.values()))
        if due != state.activity.due:
            state.activity.due = due
            state.changed_activity = True
