"""What a worker tells: one JSON line an event on stderr, and one of counts at intervals. No secret, no device's address."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from typing import Any

import msgspec

_LOGGER = "herald.adapter"

_encode = msgspec.json.Encoder().encode


class _Lines(logging.Formatter):
    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": int(record.created * 1000),
            "level": record.levelname.lower(),
            "worker": self._worker,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line).decode()


class _Rarely(logging.Filter):
    """Lets one line of each kind through in ``quiet`` seconds; the kind is librdkafka's facility, the first word."""

    def __init__(self, quiet: float) -> None:
        super().__init__()
        self._quiet = quiet
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.getMessage().partition(" ")[0]
        if record.created - self._said.get(kind, 0.0) < self._quiet:
            return False
        self._said[kind] = record.created
        return True


class Journal:
    """The lines and counts of one worker. ``quiet`` is how long (s) a repeated trouble is only counted.

    ``client_logger`` is for the Kafka clients' own messages.
    """

    def __init__(self, worker: str, quiet: float = 5.0) -> None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Lines(worker))
        self.logger = logging.getLogger(_LOGGER)
        self.logger.handlers = [handler]
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        self.client_logger = logging.getLogger(f"{_LOGGER}.kafka")
        self.client_logger.filters = [_Rarely(quiet)]
        self.counts: Counter[str] = Counter()
        self._quiet = quiet
        self._said: dict[str, tuple[float, int]] = {}

    def say(self, event: str, **fields: Any) -> None:
        """Something that happens rarely."""
        self.logger.info(event, extra={"fields": fields})

    def trouble(self, event: str, **fields: Any) -> None:
        """Something wrong that may repeat quickly: said at once, then at most every ``quiet`` seconds, with a count."""
        self.counts[event] += 1
        now = time.monotonic()
        said_at, unsaid = self._said.get(event, (-self._quiet, 0))
        if now - said_at < self._quiet:
            self._said[event] = (said_at, unsaid + 1)
            return
        self._said[event] = (now, 0)
        self.logger.warning(event, extra={"fields": {**fields, **({"since_last": unsaid} if unsaid else {})}})

    def bug(self, event: str, **fields: Any) -> None:
        """An exception that should not have been; called while it is handled."""
        self.logger.error(event, exc_info=True, extra={"fields": fields})

    def summary(self, **fields: Any) -> None:
        """The counts since the start, and ``fields``, in one line."""
        self.logger.info("counts", extra={"fields": {**fields, **self.counts}})
