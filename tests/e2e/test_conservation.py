"""The balance finds what is lost, doubled, overdue or unaccounted for, each planted by hand."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from confluent_kafka import Producer

from connectors.conservation import MINUTE, OVERDUE, Ledger, Reader
from connectors.settings import KafkaSettings
from messages.topics import COUNTS, DECISIONS, PARTITIONER

NOW = 1_795_000_000_000
ORIGIN = "events.background/0/{}"


def count(offset: int, recipients: int, **more: object) -> bytes:
    return msgspec.json.encode({"origin": ORIGIN.format(offset), "recipients": recipients, "arrived_at": NOW} | more)


def decision(offset: int, user: str, outcome: str = "sent", step: int = 0, **more: object) -> bytes:
    record = {"tenant": "default", "user": user, "origin": ORIGIN.format(offset), "outcome": outcome, "step": step}
    return msgspec.json.encode(record | {"arrived_at": NOW} | more)


def rejected(offset: int, stage: str = "read") -> list[tuple[str, bytes]]:
    headers = {"stage": stage, "source_topic": "events.background", "source_partition": "0", "source_offset": str(offset)}
    return [(name, value.encode()) for name, value in headers.items()]


def balanced() -> Ledger:
    ledger = Ledger()
    ledger.count(count(1, 3))
    ledger.count(count(2, 0, unreadable=True))
    ledger.reject(rejected(2))
    ledger.reject(rejected(1, stage="decide"))
    ledger.decide(decision(1, "a"))
    ledger.decide(decision(1, "b", "suppressed", reason="opted_out"))
    ledger.decide(decision(1, "c", "deferred", reason="throttled", release_at=NOW + 10))
    return ledger


def test_what_is_complete_balances() -> None:
    report = balanced().report(NOW)
    assert report.difference == 0
    assert report.counted == 3
    assert report.pending == {"deferred": 1}
    assert report.outcomes == {"sent": {"none": 1}, "suppressed": {"opted_out": 1}, "deferred": {"throttled": 1}}


def test_a_release_moves_its_notification_and_a_child_is_outside() -> None:
    ledger = balanced()
    ledger.decide(decision(1, "c", "sent", step=1))
    ledger.decide(decision(1, "a", "deferred", child=True, reason="throttled", release_at=NOW))
    report = ledger.report(NOW + 10 * OVERDUE)
    assert (report.difference, report.pending) == (0, {})
    assert report.outcomes == {"sent": {"none": 2}, "suppressed": {"opted_out": 1}}


def test_a_lost_decision_raises_it() -> None:
    ledger = balanced()
    ledger.count(count(3, 1))
    assert ledger.report(NOW).difference == 1


def test_a_loss_beside_a_double_is_two_faults_not_none() -> None:
    ledger = balanced()
    ledger.count(count(3, 1))
    ledger.decide(decision(1, "a"))
    report = ledger.report(NOW)
    assert (report.doubled, report.difference) == (1, 2)


def test_losses_and_surplus_in_other_cohorts_do_not_cancel() -> None:
    ledger = balanced()
    ledger.count(count(3, 1))
    ledger.decide(decision(4, "a", arrived_at=NOW + 5 * MINUTE))
    assert ledger.report(NOW).difference == 2


def test_a_pending_one_that_is_never_released_raises_it() -> None:
    ledger = balanced()
    assert ledger.report(NOW + 10 + OVERDUE).difference == 0
    assert ledger.report(NOW + 11 + OVERDUE).difference == 1


@pytest.mark.parametrize("offset", [2, 7])
def test_an_unreadable_event_is_in_rejected_exactly_once(offset: int) -> None:
    ledger = balanced()
    ledger.reject(rejected(offset))
    assert ledger.report(NOW).difference == 1


def test_an_unreadable_event_missing_from_rejected_raises_it() -> None:
    ledger = balanced()
    ledger.count(count(9, 0, unreadable=True))
    assert ledger.report(NOW).difference == 1


def test_it_reads_committed_records_to_the_end_and_goes_on_from_there(topics: Callable[..., KafkaSettings]) -> None:
    settings = topics()
    producer = Producer(
        {"bootstrap.servers": settings.bootstrap, "partitioner": PARTITIONER, "transactional.id": settings.prefix}
    )
    producer.init_transactions(10)

    def write(records: list[tuple[str, str | None, bytes]], commit: bool) -> None:
        producer.begin_transaction()
        for topic, key, value in records:
            producer.produce(settings.prefix + topic, key=key, value=value)
        (producer.commit_transaction if commit else producer.abort_transaction)(10)

    write([(COUNTS, None, count(1, 2)), (DECISIONS, "default/a", decision(1, "a"))], commit=True)
    write([(DECISIONS, "default/b", decision(1, "b"))], commit=False)
    reader = Reader(settings)
    try:
        reader.read()
        assert reader.ledger.report(NOW).difference == 1
        write([(DECISIONS, "default/b", decision(1, "b"))], commit=True)
        reader.read()
        assert reader.ledger.report(NOW).difference == 0
        write([(COUNTS, None, count(5, 0, unreadable=True))], commit=True)
        reader.read()
        assert reader.ledger.report(NOW).difference == 1
    finally:
        reader.close()
