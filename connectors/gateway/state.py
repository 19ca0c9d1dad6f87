"""What the handlers share: the keys, the limits, Kafka, Redis, and the gateway's own health."""

from __future__ import annotations

import asyncio
import logging

import redis.asyncio
from confluent_kafka import KafkaException
from redis.exceptions import RedisError

from connectors.gateway.answers import Health
from connectors.gateway.guard import EventGuard
from connectors.gateway.keys import KeyRing
from connectors.gateway.limits import RateLimit
from connectors.gateway.publisher import Publisher
from connectors.inbox import Inbox
from connectors.policy_feed import PolicyFeed
from connectors.settings import ROOT, Settings
from connectors.view_store import ViewReader, namespace
from messages.topics import CHANGES, EVENTS, QUARANTINED

log = logging.getLogger(__name__)

_HEALTH_WITHIN = 2.0


class Gateway:
    """What the handlers share; made when the process starts, closed when it ends."""

    def __init__(self, settings: Settings) -> None:
        own = settings.gateway
        self.settings = settings
        self.keys = KeyRing(ROOT / own.keys_file)
        self.limit = RateLimit(own.events_per_second, own.burst)
        self.publisher = Publisher(
            settings.kafka, acknowledge_within=own.acknowledge_within / 1000, linger=own.linger / 1000
        )
        self.policies = PolicyFeed(settings.kafka, say=lambda line: log.warning("%s", line))
        self.guard = EventGuard(self.policies, own.workers, settings.kafka.prefix)
        self.redis = redis.asyncio.Redis.from_url(settings.redis.url, socket_timeout=2, socket_connect_timeout=2)
        self.views = ViewReader(self.redis, settings.kafka)
        self.inbox = Inbox(
            self.redis, prefix=namespace(settings.kafka), bound=settings.inbox.items, retention=settings.inbox.retention
        )
        self._health: asyncio.Task[Health] | None = None

    async def close(self) -> None:
        """Wait, within bounds, for what Kafka has not acknowledged."""
        await asyncio.to_thread(self.policies.close)
        left = await asyncio.to_thread(self.publisher.close, self.settings.gateway.acknowledge_within / 1000)
        if left:
            log.warning("stopped with %d records that Kafka did not acknowledge", left)
        await self.redis.aclose()

    async def health(self) -> Health:
        """Whether Kafka and Redis answer and the policies were read; callers at the same time share one look."""
        if self._health is None or self._health.done():
            self._health = asyncio.create_task(self._look())
        return await asyncio.shield(self._health)

    async def _look(self) -> Health:
        async def kafka() -> str:
            try:
                missing = {*EVENTS.values(), CHANGES, QUARANTINED} - await asyncio.to_thread(
                    self.publisher.topics, _HEALTH_WITHIN
                )
            except KafkaException as error:
                return f"unreachable: {error.args[0].str()}"
            return f"missing topics: {', '.join(sorted(missing))}; `herald topics apply` creates them" if missing else "ok"

        async def store() -> str:
            try:
                async with asyncio.timeout(_HEALTH_WITHIN):
                    await self.redis.ping()
            except (RedisError, TimeoutError) as error:
                return f"unreachable: {error or 'no answer in time'}"
            return "ok"

        policies = "ok" if self.policies.caught_up.is_set() else "not read yet: what is paused is not known"
        return Health(kafka=await kafka(), redis=await store(), policies=policies)
