"""Malformed payloads: each ends in exactly one recorded outcome, with the reason and the JSON path, and touches nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.codec import encode_json
from messages.event import LARGE_EVENT, MAX_DATA_BYTES
from messages.policy import Policy
from messages.topics import registry
from policy.identity import notification_id
from tests.policy.builders import NOW, add_endpoint, category, event
from tests.udfs.wire import BACKGROUND, CHANGE, PROFILE, URGENT, Operator

ADA = "default/ada"
POLICY = Policy(version=1, categories={"news": category(channels=("push", "in_app"))})
LIMITS = {topic.name: topic.max_message_bytes for topic in registry(1).values()}


def operator() -> Operator:
    """One known user."""
    made = Operator(POLICY)
    made.run(NOW, made.input(ADA, CHANGE, add_endpoint(1)))
    return made


def with_fields(**fields: Any) -> bytes:
    """A valid event with fields of the envelope replaced; None takes one away."""
    envelope = json.loads(encode_json(event(1, params={"a": 1}))) | fields
    return json.dumps({name: value for name, value in envelope.items() if value is not None}).encode()


def with_data(**fields: Any) -> bytes:
    """A valid event with fields of ``data`` replaced."""
    envelope = json.loads(with_fields())
    data = envelope["data"] | fields
    envelope["data"] = {name: value for name, value in data.items() if value is not None}
    return json.dumps(envelope).encode()


def with_params(raw: bytes) -> bytes:
    """A valid event whose params are these bytes."""
    return with_data(params=0).replace(b'"params": 0', b'"params": ' + raw)


BAD_EVENTS: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "$"),
    "whitespace": (b"  \n", "$"),
    "zero bytes": (b"\0\0\0\0", "$"),
    "a byte order mark": (b"\xef\xbb\xbf" + with_fields(), "$"),
    "cut off": (with_fields()[:-1], "$"),
    "trailing garbage": (with_fields() + b" x", "$"),
    "two documents": (with_fields() + with_fields(), "$"),
    "a number": (b"5", "$"),
    "null": (b"null", "$"),
    "a list": (b"[" + with_fields() + b"]", "$"),
    "an empty object": (b"{}", "$"),
    "invalid UTF-8": (with_params(b'{"a": "\xff"}'), "$"),
    "an encoded surrogate": (with_params(b'{"a": "\xed\xa0\x80"}'), "$"),
    "a lone surrogate": (with_params(b'{"a": "\\ud800"}'), "$"),
    "NaN": (with_params(b'{"a": NaN}'), "$"),
    "Infinity": (with_params(b'{"a": -Infinity}'), "$"),
    "a float too large": (with_params(b'{"a": 1e999}'), "$.data.params[...]"),
    "an int of 5,000 digits": (with_params(b'{"a": ' + b"9" * 5_000 + b"}"), "$.data.params[...]"),
    "nested 10,000 deep": (with_params(b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"), "$"),
    "nested 10,000 deep, never closed": (b'{"a":' * 10_000, "$"),
    "an unknown field": (with_fields(colour="red"), "$"),
    "an unknown field in data": (with_data(colour="red"), "$.data"),
    "an unknown field in recipients": (with_data(recipients={"user": ["ada"]}), "$.data.recipients"),
    "no id": (with_fields(id=None), "$"),
    "an empty id": (with_fields(id=""), "$.id"),
    "an id of 257 characters": (with_fields(id="x" * 257), "$.id"),
    "an id that is a number": (with_fields(id=5), "$.id"),
    "a source that is a list": (with_fields(source=["a"]), "$.source"),
    "another specversion": (with_fields(specversion="0.3"), "$.specversion"),
    "a time without an offset": (with_fields(time="2026-01-01T00:00:00"), "$.time"),
    "a time that is a number": (with_fields(time=1), "$.time"),
    "the 30th of February": (with_fields(time="2026-02-30T00:00:00Z"), "$.time"),
    "another content type": (with_fields(datacontenttype="text/plain"), "$.datacontenttype"),
    "a traceparent that is none": (with_fields(traceparent="00-1-2-3"), "$.traceparent"),
    "data that is a list": (with_fields(data=[]), "$.data"),
    "no category": (with_data(category=None), "$.data"),
    "a category that is a number": (with_data(category=7), "$.data.category"),
    "another priority": (with_data(priority="now"), "$.data.priority"),
    "neither template nor content": (with_data(content=None), "$.data"),
    "content for an unknown channel": (with_data(content={"fax": {}}), "$.data.content"),
    "an unknown field in content": (with_data(content={"push": {"text": ""}}), "$.data.content[...]"),
    "a title too long": (with_data(content={"push": {"title": "x" * 1_025}}), "$.data.content[...].title"),
    "an unknown channel": (with_data(channels=["fax"]), "$.data.channels[0]"),
    "ttl and expires_at": (with_data(ttl=5, expires_at="2026-01-01T00:00:00Z"), "$.data"),
    "a ttl of nothing": (with_data(ttl=0), "$.data.ttl"),
    "a ttl of five weeks": (with_data(ttl=5 * 7 * 86_400), "$.data.ttl"),
    "a collapse key too long": (with_data(collapse_key="x" * 65), "$.data.collapse_key"),
    "a user id that is a number": (with_data(recipients={"users": [5]}), "$.data.recipients.users[0]"),
}

BAD_CHANGES: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "$"),
    "trailing garbage": (encode_json(add_endpoint(2)) + b"{", "$"),
    "no kind": (b'{"id": "c"}', "$"),
    "an unknown kind": (b'{"kind": "erase_everything", "id": "c"}', "$.kind"),
    "no id": (b'{"kind": "remove_endpoint", "endpoint_id": "phone"}', "$"),
    "an unknown field": (b'{"kind": "remove_endpoint", "id": "c", "endpoint_id": "phone", "why": 1}', "$"),
    "an unknown provider": (
        b'{"kind": "add_endpoint", "id": "c", "endpoint": {"id": "e", "provider": "pigeon", "address": "a"}}',
        "$.endpoint.provider",
    ),
    "an address too long": (
        b'{"kind": "add_endpoint", "id": "c", "endpoint": {"id": "e", "provider": "fcm", "address": "%s"}}' % (b"a" * 4_097),
        "$.endpoint.address",
    ),
    "an unknown time zone": (
        b'{"kind": "replace_profile", "id": "c", "profile": {"time_zone": "Europe/Atlantis"}}',
        "$.profile",
    ),
    "a time zone that is a path": (
        b'{"kind": "replace_profile", "id": "c", "profile": {"time_zone": "../../etc/passwd"}}',
        "$.profile",
    ),
    "a time zone of a megabyte": (
        b'{"kind": "replace_profile", "id": "c", "profile": {"time_zone": "%s"}}' % (b"z" * 1_000_000),
        "$.profile.time_zone",
    ),
    "a country that is none": (
        b'{"kind": "replace_profile", "id": "c", "profile": {"country": "Germany"}}',
        "$.profile.country",
    ),
    "the same endpoint twice": (
        b'{"kind": "replace_profile", "id": "c", "profile": {"endpoints": ['
        b'{"id": "e", "provider": "fcm", "address": "a"}, {"id": "e", "provider": "fcm", "address": "b"}]}}',
        "$.profile",
    ),
    "65 endpoints": (
        encode_json(
            {
                "kind": "replace_profile",
                "id": "c",
                "profile": {"endpoints": [{"id": f"e{n}", "provider": "fcm", "address": "a"} for n in range(65)]},
            }
        ),
        "$.profile.endpoints",
    ),
    "a preference for an unknown channel": (
        b'{"kind": "set_preferences", "id": "c", "preferences": [{"channel": "fax", "allow": true}]}',
        "$.preferences[0].channel",
    ),
    "a choice that is no choice": (
        b'{"kind": "set_preferences", "id": "c", "preferences": [{"allow": "yes"}]}',
        "$.preferences[0].allow",
    ),
    "no preferences": (b'{"kind": "set_preferences", "id": "c", "preferences": []}', "$.preferences"),
    "a negative instant": (
        b'{"kind": "suppress_endpoint", "id": "c", "endpoint_id": "phone", "reason": "r", "registered_before": -1}',
        "$.registered_before",
    ),
    "nested 10,000 deep": (b'{"kind": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "$"),
}


def check_sizes(made: Operator, answer: Any) -> None:
    """Every row fits the record that its topic takes, with some room for key and headers."""
    for row in answer.rows:
        size = len(row.value or b"") + len(row.key or b"") + sum(len(n) + len(v.encode()) for n, v in row.headers)
        assert size <= LIMITS[row.topic] - 1_024, (row.topic, size)


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_a_bad_event_is_one_rejected_outcome(name: str) -> None:
    payload, path = BAD_EVENTS[name]
    made = operator()
    before = made.states()
    good = made.input(ADA, BACKGROUND, event(2))
    answer = made.run(NOW, made.input(ADA, URGENT, payload, NOW), good)
    record, sent = answer.decisions()
    assert (record.outcome, record.reason, record.origin) == (
        "rejected",
        "invalid_event",
        f"events.urgent/0/{good.offset + 1}",
    )
    assert record.detail
    assert sent.outcome == "sent"
    (rejected,) = answer.rejected()
    assert (rejected["stage"], rejected["reason"], rejected["path"]) == ("decide", "invalid_event", path)
    assert rejected["detail"]
    assert rejected["value"] == payload
    assert rejected["source_offset"] == str(good.offset + 1)
    clean = operator()
    clean.run(NOW, good)
    assert made.states() == clean.states() != before
    check_sizes(made, answer)


@pytest.mark.parametrize("name", BAD_CHANGES)
def test_a_bad_command_is_one_rejected_record(name: str) -> None:
    payload, path = BAD_CHANGES[name]
    made = operator()
    before = made.states()
    answer = made.run(NOW, made.input(ADA, CHANGE, payload))
    (rejected,) = answer.rejected()
    assert (rejected["stage"], rejected["reason"], rejected["path"]) == ("change", "invalid_change", path)
    assert rejected["value"] == payload
    assert answer.on("decisions") == answer.on("profiles") == []
    assert made.states() == before
    check_sizes(made, answer)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"v": 2}', b'{"version": "x"}', b'{"endpoints": [{"id": 1}]}'])
def test_a_bad_profile_read_back_is_one_rejected_record(payload: bytes) -> None:
    made = operator()
    before = made.states()
    answer = made.run(NOW, made.input(ADA, PROFILE, payload))
    assert [(r["stage"], r["reason"]) for r in answer.rejected()] == [("change", "invalid_change")]
    assert made.states() == before


def test_a_profile_too_large_is_refused_and_stays_as_it_was() -> None:
    made = operator()
    endpoints = [{"id": f"e{n}", "provider": "ses", "address": "ä" * 4_096} for n in range(40)]
    payload = encode_json({"kind": "replace_profile", "id": "c", "profile": {"endpoints": endpoints}})
    before = made.states()
    answer = made.run(NOW, made.input(ADA, CHANGE, payload))
    assert [r["reason"] for r in answer.rejected()] == ["profile_too_large"]
    assert made.states() == before


def test_an_unknown_category_and_a_provider_that_the_deployment_lacks() -> None:
    made = Operator(POLICY, providers=["inapp"])
    made.run(NOW, made.input(ADA, CHANGE, add_endpoint(1)))
    answer = made.run(
        NOW,
        made.input(ADA, BACKGROUND, event(1, "nothing")),
        made.input(ADA, BACKGROUND, event(2, channels=["push"])),
        made.input(ADA, BACKGROUND, event(3)),
    )
    unknown, lacking, half = answer.decisions()
    assert (unknown.outcome, unknown.reason, unknown.category) == ("rejected", "unknown_category", "nothing")
    assert (lacking.outcome, lacking.reason) == ("suppressed", "no_provider")
    assert (half.outcome, half.channels) == ("sent", {"push": "no_provider", "in_app": "sent"})
    assert {row.topic for row in answer.rows} == {"deliveries.inapp.background", "decisions"}


# What cannot be read of an event


def test_what_can_be_read_of_a_bad_event_is_in_its_record() -> None:
    made = operator()
    (record,) = made.run(NOW, made.input(ADA, BACKGROUND, with_data(priority="now", campaign="autumn"))).decisions()
    assert (record.event_id, record.source, record.category, record.campaign) == ("event-1", "tests", "news", "autumn")
    assert record.notification_id == notification_id("default", "tests", "event-1", "ada")
    assert record.detail == "$.data.priority: Invalid enum value 'now'"


def test_bad_events_without_an_id_are_still_told_apart() -> None:
    made = operator()
    answer = made.run(NOW, *(made.input(ADA, BACKGROUND, with_fields(id=None)) for _ in range(3)))
    assert len({record.notification_id for record in answer.decisions()}) == 3


@pytest.mark.parametrize("value", [None, 5, True, ["x"], {"x": "y"}, "x" * 300, 10**400, 1.5])
@pytest.mark.parametrize("field", ["id", "source", "category", "campaign"])
def test_an_identifying_field_of_any_type_is_no_trouble(field: str, value: Any) -> None:
    made = operator()
    payload = with_fields(**{field: value}) if field in ("id", "source") else with_data(**{field: value})
    if value is None and field == "campaign":
        payload = with_data(campaign=None, priority="now")
    (record,) = made.run(NOW, made.input(ADA, BACKGROUND, payload)).decisions()
    assert record.reason == "invalid_event"
    assert getattr(record, "event_id" if field == "id" else field) in ("", None)


# Sizes: a row that Kafka refuses would fail the job, again after every restart.

MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize(
    "payload",
    [
        with_data(priority="x" * (MEBIBYTE - 1_000)),
        with_fields(**{"x" * (MEBIBYTE - 1_000): 1}),
        with_fields(id="\x85" * (MEBIBYTE // 8)),
        with_fields(source=["\x85" * (MEBIBYTE // 8)], id={"a": [1] * 100_000}),
        with_data(category="c" * (MEBIBYTE - 1_000)),
        with_data(campaign="c" * (MEBIBYTE - 1_000)),
        with_fields(id="\u0001" * 170_000),
    ],
    ids=[
        "a long value",
        "a long name",
        "a long id",
        "lists for ids",
        "a long category",
        "a long campaign",
        "control characters",
    ],
)
def test_a_megabyte_of_nonsense_makes_no_record_that_kafka_would_refuse(payload: bytes) -> None:
    made = operator()
    answer = made.run(NOW, made.input(ADA, BACKGROUND, payload))
    assert [record.reason for record in answer.decisions()] == ["invalid_event"]
    check_sizes(made, answer)


def test_an_event_whose_data_fits_no_delivery_is_refused_at_arrival() -> None:
    made = operator()
    grows = with_params(b'{"a": [' + b",".join([b"1e15"] * 200_000) + b"]}")  # four bytes become eighteen
    assert len(grows) < MEBIBYTE
    large = with_data(params={"a": "x" * (MEBIBYTE - 5_000)})
    for payload in (grows, large):
        answer = made.run(NOW, made.input(ADA, BACKGROUND, payload))
        assert [record.reason for record in answer.decisions()] == ["invalid_event"]
        assert [r["path"] for r in answer.rejected()] == ["$.data"]
        check_sizes(made, answer)


@pytest.mark.parametrize("size", [LARGE_EVENT - 1_000, LARGE_EVENT + 1_000, MAX_DATA_BYTES - 1_000])
def test_the_largest_event_makes_deliveries_that_fit_with_the_largest_profile(size: int) -> None:
    made = operator()
    locale = "de" + "-abcdefgh" * 25_000
    made.run(NOW, made.input(ADA, CHANGE, {"kind": "replace_profile", "id": "c", "profile": {"locale": locale}}))
    made.run(NOW, made.input(ADA, CHANGE, add_endpoint(100, "e", address="\U0001f4f1" * 4_096)))
    answer = made.run(NOW, made.input(ADA, BACKGROUND, with_data(params={"a": "x" * size}, cancellation_key="é" * 256)))
    assert len(answer.deliveries()) == 2
    check_sizes(made, answer)
    worst = with_params(b'{"a": [' + b",".join([b"1e15"] * ((LARGE_EVENT - 2_000) // 5)) + b"]}").replace(
        b"event-1", b"event-2"
    )
    assert len(worst) <= LARGE_EVENT
    answer = made.run(NOW, made.input(ADA, BACKGROUND, worst))
    assert len(answer.deliveries()) == 2
    check_sizes(made, answer)


# Fuzz

json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from([10**40, -(10**18), 2**64]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
paths = st.sampled_from(
    [(name,) for name in ("specversion", "id", "source", "type", "time", "tenant", "data", "traceparent", "new")]
    + [
        ("data", name)
        for name in (
            "recipients", "category", "priority", "template", "params", "content", "channels", "dedup_key", "throttle_key",
            "collapse_key", "cancellation_key", "expires_at", "ttl", "not_before", "campaign", "tags", "new",
        )
    ]
)  # fmt: skip


def check_fuzzed(kind: int, payload: bytes) -> None:
    """Whatever it is, it has one outcome, every row can be read, and the next input is decided as if it were not there."""
    made = operator()
    answer = made.run(NOW, made.input(ADA, kind, payload), made.input(ADA, BACKGROUND, event(77)))
    records = [record for record in answer.decisions() if not record.child]
    assert records[-1].event_id == "event-77"
    if kind in (BACKGROUND, URGENT):
        assert len(records) == 2
        assert len(answer.rejected()) == (records[0].reason == "invalid_event")
        assert records[0].reason != "internal_error"
    else:
        assert len(records) == 1
        assert all(r["reason"] != "internal_error" for r in answer.rejected())
    check_sizes(made, answer)


any_kind = st.sampled_from([BACKGROUND, URGENT, CHANGE, PROFILE])


@given(any_kind, st.binary(max_size=200))
def test_random_bytes_never_raise(kind: int, payload: bytes) -> None:
    check_fuzzed(kind, payload)


@given(any_kind, json_values)
def test_random_json_never_raises(kind: int, value: Any) -> None:
    check_fuzzed(kind, json.dumps(value).encode())


@given(st.lists(st.tuples(paths, json_values), min_size=1, max_size=3))
def test_a_valid_event_with_random_fields_never_raises(changes: list[tuple[tuple[str, ...], Any]]) -> None:
    envelope = json.loads(with_fields())
    for path, value in changes:
        holder = envelope
        for name in path[:-1]:
            holder = holder[name] if isinstance(holder.get(name), dict) else {}
        holder[path[-1]] = value
    check_fuzzed(BACKGROUND, json.dumps(envelope).encode())


@given(st.data())
def test_a_valid_event_with_a_few_bytes_changed_never_raises(data: st.DataObject) -> None:
    payload = bytearray(with_fields())
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    check_fuzzed(BACKGROUND, bytes(payload))


def test_every_number_that_is_json_comes_out_of_a_delivery_as_json() -> None:
    made = operator()
    raw = b'{"a": [0, -0, 1e15, 1E-7, 18446744073709551616, -9223372036854775809, 0.1, 1e308, 5e-324]}'
    for delivery in made.run(NOW, made.input(ADA, BACKGROUND, with_params(raw))).deliveries():
        assert delivery.params == json.loads(raw)
        assert msgspec.json.decode(encode_json(delivery))
