"""The source guard at the gateway: an event that is not to pass now is held in the quarantine in place of its topic."""

from __future__ import annotations

import time

from connectors.gateway.answers import Refusal
from connectors.gateway.intake import Admitted, Record
from connectors.policy_feed import PolicyFeed
from messages.quarantine import EventHeaders, HoldReason, QuarantinedHeaders
from messages.topics import QUARANTINED
from policy.source_guard import SourceBucket, Verdict, judge_event

_MOST_BUCKETS = 10_000

_ADMITTED = ((EventHeaders.ADMITTED, b"1"),)


class EventGuard:
    """Judges events by the policies that ``feed`` has. ``workers`` processes share each source's rate evenly.

    Until the topic was read once everything passes: the expand step of the job, which remembers, judges it then. A lane has
    buckets of its own, as there. Past some thousand sources the one heard of the longest ago starts anew, full.
    """

    def __init__(self, feed: PolicyFeed, workers: int, prefix: str) -> None:
        self._feed = feed
        self._workers = workers
        self._prefix = prefix
        self._buckets: dict[tuple[str, str], SourceBucket] = {}

    def judge(self, admitted: Admitted) -> Admitted:
        """The event as it goes to Kafka: to its topic, or held whole. Refusal where its source may not use its category."""
        place = admitted.source, admitted.lane
        # Of a clock that nobody sets.
        now = time.monotonic_ns() // 1_000_000
        verdict = judge_event(
            self._feed.rules,
            admitted.source,
            admitted.category,
            admitted.campaign,
            self._buckets.get(place),
            now,
            self._workers,
        )
        if verdict.charged is not None:
            # The latest one charged is the last one forgotten.
            self._buckets.pop(place, None)
            self._buckets[place] = verdict.charged
            if len(self._buckets) > _MOST_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
        if verdict.ruling == "pass":
            if verdict.charged is None:
                return admitted
            return admitted._replace(records=[record._replace(headers=_ADMITTED) for record in admitted.records])
        if verdict.ruling == "category_not_allowed":
            raise Refusal(verdict.ruling, verdict.detail, verdict.path, id=admitted.id)
        records = [self._held(record, verdict.ruling, verdict) for record in admitted.records]
        return admitted._replace(records=records, held=verdict.ruling, detail=verdict.detail, path=verdict.path)

    def _held(self, record: Record, reason: HoldReason, verdict: Verdict) -> Record:
        headers = [
            (QuarantinedHeaders.STAGE, "gateway"),
            (QuarantinedHeaders.REASON, reason),
            (QuarantinedHeaders.PATH, verdict.path),
            (QuarantinedHeaders.DETAIL, verdict.detail),
            (QuarantinedHeaders.TOPIC, self._prefix + record.topic),
            (QuarantinedHeaders.PARTITION, "-1"),
            (QuarantinedHeaders.OFFSET, "-1"),
        ]
        if record.key is not None:
            headers.append((QuarantinedHeaders.KEY, record.key.decode()))
        return Record(QUARANTINED, record.key, record.value, tuple((name, value.encode()) for name, value in headers))
