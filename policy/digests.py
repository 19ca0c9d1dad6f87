"""Rule 10: a digest takes items until it closes; then it is a notification of its own, and its items end as ``digested``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from messages.codec import encode_json
from messages.decision import CountRecord
from messages.event import ContentInput, Event, EventData, decode_event, expiry_of
from policy import seen
from policy.identity import notification_id
from policy.policies import CategoryRules, DigestRule
from policy.release import taken_up
from policy.state import DigestState, Pending, part_key
from policy.step import Notification, Step, Verdicts

SOURCE = "herald"
"""The source of the events that digests are."""

ENDS = 10
"""How many items at each end of a digest its template gets."""


def digest_key(notification: Notification, rule: DigestRule) -> str:
    """What the items of a digest have in common."""
    data = notification.event.data
    if rule.by == "category" or data.collapse_key is None:
        return data.category
    # The length before the texts: two categories may have slashes in their names.
    return f"{len(data.category)}:{data.category}/{data.collapse_key}"


def leads(step: Step, notification: Notification, rule: DigestRule) -> bool:
    """Whether the notification is a first one that is sent at once."""
    return rule.leading and _open(step, digest_key(notification, rule)) is None


def open_by_leading(step: Step, notification: Notification, rule: DigestRule) -> None:
    """A first item was sent: what follows it is collected."""
    _begin(step, digest_key(notification, rule), rule)


def collect(step: Step, notification: Notification, rule: DigestRule, verdicts: Verdicts) -> None:
    """Take the notification, or the part of it that its other channels leave over, into its digest."""
    key = digest_key(notification, rule)
    digest = _open(step, key) or _begin(step, key, rule)
    if digest is None:
        return step.end(notification, "suppressed", "pending_full", verdicts)
    # At the latest: what slides may close earlier.
    latest = digest.opened_at + rule.longest
    channels = tuple(verdicts.collected)
    earlier = step.state.pending.get(part_key(notification.id, notification.part))
    if earlier is not None:
        # Another channel of it has been taken before: it is one item on all of them.
        step.state.done_waiting(part_key(notification.id, notification.part))
        taken_out(step, earlier)
        channels = tuple(dict.fromkeys((*(earlier.channels or ()), *channels)))
    if not step.wait(notification, "collected", "digest", latest, verdicts, channels=channels, digest=key):
        return None
    digest.items += 1
    if rule.slide is not None:
        digest.close_at = min(latest, step.now + rule.slide)
    if rule.at is not None and digest.items >= rule.at:
        digest.close_at = step.now
    step.state.changed_activity = True
    _slim(step, key, digest)
    return None


def _open(step: Step, key: str) -> DigestState | None:
    """The digest that takes items now. One whose time has passed without an item is gone."""
    digest = step.state.activity.digests.get(key)
    return digest if digest is not None and (digest.items or step.now < digest.close_at) else None


def _begin(step: Step, key: str, rule: DigestRule) -> DigestState | None:
    """Open a digest; None where the user has too many."""
    digests = step.state.activity.digests
    for gone in [name for name in digests if _open(step, name) is None]:
        del digests[gone]
    if len(digests) >= step.policies.bounds.digests:
        step.out.hit("digests")
        return None
    digests[key] = digest = DigestState(step.now, step.now + (rule.slide or rule.longest), 0)
    step.state.changed_activity = True
    return digest


def _items(step: Step, key: str) -> list[tuple[str, Pending]]:
    """What waits in a digest, in the order of arrival."""
    items = [(identity, item) for identity, item in step.state.pending.items() if item.digest == key]
    return sorted(items, key=lambda found: found[1].sequence)


def _slim(step: Step, key: str, digest: DigestState) -> None:
    """Of an item that is at neither end of its digest any more the content is not needed."""
    if digest.items <= 2 * ENDS:
        return
    items = _items(step, key)
    identity, item = items[-ENDS - 1]
    event = decode_event(item.payload)
    # An event has a template or content; it stays one.
    content = None if event.data.template else {channel: ContentInput() for channel in (event.data.content or {})}
    data = replace(event.data, params=None, content=content)
    step.state.wait(identity, replace(item, payload=encode_json(replace(event, data=data))))


def taken_out(step: Step, item: Pending) -> None:
    """An item left its digest before the close."""
    digest = step.state.activity.digests.get(item.digest or "")
    if digest is not None:
        digest.items -= 1
        step.state.changed_activity = True


def due(step: Step) -> list[str]:
    """The digests to be closed now, the one that was due first before the others."""
    digests = step.state.activity.digests
    return sorted(
        (key for key, digest in digests.items() if digest.items and digest.close_at <= step.now),
        key=lambda key: (digests[key].close_at, key),
    )


def close(step: Step, key: str) -> Notification | None:
    """End the items of a digest; the notification that goes out instead, or None where all of them had expired."""
    state = step.state
    digest = state.activity.digests.pop(key)
    state.changed_activity = True
    items = _items(step, key)
    if not items:
        return None
    # Two of a key may be opened in one millisecond; no two begin with the same item.
    identity = f"digest/{seen.number(key).hex()}/{digest.opened_at}.{items[0][1].sequence}"
    events: list[Event] = []
    taken: set[str] = set()
    channels: dict[Any, None] = {}
    rules: CategoryRules | None = None
    for name, item in items:
        state.releasing = name, item
        state.done_waiting(name)
        event = decode_event(item.payload)
        ended = taken_up(step, name, item, event)
        expires_at = expiry_of(event)
        if ended.category is None:
            step.end(ended, "rejected", "unknown_category")
        elif expires_at is not None and step.now >= expires_at:
            step.end(ended, "suppressed", "expired")
        else:
            step.end(ended, "suppressed", "digested", detail=identity)
            rules = ended.category
            if ended.id not in taken:  # the rest of it may have been taken by itself
                events.append(event)
            taken.add(ended.id)
            channels |= dict.fromkeys(item.channels or ())
    if rules is None:
        return None
    state.releasing = items[0]
    event = _event(step, identity, events, rules)
    state.activity.sequence += 1
    origin = f"digest/{state.activity.sequence}/{digest.opened_at}"
    step.out.counts.append(CountRecord(origin=origin, recipients=1, arrived_at=step.now, campaign=event.data.campaign))
    return Notification(
        notification_id(state.tenant, SOURCE, identity, state.user),
        event,
        rules,
        "background",
        origin,
        step.now,
        encode_json(event),
        None,
        channels=tuple(channels),
        closing=True,
    )


def _event(step: Step, identity: str, events: list[Event], rules: CategoryRules) -> Event:
    """The digest as an event of its own; its template gets how many items there are, and those at both ends."""
    last = events[-1].data
    same = {event.data.campaign for event in events}
    params = {
        "count": len(events),
        "first": [_item(event) for event in events[:ENDS]],
        "last": [_item(event) for event in events[max(ENDS, len(events) - ENDS) :]],
    }
    return Event(
        specversion="1.0",
        id=identity,
        source=SOURCE,
        type="herald.digest",
        time=datetime.fromtimestamp(step.now / 1000, UTC),
        tenant=step.state.tenant,
        data=EventData(
            category=rules.name,
            template=rules.digest.template if rules.digest is not None else "digest",
            params=params,
            collapse_key=last.collapse_key if rules.digest is not None and rules.digest.by == "collapse_key" else None,
            campaign=last.campaign if len(same) == 1 else None,
        ),
    )


def _item(event: Event) -> dict[str, Any]:
    """An item as the template sees it."""
    shown: dict[str, Any] = {"id": event.id, "time": event.time.isoformat()}
    if event.data.params is not None:
        shown["params"] = event.data.params
    if event.data.content:
        shown["content"] = msgspec.to_builtins(event.data.content)
    return shown
