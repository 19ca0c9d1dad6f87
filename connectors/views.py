"""Keeps the Redis views: reads profiles, decisions and outcomes as committed, and writes them in batches.

Run as ``python -m connectors.views``. Offsets are committed after Redis has the writes; what is written again after a
death in between changes nothing. ``--rebuild`` reads the topics from their beginning, for a Redis that lost its data.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from redis import exceptions

from connectors.settings import Settings, SettingsError, load_settings
from connectors.view_store import Command, ViewWriter
from messages.codec import DecodeError
from messages.topics import DECISIONS, OUTCOMES, PROFILES

log = logging.getLogger(__name__)

GROUP = "views"
BATCH = 1_000
"""The most records of one pipeline."""

_WAIT = 0.2
_RETRY = 0.5
_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    OSError,
)


class Views:
    """One consumer of the group; several share the partitions. ``stopping`` ends ``run`` after the batch under way."""

    def __init__(self, settings: Settings, stopping: threading.Event, *, rebuild: bool = False) -> None:
        self._stopping = stopping
        self._rebuild = rebuild
        self._prefix = settings.kafka.prefix
        self._writer = ViewWriter(settings.kafka, settings.views)
        self._redis = redis.Redis.from_url(settings.redis.url, socket_timeout=10, socket_connect_timeout=5)
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka.bootstrap,
                "client.id": "herald-views",
                "group.id": f"{self._prefix}{GROUP}",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                # After a kill the partitions are given away again within this time.
                "session.timeout.ms": 10_000,
                "queued.max.messages.kbytes": 16_384,
                "reconnect.backoff.max.ms": 1_000,
                "error_cb": lambda error: log.warning("Kafka: %s", error),
                "on_commit": _committed,
            },
            logger=logging.getLogger("kafka.consumer"),
        )

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Consume until ``stopping``; ``ready`` is called once, when partitions are assigned and Redis answers.

        While Redis is away the batch under way is tried again and nothing else is read; while Kafka is away the
        client reconnects by itself.
        """
        assigned = threading.Event()

        def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if self._rebuild:
                for partition in partitions:
                    partition.offset = OFFSET_BEGINNING
                consumer.assign(partitions)
            assigned.set()

        self._consumer.subscribe([self._prefix + topic for topic in (PROFILES, DECISIONS, OUTCOMES)], on_assign=on_assign)
        try:
            told = False
            while not self._stopping.is_set():
                messages = self._consumer.consume(BATCH, _WAIT)
                if not told and assigned.is_set() and self._write([("PING",)]):
                    ready()
                    told = True
                if messages and self._write(list(filter(None, map(self._command, messages)))):
                    self._commit()
        finally:
            # Waits for the commits under way.
            self._consumer.close()
            self._redis.close()

    def _command(self, message: Message) -> Command | None:
        """What a record asks of Redis; None, and a line in the log, for one that cannot be used."""
        error, topic, key, value = message.error(), message.topic(), message.key(), message.value()
        if error is not None:
            log.warning("Kafka: %s", error)
            return None
        name = str(topic).removeprefix(self._prefix)
        try:
            if name == OUTCOMES and value is not None:
                return self._writer.outcome(value)
            if name == PROFILES and key is not None:
                return self._writer.profile(key, value)
            if name == DECISIONS and key is not None and value is not None:
                return self._writer.decision(key, value)
            problem = "no key or no value"
        except DecodeError as wrong:
            problem = str(wrong)
        log.error("%s/%s/%s is not shown: %s", topic, message.partition(), message.offset(), problem)
        return None

    def _write(self, commands: list[Command]) -> bool:
        """Whether Redis has all of ``commands``; False only when stopping. A command that Redis refuses is logged."""
        while not self._stopping.is_set():
            try:
                pipeline = self._redis.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
                results = pipeline.execute(raise_on_error=False)
                passing = next((result for result in results if isinstance(result, _PASSING)), None)
                if passing is not None:
                    raise passing
            except _PASSING as error:
                log.warning("Redis: %s; trying again", error)
                self._stopping.wait(_RETRY)
                continue
            for command, result in zip(commands, results, strict=True):
                if isinstance(result, exceptions.RedisError):
                    log.error("Redis refuses %r %r: %s", command[0], command[1], result)
            return True
        return False

    def _commit(self) -> None:
        try:
            self._consumer.commit(asynchronous=True)
        except KafkaException as error:
            # The next commit covers it; until then a restart would only write the same again.
            log.warning("offsets are not committed: %s", error)


def _committed(error: KafkaError | None, partitions: list[TopicPartition]) -> None:
    if error is not None and error.code() != KafkaError._NO_OFFSET:
        log.warning("offsets are not committed: %s", error)


def main() -> None:
    """Keep the views until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m connectors.views", description="Keeps the Redis views.")
    parser.add_argument("--config", type=Path, help="settings file; default: HERALD_CONFIG, else the packaged one")
    parser.add_argument("--ready-file", type=Path, help="written when the views follow the topics")
    parser.add_argument("--rebuild", action="store_true", help="read the topics from their beginning")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings(arguments.config)
    except SettingsError as error:
        sys.exit(f"error: {error}")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    views = Views(settings, stopping, rebuild=arguments.rebuild)
    views.run(ready=arguments.ready_file.touch if arguments.ready_file else lambda: None)


if __name__ == "__main__":
    main()
