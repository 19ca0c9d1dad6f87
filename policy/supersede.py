"""Supersede: of the notifications with one collapse_key only the newest, by event time, is still to be shown."""

from __future__ import annotations

from messages.event import decode_event, milliseconds
from policy.release import taken_up
from policy.step import Notification, Step

_BEFORE_RULE_8 = ("not_before", "paused")
"""Causes of waiting that say nothing yet of whether a notification will ever reach the user."""


def older(step: Step, notification: Notification) -> bool:
    """End what is deferred with the notification's collapse_key and is not newer; False where something newer is."""
    key, happened = notification.event.data.collapse_key, milliseconds(notification.event.time)
    same = [
        (identity, item)
        for identity, item in step.state.pending.items()
        if item.kind == "deferred"
        and item.collapse_key == key
        and not item.closing  # a digest stands for all of its items
        and not identity.startswith(notification.id)
    ]
    if any(item.happened > happened and item.cause not in _BEFORE_RULE_8 for _, item in same):
        return False
    for identity, item in same:
        if item.happened > happened:
            continue
        step.state.done_waiting(identity)
        old = taken_up(step, identity, item, decode_event(item.payload))
        step.count("superseded")
        step.end(old, "suppressed", "superseded", detail=notification.event.id)
    return True
