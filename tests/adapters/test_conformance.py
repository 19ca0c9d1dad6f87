"""What every channel has to do: real Kafka, real Redis, a real worker process, the provider's side as it really is."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

from confluent_kafka import Producer
from msgspec.structs import replace

from messages.codec import encode_json
from messages.topics import PARTITIONER, RejectedHeaders, deliveries
from messages.words import user_key
from tests.adapters.harness import SECRET_TOKEN, Line, now_millis
from tests.waiting import until


def test_delivered_once_and_its_outcome_recorded(line: Line) -> None:
    line.worker()
    item = line.delivery(
        tenant="acme", user="ann/1", event_id="e-7", source="shop", category="orders", campaign="spring", lane="background"
    )
    line.send(item)
    outcome = line.outcome(item.id)
    assert line.received() == {item.id: 1}
    assert (outcome.status, outcome.attempts, outcome.repeat, outcome.ambiguous) == ("accepted", 1, False, 0)
    for field in ("tenant", "user", "event_id", "source", "category", "lane", "channel", "provider", "campaign"):
        assert getattr(outcome, field) == getattr(item, field), field
    assert (outcome.endpoint_id, outcome.traceparent) == (item.endpoint.id, item.traceparent)
    assert item.arrived_at == outcome.arrived_at <= outcome.at <= now_millis()
    record = line.topic("outcomes").records()[0]
    assert record.key == b"acme/ann/1"


def test_many_users_on_both_lanes_each_once(line: Line) -> None:
    line.worker()
    items = [line.delivery(lane="urgent" if number % 3 == 0 else "background") for number in range(300)]
    line.send(*items)
    ended = line.all_ended(item.id for item in items)
    assert {tuple(outcome.status for outcome in outcomes) for outcomes in ended.values()} == {("accepted",)}
    assert line.received() == Counter({item.id: 1 for item in items})
    for lane in ("urgent", "background"):
        until(lambda lane=lane: line.committed(lane) == line.ends(lane), 20, f"all of {lane} is committed")  # type: ignore[misc]


def test_an_outcome_shares_its_users_partition_with_the_delivery(line: Line) -> None:
    line.worker()
    items = [line.delivery(user=f"user-{number}") for number in range(40)]
    line.send(*items)
    line.all_ended(item.id for item in items)
    name = deliveries(line.provider, "urgent")
    asked = {record.key: record.partition for record in line.topic(name).records()}
    assert {record.key: record.partition for record in line.topic("outcomes").records()} == asked
    assert set(asked.values()) == {0, 1}


def test_expired_is_never_sent(line: Line) -> None:
    late = [line.delivery(expires_at=now_millis() - 1), line.delivery(expires_at=1)]
    good = line.delivery(expires_at=now_millis() + 600_000)
    line.send(*late, good)
    line.worker()
    ended = line.all_ended(item.id for item in (*late, good))
    assert {ended[item.id][0].status for item in late} == {"expired"}
    assert ended[late[0].id][0].attempts == 0
    assert ended[good.id][0].status == "accepted"
    assert line.received() == {good.id: 1}


def test_a_repeated_record_is_one_send_and_a_marked_outcome(line: Line) -> None:
    line.worker()
    item, other = line.delivery(), line.delivery()
    line.send(item, item)
    first = until(lambda: len(line.outcomes(item.id)) == 2 and line.outcomes(item.id), 20)
    line.send(item, other)
    again = until(lambda: len(line.outcomes(item.id)) == 3 and line.outcomes(item.id), 20)
    line.outcome(other.id)
    assert [outcome.repeat for outcome in (*first, again[2])] == [False, True, True]
    assert {outcome.status for outcome in again} == {"accepted"}
    assert line.received() == {item.id: 1, other.id: 1}
    if line.emulator is not None:
        assert len({outcome.provider_message_id for outcome in again}) == 1
        assert line.emulator.stats()["duplicates"] == 0


def test_what_cannot_be_built_is_rejected_and_not_sent(line: Line) -> None:
    line.worker()
    empty, good = line.delivery(content=None), line.delivery()
    line.send(empty, good)
    outcome = line.outcome(empty.id)
    assert (outcome.status, outcome.error) == ("rejected", "no_content")
    line.outcome(good.id)
    assert line.received() == {good.id: 1}


def test_a_template_is_delivered_by_its_name(line: Line) -> None:
    line.worker()
    item = line.delivery(content=None, template="otp", params={"code": 1234})
    line.send(item)
    assert line.outcome(item.id).status == "accepted"
    assert line.received() == {item.id: 1}


def test_undecodable_records_are_set_aside_and_the_rest_goes_on(line: Line) -> None:
    """Each way in which bytes are no delivery, with the place of the mistake; the original bytes are kept."""
    good = line.delivery()
    foreign = replace(good, provider="twilio", channel="sms")
    broken: dict[bytes | None, str] = {
        b"\xff\xfe": "$",
        b"{}": "$",
        encode_json(good) + b"x": "$",
        b'{"id": 5}': "$.id",
        encode_json(good).replace(b'"lane":"urgent"', b'"lane":"slow"'): "$.lane",
        encode_json(foreign): "$.provider",
        None: "$",
    }
    for value in broken:
        line.send_raw(value, "default/somebody")
    line.send(good)
    line.worker()
    assert line.outcome(good.id).status == "accepted"
    rejected = until(lambda: len(line.rejected()) == len(broken) and line.rejected(), 20)
    found: dict[bytes, dict[str, str]] = {
        record.value: {name: value.decode() for name, value in record.headers} for record in rejected
    }
    assert {value: headers[RejectedHeaders.PATH] for value, headers in found.items()} == {
        value or b"": path for value, path in broken.items()
    }
    topic = line.kafka.prefix + deliveries(line.provider, "urgent")
    for headers in found.values():
        assert headers[RejectedHeaders.STAGE] == "deliver"
        assert headers[RejectedHeaders.TOPIC] == topic
        assert headers[RejectedHeaders.KEY] == "default/somebody"
        assert headers[RejectedHeaders.DETAIL]
    positions = [(headers[RejectedHeaders.PARTITION], headers[RejectedHeaders.OFFSET]) for headers in found.values()]
    assert len(set(positions)) == len(broken)
    until(lambda: line.committed() == line.ends(), 20, "the broken ones are committed too")


def test_a_field_added_by_a_newer_version_does_no_harm(line: Line) -> None:
    line.worker()
    item = line.delivery()
    line.send_raw(encode_json(item)[:-1] + b',"added_later":{"x":1}}', "default/u")
    assert line.outcome(item.id).status == "accepted"


def test_what_a_transaction_takes_back_is_never_sent(line: Line) -> None:
    line.worker()
    aborted, committed, plain = line.delivery(), line.delivery(), line.delivery()
    producer = Producer(
        {
            "bootstrap.servers": line.kafka.bootstrap,
            "partitioner": PARTITIONER,
            "transactional.id": f"{line.kafka.prefix}test",
        }
    )
    producer.init_transactions(20)
    topic = line.kafka.prefix + deliveries(line.provider, "urgent")
    for item, end in ((aborted, producer.abort_transaction), (committed, producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(topic, key=user_key(item.tenant, item.user), value=encode_json(item))
        producer.flush(20)
        end(20)
    line.send(plain)
    line.all_ended([committed.id, plain.id])
    assert line.received() == {committed.id: 1, plain.id: 1}
    assert not line.outcomes(aborted.id)


def test_sigterm_ends_in_order_and_the_next_worker_repeats_nothing(line: Line) -> None:
    line.slow(100)
    first = line.worker()
    before = [line.delivery() for _ in range(50)]
    line.send(*before)
    line.all_ended(item.id for item in before)
    many = [line.delivery(lane="background") for _ in range(2_000)]
    line.send(*many)
    until(lambda: len(line.received()) > len(before) + 100, 30, "the worker is in the middle of it")
    assert first.terminate() == 0
    line.worker()
    ended = line.all_ended(item.id for item in many)
    assert {len(outcomes) for outcomes in ended.values()} == {1}
    assert {outcomes[0].status for outcomes in ended.values()} == {"accepted"}
    assert not [outcome for outcome in line.outcomes() if outcome.repeat]
    assert line.received() == Counter({item.id: 1 for item in (*before, *many)})
    # The second worker, which goes on, may have written a summary too.
    (last,) = [counts for counts in line.events("counts") if "unacknowledged" in counts]
    assert last["unacknowledged"] == 0


def test_a_restart_of_redis_loses_and_doubles_nothing(line: Line, redis_server: Any) -> None:
    line.slow(200)
    line.worker()
    items = [line.delivery(lane="background") for _ in range(1_500)]
    line.send(*items[:700])
    until(lambda: len(line.received()) > 100, 30)
    redis_server.stack.restart("redis")
    line.send(*items[700:])
    ended = line.all_ended(item.id for item in items)
    assert {outcomes[0].status for outcomes in ended.values()} == {"accepted"}
    assert line.received() == Counter({item.id: 1 for item in items})


def test_nothing_is_sent_while_redis_is_away(line: Line, redis_server: Any) -> None:
    line.worker()
    first, second = line.delivery(), line.delivery()
    line.send(first)
    line.outcome(first.id)
    pid = int(line.redis.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        line.send(second)
        waiting = "redis" if line.emulator is not None else "counts"
        until(lambda: line.events(waiting), 30, "the worker has noticed")
        assert not line.outcomes(second.id)
        if line.emulator is not None:
            assert line.received() == {first.id: 1}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert line.outcome(second.id, 40).status == "accepted"
    assert line.received() == {first.id: 1, second.id: 1}


def test_a_restart_of_the_broker_loses_and_doubles_nothing(line: Line, kafka: Any) -> None:
    line.slow(200)
    line.worker()
    items = [line.delivery(lane="background") for _ in range(1_500)]
    line.send(*items[:700])
    until(lambda: len(line.received()) > 100, 30)
    kafka.stack.restart("kafka")
    line.send(*items[700:])
    ended = line.all_ended((item.id for item in items), 90)
    assert {outcomes[0].status for outcomes in ended.values()} == {"accepted"}
    assert line.received() == Counter({item.id: 1 for item in items})
    until(lambda: line.committed("background") == line.ends("background"), 30, "all is committed")


def test_two_workers_share_and_hand_over_without_a_repeat(line: Line) -> None:
    """A second worker joins in the middle, then the first leaves: partitions move twice."""
    # Long, so that a worker that a busy machine holds up is not taken for dead: this is about orderly moves.
    line.adapters = replace(line.adapters, session_timeout=30_000)
    line.slow(100)
    first = line.worker()
    items = [line.delivery(lane="background") for _ in range(3_000)]
    line.send(*items[:1_500])
    until(lambda: len(line.received()) > 50, 30)
    line.worker()
    line.send(*items[1_500:])
    until(lambda: len(line.received()) > 1_600, 60)
    assert first.terminate() == 0
    ended = line.all_ended(item.id for item in items)
    assert {outcomes[0].status for outcomes in ended.values()} == {"accepted"}
    assert {len(outcomes) for outcomes in ended.values()} == {1}, line.logs()
    assert line.received() == Counter({item.id: 1 for item in items})


def test_logs_and_outcomes_show_no_address_and_no_key(line: Line) -> None:
    worker = line.worker()
    items = [line.delivery(), line.delivery(content=None), line.delivery(expires_at=1)]
    line.send(*items)
    line.send_raw(b'{"endpoint": "' + SECRET_TOKEN.encode() + b'"}', "default/x")
    line.all_ended(item.id for item in items)
    until(line.rejected, 20)
    worker.terminate()
    text = line.logs() + "".join(record.value.decode() for record in line.topic("outcomes").records())
    for secret in (SECRET_TOKEN, "PRIVATE KEY", "emulated.", "Bearer", "assertion", "Hello", "World"):
        assert secret not in text, secret
