"""One lane of one provider: reads its topic, keeps a bounded number of deliveries in hand, commits what is finished.

Each lane has a consumer, a consumer group and a share of deliveries in hand of its own, so that a backlog of one never
takes a place, a connection's queue or a rebalance from the other. When the share is used up the lane pauses its
partitions and goes on polling: the group does not take it for dead, and the topic is the queue.

What if the process dies: offsets are committed only below the lowest delivery that is not finished, so everything
unfinished is read again, and so is what was finished above it or since the last commit; claims tell these apart.
When a partition is taken away, what is being sent is waited for, what only waits is given up, and what is finished is
committed before the next owner begins. A delivery that is cut off even so keeps its claim `sending`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.adapters.journal import Journal
from connectors.adapters.record import Partition, Record
from connectors.settings import AdapterSettings, KafkaSettings

T = TypeVar("T")

_POLL = 0.25
_FULL = 0.5
"""Seconds to wait for a place before the partitions are paused: shorter waits are not worth fetching anew for."""
_GATHER = 0.005
"""Seconds to wait for a few more places, so that a busy lane fetches by the batch."""

Handle = Callable[[Record], Awaitable[bool]]
"""Deals with a record; True when it is finished for good, False when it was given up and must be read again."""


class Lane:
    """``handle`` is called for every record, each in a task of its own; an exception from it ends the lane."""

    def __init__(
        self,
        name: str,
        topic: str,
        group: str,
        *,
        kafka: KafkaSettings,
        settings: AdapterSettings,
        handle: Handle,
        journal: Journal,
    ) -> None:
        self.name = name
        self.assigned = asyncio.Event()
        self.paused = False
        self._topic = kafka.prefix + topic
        self._settings = settings
        self._share = settings.in_flight[name]
        self._handle = handle
        self._journal = journal
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._in_hand = 0
        self._wanted = 1
        self._places = asyncio.Event()
        self._stopping = False
        self._failed: BaseException | None = None
        self._commit_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"lane-{name}")
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "group.id": kafka.prefix + group,
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "session.timeout.ms": settings.session_timeout,
                "heartbeat.interval.ms": settings.session_timeout // 5,
                # A small prefetch: what waits in this process is read again by the next owner.
                "queued.min.messages": 2_000,
                "queued.max.messages.kbytes": 8_192,
                "fetch.queue.backoff.ms": 20,
                "reconnect.backoff.max.ms": 2_000,
                "error_cb": lambda error: journal.trouble("kafka", code=error.name()),
                "on_commit": self._on_commit,
            },
            logger=journal.client_logger,
        )

    @property
    def in_hand(self) -> int:
        """How many deliveries are neither finished nor given up."""
        return self._in_hand

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping

    def waiting(self) -> list[str]:
        """Names of the deliveries that are finished and cannot be committed yet."""
        return [name for partition in self._partitions.values() for name in partition.offsets.waiting if name]

    def stop(self) -> None:
        """End ``run``: nothing more is fetched, what only waits is given up."""
        self._stopping = True
        for partition in self._partitions.values():
            partition.abandoned.set()
        self._places.set()

    async def run(self) -> None:
        """Work until ``stop``; raises what ``handle`` raised. The group is left in any case."""
        try:
            await self._in_thread(self._subscribe)
            while not self._stopping and self._failed is None:
                free = await self._free_places()
                for message in await self._in_thread(self._fetch, free, self._due()):
                    self._begin(message)
        finally:
            self.stop()
            await self._wind_up()
        if self._failed is not None:
            raise self._failed

    # On the event loop.

    async def _free_places(self) -> int:
        """How many records to fetch; 0 where the lane has to pause."""
        if any(len(partition.offsets) > self._settings.uncommitted for partition in self._partitions.values()):
            self._journal.trouble("held_back", lane=self.name, uncommitted=self._settings.uncommitted)
            await self._wait_for_places(self._share, _FULL)
            return 0
        many = max(1, self._share // 4)
        if self._share - self._in_hand < many:
            await self._wait_for_places(many, _GATHER)
        if self._share <= self._in_hand:
            await self._wait_for_places(1, _FULL)
        return max(self._share - self._in_hand, 0)

    async def _wait_for_places(self, number: int, seconds: float) -> None:
        if self._stopping:
            return
        self._wanted = number
        self._places.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._places.wait()
        except TimeoutError:
            return

    def _begin(self, message: Message) -> None:
        partition = self._partitions.get((str(message.topic()), int(message.partition() or 0)))
        if partition is None or partition.abandoned.is_set():
            return  # Fetched just before the partition was taken away: its next owner reads it.
        record = Record(partition, int(message.offset() or 0), message.key(), message.value())
        partition.offsets.start(record.offset)
        self._in_hand += 1
        task = self._loop.create_task(self._deal_with(record))
        partition.tasks.add(task)
        task.add_done_callback(partition.tasks.discard)

    async def _deal_with(self, record: Record) -> None:
        try:
            if await self._handle(record):
                record.assignment.offsets.finish(record.offset, record.name)
        except asyncio.CancelledError:
            self._journal.counts["cut_off"] += 1
        except BaseException as error:
            self._journal.bug("record_failed", topic=record.topic, partition=record.partition, offset=record.offset)
            self._failed = error
        finally:
            self._in_hand -= 1
            if self._share - self._in_hand >= self._wanted or self._failed is not None:
                self._places.set()

    def _due(self) -> list[TopicPartition]:
        """Offsets to commit, once an interval; they count as committed until Kafka says otherwise."""
        if self._loop.time() < self._commit_at:
            return []
        self._commit_at = self._loop.time() + self._settings.commit_interval / 1000
        due = [each for each in self._partitions.values() if each.offsets.committable != each.committed]
        for partition in due:
            partition.committed = partition.offsets.committable
        return self._positions(due)

    @staticmethod
    def _positions(partitions: Iterable[Partition]) -> list[TopicPartition]:
        """What may be committed, also what is thought to be: whether an earlier commit worked may not be known yet."""
        return [
            TopicPartition(partition.topic, partition.number, partition.offsets.committable)
            for partition in partitions
            if partition.offsets.committable is not None
        ]

    async def _wind_up(self) -> None:
        partitions = list(self._partitions.values())
        await self._end_tasks(partitions, self._settings.stop_within / 1000)
        await self._in_thread(self._commit, self._positions(partitions))
        await self._in_thread(self._consumer.close)
        self._thread.shutdown(wait=False)

    @staticmethod
    async def _end_tasks(partitions: list[Partition], seconds: float) -> None:
        for partition in partitions:
            partition.abandoned.set()
        tasks = {task for partition in partitions for task in partition.tasks}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _give_up(self, taken: list[TopicPartition]) -> list[TopicPartition]:
        """End the work on partitions that another worker gets next; what may be committed of them."""
        keys = [(each.topic, each.partition) for each in taken]
        partitions = [self._partitions[key] for key in keys if key in self._partitions]
        # Longer than one request takes, and much shorter than the group waits for a poll.
        await self._end_tasks(partitions, self._settings.request_timeout / 1000 + 5)
        for key in keys:
            self._partitions.pop(key, None)
        return self._positions(partitions)

    def _take_over(self, given: list[TopicPartition]) -> None:
        for each in given:
            self._partitions[each.topic, each.partition] = Partition(each.topic, each.partition)
        self.assigned.set()
        self._journal.say("assigned", lane=self.name, partitions=sorted(number for _, number in self._partitions))

    def _lose(self, lost: list[TopicPartition]) -> None:
        for each in lost:
            if partition := self._partitions.pop((each.topic, each.partition), None):
                partition.abandoned.set()
        self._journal.trouble("partitions_lost", lane=self.name)

    def _commit_failed(self, partitions: list[TopicPartition], error: KafkaError) -> None:
        self._journal.trouble("commit_failed", lane=self.name, code=error.name())
        for each in partitions:
            if partition := self._partitions.get((each.topic, each.partition)):
                partition.committed = None

    # On the lane's thread, which alone uses the consumer.

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._loop.run_in_executor(self._thread, partial(function, *arguments))

    def _subscribe(self) -> None:
        self._consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def _fetch(self, free: int, commits: list[TopicPartition]) -> list[Message]:
        """Commit, then read up to ``free`` records: wait for the first, take what is there of the others."""
        if commits:
            try:
                self._consumer.commit(offsets=commits, asynchronous=True)
            except KafkaException as error:
                self._loop.call_soon_threadsafe(self._commit_failed, commits, error.args[0])
        if (free <= 0) != self.paused:
            assignment = self._consumer.assignment()
            if self.paused:
                self._consumer.resume(assignment)
            else:
                self._consumer.pause(assignment)
            self.paused = not self.paused
        first = self._consumer.poll(0 if self.paused else _POLL)
        if first is None:
            return []
        more = self._consumer.consume(free - 1, 0) if free > 1 else []
        return [message for message in (first, *more) if self._readable(message)]

    def _readable(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.fatal():
            raise KafkaException(error)
        self._journal.trouble("kafka", code=error.name())
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            time.sleep(_POLL)
        return False

    def _commit(self, offsets: list[TopicPartition]) -> None:
        """Commit and wait for it; what cannot be committed is read again, and found accepted."""
        for last in (False, False, True) if offsets else ():
            try:
                self._consumer.commit(offsets=offsets, asynchronous=False)
                return
            except KafkaException as error:
                self._journal.trouble("commit_failed", lane=self.name, code=error.args[0].name())
                if not last:
                    time.sleep(_POLL)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        # A partition that was lost while it was paused comes back paused: librdkafka keeps that over assignments.
        (consumer.pause if self.paused else consumer.resume)(partitions)
        self._loop.call_soon_threadsafe(self._take_over, partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        giving_up = asyncio.run_coroutine_threadsafe(self._give_up(partitions), self._loop)
        self._commit(giving_up.result())
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._loop.call_soon_threadsafe(self._lose, partitions)
        consumer.incremental_unassign(partitions)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        if error is not None:
            self._loop.call_soon_threadsafe(self._commit_failed, partitions, error)
