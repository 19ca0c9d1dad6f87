"""Cancellations over HTTP: one command a user, only for what the caller's own source sent, and told whom it reached."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from connectors.gateway.answers import Refusal
from connectors.gateway.cancellations import Cancellation, Whom, records_of
from connectors.gateway.commands import _SLICE
from connectors.gateway.keys import ApiKey
from messages.event import MAX_EXPANDED_BYTES
from messages.profile import Cancel, decode_change
from tests.gateway.gateway_process import ALL, INBOX, PROFILES, SHOP, Gateway, Topics


def cancel(gateway: Gateway, users: list[str], headers: dict[str, str] | None = None, **fields: Any) -> Any:
    key = fields.pop("key", SHOP)
    return gateway.call(
        "POST", "/v1/cancellations", key=key, json={"recipients": {"users": users}, **fields}, headers=headers or {}
    )


def test_each_user_gets_the_command_once(gateway: Gateway, written: Topics, fresh: str) -> None:
    answer = cancel(gateway, ["ada", "bob/1", "ada"], {"Idempotency-Key": fresh}, event_id="order-17")
    assert (answer.status_code, answer.json()) == (202, {"id": fresh, "accepted": 2})
    records = written.with_text(fresh, 2)
    assert {record.topic for record in records} == {"changes"}
    assert sorted(record.key or b"" for record in records) == [b"acme/ada", b"acme/bob/1"]
    assert {decode_change(record.value) == Cancel(id=fresh, source="shop", event_id="order-17") for record in records} == {
        True
    }


def test_a_cancellation_key_and_a_named_source(gateway: Gateway, written: Topics, fresh: str) -> None:
    for key in ("order-17", "order-18"):
        answer = cancel(gateway, [fresh], key=ALL, source="bank", cancellation_key=key)
        assert answer.status_code == 202
        (record,) = written.with_text(answer.json()["id"])
        assert decode_change(record.value) == Cancel(id=answer.json()["id"], source="bank", cancellation_key=key)


def test_many_users_are_all_told(gateway: Gateway, written: Topics, fresh: str) -> None:
    users = [f"u{number}" for number in range(2 * _SLICE + 1)]
    answer = cancel(gateway, users, {"Idempotency-Key": fresh}, event_id="e")
    assert (answer.status_code, answer.json()) == (202, {"id": fresh, "accepted": len(users)})
    assert {record.key for record in written.with_text(fresh, len(users))} == {f"acme/{user}".encode() for user in users}


@pytest.mark.parametrize(
    ("body", "status", "place", "detail"),
    [
        ({"event_id": "e"}, 400, "$", "missing required field `recipients`"),
        ({"recipients": {"users": []}, "event_id": "e"}, 400, "$.recipients.users", "length >= 1"),
        ({"recipients": {"users": ["a", 5]}, "event_id": "e"}, 400, "$.recipients.users[1]", "Expected `str`"),
        ({"recipients": {"topics": ["t"]}, "event_id": "e"}, 400, "$.recipients", "unknown field `topics`"),
        ({"recipients": {"users": ["a"]}}, 400, "$", "one of `event_id` and `cancellation_key`"),
        (
            {"recipients": {"users": ["a"]}, "event_id": "e", "cancellation_key": "k"},
            400,
            "$",
            "one of `event_id` and `cancellation_key`",
        ),
        ({"recipients": {"users": ["a"]}, "event_id": "e", "reason": "x"}, 400, "$", "unknown field `reason`"),
        ({"recipients": {"users": ["a"]}, "event_id": "e", "source": "bank"}, 403, "$.source", "the source `bank`"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    gateway: Gateway, body: dict[str, Any], status: int, place: str, detail: str
) -> None:
    answer = gateway.call("POST", "/v1/cancellations", key=SHOP, json=body)
    assert (answer.status_code, answer.json()["path"]) == (status, place)
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize("key", [PROFILES, INBOX])
def test_the_scope_is_that_of_events(gateway: Gateway, key: str) -> None:
    assert cancel(gateway, ["a"], key=key, event_id="e").status_code == 403


def test_a_key_for_every_source_names_one(gateway: Gateway) -> None:
    answer = cancel(gateway, ["a"], key=ALL, event_id="e")
    assert (answer.status_code, answer.json()["path"]) == (400, "$.source")


def api_key(*sources: str) -> ApiKey:
    return ApiKey(name="k", hash="0" * 64, tenant="acme", sources=list(sources), scopes=["events"])


@pytest.mark.parametrize(
    ("sources", "named", "meant"),
    [
        (["shop"], None, "shop"),
        (["shop"], "shop", "shop"),
        (["shop", "bank"], "bank", "bank"),
        (["*"], "anything", "anything"),
        (["shop", "bank"], None, None),
        ([], None, None),
        (["shop"], "bank", None),
        ([], "shop", None),
    ],
)
def test_a_caller_may_cancel_what_it_may_send(sources: list[str], named: str | None, meant: str | None) -> None:
    asked = Cancellation(recipients=Whom(users=["a"]), source=named, event_id="e")
    if meant is None:
        with pytest.raises(Refusal) as refused:
            records_of(asked, api_key(*sources), "c")
        assert refused.value.problem.path == "$.source"
    else:
        assert json.loads(records_of(asked, api_key(*sources), "c")["a"].value)["source"] == meant


def test_the_commands_of_one_cancellation_are_bounded_as_an_event_is() -> None:
    name = "e" * 256
    users = [f"{number:06}" for number in range(MAX_EXPANDED_BYTES // 256)]
    with pytest.raises(Refusal, match="send several cancellations") as refused:
        records_of(Cancellation(recipients=Whom(users=users), event_id=name), api_key("shop"), uuid.uuid4().hex)
    assert (refused.value.status, refused.value.problem.path) == (413, "$.recipients.users")
    some = records_of(Cancellation(recipients=Whom(users=users[:1000]), event_id=name), api_key("shop"), uuid.uuid4().hex)
    assert len(some) == 1000
