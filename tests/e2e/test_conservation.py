"""The balance finds what is lost, doubled, overdue or unaccounted for, each planted by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import msgspec
import pytest
from confluent_kafka import Producer

from connectors.conservation import MINUTE, OVERDUE, Ledger, Reader
from connectors.settings import KafkaSettings
from messages.topics import COUNTS, DECISIONS, PARTITIONER, QUARANTINE_STATUS, QUARANTINED

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


def quarantined(offset: int, reason: str = "paused", stage: str = "read") -> list[tuple[str, bytes]]:
    return [*rejected(offset, stage), ("reason", reason.encode())]


def mark(status: str) -> bytes:
    return msgspec.json.encode({"v": 1, "status": status, "at": NOW})


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


@pytest.mark.parametrize("outcome", ["deferred", "parked", "collected", "escalating"])
def test_what_waits_is_pending_and_overdue_after_its_time(outcome: str) -> None:
    ledger = balanced()
    ledger.count(count(3, 1))
    ledger.decide(decision(3, "a", outcome, release_at=NOW + OVERDUE))
    report = ledger.report(NOW)
    assert (report.difference, report.pending[outcome]) == (0, 2 if outcome == "deferred" else 1)
    assert ledger.report(NOW + 2 * OVERDUE + 1).overdue == 2
    ledger.decide(decision(3, "a", step=1))
    assert ledger.report(NOW).outcomes["sent"] == {"none": 2}


def test_what_is_held_whole_is_counted_as_quarantined_by_its_reason() -> None:
    ledger = balanced()
    ledger.count(count(3, 5, quarantined=True))
    ledger.count(count(4, 2, quarantined=True, arrived_at=NOW + MINUTE, campaign="spring"))
    ledger.hold("0/7", quarantined(3))
    ledger.hold("0/8", quarantined(4, "source_quarantined"))
    # What the gateway or an adapter holds is in no cohort.
    ledger.hold("0/9", quarantined(-1, stage="gateway"))
    ledger.hold("0/10", quarantined(5, stage="deliver"))
    report = ledger.report(NOW)
    assert (report.difference, report.counted) == (0, 10)
    assert report.outcomes["quarantined"] == {"paused": 5, "source_quarantined": 2}
    (spring,) = [cohort for cohort in report.cohorts if cohort.campaign == "spring"]
    assert (spring.counted, spring.outcomes) == (2, {"quarantined": {"source_quarantined": 2}})


def test_a_held_event_that_is_not_in_the_quarantine_raises_it() -> None:
    ledger = balanced()
    ledger.count(count(3, 5, quarantined=True))
    ledger.count(count(4, 2, quarantined=True))
    ledger.hold("0/7", quarantined(4))
    assert ledger.report(NOW).difference == 5


def test_a_held_event_that_is_decided_all_the_same_raises_it() -> None:
    ledger = balanced()
    ledger.count(count(3, 1, quarantined=True))
    ledger.hold("0/7", quarantined(3))
    ledger.decide(decision(3, "a"))
    assert ledger.report(NOW).difference == 1


def test_a_held_event_in_the_quarantine_or_in_the_counts_twice_raises_it() -> None:
    for double in (
        lambda ledger: ledger.hold("0/8", quarantined(3)),
        lambda ledger: ledger.count(count(3, 5, quarantined=True)),
    ):
        ledger = balanced()
        ledger.count(count(3, 5, quarantined=True))
        ledger.hold("0/7", quarantined(3))
        assert ledger.report(NOW).difference == 0
        double(ledger)
        assert ledger.report(NOW).difference > 0


HELD_AND_RELEASED: dict[str, Callable[[Ledger], None]] = {
    "counted": lambda ledger: ledger.count(count(3, 5, quarantined=True)),
    "held": lambda ledger: ledger.hold("0/7", quarantined(3)),
    "released": lambda ledger: ledger.mark("0/7", mark("released")),
}


@pytest.mark.parametrize("order", list(permutations(HELD_AND_RELEASED)))
def test_what_was_released_is_counted_where_it_arrives_anew(order: tuple[str, ...]) -> None:
    ledger = balanced()
    for step in (*order, "released"):
        HELD_AND_RELEASED[step](ledger)
    ledger.count(count(9, 5, arrived_at=NOW + 3 * MINUTE))
    assert ledger.report(NOW).difference == 5
    for user in "abcde":
        ledger.decide(decision(9, user, arrived_at=NOW + 3 * MINUTE))
    report = ledger.report(NOW)
    assert (report.difference, report.counted) == (0, 8)
    assert "quarantined" not in report.outcomes


def test_what_was_discarded_stays_in_the_account() -> None:
    ledger = balanced()
    ledger.count(count(3, 5, quarantined=True))
    ledger.hold("0/7", quarantined(3))
    ledger.mark("0/7", mark("discarded"))
    report = ledger.report(NOW)
    assert (report.difference, report.outcomes["quarantined"]) == (0, {"paused": 5})


def test_what_is_held_longer_than_counts_are_kept_is_no_fault() -> None:
    ledger = balanced()
    ledger.hold("0/7", quarantined(3))
    assert ledger.report(NOW).difference == 0
    ledger.mark("0/7", mark("released"))
    assert ledger.report(NOW).difference == 0


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

    def write(
        records: list[tuple[str, str | None, bytes]], commit: bool, headers: list[tuple[str, bytes]] | None = None
    ) -> None:
        producer.begin_transaction()
        for topic, key, value in records:
            producer.produce(settings.prefix + topic, key=key, value=value, headers=headers or [])
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

        write([(COUNTS, None, count(6, 4, quarantined=True))], commit=True)
        reader.read()
        assert reader.ledger.report(NOW).difference == 5
        write([(QUARANTINED, "default/a", b"its bytes")], commit=True, headers=quarantined(6))
        reader.read()
        assert reader.ledger.report(NOW).difference == 1
        assert reader.ledger.report(NOW).outcomes["quarantined"] == {"paused": 4}
        write([(QUARANTINE_STATUS, "0/0", mark("released"))], commit=True)
        reader.read()
        assert reader.ledger.report(NOW).difference == 1
        assert "quarantined" not in reader.ledger.report(NOW).outcomes
    finally:
        reader.close()
