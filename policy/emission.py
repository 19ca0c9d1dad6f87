"""Rule 13: one delivery an endpoint, with its deterministic id; here, and nowhere else, is charged what that costs."""

from __future__ import annotations

from messages.delivery import Delivery, Target
from policy import caps, throttle
from policy.identity import delivery_id
from policy.state import BucketState
from policy.step import SENT, Notification, Step, Verdicts


def emit(step: Step, notification: Notification, verdicts: Verdicts) -> list[str]:
    """Emit and charge what goes out, and record it as sent; returns the ids of the deliveries."""
    event, state, now = notification.event, step.state, step.now
    category, data, locale = notification.category, event.data, step.profile.locale
    assert category is not None
    content = data.content or {}
    ids = []
    for channel, endpoints in verdicts.going:
        shown = content.get(channel)
        if shown is None and verdicts.stand_in is not None:
            shown = content.get(verdicts.stand_in)
        for endpoint in endpoints:
            identity = delivery_id(notification.id, channel, endpoint.id, notification.rung)
            ids.append(identity)
            step.out.deliveries.append(
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
                    step=notification.rung,
                    template=data.template,
                    params=data.params,
                    content=shown,
                    locale=locale,
                    collapse_key=data.collapse_key,
                    cancellation_key=data.cancellation_key,
                    campaign=data.campaign,
                    expires_at=notification.expires_at,
                    arrived_at=notification.arrived_at,
                    decided_at=now,
                    policy_version=step.policies.version,
                    traceparent=event.traceparent,
                )
            )
    step.record(notification, SENT, None, verdicts).deliveries = ids
    if verdicts.buckets:
        _take_tokens(step, verdicts)
    if category.counts:
        _take_units(step, notification, verdicts)
    return ids


def _take_tokens(step: Step, verdicts: Verdicts) -> None:
    """A token for every channel that goes out."""
    buckets = step.state.activity.buckets
    for name, (bucket, rule, channel) in verdicts.buckets.items():
        if verdicts.words[channel] == SENT:
            buckets[name] = BucketState(bucket.level - rule.period, bucket.at, bucket.period)
    step.out.hit("buckets", throttle.forget_past(buckets, step.policies.bounds.buckets))
    step.state.changed_activity = True


def _take_units(step: Step, notification: Notification, verdicts: Verdicts) -> None:
    """A unit of every cap that the category counts towards: one a channel that it names, or one in all."""
    category, logs = notification.category, step.state.activity.caps
    assert category is not None
    for rule in category.counts:
        if not rule.concerns(notification.event.data.tags):
            continue
        if rule.channels is None:
            # What went out of this notification before has counted.
            units = 0 if notification.part is not None else 1
        else:
            units = sum(channel in rule.channels for channel, _ in verdicts.going)
        if units:
            logs[rule.name] = caps.take(logs.get(rule.name, b""), rule, step.now, units)
            step.state.changed_activity = True
    step.out.hit("caps", caps.forget_past(logs, step.policies.bounds.caps))
