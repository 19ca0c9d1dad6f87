"""Rule 12: the least expensive channel that is in time."""

from __future__ import annotations

from collections.abc import Mapping

from messages.event import Content
from messages.policy import Price
from messages.words import Channel
from policy.policies import CategoryRules
from policy.prices import cost, latency
from policy.segments import segments
from policy.step import Notification


def deadline_of(notification: Notification, category: CategoryRules) -> int:
    """The instant, in milliseconds, by which the notification should be there."""
    deadline = notification.arrived_at + category.deadline
    return deadline if notification.expires_at is None else min(deadline, notification.expires_at)


def cheapest(
    candidates: Mapping[Channel, int],
    prices: Mapping[Channel, Price],
    country: str | None,
    content: Mapping[Channel, Content],
    deadline: int,
) -> Channel:
    """The channel of ``candidates`` (channel → when it could go out) with the lowest expected cost among those that would be
    there by ``deadline``; among equals the earliest, then the first. Where none is in time, the earliest.
    """
    arrival = {channel: at + latency(prices.get(channel)) for channel, at in candidates.items()}
    in_time = [channel for channel in candidates if arrival[channel] <= deadline]
    if not in_time:
        return min(candidates, key=arrival.__getitem__)

    def price(channel: Channel) -> float:
        text = content.get(channel)
        parts = segments(text.body or "") if channel == "sms" and text is not None else 1
        return cost(prices.get(channel), country, parts)

    return min(in_time, key=lambda channel: (price(channel), arrival[channel]))
