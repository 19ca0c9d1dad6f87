"""The Redis views: the names of their keys, how they are written, and how they are read; one home for all three.

A view holds nothing that Kafka could not rebuild, and only recent users: every key expires. Keys, under ``namespace``::

    view:profile:{tenant/user}     string       the profile, JSON
    view:decisions:{tenant/user}   sorted set   decision records, JSON, by the time of the decision
    view:outcome:DELIVERY          string       the outcome of a delivery, JSON

Every write may be repeated without harm.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import redis.asyncio

from connectors.settings import KafkaSettings, ViewSettings
from messages.codec import DecodeError
from messages.decision import DecisionRecord, decode_decision
from messages.delivery import Outcome, decode_outcome
from messages.profile import Profile, decode_profile
from messages.topics import DECISIONS, registry
from messages.words import user_key

Command = tuple[bytes | str | int, ...]
"""A Redis command: its name and its arguments."""


def namespace(kafka: KafkaSettings) -> str:
    """What stands before every key, so that two stacks may share a Redis."""
    return f"herald:{kafka.prefix}"


class ViewKeys:
    """The names of the views' keys; braces are Redis Cluster's hash tag."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._profile = f"{namespace(kafka)}view:profile:{{".encode()
        self._decisions = f"{namespace(kafka)}view:decisions:{{".encode()
        self._outcome = f"{namespace(kafka)}view:outcome:".encode()

    def profile(self, user: bytes) -> bytes:
        """The key of a profile; ``user`` is ``tenant/user``."""
        return self._profile + user + b"}"

    def decisions(self, user: bytes) -> bytes:
        """The key of a user's decisions."""
        return self._decisions + user + b"}"

    def outcome(self, delivery: str) -> bytes:
        """The key of a delivery's outcome."""
        return self._outcome + delivery.encode()


# One call instead of several spares the writer and Redis most of what they do for a record. By its text and not its
# digest: that works after a restart of Redis, and Redis keeps the compiled script either way. A later decision never
# shortens what an earlier one, that left something waiting, asked for.
_ADD = """
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, ARGV[3])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
"""

# What is older than the topic could not be told again after a rebuild, and so is not kept for longer either.
_LONGEST = registry(1)[DECISIONS].retention_ms or 0


class _Decided(msgspec.Struct):
    decided_at: int
    release_at: int | None = None


class _Reported(msgspec.Struct):
    delivery_id: str
    repeat: bool = False


_decided = msgspec.json.Decoder(_Decided).decode
_reported = msgspec.json.Decoder(_Reported).decode


class ViewWriter:
    """The Redis command that brings a record into the views; it decodes no more of a record than it must.

    DecodeError for a record that is none; its key must be ``tenant/user``.
    """

    def __init__(self, kafka: KafkaSettings, views: ViewSettings) -> None:
        self._keys = ViewKeys(kafka)
        self._ttl = views.ttl
        self._last = -views.decisions_a_user - 1

    def profile(self, user: bytes, value: bytes | None) -> Command:
        """The latest profile, or its removal."""
        key = self._keys.profile(user)
        return ("DEL", key) if value is None else ("SET", key, value, "PX", self._ttl)

    def decision(self, user: bytes, value: bytes) -> Command:
        """One more decision; the oldest go when there are too many. The same record again changes nothing.

        Where it left something waiting, it is kept beyond the release, so that the chain can be told whole.
        """
        try:
            record = _decided(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DecodeError.of(error) from None
        key, at = self._keys.decisions(user), record.decided_at
        wait = 0 if record.release_at is None else max(0, record.release_at - at)
        keep = max(self._ttl, min(self._ttl + wait, _LONGEST))
        return ("EVAL", _ADD, 1, key, at, value, self._last, keep)

    def outcome(self, value: bytes) -> Command:
        """What became of a delivery; a report made again after a restart does not replace the first one."""
        try:
            reported = _reported(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DecodeError.of(error) from None
        key = self._keys.outcome(reported.delivery_id)
        return ("SET", key, value, "PX", self._ttl, *(("NX",) if reported.repeat else ()))


class History(msgspec.Struct, kw_only=True):
    """What is known of a user's notifications: the last decisions, oldest first, and outcomes by delivery id."""

    decisions: list[DecisionRecord]
    outcomes: dict[str, Outcome]


class ViewReader:
    """Reads the views; redis.RedisError when Redis does not answer. ``client`` must not decode responses."""

    def __init__(self, client: redis.asyncio.Redis, kafka: KafkaSettings) -> None:
        self._client = client
        self._keys = ViewKeys(kafka)

    async def profile(self, tenant: str, user: str) -> Profile | None:
        """The user's latest profile, or None where no recent one is known."""
        value = await self._client.get(self._keys.profile(user_key(tenant, user).encode()))
        return None if value is None else decode_profile(value)

    async def history(self, tenant: str, user: str) -> History:
        """The user's last decisions and the outcomes of their deliveries."""
        values: Sequence[bytes] = await self._client.zrange(self._keys.decisions(user_key(tenant, user).encode()), 0, -1)
        decisions = [decode_decision(value) for value in values]
        decisions.sort(key=lambda record: (record.decided_at, record.step))
        ids = list(dict.fromkeys(delivery for record in decisions for delivery in record.deliveries))
        # One command a key, not one for all: in a cluster they lie in several slots.
        async with self._client.pipeline(transaction=False) as pipeline:
            for delivery in ids:
                pipeline.get(self._keys.outcome(delivery))
            found = await pipeline.execute() if ids else []
        outcomes = {delivery: decode_outcome(value) for delivery, value in zip(ids, found, strict=True) if value is not None}
        return History(decisions=decisions, outcomes=outcomes)
