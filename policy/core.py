"""``decide``: one item for one user, under the policies and at the instant given, becomes decisions and deliveries.

The rules are those of docs/policy.md, in their order; the first terminal reason wins. Here are those at arrival (expiry and
staleness, identity, cancel, content, profile, not_before), and what makes something be judged again; rules 7 to 13 are in
policy/judging.py.
"""

from __future__ import annotations

import msgspec

from messages.event import Event, decode_event, expiry_of, milliseconds
from messages.profile import PendingChange, Profile, ProfileChange
from messages.words import Lane
from policy import digests, seen
from policy.dedup import reserve, seen_before
from policy.identity import identity_number, notification_id
from policy.judging import judge
from policy.policies import CategoryRules, Policies
from policy.profiles import change_profile
from policy.release import taken_up
from policy.source_guard import pause_of
from policy.state import UserState, parts_of
from policy.step import NOBODY, Decided, Notification, Step
from policy.withdraw import was_cancelled, withdraw

PAUSED_FOR = 5 * 60_000
"""Milliseconds after which what is deferred by a pause is looked at again; each time that doubles, up to LONGEST_PAUSE."""

LONGEST_PAUSE = 60 * 60_000


class Arrival(msgspec.Struct):
    """A notification that arrives: the event, and its bytes as they will be kept where it has to wait."""

    event: Event
    payload: bytes
    lane: Lane
    origin: str
    arrived_at: int


class Change(msgspec.Struct):
    """A command, with the partition and offset it came from, and when it was given (milliseconds)."""

    change: ProfileChange | PendingChange
    position: tuple[int, int]
    given_at: int


class Loaded(msgspec.Struct):
    """A whole profile, as a job without state reads it back; it never replaces a newer one."""

    profile: Profile


class Due(msgspec.Struct):
    """The user's timer fired."""


Item = Arrival | Change | Loaded | Due


def decide(now: int, policies: Policies, state: UserState, item: Item) -> Decided:
    """Decide ``item`` at ``now`` (milliseconds); ``state`` is changed in place.

    The next timer is ``state.activity.due`` (0: none), always later than ``now``. Raises ChangeRefused where a command
    cannot be applied; the state is then unchanged.
    """
    step = Step(now, policies, state, NOBODY if state.profile is None else state.profile, Decided())
    match item:
        case Arrival():
            # A timer may be late: what is due goes first, and no stream of arrivals can keep moving its timer away.
            if state.pending:
                _release(step)
            _arrive(step, item)
            if state.activity.digests:
                _close_digests(step)
        case Change():
            _change(step, item)
            _release(step)
        case Loaded():
            if state.profile is None or state.profile.version < item.profile.version:
                _use_profile(step, item.profile)
            _release(step)
        case Due():
            _release(step)
    _set_timer(step)
    return step.out


def _change(step: Step, item: Change) -> None:
    if isinstance(item.change, ProfileChange):
        profile = change_profile(step.now, step.state.profile, item.change, item.position)
        if profile is not None:
            _use_profile(step, profile)
    else:
        withdraw(step, item.change, min(item.given_at, step.now))


def _use_profile(step: Step, profile: Profile) -> None:
    step.state.profile = step.profile = profile
    step.zone_changed()
    step.state.changed_profile = True


def _arrive(step: Step, arrival: Arrival) -> None:
    """Rules 1 to 6, then the others."""
    event, state = arrival.event, step.state
    category = step.policies.categories.get(event.data.category)
    notification = Notification(
        notification_id(state.tenant, event.source, event.id, state.user),
        event,
        category,
        arrival.lane if category is None or category.lane == "urgent" else "background",
        arrival.origin,
        arrival.arrived_at,
        arrival.payload,
        expiry_of(event),
    )
    if category is None:
        return step.end(notification, "rejected", "unknown_category")
    reason = _refused(step, notification, category)
    if reason is not None:
        return step.end(notification, "suppressed", reason)
    if state.profile is None:
        step.wait(notification, "parked", "parking", step.now + step.policies.park)
        return None
    return _start(step, notification)


def _refused(step: Step, notification: Notification, category: CategoryRules) -> str | None:
    """Rules 1 to 4, which are asked once; the reason where one refuses."""
    event, now = notification.event, step.now
    happened = milliseconds(event.time)
    if notification.expires_at is not None and now >= notification.expires_at:
        return "expired"
    if now - happened > category.max_age:
        return "stale"
    if _repeated(step, notification.id, happened):
        return "duplicate_event"
    if step.state.activity.cancels and was_cancelled(step, event):
        return "cancelled"
    if event.data.dedup_key is not None and not _first_with(step, notification, category, event.data.dedup_key):
        return "duplicate_content"
    return None


def _repeated(step: Step, identity: str, happened: int) -> bool:
    """Rule 3: whether the event was seen for this user before; if not, it is now."""
    state, policies = step.state, step.policies
    # What waits for longer than the window, or did not fit into it, is known all the same.
    if state.pending and parts_of(state.pending, identity):
        return True
    repeated, log, forgotten = seen_before(
        state.activity.identities,
        identity_number(identity),
        step.now,
        # An event from the future turns stale later: it is remembered for as long.
        max(step.now, happened),
        policies.identity_window,
        policies.bounds.identities,
    )
    if repeated:
        return True
    state.activity.identities = log
    state.changed_activity = True
    step.out.hit("identities", forgotten)
    return False


def _first_with(step: Step, notification: Notification, category: CategoryRules, dedup_key: str) -> bool:
    """Rule 4: whether the content key is free; if so, this notification reserves it."""
    activity, policies = step.state.activity, step.policies
    taken, log, forgotten = reserve(
        activity.contents,
        seen.number(dedup_key),
        step.now,
        category.dedup_window,
        policies.content_window,
        policies.bounds.contents,
    )
    if taken:
        return False
    activity.contents = log
    notification.reserved_at = step.now
    step.out.hit("contents", forgotten)
    return True


def _start(step: Step, notification: Notification) -> None:
    """Rule 6: the event may ask for a later time; then the rules that are repeated."""
    event = notification.event
    if pause_of(step.policies, event.source, event.data.category, event.data.campaign) is not None:
        pause = min(PAUSED_FOR << min(notification.step, 10), LONGEST_PAUSE)
        step.wait(notification, "deferred", "paused", step.now + pause, channels=notification.channels)
        return None
    not_before = event.data.not_before
    if not_before is not None and milliseconds(not_before) > step.now:
        step.wait(notification, "deferred", "not_before", milliseconds(not_before), channels=notification.channels)
        return None
    return judge(step, notification)


def _release(step: Step) -> None:
    """Judge again, in the order of their arrival, what is due, and what is parked if the profile is there now."""
    state, now = step.state, step.now
    known = state.profile is not None
    # A timer may be late: what is released now comes after what closed before.
    _close_digests(step)
    due = [
        (item.sequence, key)
        for key, item in state.pending.items()
        if item.kind != "collected" and (item.release_at <= now or (known and item.kind == "parked"))
    ]
    for _, key in sorted(due):
        item = state.pending.get(key)
        if item is None:  # an earlier one of this step has superseded it
            continue
        state.releasing = key, item
        state.done_waiting(key)
        notification = taken_up(step, key, item, decode_event(item.payload))
        category = notification.category
        expired = notification.expires_at is not None and now >= notification.expires_at
        if item.kind == "deferred":
            step.count("expired" if expired and category is not None else "released")
        if category is None:
            step.end(notification, "rejected", "unknown_category")
        elif expired:
            step.end(notification, "suppressed", "expired")
        elif item.kind == "parked" and not known and category.category_class == "marketing":
            step.end(notification, "suppressed", "unknown_user")
        else:
            _start(step, notification)
    _close_digests(step)
    state.releasing = None


def _close_digests(step: Step) -> None:
    """Close what is due; each digest is a new notification that enters where the rules are repeated."""
    for key in digests.due(step):
        notification = digests.close(step, key)
        if notification is not None:
            _start(step, notification)
    step.state.releasing = None


def _set_timer(step: Step) -> None:
    """One timer a user: the earliest release or close, always later than now."""
    state = step.state
    due = 0
    if state.pending:
        times = [item.release_at for item in state.pending.values() if item.kind != "collected"]
        times += [digest.close_at for digest in state.activity.digests.values() if digest.items]
        due = max(step.now + 1, min(times)) if times else 0
    if due != state.activity.due:
        state.activity.due = due
        state.changed_activity = True
