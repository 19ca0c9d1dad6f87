"""Which offset of one partition may be committed: the lowest one that is not finished."""

from __future__ import annotations

from collections import deque


class Offsets:
    """The progress of one partition. Offsets are started in rising order, with gaps, and finished in any order.

    ``name`` is kept for a finished offset until everything below it is finished too.
    """

    def __init__(self) -> None:
        self._started: deque[int] = deque()
        self._finished: dict[int, str] = {}
        self._position: int | None = None

    def start(self, offset: int) -> None:
        """Note a record as begun. ValueError unless the offset is above every one before."""
        if self._position is not None and offset < self._position:
            raise ValueError(f"offset {offset} after position {self._position}")
        self._started.append(offset)
        self._position = offset + 1

    def finish(self, offset: int, name: str = "") -> None:
        """Note a begun record as done; once only."""
        self._finished[offset] = name
        while self._started and self._started[0] in self._finished:
            del self._finished[self._started.popleft()]

    @property
    def committable(self) -> int | None:
        """The offset to commit, in Kafka's sense the next one to read; None before the first record."""
        return self._started[0] if self._started else self._position

    @property
    def waiting(self) -> list[str]:
        """Names of the finished records that an unfinished one keeps from being committed."""
        return list(self._finished.values())

    def __len__(self) -> int:
        """How many records would be read again if the process died now and everything committable were committed."""
        return len(self._started)
