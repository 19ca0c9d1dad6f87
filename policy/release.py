"""What waits is taken up again: a pending item becomes a notification on its way through the rules."""

from __future__ import annotations

from messages.event import Event, expiry_of
from policy.state import Pending, split_part
from policy.step import Notification, Step

URGENT_FOR = 50 * 60_000
"""Milliseconds after its arrival from which an urgent notification goes out on the background lane: adapters remember
what they sent of the urgent lane, where a delivery may come twice, for an hour."""


def taken_up(step: Step, key: str, item: Pending, event: Event) -> Notification:
    """The notification, or the part of one, that waited under ``key``, on its next step."""
    identity, part = split_part(key)
    lane = "background" if step.now - item.arrived_at > URGENT_FOR else item.lane
    return Notification(
        identity,
        event,
        step.policies.categories.get(event.data.category),
        lane,
        item.origin,
        item.arrived_at,
        item.payload,
        expiry_of(event),
        item.step + 1,
        part,
        item.channels,
        item.sequence,
        item.closing,
        item.rung,
        item.reserved_at,
    )
