"""A record of a deliveries topic on its way through a worker, and the partition that it came from."""

from __future__ import annotations

import asyncio

from connectors.adapters.offsets import Offsets


class Partition:
    """One assignment of one partition: a partition that comes back later is another one.

    ``abandoned`` is set when the partition is given up: what only waits then must stop waiting.
    """

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.offsets = Offsets()
        self.committed: int | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.abandoned = asyncio.Event()

    async def pause(self, milliseconds: int) -> bool:
        """Wait; True at once when the partition is abandoned."""
        try:
            async with asyncio.timeout(milliseconds / 1000):
                await self.abandoned.wait()
        except TimeoutError:
            return False
        return True


class Record:
    """One record. ``name`` is the delivery's id, once it is known."""

    __slots__ = ("assignment", "key", "name", "offset", "value")

    def __init__(self, assignment: Partition, offset: int, key: bytes | None, value: bytes | None) -> None:
        self.assignment = assignment
        self.offset = offset
        self.key = key
        self.value = value
        self.name = ""

    @property
    def topic(self) -> str:
        """The topic's name, prefix included."""
        return self.assignment.topic

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self.assignment.number
