"""A pause reaches deliveries that are queued already: they are held with their bytes, and sent once after a release."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Producer
from msgspec.structs import replace

from connectors.policy_log import publish
from messages.codec import encode_json
from messages.delivery import Delivery
from messages.policy import Pause
from messages.topics import PARTITIONER, POLICIES, QUARANTINED, deliveries
from messages.words import user_key
from tests.adapters.harness import Line
from tests.waiting import until


def pause(line: Line, scope: Any, name: str) -> Pause:
    document = Pause(scope=scope, name=name)
    publish(line.kafka, document.key, encode_json(document))
    return document


def resume(line: Line, document: Pause) -> None:
    publish(line.kafka, document.key, None)


def held(line: Line) -> list[Any]:
    return line.topic(QUARANTINED).records()


def put_back(line: Line, records: list[Any]) -> None:
    """What a release does."""
    producer = Producer({"bootstrap.servers": line.kafka.bootstrap, "partitioner": PARTITIONER})
    for record in records:
        headers = {name: value.decode() for name, value in record.headers}
        producer.produce(headers["source_topic"], key=record.key, value=record.value, headers={"released": b"1"})
    assert producer.flush(30) == 0


def committed(line: Line, lane: str = "urgent") -> bool:
    return line.committed(lane) == line.ends(lane)


def sent_after_release(line: Line, probe: dict[str, Any]) -> None:
    """Wait until the worker has seen that nothing like ``probe`` is paused any more."""

    def sent() -> bool:
        item = line.delivery(**probe)
        line.send(item)
        until(lambda: line.outcomes(item.id) or any(item.id.encode() in record.value for record in held(line)))
        return bool(line.outcomes(item.id))

    until(sent, what="the pause is lifted")


@pytest.mark.parametrize("scope", ["source", "category", "campaign"])
def test_what_is_paused_is_held_and_the_rest_is_sent(line: Line, scope: str) -> None:
    document = pause(line, scope, "stopped")
    stopped = [
        line.delivery(**{scope: "stopped"}, lane=lane, category_class=kind)
        for lane in ("urgent", "background")
        for kind in ("critical", "marketing")
    ]
    free = line.delivery(source="a", category="b", campaign="c")
    line.send(*stopped, free)
    line.worker()
    assert line.outcome(free.id).status == "accepted"
    until(lambda: len(held(line)) == len(stopped) and committed(line) and committed(line, "background"))
    assert line.received() == {free.id: 1}
    assert len(line.outcomes()) == 1

    by_value = {record.value: record for record in held(line)}
    assert by_value.keys() == {encode_json(item) for item in stopped}
    for item in stopped:
        record = by_value[encode_json(item)]
        headers = {name: value.decode() for name, value in record.headers}
        key = user_key(item.tenant, item.user)
        assert record.key == key.encode()
        assert int(headers.pop("source_offset")) >= 0
        assert headers.pop("source_partition") in ("0", "1")
        assert headers == {
            "stage": "deliver",
            "reason": "paused",
            "path": f"$.{scope}",
            "detail": f"the {scope} `stopped` is paused",
            "source_topic": line.kafka.prefix + deliveries(line.provider, item.lane),
            "source_key": key,
        }

    records = held(line)[:]
    resume(line, document)
    sent_after_release(line, {scope: "stopped"})
    # Twice, as by a release that was killed before it had noted what it did.
    put_back(line, records)
    put_back(line, records)
    ended = line.all_ended(item.id for item in stopped)
    assert {outcome.status for outcomes in ended.values() for outcome in outcomes} == {"accepted"}
    until(lambda: committed(line) and committed(line, "background"))
    assert all(line.received()[item.id] == 1 for item in stopped)


def test_a_pause_that_comes_while_they_flow_stops_them(line: Line) -> None:
    line.worker()
    first = line.delivery(category="news")
    line.send(first)
    assert line.outcome(first.id).status == "accepted"
    pause(line, "category", "news")
    sent: list[Delivery] = []

    def stops() -> bool:
        sent.append(line.delivery(category="news"))
        line.send(sent[-1])
        until(lambda: line.outcomes(sent[-1].id) or any(sent[-1].id.encode() in record.value for record in held(line)))
        return not line.outcomes(sent[-1].id)

    until(stops)
    late = [line.delivery(category="news") for _ in range(50)]
    line.send(*late)
    until(lambda: len(held(line)) == 51 and committed(line))
    assert not line.received().keys() & {item.id for item in late}


def test_a_delivery_that_waits_for_its_next_attempt_is_held(fcm_line: Line) -> None:
    line = fcm_line
    assert line.emulator is not None
    waiting = line.delivery(category="news", address="busy")
    line.emulator.faults(tokens={"busy": ["UNAVAILABLE"]}, retry_after=6)
    line.worker()
    line.send(waiting)
    until(lambda: line.emulator and line.emulator.stats()["answers"], what="the first attempt")
    document = pause(line, "category", "news")
    until(lambda: held(line), what="it is held in place of the second attempt")
    until(lambda: committed(line))
    assert line.outcomes(waiting.id) == []

    resume(line, document)
    sent_after_release(line, {"category": "news"})
    put_back(line, held(line)[:1])
    outcome = line.outcome(waiting.id)
    assert (outcome.status, outcome.attempts) == ("accepted", 2)
    assert line.received()[waiting.id] == 1


def test_a_worker_killed_before_it_commits_loses_nothing(line: Line) -> None:
    line.adapters = replace(line.adapters, commit_interval=600_000)
    document = pause(line, "category", "news")
    items = [line.delivery(category="news") for _ in range(20)]
    worker = line.worker()
    line.send(*items)
    until(lambda: len(held(line)) == len(items))
    worker.kill()
    line.worker()
    until(lambda: len(held(line)) == 2 * len(items), what="read and held again")
    resume(line, document)
    sent_after_release(line, {"category": "news"})
    put_back(line, held(line)[: 2 * len(items)])
    line.all_ended(item.id for item in items)
    again = line.delivery()
    line.send(again)
    line.outcome(again.id)
    assert {line.received()[item.id] for item in items} == {1}


def test_a_worker_sends_nothing_before_it_knows_what_is_paused(line: Line) -> None:
    """More records on the policies topic than are read at once; the pause is the last of them."""
    producer = Producer({"bootstrap.servers": line.kafka.bootstrap, "partitioner": PARTITIONER})
    for number in range(20_000):
        document = Pause(scope="campaign", name=f"campaign-{number}")
        producer.produce(line.kafka.prefix + POLICIES, key=document.key, value=encode_json(document))
    assert producer.flush(30) == 0
    pause(line, "category", "news")
    items = [line.delivery(category="news") for _ in range(20)]
    line.send(*items)
    line.worker()
    until(lambda: len(held(line)) == len(items))
    assert line.received() == {}
