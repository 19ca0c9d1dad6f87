"""What a worker writes to Kafka: outcomes, commands that retire endpoints, and records that it could not read or must hold.

Each method returns once the broker has acknowledged on all replicas. While Kafka is away it waits: the producer tries
without end, so that nothing is reported as lost that was not. If the process dies before the answer, the record is read
again and reported again, with ``repeat`` where the claim says that it had an end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.adapters.journal import Journal
from connectors.adapters.record import Record
from connectors.settings import KafkaSettings
from messages.codec import DecodeError, encode_json
from messages.delivery import Delivery, Outcome
from messages.profile import ProfileChange, SuppressEndpoint
from messages.topics import CHANGES, OUTCOMES, PARTITIONER, QUARANTINED, REJECTED, RejectedHeaders
from messages.words import user_key

_POLL = 0.003
_AGAIN = 1.0
_MAX_RECORD = 2_097_164

Headers = list[tuple[str, str | bytes | None]]


def retirement(delivery: Delivery, reason: str) -> SuppressEndpoint:
    """The command that retires a delivery's endpoint; the same for the same delivery, so that a repeat does nothing.

    It spares an endpoint that was registered after the one this delivery was addressed to.
    """
    return SuppressEndpoint(
        id=f"dead:{delivery.id}",
        endpoint_id=delivery.endpoint.id,
        reason=reason[:256],
        registered_before=delivery.endpoint.registered_at + 1,
    )


def _headers(record: Record, reason: str, path: str, detail: str) -> Headers:
    return [
        (RejectedHeaders.STAGE, "deliver"),
        (RejectedHeaders.REASON, reason),
        (RejectedHeaders.PATH, path),
        (RejectedHeaders.DETAIL, detail),
        (RejectedHeaders.TOPIC, record.topic),
        (RejectedHeaders.PARTITION, str(record.partition)),
        (RejectedHeaders.OFFSET, str(record.offset)),
        (RejectedHeaders.KEY, (record.key or b"").decode(errors="replace")),
    ]


class Reports:
    """One idempotent producer. KafkaException, after which a new process is needed, only where the producer is broken."""

    def __init__(self, kafka: KafkaSettings, journal: Journal) -> None:
        self._prefix = kafka.prefix
        self._journal = journal
        self._pending = 0
        self._polling = False
        self._producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "partitioner": PARTITIONER,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 0,
                "reconnect.backoff.max.ms": 2_000,
                "message.max.bytes": _MAX_RECORD,
                "error_cb": lambda error: journal.trouble("kafka", code=error.name()),
            },
            logger=journal.client_logger,
        )

    async def outcome(self, outcome: Outcome) -> None:
        """Report what became of a delivery."""
        await self._send(OUTCOMES, user_key(outcome.tenant, outcome.user), encode_json(outcome), None)

    async def change(self, delivery: Delivery, command: ProfileChange) -> None:
        """Send a command about the delivery's user."""
        await self._send(CHANGES, user_key(delivery.tenant, delivery.user), encode_json(command), None)

    async def rejected(self, record: Record, error: DecodeError) -> None:
        """Set a record that is no delivery aside, with its original bytes."""
        await self._send(REJECTED, None, record.value or b"", _headers(record, "malformed", error.path, error.reason))

    async def held(self, record: Record, scope: str, name: str) -> None:
        """Put a delivery into the quarantine, with its original bytes and key: what it is of is paused."""
        headers = _headers(record, "paused", f"$.{scope}", f"the {scope} `{name}` is paused")
        await self._send(QUARANTINED, record.key, record.value or b"", headers)

    def close(self, seconds: float) -> int:
        """Wait for acknowledgements under way; the number still missing."""
        return int(self._producer.flush(seconds))

    async def _send(self, topic: str, key: str | bytes | None, value: bytes, headers: Headers | None) -> None:
        while (error := await self._produce(self._prefix + topic, key, value, headers)) is not None:
            if error.fatal():
                raise KafkaException(error)
            self._journal.trouble("report_failed", topic=topic, code=error.name())
            await asyncio.sleep(_AGAIN)

    async def _produce(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Headers | None
    ) -> KafkaError | None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[KafkaError | None] = loop.create_future()

        def delivered(error: KafkaError | None, _: Message) -> None:
            self._pending -= 1
            if not done.done():
                done.set_result(error)

        more: dict[str, Any] = {} if headers is None else {"headers": headers}
        try:
            self._producer.produce(topic, key=key, value=value, on_delivery=delivered, **more)
        except BufferError:
            await asyncio.sleep(_POLL)
            return KafkaError(KafkaError._QUEUE_FULL)
        except KafkaException as error:
            return error.args[0]  # type: ignore[no-any-return]
        self._pending += 1
        if not self._polling:
            self._polling = True
            loop.call_later(_POLL, self._poll, loop)
        return await done

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        # The callbacks run here, on the event loop: no thread, and no hand-over a record.
        self._producer.poll(0)
        self._polling = self._pending > 0
        if self._polling:
            loop.call_later(_POLL, self._poll, loop)
