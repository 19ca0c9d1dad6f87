"""Records to Kafka, each waited for until every in-sync replica has it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.gateway.answers import Reason
from connectors.gateway.intake import Record
from connectors.settings import KafkaSettings
from messages.event import MAX_EVENT_BYTES
from messages.topics import PARTITIONER

log = logging.getLogger(__name__)

_HEADERS = 16 * 1024
"""Bytes that the headers of a record on ``quarantined`` may have beside the largest event."""


class _Waiting:
    """One call of ``publish``: which of its records still lack an answer."""

    __slots__ = ("answered", "failed", "left")

    def __init__(self, count: int, answered: asyncio.Future[None]) -> None:
        self.answered = answered
        self.left = count
        # A record is unacknowledged until it is known not to be.
        self.failed: list[Reason | None] = ["unacknowledged"] * count

    def settle(self, index: int, reason: Reason | None) -> None:
        self.failed[index] = reason
        self.left -= 1
        if not self.left and not self.answered.done():
            self.answered.set_result(None)


class Publisher:
    """A producer with ``acks=all`` whose acknowledgements come back to the event loop that it was made on.

    A thread polls the client, and hands the answers of one poll to the loop together. If the process dies, what was
    not acknowledged may or may not have been written: the caller was told neither, and sends again.
    """

    def __init__(self, kafka: KafkaSettings, *, acknowledge_within: float, linger: float) -> None:
        self._prefix = kafka.prefix
        self._acknowledge_within = acknowledge_within
        self._loop = asyncio.get_running_loop()
        self._settled: list[tuple[_Waiting, int, KafkaError | None]] = []
        self._producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "client.id": "herald-gateway",
                "partitioner": PARTITIONER,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": linger * 1000,
                # What nobody waits for any more is not to be sent much later.
                "delivery.timeout.ms": int(acknowledge_within * 1000),
                "message.max.bytes": MAX_EVENT_BYTES + 12 + _HEADERS,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 256 * 1024,
                "reconnect.backoff.max.ms": 1_000,
                "topic.metadata.refresh.interval.ms": 30_000,
                "error_cb": self._failed,
            },
            logger=logging.getLogger("kafka.producer"),
        )
        self._until: float | None = None
        self._thread = threading.Thread(target=self._poll, name="kafka-poll", daemon=True)
        self._thread.start()

    def _failed(self, error: KafkaError) -> None:
        if error.fatal():
            # An idempotent producer is of no use after a fatal error; a new process is.
            log.critical("Kafka: %s; the gateway stops", error)
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            log.warning("Kafka: %s", error)

    def _poll(self) -> None:
        while self._until is None or (len(self._producer) and time.monotonic() < self._until):
            self._producer.poll(0.1)
            if self._settled:
                settled, self._settled = self._settled, []
                self._loop.call_soon_threadsafe(self._settle, settled)

    def _settle(self, settled: list[tuple[_Waiting, int, KafkaError | None]]) -> None:
        for waiting, index, error in settled:
            waiting.settle(index, None if error is None else "unacknowledged")

    async def publish(self, records: Sequence[Record]) -> list[Reason | None]:
        """Write ``records``; for each None when it is acknowledged, else why not: ``unacknowledged``, ``overloaded``.

        Returns within ``acknowledge_within`` seconds. ``overloaded`` means that the record was not sent.
        """
        waiting = _Waiting(len(records), self._loop.create_future())
        for index, record in enumerate(records):

            def delivered(error: KafkaError | None, _: Any, index: int = index) -> None:
                self._settled.append((waiting, index, error))

            more: dict[str, Any] = {"headers": list(record.headers)} if record.headers else {}
            try:
                self._producer.produce(self._prefix + record.topic, record.value, record.key, on_delivery=delivered, **more)
            except (BufferError, KafkaException) as error:
                log.warning("not sent to Kafka: %s", error)
                waiting.settle(index, "overloaded")
        try:
            async with asyncio.timeout(self._acknowledge_within):
                await waiting.answered
        except TimeoutError:
            log.warning("Kafka left %d records unacknowledged", waiting.left)
        return waiting.failed

    def topics(self, timeout: float) -> set[str]:
        """The topics that the broker names, without the prefix; KafkaException where it does not answer in time (s)."""
        names = self._producer.list_topics(timeout=timeout).topics
        return {name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)}

    def close(self, timeout: float) -> int:
        """Wait up to ``timeout`` seconds for what is outstanding; the number of records that were given up."""
        self._until = time.monotonic() + timeout
        self._thread.join(timeout + 1)
        return len(self._producer)
