"""Who may send a delivery: one claim a delivery id in Redis, so that a record read again is not a message sent again.

A claim is ``sending`` (an owner is at it, or died at it), ``accepted`` (the provider took it) or ``released``
(certainly not accepted: free to be sent). One with a final ``status`` answers for the delivery without any sending.
Every change is a compare-and-set on the whole value, and every value is unique (owner, serial): whoever has lost a
claim notices, and a command whose answer was lost can be sent again.

All methods insist: while Redis does not answer they try again, and the caller, who may not send without an answer,
waits; cancelling gives up. A claim lives ``ttl`` milliseconds from its last change; without the claim (expired, or Redis
lost its data) the delivery is free.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace
from redis.exceptions import RedisError

from connectors.adapters.backoff import backoff
from connectors.pipelined import Pipelined, Script
from messages.delivery import OutcomeStatus

State = Literal["sending", "accepted", "released"]
T = TypeVar("T")

_BACKOFF_BASE = 50
_BACKOFF_CAP = 2_000

# Replaces what was read by what is meant, or by nothing at all what is not there any more. The value already being the
# one that is meant says that an earlier try of this very command had worked.
_SWAP = Script("""
local value = redis.call('GET', KEYS[1])
if value == ARGV[2] then return 1 end
if value and value ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
""")


class Claim(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a claim says. ``attempts`` and ``ambiguous`` count the sends so far and those without an answer.

    ``status`` is final where it is given; the fields after it are what the outcome needs. ``retire``: the endpoint is
    to be suppressed.
    """

    state: State
    owner: str
    serial: int
    attempts: int = 0
    ambiguous: int = 0
    status: OutcomeStatus | None = None
    status_code: int | None = None
    error: str | None = None
    provider_message_id: str | None = None
    retire: bool = False


class Held(msgspec.Struct, frozen=True):
    """A claim that is ours, as we wrote it."""

    delivery: str
    claim: Claim
    raw: bytes


class Found(msgspec.Struct, frozen=True):
    """A claim that was there before us; ``age`` in milliseconds since its last change, by Redis' clock."""

    delivery: str
    claim: Claim
    raw: bytes
    age: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Claim).decode


class Claims:
    """The claims of one worker, whose name ``owner`` no other process ever has. ``away`` is told of each failed try."""

    def __init__(
        self, redis: Pipelined, *, prefix: str, owner: str, ttl: int, random: Random, away: Callable[[RedisError], None]
    ) -> None:
        self.owner = owner
        self._redis = redis
        self._prefix = f"{prefix}claim:"
        self._ttl = ttl
        self._random = random
        self._away = away
        self._serials = itertools.count(1)

    async def acquire(self, delivery: str) -> Held | Found:
        """Claim a delivery for its first send, unless it is claimed. Asked for many at once, all go in one pipeline."""
        mine = self._mine(delivery, Claim(state="sending", owner=self.owner, serial=next(self._serials)))
        return await self._insist(lambda: self._acquire(mine))

    async def take(self, found: Found, *, attempts: int, ambiguous: int) -> Held | None:
        """Make a found claim ours, for sending; None where it has changed meanwhile."""
        claim = Claim(state="sending", owner=self.owner, serial=next(self._serials), attempts=attempts, ambiguous=ambiguous)
        return await self._swap(found.raw, self._mine(found.delivery, claim))

    async def change(self, held: Held, **changes: Any) -> Held | None:
        """Change our claim; None where it is ours no longer. If the process dies here, the old value stands."""
        claim = replace(held.claim, serial=next(self._serials), **changes)
        return await self._swap(held.raw, self._mine(held.delivery, claim))

    async def renew(self, deliveries: Iterable[str]) -> None:
        """Let claims live on from now: those of finished deliveries that are not committed yet."""
        keys = [self._key(each) for each in deliveries]
        await self._insist(lambda: asyncio.gather(*(self._redis.execute("PEXPIRE", key, self._ttl) for key in keys)))

    async def _acquire(self, mine: Held) -> Held | Found:
        key = self._key(mine.delivery)
        while True:
            if await self._redis.execute("SET", key, mine.raw, "NX", "PX", self._ttl):
                return mine
            raw, left = await asyncio.gather(self._redis.execute("GET", key), self._redis.execute("PTTL", key))
            if raw == mine.raw:
                return mine  # An earlier try of this command had worked; its answer was lost.
            if raw is not None:
                return Found(mine.delivery, _decode(raw), raw, max(self._ttl - left, 0))

    async def _swap(self, expected: bytes, mine: Held) -> Held | None:
        key = self._key(mine.delivery)
        swapped = await self._insist(lambda: self._redis.script(_SWAP, [key], [expected, mine.raw, self._ttl]))
        return mine if swapped else None

    async def _insist(self, action: Callable[[], Awaitable[T]]) -> T:
        for attempt in itertools.count(1):
            try:
                return await action()
            except RedisError as error:
                self._away(error)
            wait = backoff(attempt, base=_BACKOFF_BASE, cap=_BACKOFF_CAP, random=self._random)
            await asyncio.sleep(wait / 1000)
        raise AssertionError("counting never ends")

    @staticmethod
    def _mine(delivery: str, claim: Claim) -> Held:
        return Held(delivery, claim, _encode(claim))

    def _key(self, delivery: str) -> str:
        return f"{self._prefix}{delivery}"


class Unclaimed(Claims):
    """For channels where sending twice shows once: every delivery is free, and nothing is kept."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    async def acquire(self, delivery: str) -> Held | Found:
        """Always ours."""
        return Held(delivery, Claim(state="sending", owner=self.owner, serial=0), b"")

    async def change(self, held: Held, **changes: Any) -> Held | None:
        """Always possible."""
        return Held(held.delivery, replace(held.claim, **changes), b"")

    async def renew(self, deliveries: Iterable[str]) -> None:
        """Nothing to renew."""
