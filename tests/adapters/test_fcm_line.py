"""FCM's own troubles, told to a real emulator, met by a real worker."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from messages.delivery import Target
from messages.profile import SuppressEndpoint
from messages.topics import CHANGES
from tests.adapters.harness import FcmEmulator, Line, now_millis
from tests.waiting import until


class Case(msgspec.Struct):
    """What the emulator does with a token, and what must become of its delivery."""

    behaviour: str | list[str]
    status: str
    attempts: int
    received: int
    ambiguous: int = 0
    critical: bool = False
    retired: bool = False
    error: str | None = None


CASES = {
    "503 twice": Case(["UNAVAILABLE", "UNAVAILABLE"], "accepted", 3, 1),
    "500 once": Case(["INTERNAL"], "accepted", 2, 1),
    "stream refused twice: never sent": Case(["refuse", "refuse"], "accepted", 1, 1),
    "503 for ever": Case("UNAVAILABLE", "failed", 4, 0, error="UNAVAILABLE"),
    "unregistered": Case("UNREGISTERED", "dead", 1, 0, retired=True, error="UNREGISTERED"),
    "unregistered after a 503": Case(["UNAVAILABLE", "UNREGISTERED"], "dead", 2, 0, retired=True, error="UNREGISTERED"),
    "not a token": Case("INVALID_TOKEN", "dead", 1, 0, retired=True, error="INVALID_ARGUMENT"),
    "another project's token": Case("SENDER_ID_MISMATCH", "dead", 1, 0, retired=True, error="SENDER_ID_MISMATCH"),
    "invalid argument": Case("INVALID_ARGUMENT", "rejected", 1, 0, error="INVALID_ARGUMENT"),
    "FCM's key for APNs is wrong": Case("THIRD_PARTY_AUTH_ERROR", "failed", 4, 0, error="THIRD_PARTY_AUTH_ERROR"),
    "answer lost": Case("answer_lost", "unknown", 1, 1, 1),
    "answer never": Case("answer_never", "unknown", 1, 1, 1),
    "black hole": Case("hang", "unknown", 1, 0, 1),
    "reset, not accepted": Case("reset", "unknown", 1, 0, 1),
    "critical, answer lost": Case(["answer_lost"], "accepted", 2, 2, 1, critical=True),
    "critical, answer never": Case(["answer_never"], "accepted", 2, 2, 1, critical=True),
    "critical, black hole": Case(["hang"], "accepted", 2, 1, 1, critical=True),
    "critical, answers always lost": Case("answer_lost", "unknown", 4, 4, 4, critical=True),
    "critical, answer lost, then away": Case(
        ["answer_lost", "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"], "unknown", 4, 1, 1, critical=True
    ),
    "critical, answer lost, then dead": Case(["answer_lost", "UNREGISTERED"], "dead", 2, 1, 1, critical=True, retired=True),
}


def test_every_answer_ends_as_documented_and_none_disturbs_the_others(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    line.worker()
    warm = line.delivery()
    line.send(warm)
    line.outcome(warm.id)  # From here on the account is known to work: a foreign token is the token's fault.
    items = {
        name: line.delivery(address=f"token {name}", category_class="critical" if case.critical else "marketing")
        for name, case in CASES.items()
    }
    fcm.faults(tokens={f"token {name}": case.behaviour for name, case in CASES.items()})
    bystanders = [line.delivery() for _ in range(20)]
    line.send(*items.values(), *bystanders)
    ended = line.all_ended([*(item.id for item in items.values()), *(item.id for item in bystanders)])
    received = line.received()
    for name, case in CASES.items():
        (outcome,) = ended[items[name].id]
        found = (outcome.status, outcome.attempts, received[items[name].id], outcome.ambiguous)
        assert found == (case.status, case.attempts, case.received, case.ambiguous), name
        assert case.error is None or outcome.error == case.error, name
    assert {ended[item.id][0].status for item in bystanders} == {"accepted"}
    stats = fcm.stats()
    assert (stats["duplicates"], stats["collapsed"]) == (0, 1 + 1 + 3)
    retired = {items[name].endpoint.id: items[name] for name, case in CASES.items() if case.retired}
    commands = line.changes()
    assert {command.endpoint_id for command in commands if isinstance(command, SuppressEndpoint)} == retired.keys()
    for command in commands:
        assert isinstance(command, SuppressEndpoint)
        item = retired[command.endpoint_id]
        assert command.id == f"dead:{item.id}"
        assert command.reason.startswith("fcm:")
        assert command.registered_before == item.endpoint.registered_at + 1
    assert {record.key.decode() for record in line.topic(CHANGES).records()} == {
        f"default/{item.user}" for item in retired.values()
    }
    until(lambda: line.committed() == line.ends(), 20, "everything is finished, so everything is committed")


def test_a_foreign_token_is_not_retired_by_an_account_that_never_worked(fcm_line: Line, fcm: FcmEmulator) -> None:
    """With the key of the wrong project every token looks foreign: that must not empty the profiles."""
    line = fcm_line
    fcm.faults(rates={"SENDER_ID_MISMATCH": 1.0})
    line.worker()
    items = [line.delivery() for _ in range(10)]
    line.send(*items)
    ended = line.all_ended(item.id for item in items)
    assert {outcomes[0].status for outcomes in ended.values()} == {"dead"}
    assert line.changes() == []


def test_the_trace_reaches_the_provider(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    line.worker()
    item = line.delivery()
    line.send(item)
    assert line.outcome(item.id).traceparent == item.traceparent
    assert fcm.messages()[0]["traceparent"] == item.traceparent


def test_retry_after_is_waited_and_not_beyond_the_deadline(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    fcm.faults(tokens={"patient": ["QUOTA_EXCEEDED"], "hasty": "QUOTA_EXCEEDED", "hasty 503": "UNAVAILABLE"}, retry_after=2)
    line.worker()
    start = now_millis()
    patient = line.delivery(address="patient", expires_at=start + 600_000)
    hasty = [line.delivery(address=address, expires_at=start + 1_500) for address in ("hasty", "hasty 503")]
    line.send(patient, *hasty)
    ended = line.all_ended([patient.id, *(item.id for item in hasty)])
    outcome = ended[patient.id][0]
    assert (outcome.status, outcome.attempts) == ("accepted", 2)
    assert fcm.messages()[0]["received_at"] >= start + 2_000
    assert [(ended[item.id][0].status, ended[item.id][0].attempts) for item in hasty] == [("expired", 1)] * 2
    assert ended[hasty[0].id][0].error == "QUOTA_EXCEEDED"


def test_a_retry_after_of_a_year_is_capped(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    line.adapters = replace(line.adapters, retry_after_cap=300)
    fcm.faults(tokens={"t": ["QUOTA_EXCEEDED"]}, retry_after=31_536_000)
    line.worker()
    item = line.delivery(address="t")
    line.send(item)
    assert line.outcome(item.id).status == "accepted"


def test_offsets_are_committed_only_below_what_is_unfinished(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    fcm.faults(tokens={"held": "QUOTA_EXCEEDED"}, retry_after=600)
    worker = line.worker()
    before, held, after = line.delivery(user="u"), line.delivery(user="u", address="held"), line.delivery(user="u")
    line.send(before)
    line.outcome(before.id)
    line.send(held, after)
    line.outcome(after.id)
    partition = next(iter(line.ends()))
    until(lambda: line.committed() == {partition: 1}, 10, "what is below is committed")
    more = [line.delivery(user="u") for _ in range(20)]
    line.send(*more)
    line.all_ended(item.id for item in more)
    assert line.committed() == {partition: 1}
    # Dead now, it would be read again, and the finished ones above it found accepted.
    worker.kill()
    fcm.faults()
    line.worker()
    ended = line.all_ended([held.id])
    assert ended[held.id][0].status == "accepted"
    until(lambda: line.committed() == line.ends(), 20)
    assert line.received() == Counter({item.id: 1 for item in (before, held, after, *more)})
    repeats = [outcome for outcome in line.outcomes() if outcome.repeat]
    assert {outcome.delivery_id for outcome in repeats} == {after.id, *(item.id for item in more)}
    assert not line.outcomes(before.id)[1:]


def test_one_unfinished_delivery_keeps_only_so_many_from_being_committed(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    line.adapters = replace(line.adapters, uncommitted=200)
    fcm.faults(tokens={"held": ["QUOTA_EXCEEDED"]}, retry_after=8)
    line.worker()
    held = line.delivery(user="u", address="held", lane="background")
    others = [line.delivery(user="u", lane="background") for _ in range(1_000)]
    line.send(held, *others)
    until(lambda: line.events("held_back"), 20, "the lane stops reading")
    assert fcm.stats()["accepted"] <= 200 + line.adapters.in_flight["background"]
    ended = line.all_ended([held.id, *(item.id for item in others)])
    assert {outcomes[0].status for outcomes in ended.values()} == {"accepted"}
    assert line.received() == Counter({item.id: 1 for item in (held, *others)})


def test_a_full_background_lane_does_not_hold_up_the_urgent_one(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    stuck = [line.delivery(lane="background", address=f"stuck-{number}") for number in range(300)]
    fcm.faults(tokens={item.endpoint.address: "hang" for item in stuck})
    line.worker()
    line.send(*stuck)
    until(lambda: fcm.stats()["answers"].get("hang", 0) >= 64, 20, "the background share is used up")
    urgent = [line.delivery() for _ in range(100)]
    line.send(*urgent)
    ended = line.all_ended(item.id for item in urgent)
    assert {outcomes[0].status for outcomes in ended.values()} == {"accepted"}
    assert fcm.stats()["answers"]["hang"] <= 2 * 64
    assert len(line.outcomes()) - len(urgent) <= 64, "most of the backlog is still to come"


# The account.


def test_what_cannot_be_built_does_not_open_the_gate(fcm_line: Line, fcm: FcmEmulator) -> None:
    """It never reached the provider, so it says nothing of the account."""
    line = fcm_line
    fcm.faults(rates={"PERMISSION_DENIED": 1.0})
    line.worker()
    good = [line.delivery() for _ in range(5)]
    line.send(*good)
    until(lambda: line.events("account_refused"), 20)
    empty = [line.delivery(content=None) for _ in range(5)]
    line.send(*empty)
    ended = line.all_ended(item.id for item in empty)
    assert {outcomes[0].status for outcomes in ended.values()} == {"rejected"}
    assert not line.events("account_accepted")
    fcm.faults()
    line.all_ended(item.id for item in good)
    assert line.events("account_accepted")


@pytest.mark.parametrize("fault", [{"grant": "refuse"}, {"rates": {"PERMISSION_DENIED": 1.0}}])
def test_a_refused_account_keeps_every_message_and_resumes(fcm_line: Line, fcm: FcmEmulator, fault: dict[str, Any]) -> None:
    line = fcm_line
    fcm.revoke()
    fcm.faults(**fault)
    first = line.worker()
    kept = [line.delivery(lane="background") for _ in range(200)]
    brief = line.delivery(expires_at=now_millis() + 4_000)
    line.send(*kept, brief)
    until(lambda: line.events("account_refused"), 20)
    assert line.outcome(brief.id).status == "expired", "a deadline counts while the gate is closed"
    stats = fcm.stats()
    tried = stats["grants"] + stats["answers"].get("PERMISSION_DENIED", 0)
    assert tried < 200, "one at a time tries, not the whole share again and again"
    assert [outcome.delivery_id for outcome in line.outcomes()] == [brief.id]
    assert sum(line.committed("background").values()) == 0
    # A restart in the middle of it changes nothing.
    assert first.terminate() == 0
    line.worker()
    until(lambda: line.events("account_refused")[-1]["worker"] != line.events("assigned")[0]["worker"], 30)
    fcm.faults()
    ended = line.all_ended(item.id for item in kept)
    assert {(outcomes[0].status, outcomes[0].attempts) for outcomes in ended.values()} == {("accepted", 1)}
    assert line.received() == Counter({item.id: 1 for item in kept})
    assert not line.rejected()


def test_access_tokens_are_renewed_early_when_revoked_and_by_one_exchange(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    fcm.faults(token_lifetime=3)
    line.worker()
    items = [line.delivery() for _ in range(100)]
    line.send(*items)
    line.all_ended(item.id for item in items)
    assert fcm.stats()["grants"] == 1

    def renewed() -> bool:
        more = line.delivery()
        line.send(more)
        items.append(more)
        line.outcome(more.id)
        return bool(fcm.stats()["grants"] >= 3)

    until(renewed, 20, "the token was renewed twice")
    assert "UNAUTHENTICATED" not in fcm.stats()["answers"], "renewed before it expired"
    fcm.faults()
    fcm.revoke()
    items += (late := [line.delivery() for _ in range(50)])
    line.send(*late)
    ended = line.all_ended(item.id for item in items)
    assert {(outcomes[0].status, outcomes[0].attempts) for outcomes in ended.values()} == {("accepted", 1)}
    assert fcm.stats()["grants"] <= 5


def test_a_token_service_that_is_away_is_waited_for(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    fcm.revoke()
    fcm.faults(grant="unavailable")
    line.worker()
    item = line.delivery()
    line.send(item)
    until(lambda: fcm.stats()["grants"] >= 3, 20)
    fcm.faults()
    outcome = line.outcome(item.id)
    assert (outcome.status, outcome.attempts) == ("accepted", 1)


# Connections.


def test_a_provider_that_is_away_is_waited_for(fcm_line: Line, fcm: FcmEmulator) -> None:
    """Nothing was tried, so no attempt is used up: the topic is the queue."""
    line = fcm_line
    fcm.stop()
    try:
        line.worker()
        items = [line.delivery(lane="background") for _ in range(200)]
        brief = line.delivery(expires_at=now_millis() + 1_500)
        line.send(*items, brief)
        assert line.outcome(brief.id).status == "expired"
        assert len(line.outcomes()) == 1
    finally:
        fcm.start()
    ended = line.all_ended(item.id for item in items)
    assert {(outcomes[0].status, outcomes[0].attempts) for outcomes in ended.values()} == {("accepted", 1)}
    assert line.received() == Counter({item.id: 1 for item in items})


def test_goaway_under_load_doubles_nothing_and_leaves_nothing_unknown(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    line.slow(50)
    line.worker()
    items = [line.delivery(lane="background") for _ in range(2_000)]
    line.send(*items)

    def away_again() -> bool:
        fcm.goaway()
        return bool(fcm.stats()["accepted"] >= len(items))

    until(away_again, 60)
    ended = line.all_ended(item.id for item in items)
    assert {(outcomes[0].status, outcomes[0].attempts) for outcomes in ended.values()} == {("accepted", 1)}
    assert line.received() == Counter({item.id: 1 for item in items})


def test_an_installation_id_is_an_address(fcm_line: Line, fcm: FcmEmulator) -> None:
    line = fcm_line
    line.worker()
    item = line.delivery(endpoint=Target(id="e", address="fid:installation-1"))
    line.send(item)
    assert line.outcome(item.id).status == "accepted"
    assert fcm.messages()[0]["token"] == "installation-1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "$: Object missing required field `type`"),
        (b"not json", "$: JSON is malformed"),
        (None, "set `fcm.credentials_file` to a service account's key"),
    ],
)
def test_unusable_credentials_are_named_and_nothing_starts(
    fcm_line: Line, fcm: FcmEmulator, content: bytes | None, message: str
) -> None:
    line = fcm_line
    file = line.directory / "key.json"
    if content is not None:
        file.write_bytes(content)
    fcm_settings = fcm.settings
    try:
        fcm.settings = lambda: replace(fcm_settings(), credentials_file=str(file))  # type: ignore[method-assign]
        worker = line.worker(wait=False)
        until(lambda: not worker.running(), 30)
    finally:
        fcm.settings = fcm_settings  # type: ignore[method-assign]
    assert str(file) in line.logs()
    assert message in line.logs()
    assert "Traceback" not in line.logs()
