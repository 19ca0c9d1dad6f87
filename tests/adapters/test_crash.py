"""kill -9 and worse, under load: counted at the provider, not by the worker itself."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import redis

from messages.delivery import Outcome
from tests.adapters.harness import FcmEmulator, Line
from tests.waiting import until

KILLS = 3


def check(line: Line, ended: dict[str, list[Outcome]], critical: set[str], kills: int) -> None:
    """Lost 0; duplicates 0 but for critical ones; what is unknown or repeated was in flight at a kill, and is recorded."""
    received = line.received()
    unknown = {identity for identity, outcomes in ended.items() if outcomes[-1].status == "unknown"}
    twice = {identity for identity, count in received.items() if count > 1}
    for identity, outcomes in ended.items():
        statuses = [outcome.status for outcome in outcomes]
        assert len(set(statuses)) == 1, f"{identity} ended as {statuses}"
        assert statuses[0] in ("accepted", "unknown"), statuses
        assert [outcome.repeat for outcome in outcomes] == [False, *[True] * (len(outcomes) - 1)] or outcomes[0].repeat
    assert not ended.keys() - received.keys() - unknown, "lost"
    assert twice <= critical, "duplicates"
    assert not unknown & critical, "critical is sent again"
    assert all(ended[identity][0].ambiguous > 0 for identity in twice | unknown), "every one is recorded"
    in_flight = sum(line.adapters.in_flight.values())
    assert len(unknown) + sum(count - 1 for count in received.values()) <= kills * in_flight


def test_killed_again_and_again_under_load(line: Line) -> None:
    generator = random.Random(7)
    line.slow(100)
    worker = line.worker()
    items = [line.delivery(lane="background") for _ in range(2_500)]
    items += [line.delivery(category_class="critical") for _ in range(500)]
    generator.shuffle(items)
    part = len(items) // (KILLS + 1)
    done = 0
    for number in range(KILLS):
        line.send(*items[number * part : (number + 1) * part])
        done += generator.randint(part // 10, part // 2)
        until(lambda done=done: len(line.received()) >= done, 60)  # type: ignore[misc]
        worker.kill()
        worker = line.worker()
    line.send(*items[KILLS * part :])
    ended = line.all_ended((item.id for item in items), 120)
    for lane in ("urgent", "background"):
        until(lambda lane=lane: line.committed(lane) == line.ends(lane), 30)  # type: ignore[misc]
    critical = {item.id for item in items if item.category_class == "critical"}
    check(line, ended, critical, KILLS)
    if line.emulator is not None:
        stats = line.emulator.stats()
        assert stats["duplicates"] == 0, "what came twice replaced itself on the device"
        assert sum(outcomes[0].ambiguous for outcomes in ended.values()) > 0, "a kill hit nothing: the test is too tame"
    else:
        assert line.received() == Counter({item.id: 1 for item in items})


def test_a_worker_that_was_only_asleep_doubles_nothing(fcm_line: Line, fcm: FcmEmulator) -> None:
    """Suspended until the group gave its partitions away, then awake again with its requests and claims of old."""
    line = fcm_line
    line.slow(300)
    sleeper = line.worker()
    items = [line.delivery(lane="background") for _ in range(600)]
    line.send(*items)
    until(lambda: fcm.stats()["accepted"] > 100, 30)
    sleeper.suspend()
    line.worker()
    ended = line.all_ended((item.id for item in items), 60)
    sleeper.resume()
    more = [line.delivery(lane="background") for _ in range(50)]
    line.send(*more)
    ended |= line.all_ended(item.id for item in more)
    until(lambda: line.committed("background") == line.ends("background"), 30)
    assert sleeper.terminate() == 0
    received = line.received()
    assert max(received.values()) == 1
    statuses = {identity: {outcome.status for outcome in line.outcomes(identity)} for identity in ended}
    missing = ended.keys() - received.keys()
    assert {status for identity in missing for status in statuses[identity]} <= {"unknown"}
    unknown = [identity for identity, found in statuses.items() if "unknown" in found]
    assert 0 < len(unknown) <= line.adapters.in_flight["background"]


def claim_of(line: Line, identity: str) -> dict[str, Any]:
    raw = line.redis.get(f"herald:{line.kafka.prefix}claim:{identity}")
    assert isinstance(raw, bytes)
    found: dict[str, Any] = json.loads(raw)
    return found


def test_each_step_at_which_a_worker_may_die(fcm_line: Line, fcm: FcmEmulator) -> None:
    """The claim as each step leaves it, and what the next worker makes of the same record."""
    line = fcm_line
    cases: dict[str, tuple[dict[str, Any] | None, bool, tuple[str, bool, int, int], int]] = {
        # name: (claim, critical, (status, repeat, attempts, ambiguous), sends)
        "before the claim": (None, False, ("accepted", False, 1, 0), 1),
        "claimed or sent": ({"state": "sending"}, False, ("unknown", False, 1, 1), 0),
        "claimed or sent, critical": ({"state": "sending"}, True, ("accepted", False, 2, 1), 1),
        "waiting for another attempt": ({"state": "released", "attempts": 2}, False, ("accepted", False, 3, 0), 1),
        "critical, waiting after no answer": (
            {"state": "sending", "attempts": 1, "ambiguous": 1},
            True,
            ("accepted", False, 3, 2),
            1,
        ),
        "accepted, not reported": (
            {"state": "accepted", "attempts": 1, "status": "accepted", "provider_message_id": "m-1", "status_code": 200},
            False,
            ("accepted", True, 1, 0),
            0,
        ),
        "dead, not reported": (
            {"state": "released", "attempts": 1, "status": "dead", "error": "UNREGISTERED", "retire": True},
            False,
            ("dead", True, 1, 0),
            0,
        ),
        "unknown, not reported": (
            {"state": "sending", "attempts": 1, "ambiguous": 1, "status": "unknown"},
            False,
            ("unknown", True, 1, 1),
            0,
        ),
        "failed, not reported": ({"state": "released", "attempts": 4, "status": "failed"}, False, ("failed", True, 4, 0), 0),
    }
    items = {}
    for name, (claim, critical, _, _) in cases.items():
        items[name] = line.delivery(category_class="critical" if critical else "transactional")
        if claim is not None:
            document = {"owner": "a worker that died", "serial": 1, **claim}
            line.redis.set(
                f"herald:{line.kafka.prefix}claim:{items[name].id}",
                json.dumps(document),
                px=line.adapters.claim_ttl - 60_000,  # A minute ago.
            )
    line.worker()
    line.send(*items.values())
    ended = line.all_ended(item.id for item in items.values())
    received = line.received()
    for name, (_, _, expected, sends) in cases.items():
        (outcome,) = ended[items[name].id]
        assert (outcome.status, outcome.repeat, outcome.attempts, outcome.ambiguous) == expected, name
        assert received[items[name].id] == sends, name
    assert ended[items["accepted, not reported"].id][0].provider_message_id == "m-1"
    assert [command.endpoint_id for command in line.changes()] == [items["dead, not reported"].endpoint.id]  # type: ignore[union-attr]
    assert claim_of(line, items["before the claim"].id)["state"] == "accepted"


def test_a_fresh_claim_of_another_worker_is_left_to_it(fcm_line: Line, fcm: FcmEmulator) -> None:
    """It may be alive and sending; only after its request must have ended is it taken for dead."""
    line = fcm_line
    item, other = line.delivery(), line.delivery()
    key = f"herald:{line.kafka.prefix}claim:{item.id}"
    line.redis.set(key, b'{"state":"sending","owner":"another","serial":1}', px=line.adapters.claim_ttl)
    line.worker()
    line.send(item, other)
    line.outcome(other.id)
    assert not line.outcomes(item.id)
    done = b'{"state":"accepted","owner":"another","serial":2,"attempts":1,"status":"accepted"}'
    line.redis.set(key, done, px=line.adapters.claim_ttl)
    outcome = line.outcome(item.id)
    assert (outcome.status, outcome.repeat) == ("accepted", True)
    assert line.received() == {other.id: 1}


def test_claims_expire(fcm_line: Line) -> None:
    line = fcm_line
    line.worker()
    item = line.delivery()
    line.send(item)
    line.outcome(item.id)
    client: redis.Redis = line.redis
    left = client.pttl(f"herald:{line.kafka.prefix}claim:{item.id}")
    assert 0 < int(left) <= line.adapters.claim_ttl  # type: ignore[arg-type]
