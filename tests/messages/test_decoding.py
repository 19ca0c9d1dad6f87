"""Decoding at the edge: strict, with the place of what is wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.codec import DecodeError, encode_json
from messages.event import decode_event, expiry_of, milliseconds
from messages.policy import decode_policy
from messages.profile import decode_change, decode_profile_input
from messages.words import split_user_key, user_key

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(**fields: Any) -> dict[str, Any]:
    data = {"recipients": {"users": ["ada"]}, "category": "news", "template": "hello"} | fields.pop("data", {})
    envelope = {"specversion": "1.0", "id": "1", "source": "shop", "type": "t", "time": "2026-01-01T00:00:00Z"}
    return envelope | {"data": data} | fields


WINDOW = {"start": "22:00", "end": "07:00"}
CONSENT = {"at": 1_790_000_000_000, "where": "web", "text_version": "3"}


def command(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "id": "1", **fields}


POLICY = {"version": 1, "categories": {"news": {"class": "marketing", "channels": ["push"]}}}


def refused(decode: Any, document: Any) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(document if isinstance(document, bytes) else json.dumps(document).encode())
    return caught.value


@pytest.mark.parametrize(
    ("decode", "document", "path"),
    [
        (decode_event, event(colour=1), "$"),
        (decode_event, event(data={"colour": 1}), "$.data"),
        (decode_event, event(data={"recipients": {"users": ["a"], "colour": 1}}), "$.data.recipients"),
        (decode_event, event(data={"content": {"push": {"colour": 1}}}), "$.data.content[...]"),
        (decode_profile_input, {"colour": 1}, "$"),
        (
            decode_profile_input,
            {"endpoints": [{"id": "a", "provider": "fcm", "address": "b", "colour": 1}]},
            "$.endpoints[0]",
        ),
        (decode_profile_input, {"preferences": [{"allow": True, "colour": 1}]}, "$.preferences[0]"),
        (decode_change, {"kind": "remove_endpoint", "id": "1", "endpoint_id": "a", "colour": 1}, "$"),
        (decode_change, {"kind": "replace_profile", "id": "1", "profile": {"colour": 1}}, "$.profile"),
        (
            decode_change,
            command("set_quiet_hours", quiet_hours=[{"start": "22:00", "end": "06:00", "colour": 1}]),
            "$.quiet_hours[0]",
        ),
        (decode_change, command("subscribe", topic="t", colour=1), "$"),
        (decode_change, command("give_consent", consent=CONSENT | {"colour": 1}), "$.consent"),
        (decode_change, command("withdraw_consent", colour=1), "$"),
        (decode_change, command("cancel", source="s", event_id="e", colour=1), "$"),
        (decode_change, command("read", source="s", event_id="e", colour=1), "$"),
        (decode_change, command("open", source="s", event_id="e", colour=1), "$"),
        (decode_change, command("failed", source="s", event_id="e", delivery_id="d", colour=1), "$"),
        (decode_change, command("stalled", source="s", event_id="e", delivery_id="d", colour=1), "$"),
        (decode_profile_input, {"quiet_hours": [{"start": "22:00", "end": "06:00", "colour": 1}]}, "$.quiet_hours[0]"),
        (decode_profile_input, {"consents": [CONSENT | {"colour": 1}]}, "$.consents[0]"),
        (decode_policy, POLICY | {"colour": 1}, "$"),
        (
            decode_policy,
            {"version": 1, "categories": {"news": POLICY["categories"]["news"] | {"colour": 1}}},
            "$.categories[...]",
        ),
    ],
)
def test_a_field_that_is_unknown_is_named_with_its_place(decode: Any, document: Any, path: str) -> None:
    error = refused(decode, document)
    assert (error.path, error.reason) == (path, "Object contains unknown field `colour`")


@pytest.mark.parametrize(
    ("decode", "document", "path"),
    [
        (decode_event, b"", "$"),
        (decode_event, b"{", "$"),
        (decode_event, b"[]", "$"),
        (decode_event, json.dumps(event()).encode() + b"x", "$"),
        (decode_event, b"\xef\xbb\xbf" + json.dumps(event()).encode(), "$"),
        (decode_event, json.dumps(event(id="\udcff")).encode("utf-8", "surrogateescape"), "$"),
        (decode_event, event(data={"recipients": {"users": [5]}}), "$.data.recipients.users[0]"),
        (decode_event, event(data={"recipients": {"users": [{"id": "a"}]}}), "$.data.recipients.users[0]"),
        (decode_event, event(data={"recipients": {"users": ["a", "b" * 257]}}), "$.data.recipients.users[1]"),
        (decode_event, event(specversion="0.3"), "$.specversion"),
        (decode_event, event(datacontenttype="text/xml"), "$.datacontenttype"),
        (decode_event, event(data={"ttl": 60, "expires_at": "2026-01-01T00:00:00Z"}), "$.data"),
        (decode_event, event(data={"ttl": True}), "$.data.ttl"),
        (decode_event, event(data={"ttl": 2_419_201}), "$.data.ttl"),
        (decode_event, event(data={"channels": ["fax"]}), "$.data.channels[0]"),
        (decode_change, {"kind": "erase_everything", "id": "1"}, "$.kind"),
        (decode_change, {"id": "1"}, "$"),
        (decode_change, command("set_quiet_hours"), "$"),
        (decode_change, command("set_quiet_hours", quiet_hours=[WINDOW, {"start": "22:00"}]), "$.quiet_hours[1]"),
        (decode_change, command("set_quiet_hours", quiet_hours=[WINDOW | {"start": "24:00"}]), "$.quiet_hours[0].start"),
        (decode_change, command("set_quiet_hours", quiet_hours=[WINDOW | {"end": "24:01"}]), "$.quiet_hours[0].end"),
        (decode_change, command("set_quiet_hours", quiet_hours=[WINDOW | {"end": "7:00"}]), "$.quiet_hours[0].end"),
        (decode_change, command("set_quiet_hours", quiet_hours=[WINDOW | {"days": []}]), "$.quiet_hours[0].days"),
        (decode_change, command("set_quiet_hours", quiet_hours=[WINDOW | {"days": ["Mon"]}]), "$.quiet_hours[0].days[0]"),
        (decode_change, command("set_quiet_hours", quiet_hours=[WINDOW] * 33), "$.quiet_hours"),
        (decode_change, command("subscribe"), "$"),
        (decode_change, command("subscribe", topic=""), "$.topic"),
        (decode_change, command("subscribe", topic="t", subscribed="no"), "$.subscribed"),
        (decode_change, command("give_consent", consent={"at": 1, "where": "web"}), "$.consent"),
        (decode_change, command("give_consent", consent=CONSENT | {"at": -1}), "$.consent.at"),
        (decode_change, command("give_consent", consent=CONSENT | {"channel": "fax"}), "$.consent.channel"),
        (decode_change, command("withdraw_consent", channel="fax"), "$.channel"),
        (decode_change, command("cancel", event_id="e"), "$"),
        (decode_change, command("cancel", source="s"), "$"),
        (decode_change, command("cancel", source="s", event_id="e", cancellation_key="k"), "$"),
        (decode_change, command("cancel", source="s", cancellation_key=""), "$.cancellation_key"),
        (decode_change, command("read", source="s"), "$"),
        (decode_change, command("open", source="s", event_id="e", machine=1), "$.machine"),
        (decode_change, command("failed", source="s", event_id="e"), "$"),
        (decode_change, command("stalled", source="s", event_id="e", delivery_id=""), "$.delivery_id"),
        (decode_profile_input, {"subscriptions": {"t": "yes"}}, "$.subscriptions[...]"),
        (decode_profile_input, {"subscriptions": {"": True}}, "$.subscriptions"),
        (decode_profile_input, {"subscriptions": {str(number): True for number in range(513)}}, "$.subscriptions"),
        (decode_profile_input, {"consents": [CONSENT] * 129}, "$.consents"),
        (decode_profile_input, {"consents": [CONSENT, CONSENT | {"where": ""}]}, "$.consents[1].where"),
        (decode_profile_input, {"time_zone": "Mars/Olympus"}, "$"),
        (decode_profile_input, {"time_zone": "../etc/passwd"}, "$"),
        (decode_profile_input, {"time_zone": "localtime"}, "$"),
        (decode_policy, {"version": 0, "categories": POLICY["categories"]}, "$.version"),
        (decode_policy, {"version": 1, "categories": {}}, "$.categories"),
        (decode_policy, POLICY | {"identity_window": "1h"}, "$"),
    ],
)
def test_what_is_wrong_has_its_place(decode: Any, document: Any, path: str) -> None:
    assert refused(decode, document).path == path


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01t00:00:00z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T02:00:00+02:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2025-12-31T20:29:00.123456-03:30", datetime(2025, 12, 31, 23, 59, 0, 123456, tzinfo=UTC)),
        ("2024-02-29T12:00:00Z", datetime(2024, 2, 29, 12, tzinfo=UTC)),
    ],
)
def test_instants_are_rfc_3339(text: str, instant: datetime) -> None:
    assert decode_event(encode_json(event(time=text))).time == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-13-01T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "2026-01-01T25:00:00Z",
        "2026-01-01T00:00:00+2500",
        "tomorrow",
        1_790_000_000,
        None,
    ],
)
@pytest.mark.parametrize("field", ["time", "expires_at", "not_before"])
def test_what_is_no_instant_is_refused(text: Any, field: str) -> None:
    document = event(time=text) if field == "time" else event(data={field: text})
    if field != "time" and text is None:
        assert getattr(decode_event(encode_json(document)).data, field) is None
        return
    assert refused(decode_event, document).path == ("$.time" if field == "time" else f"$.data.{field}")


@given(
    st.integers(0, 230 * 366 * 86_400 * 1_000_000),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_milliseconds_are_exact(microseconds: int, zone: timezone) -> None:
    instant = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).astimezone(zone)
    assert milliseconds(instant) == microseconds // 1000


def test_expiry_is_an_instant_or_a_time_to_live() -> None:
    assert expiry_of(decode_event(encode_json(event()))) is None
    assert expiry_of(decode_event(encode_json(event(data={"ttl": 60})))) == 1_767_225_660_000
    assert expiry_of(decode_event(encode_json(event(data={"expires_at": "2026-01-01T00:01:00Z"})))) == 1_767_225_660_000


@pytest.mark.parametrize("text", [TRACE, "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"])
def test_a_traceparent_is_carried(text: str) -> None:
    assert decode_event(encode_json(event(traceparent=text))).traceparent == text


@pytest.mark.parametrize(
    "text", ["", TRACE.upper(), TRACE[:-1], TRACE + "0", TRACE + "\n", TRACE.replace("-", ""), TRACE.replace("a", "g"), 5]
)
def test_what_is_no_traceparent_is_refused(text: Any) -> None:
    assert refused(decode_event, event(traceparent=text)).path == "$.traceparent"


@pytest.mark.parametrize("text", ["a", "A.b_c-9", "x" * 64])
def test_a_tenant(text: str) -> None:
    assert decode_event(encode_json(event(tenant=text))).tenant == text


@pytest.mark.parametrize("text", ["", "a/b", "ä", "a b", "x" * 65, "a\n", 5])
def test_what_is_no_tenant_is_refused(text: Any) -> None:
    assert refused(decode_event, event(tenant=text)).path == "$.tenant"


@given(st.from_regex(r"[A-Za-z0-9_.\-]{1,64}", fullmatch=True), st.text(min_size=1, max_size=256))
def test_a_user_key_comes_apart_as_it_was_put_together(tenant: str, user: str) -> None:
    assert split_user_key(user_key(tenant, user)) == (tenant, user)


@pytest.mark.parametrize("key", ["", "/", "a", "a/", "/a"])
def test_what_is_no_user_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="tenant/user"):
        split_user_key(key)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_decoding_ends_in_a_document_or_in_its_error(data: bytes) -> None:
    for decode in (decode_event, decode_change, decode_profile_input, decode_policy):
        try:
            decode(data)
        except DecodeError as error:
            told = error
        else:
            continue
        assert told.path.startswith("$")
        assert told.reason
