"""In-app: the delivery is an item in the user's inbox, which is our own store. Putting again changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from redis.exceptions import RedisError

from connectors.adapters.channel import Classification, Failure
from connectors.inbox import Inbox, InboxItem
from messages.delivery import Delivery
from messages.event import Content
from messages.words import Provider


class Put(msgspec.Struct, frozen=True):
    """An item for one inbox."""

    tenant: str
    user: str
    item: InboxItem


class Stored(msgspec.Struct, frozen=True):
    """The store's answer; not ``new`` where the item was there before."""

    new: bool


class InApp:
    """The channel."""

    provider: Provider = "inapp"
    idempotent = True

    def __init__(self, inbox: Inbox, *, clock: Callable[[], float] = time.time) -> None:
        self._inbox = inbox
        self._clock = clock

    @staticmethod
    def build(delivery: Delivery, content: Content, now: int) -> Put:
        """The inbox item of a delivery, with the delivery's id and expiry."""
        item = InboxItem(
            id=delivery.id,
            category=delivery.category,
            title=content.title,
            body=content.body,
            data=content.data,
            source=delivery.source,
            event_id=delivery.event_id,
            expires_at=delivery.expires_at,
        )
        return Put(delivery.tenant, delivery.user, item)

    @staticmethod
    def classify(answer: Stored | Failure) -> Classification:
        """Stored is accepted; no answer is transient, whatever was done, for putting again is harmless."""
        if isinstance(answer, Failure):
            return Classification(outcome="transient", scope="provider", error=answer.reason, sent=False)
        return Classification(outcome="accepted", repeat=not answer.new)

    async def send(self, request: Put) -> Stored | Failure:
        """Put the item."""
        try:
            now = int(self._clock() * 1000)
            return Stored(await self._inbox.put(request.tenant, request.user, request.item, now))
        except RedisError as error:
            return Failure(kind="not_sent", reason=f"inbox: {type(error).__name__}")

    async def close(self) -> None:
        """Nothing: the Redis client belongs to the worker."""
