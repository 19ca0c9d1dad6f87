"""What FCM is told and what its answers mean: pure, against the documented bodies."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.adapters.channel import Failure, Response, Unsendable
from connectors.adapters.fcm import MAX_PAYLOAD, build, classify, retry_after
from connectors.adapters.inapp import InApp, Stored
from connectors.adapters.render import render
from emulators.fcm import ERRORS, decode_request
from messages.event import Content
from tests.adapters.harness import delivery

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
NOW = 1_800_000_000_000


def refused(
    status: int, rpc: str, *details: dict[str, Any], message: str = "", headers: dict[str, str] | None = None
) -> Response:
    error = {"code": status, "message": message, "status": rpc, "details": list(details)}
    return Response(status=status, headers=headers or {}, body=json.dumps({"error": error}).encode(), at=NOW)


def fcm_error(code: str) -> dict[str, Any]:
    return {"@type": FCM_ERROR, "errorCode": code}


def violations(*fields: str) -> dict[str, Any]:
    return {"@type": BAD_REQUEST, "fieldViolations": [{"field": field, "description": "wrong"} for field in fields]}


TOKEN_TEXT = "The registration token is not a valid FCM registration token"

TABLE = {
    "404 UNREGISTERED": (refused(404, "NOT_FOUND", fcm_error("UNREGISTERED")), "recipient_dead", "endpoint"),
    "404 without an FcmError: the path or project": (refused(404, "NOT_FOUND"), "config", "account"),
    "404 that is not JSON": (Response(status=404, body=b"<html>", at=NOW), "config", "account"),
    "400 about the token, FcmError alone": (
        refused(400, "INVALID_ARGUMENT", fcm_error("INVALID_ARGUMENT"), message=TOKEN_TEXT),
        "recipient_dead",
        "endpoint",
    ),
    "400 about the token, BadRequest": (
        refused(400, "INVALID_ARGUMENT", violations("message.token"), message="Invalid registration"),
        "recipient_dead",
        "endpoint",
    ),
    "400 about the token, both": (
        refused(400, "INVALID_ARGUMENT", violations("message.token"), fcm_error("INVALID_ARGUMENT")),
        "recipient_dead",
        "endpoint",
    ),
    "400 about the installation id": (
        refused(400, "INVALID_ARGUMENT", violations("message.fid")),
        "recipient_dead",
        "endpoint",
    ),
    "400 about another field": (
        refused(400, "INVALID_ARGUMENT", violations("message.android.ttl"), fcm_error("INVALID_ARGUMENT")),
        "rejected",
        "message",
    ),
    "400 about the token and another field": (
        refused(400, "INVALID_ARGUMENT", violations("message.token", "message.data"), message=TOKEN_TEXT),
        "rejected",
        "message",
    ),
    "400 FcmError without a word of the token": (
        refused(400, "INVALID_ARGUMENT", fcm_error("INVALID_ARGUMENT"), message="Message is too big"),
        "rejected",
        "message",
    ),
    "400 with the token's text but no FcmError": (
        refused(400, "INVALID_ARGUMENT", message=TOKEN_TEXT),
        "rejected",
        "message",
    ),
    "400 that is not JSON": (Response(status=400, body=b"", at=NOW), "rejected", "message"),
    "403 SENDER_ID_MISMATCH": (
        refused(403, "PERMISSION_DENIED", fcm_error("SENDER_ID_MISMATCH")),
        "recipient_dead",
        "endpoint",
    ),
    "403 PERMISSION_DENIED": (refused(403, "PERMISSION_DENIED"), "config", "account"),
    "401 THIRD_PARTY_AUTH_ERROR": (
        refused(401, "UNAUTHENTICATED", fcm_error("THIRD_PARTY_AUTH_ERROR")),
        "config",
        "platform",
    ),
    "401 UNAUTHENTICATED": (refused(401, "UNAUTHENTICATED"), "config", "account"),
    "429 QUOTA_EXCEEDED": (refused(429, "RESOURCE_EXHAUSTED", fcm_error("QUOTA_EXCEEDED")), "transient", "account"),
    "429 otherwise": (Response(status=429, at=NOW), "transient", "account"),
    "408": (Response(status=408, at=NOW), "transient", "account"),
    "503 UNAVAILABLE": (refused(503, "UNAVAILABLE", fcm_error("UNAVAILABLE")), "transient", "provider"),
    "500 INTERNAL": (refused(500, "INTERNAL", fcm_error("INTERNAL")), "transient", "provider"),
    "502 of something between": (Response(status=502, body=b"<html>", at=NOW), "transient", "provider"),
    "413": (Response(status=413, at=NOW), "rejected", "message"),
    "a redirect": (Response(status=302, headers={"location": "https://example.org"}, at=NOW), "config", "account"),
    "accepted": (Response(status=200, body=b'{"name": "projects/p/messages/1"}', at=NOW), "accepted", "message"),
    "accepted, body unreadable": (Response(status=200, body=b"\xff", at=NOW), "accepted", "message"),
    "no connection": (Failure(kind="not_sent", reason="refused"), "transient", "provider"),
    "no answer": (Failure(kind="unanswered", reason="time-out"), "ambiguous", "message"),
    "credentials refused": (Failure(kind="credentials", reason="invalid_grant"), "config", "account"),
}


@pytest.mark.parametrize("name", TABLE)
def test_every_documented_answer_has_its_class(name: str) -> None:
    answer, outcome, scope = TABLE[name]
    classified = classify(answer)
    assert (classified.outcome, classified.scope) == (outcome, scope)


def test_the_table_has_every_code_of_the_reference() -> None:
    codes = {"UNREGISTERED", "INVALID_ARGUMENT", "SENDER_ID_MISMATCH", "QUOTA_EXCEEDED"}
    codes |= {"UNAVAILABLE", "INTERNAL", "THIRD_PARTY_AUTH_ERROR"}
    seen = {classify(answer).error for answer, _, _ in TABLE.values()}
    assert codes <= seen
    assert codes <= ERRORS.keys()


@given(st.integers(100, 999), st.binary(max_size=200), st.dictionaries(st.sampled_from(["retry-after", "x"]), st.text()))
def test_any_answer_whatsoever_has_a_class(status: int, body: bytes, headers: dict[str, str]) -> None:
    answer = classify(Response(status=status, body=body, headers=headers, at=NOW))
    assert (answer.outcome == "accepted") == (200 <= status < 300)


def test_the_name_fcm_gave_is_kept() -> None:
    assert classify(TABLE["accepted"][0]).provider_message_id == "projects/p/messages/1"


def test_only_what_reached_the_provider_counts_as_sent() -> None:
    sent = {name: classify(answer).sent for name, (answer, _, _) in TABLE.items()}
    assert [name for name, seen in sent.items() if not seen] == ["no connection", "credentials refused"]


def test_a_foreign_token_is_suspect_and_an_unregistered_one_is_not() -> None:
    assert classify(TABLE["403 SENDER_ID_MISMATCH"][0]).suspect
    assert not classify(TABLE["404 UNREGISTERED"][0]).suspect


@pytest.mark.parametrize(
    ("header", "milliseconds"),
    [
        ("7", 7_000),
        (" 7 ", 7_000),
        ("0", 0),
        (formatdate(NOW / 1000 + 90, usegmt=True), 90_000),
        (formatdate(NOW / 1000 - 90, usegmt=True), 0),
        ("soon", None),
        ("-5", None),
        ("\uff11\uff12", None),
        ("99999999999999999999", 999_999_999_000),
        ("", None),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(header: str, milliseconds: int | None) -> None:
    answer = Response(status=503, headers={"retry-after": header}, at=NOW)
    assert retry_after(answer) == milliseconds
    assert classify(answer).retry_after == milliseconds


def test_a_quota_without_retry_after_asks_for_a_minute() -> None:
    assert classify(TABLE["429 QUOTA_EXCEEDED"][0]).retry_after == 60_000
    told = refused(429, "RESOURCE_EXHAUSTED", fcm_error("QUOTA_EXCEEDED"), headers={"retry-after": "3"})
    assert classify(told).retry_after == 3_000


# The request.


def message_of(**changes: Any) -> dict[str, Any]:
    item = delivery(**changes)
    body = build(item, render(item), NOW).body
    decode_request(body)  # The emulator's own check of the documented form.
    message: dict[str, Any] = msgspec.json.decode(body)["message"]
    return message


def test_a_plain_delivery_by_token() -> None:
    item = delivery(id="d1", address="tok", lane="urgent", content=Content(title="T", body="B", data={"k": "v"}))
    assert msgspec.json.decode(build(item, render(item), NOW).body) == {
        "message": {
            "token": "tok",
            "data": {"k": "v", "delivery_id": "d1", "event_id": "event-1", "category": "news"},
            "notification": {"title": "T", "body": "B"},
            "android": {"priority": "HIGH"},
        }
    }


def test_an_installation_id_goes_into_its_own_field() -> None:
    message = message_of(address="fid:abc")
    assert message["fid"] == "abc"
    assert "token" not in message


def test_the_lane_is_the_priority() -> None:
    assert message_of(lane="urgent")["android"]["priority"] == "HIGH"
    assert message_of(lane="background")["android"]["priority"] == "NORMAL"


@pytest.mark.parametrize(("left", "ttl"), [(61_999, "61s"), (999, "0s"), (3_000_000_000, "2419200s"), (-5_000, "0s")])
def test_the_remaining_life_is_the_ttl(left: int, ttl: str) -> None:
    message = message_of(expires_at=NOW + left)
    assert message["android"]["ttl"] == ttl
    assert message["apns"]["headers"]["apns-expiration"] == str(NOW // 1000 + int(ttl[:-1]))


def test_without_a_deadline_the_provider_decides() -> None:
    message = message_of()
    assert "ttl" not in message["android"]
    assert "apns" not in message


def test_critical_carries_its_own_id_from_the_first_send_on() -> None:
    message = message_of(id="abc123", category_class="critical", collapse_key="theirs")
    assert message["android"]["collapse_key"] == "abc123"
    assert message["android"]["notification"] == {"tag": "abc123"}
    assert message["apns"]["headers"]["apns-collapse-id"] == "abc123"


def test_others_collapse_as_the_event_says() -> None:
    assert message_of(collapse_key="score")["android"]["collapse_key"] == "score"
    assert "collapse_key" not in message_of()["android"]


def test_a_collapse_id_never_exceeds_what_apns_takes() -> None:
    long = message_of(collapse_key="ü" * 64)["apns"]["headers"]["apns-collapse-id"]
    assert len(long.encode()) == 64
    assert long != message_of(collapse_key="ä" * 64)["apns"]["headers"]["apns-collapse-id"]


def test_a_template_travels_as_data_until_it_can_be_rendered() -> None:
    data = message_of(content=None, template="otp", params={"code": 7})["data"]
    assert (data["template"], data["params"]) == ("otp", '{"code":7}')


def test_what_we_add_cannot_be_overwritten() -> None:
    assert message_of(id="mine", content=Content(data={"delivery_id": "theirs"}))["data"]["delivery_id"] == "mine"


def test_too_large_is_refused_before_it_is_sent() -> None:
    item = delivery(content=Content(body="x" * MAX_PAYLOAD))
    with pytest.raises(Unsendable, match="payload_too_large"):
        build(item, render(item), NOW)


def test_no_content_and_no_template_cannot_be_sent() -> None:
    with pytest.raises(Unsendable, match="no_content"):
        render(delivery(content=None))


# In-app.


def test_in_app_has_two_answers() -> None:
    assert InApp.classify(Stored(new=True)).outcome == "accepted"
    assert InApp.classify(Stored(new=False)).repeat
    away = InApp.classify(Failure(kind="not_sent", reason="inbox: ConnectionError"))
    assert (away.outcome, away.scope, away.sent) == ("transient", "provider", False)


def test_in_app_item_of_a_delivery() -> None:
    item = delivery("inapp", id="d1", user="ann", expires_at=NOW + 5, content=Content(title="T", body="B", data={"k": "v"}))
    put = InApp.build(item, render(item), NOW)
    assert (put.tenant, put.user, put.item.id, put.item.title, put.item.body) == ("default", "ann", "d1", "T", "B")
    assert (put.item.data, put.item.category, put.item.expires_at) == ({"k": "v"}, "news", NOW + 5)
