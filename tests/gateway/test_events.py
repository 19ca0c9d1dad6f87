"""Events over HTTP: what is taken, what is refused and why, and what then stands on the topics."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.gateway.intake import EVENT_LIMIT
from messages.event import MAX_DATA_BYTES, decode_event
from tests.gateway.gateway_process import ALL, INBOX, SHOP, Gateway, Topics, event

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_an_event_is_on_its_topic_when_it_is_accepted(gateway: Gateway, written: Topics, fresh: str) -> None:
    answer = gateway.send(event(fresh, f"u-{fresh}"))
    assert (answer.status_code, answer.json()) == (202, {"id": fresh, "status": "accepted"})
    assert written.has(fresh)
    (record,) = written.with_text(fresh)
    assert (record.topic, record.key) == ("events.background", f"default/u-{fresh}".encode())


@pytest.mark.parametrize("lane", ["urgent", "background"])
def test_the_priority_picks_the_lane(gateway: Gateway, written: Topics, fresh: str, lane: str) -> None:
    assert gateway.send(event(fresh, priority=lane)).status_code == 202
    assert written.with_text(fresh)[0].topic == f"events.{lane}"


def test_the_bytes_of_a_complete_event_are_the_producers(gateway: Gateway, written: Topics, fresh: str) -> None:
    body = b'{ "traceparent" : "%s",\n' % TRACE.encode() + json.dumps(event(fresh, params={"n": 1.50})).encode()[1:] + b"\n "
    assert gateway.send(body).status_code == 202
    assert written.with_text(fresh)[0].value == body


def test_the_bytes_of_each_event_of_a_batch_are_the_producers(gateway: Gateway, written: Topics, fresh: str) -> None:
    items = [
        b'{ "traceparent": "%s", ' % TRACE.encode() + json.dumps(event(f"{fresh}-{number}")).encode()[1:]
        for number in (0, 1)
    ]
    assert gateway.send(b"[ " + b" , ".join(items) + b" ]").status_code == 202
    assert sorted(record.value for record in written.with_text(fresh, 2)) == items


def test_several_recipients_share_one_record_without_a_key(gateway: Gateway, written: Topics, fresh: str) -> None:
    assert gateway.send(event(fresh, ["a", "b", "a"])).status_code == 202
    (record,) = written.with_text(fresh)
    assert record.key is None
    assert record.document["data"]["recipients"] == {"users": ["a", "b", "a"]}


def test_one_recipient_left_after_exclusion_gives_the_key(gateway: Gateway, written: Topics, fresh: str) -> None:
    assert gateway.send(event(fresh, recipients={"users": ["a", "b"], "exclude": ["a"]})).status_code == 202
    assert written.with_text(fresh)[0].key == b"default/b"


def test_ten_thousand_recipients_are_split(gateway: Gateway, written: Topics, fresh: str) -> None:
    users = [f"{fresh}-{number}" for number in range(10_000)]
    answer = gateway.send(event(fresh, recipients={"users": [*users, users[0], "nobody"], "exclude": ["nobody"]}))
    assert answer.status_code == 202
    parts = [decode_event(record.value) for record in written.with_text(fresh, 20)]
    assert len(parts) == 20
    assert {(part.id, part.source) for part in parts} == {(fresh, "shop")}
    assert all(len(part.data.recipients.users) <= 500 for part in parts)
    assert sorted(user for part in parts for user in part.data.recipients.users) == sorted(users)
    assert len({part.traceparent for part in parts}) == 1


def test_recipients_times_bytes_is_bounded(gateway: Gateway, written: Topics, fresh: str) -> None:
    users = [str(number) for number in range(5_000)]
    answer = gateway.send(event(fresh, users, params={"text": "x" * 4_000}))
    assert answer.status_code == 413
    assert (answer.json()["reason"], answer.json()["path"]) == ("event_too_large", "$.data.recipients")
    assert not written.has(fresh)


def test_an_event_of_a_megabyte_is_too_large(gateway: Gateway, fresh: str) -> None:
    answer = gateway.send(event(fresh, params={"text": "x" * 1024 * 1024}))
    assert (answer.status_code, answer.json()["reason"], answer.json()["id"]) == (413, "event_too_large", fresh)


def test_data_that_would_fit_no_delivery_is_too_large(gateway: Gateway, written: Topics, fresh: str) -> None:
    answer = gateway.send(event(fresh, params={"text": "x" * MAX_DATA_BYTES}))
    found = answer.json()
    assert (answer.status_code, found["reason"], found["path"], found["id"]) == (413, "event_too_large", "$.data", fresh)
    assert not written.has(fresh)
    assert gateway.send(event(fresh, params={"text": "x" * (MAX_DATA_BYTES - 1_000)})).status_code == 202


def test_the_largest_event_fits_the_broker(gateway: Gateway, written: Topics, fresh: str) -> None:
    user = "ü" * 255
    document = event(fresh, user) | {"subject": ""}
    document["subject"] = "x" * (EVENT_LIMIT - len(json.dumps(document)))
    assert gateway.send(document).status_code == 202
    (record,) = written.with_text(fresh)
    assert len(record.value) > EVENT_LIMIT


def test_a_body_over_the_limit_is_refused_by_its_announcement(gateway: Gateway) -> None:
    with gateway.open() as connection:
        connection.sendall(
            f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALL}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {64 * 1024 * 1024}\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_over_the_limit_is_refused_while_it_is_read(gateway: Gateway) -> None:
    """Chunked, without an announced length: the answer comes before the body's end was ever sent."""
    chunk = b"%x\r\n" % 65536 + b"[" + b" " * 65535 + b"\r\n"
    with gateway.open() as connection:
        connection.sendall(
            f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALL}\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        try:
            for _ in range(17 * 16 + 1):
                connection.sendall(chunk)
        except OSError:
            pass  # closed by the gateway, which may be before our last chunk
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_the_traceparent_of_the_event_stays(gateway: Gateway, written: Topics, fresh: str) -> None:
    other = "00-11111111111111111111111111111111-2222222222222222-00"
    assert gateway.send({**event(fresh), "traceparent": TRACE}, headers={"traceparent": other}).status_code == 202
    assert written.with_text(fresh)[0].document["traceparent"] == TRACE


def test_the_traceparent_of_the_request_is_filled_in(gateway: Gateway, written: Topics, fresh: str) -> None:
    assert gateway.send({**event(fresh), "traceparent": None}, headers={"traceparent": TRACE}).status_code == 202
    (record,) = written.with_text(fresh)
    assert record.document["traceparent"] == TRACE
    assert record.value.count(b"traceparent") == 1


@pytest.mark.parametrize("header", [None, "nonsense", f"ff{TRACE[2:]}", f"00-{'0' * 32}-b7ad6b7169203331-01"])
def test_without_a_usable_traceparent_a_new_one_is_made(
    gateway: Gateway, written: Topics, fresh: str, header: str | None
) -> None:
    headers = {} if header is None else {"traceparent": header}
    assert gateway.send([event(f"{fresh}-1"), event(f"{fresh}-2")], headers=headers).status_code == 202
    traces = {record.document["traceparent"] for record in written.with_text(fresh, 2)}
    assert len(traces) == 2
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace) for trace in traces)
    assert header not in traces


def test_the_tenant_is_the_keys(gateway: Gateway, written: Topics, fresh: str) -> None:
    assert gateway.send(event(fresh), key=SHOP).status_code == 202
    (record,) = written.with_text(fresh)
    assert (record.document["tenant"], record.key) == ("acme", b"acme/user-1")


@pytest.mark.parametrize("tenant", ["default", "other"])
def test_another_tenant_is_forbidden(gateway: Gateway, written: Topics, fresh: str, tenant: str) -> None:
    answer = gateway.send({**event(fresh), "tenant": tenant}, key=SHOP)
    assert (answer.status_code, answer.json()["path"]) == (403, "$.tenant")
    assert not written.has(fresh)


def test_another_source_is_forbidden(gateway: Gateway, written: Topics, fresh: str) -> None:
    answer = gateway.send({**event(fresh), "source": "bank"}, key=SHOP)
    assert (answer.status_code, answer.json()["reason"], answer.json()["path"]) == (403, "forbidden", "$.source")
    assert not written.has(fresh)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": ALL}, {"X-Api-Key": "wrong"}])
def test_without_a_known_key_nothing_is_read(gateway: Gateway, headers: dict[str, str]) -> None:
    answer = gateway.send(b"not even JSON", key=None, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (401, "unauthenticated")


def test_a_key_may_come_in_a_header_of_its_own(gateway: Gateway, fresh: str) -> None:
    assert gateway.send(event(fresh), key=None, headers={"X-Api-Key": ALL}).status_code == 202


def test_a_scope_is_needed(gateway: Gateway, fresh: str) -> None:
    answer = gateway.send(event(fresh), key=INBOX)
    assert (answer.status_code, answer.json()["reason"]) == (403, "forbidden")


def changed(path: str, value: Any) -> dict[str, Any]:
    document = event("changed")
    *parents, last = path.split(".")
    place = document
    for parent in parents:
        place = place[parent]
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("body", "path", "detail"),
    [
        (b"", "$", "truncated"),
        (b"{", "$", "truncated"),
        (b"null", "$", "Expected `object`"),
        (b'"text"', "$", "Expected `object`"),
        (b"\xff\xfe", "$", "malformed"),
        (json.dumps(event("x")).encode() + b" {}", "$", "trailing characters"),
        (json.dumps(event("x")).replace("user-1", "\udc80").encode("utf-8", "surrogateescape"), "$", "UTF-8"),
        (json.dumps(event("x")).replace("user-1", r"\ud800").encode(), "$", ""),
        (json.dumps(event("x")).replace('"id"', '"id": "y", "id"').encode(), "$", "`id` twice"),
        (json.dumps(event("x", params={"n": 1})).replace('"n": 1', '"n": 1, "n": 1').encode(), "$", "`n` twice"),
        (changed("data.params", json.loads("[" * 120 + "]" * 120)), "$.data.params", "Expected `object | null`"),
        (changed("data.params", {"deep": json.loads("[" * 120 + "]" * 120)}), "$", "100 levels"),
        (changed("data.params", {"n": 10**1200}), "$", "1,000 characters"),
        (changed("colour", "red"), "$", "unknown field `colour`"),
        (changed("data.colour", "red"), "$.data", "unknown field `colour`"),
        (changed("id", 5), "$.id", "Expected `str`"),
        (changed("id", ""), "$.id", "length >= 1"),
        (changed("time", "yesterday"), "$.time", "RFC3339"),
        (changed("time", "2026-01-01T00:00:00"), "$.time", "timezone"),
        (changed("traceparent", "00-xyz"), "$.traceparent", "regex"),
        (changed("tenant", "a/b"), "$.tenant", "regex"),
        (changed("data.priority", "asap"), "$.data.priority", "asap"),
        (changed("data.recipients", {"users": [5]}), "$.data.recipients.users[0]", "Expected `str`"),
        (changed("data.recipients", {"users": [["a"]]}), "$.data.recipients.users[0]", "Expected `str`"),
        (changed("data.recipients", {"users": "a"}), "$.data.recipients.users", "Expected `array`"),
        (changed("data.recipients", {"users": [""]}), "$.data.recipients.users[0]", "length >= 1"),
        (changed("data.template", None), "$.data", "`template` or `content`"),
        (changed("data.ttl", 0), "$.data.ttl", ">= 1"),
    ],
)
def test_what_is_no_valid_event_is_refused_with_its_place(gateway: Gateway, body: Any, path: str, detail: str) -> None:
    answer = gateway.send(body)
    assert answer.status_code == 400
    assert (answer.json()["status"], answer.json()["reason"]) == ("rejected", "invalid_event")
    assert answer.json()["path"] == path
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize(
    "recipients", [{}, {"users": []}, {"users": ["a"], "exclude": ["a"]}, {"users": ["a", "b"], "exclude": ["b", "a"]}]
)
def test_an_event_for_nobody_is_refused(gateway: Gateway, fresh: str, recipients: dict[str, Any]) -> None:
    answer = gateway.send(event(fresh, recipients=recipients))
    assert (answer.status_code, answer.json()["reason"], answer.json()["path"]) == (
        400,
        "no_recipients",
        "$.data.recipients",
    )


def test_audiences_are_refused(gateway: Gateway, fresh: str) -> None:
    answer = gateway.send(event(fresh, recipients={"users": ["a"], "topics": ["news"]}))
    assert (answer.status_code, answer.json()["reason"]) == (400, "recipients_topics_unsupported")
    assert answer.json()["path"] == "$.data.recipients.topics"


@pytest.mark.parametrize(
    "type_", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", ""]
)
def test_another_media_type_is_refused(gateway: Gateway, fresh: str, type_: str) -> None:
    answer = gateway.send(event(fresh), headers={"Content-Type": type_})
    assert (answer.status_code, answer.json()["reason"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("type_", "batch", "status"),
    [
        ("application/cloudevents+json", False, 202),
        ("application/cloudevents+json; charset=utf-8", False, 202),
        ("application/cloudevents+json", True, 400),
        ("application/cloudevents-batch+json", True, 202),
        ("application/cloudevents-batch+json", False, 400),
        ('APPLICATION/JSON; charset="UTF-8"', True, 202),
    ],
)
def test_the_media_types_of_cloudevents(gateway: Gateway, fresh: str, type_: str, batch: bool, status: int) -> None:
    body = [event(fresh)] if batch else event(fresh)
    assert gateway.send(body, headers={"Content-Type": type_}).status_code == status


def test_a_batch_has_a_result_an_event(gateway: Gateway, written: Topics, fresh: str) -> None:
    bad = event(f"{fresh}-1", colour="red")
    batch = [event(f"{fresh}-0"), bad, {**event(f"{fresh}-2"), "source": "bank"}, 5, event(f"{fresh}-4")]
    answer = gateway.send(batch, key=SHOP)
    assert answer.status_code == 207
    body = answer.json()
    assert {name: body[name] for name in ("accepted", "rejected", "unavailable")} == {
        "accepted": 2,
        "rejected": 3,
        "unavailable": 0,
    }
    assert [(each["index"], each.get("id"), each["status"], each.get("path")) for each in body["results"]] == [
        (0, f"{fresh}-0", "accepted", None),
        (1, f"{fresh}-1", "rejected", "$[1].data"),
        (2, f"{fresh}-2", "rejected", "$[2].source"),
        (3, None, "rejected", "$[3]"),
        (4, f"{fresh}-4", "accepted", None),
    ]
    assert {record.document["id"] for record in written.with_text(fresh, 2)} == {f"{fresh}-0", f"{fresh}-4"}
    assert not written.has(f"{fresh}-1")


def test_a_batch_of_a_thousand_is_accepted_and_one_more_is_not(gateway: Gateway, written: Topics, fresh: str) -> None:
    batch = [event(f"{fresh}-{number}") for number in range(1_000)]
    answer = gateway.send(batch)
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1_000)
    assert len({record.document["id"] for record in written.with_text(fresh, 1_000)}) == 1_000
    answer = gateway.send([*batch, event("one-more")])
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_large")


def test_white_space_before_a_batch_is_no_matter(gateway: Gateway, fresh: str) -> None:
    assert gateway.send(b" \r\n\t" * 100 + json.dumps([event(fresh)]).encode()).status_code == 202


def test_an_empty_batch_is_refused(gateway: Gateway) -> None:
    assert gateway.send([]).status_code == 400


def test_a_batch_that_is_no_json_is_refused_as_a_whole(gateway: Gateway, written: Topics, fresh: str) -> None:
    answer = gateway.send(json.dumps([event(fresh)]).encode()[:-1])
    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_request")
    assert not written.has(fresh)


def test_a_repeat_is_accepted_again_and_identical(gateway: Gateway, written: Topics, fresh: str) -> None:
    document = {**event(fresh), "traceparent": TRACE}
    assert [gateway.send(document).status_code for _ in range(2)] == [202, 202]
    first, second = written.with_text(fresh, 2)
    assert first == second


def test_paths_and_methods_that_do_not_exist(gateway: Gateway) -> None:
    assert gateway.call("GET", "/v1/events").status_code == 405
    answer = gateway.call("POST", "/v2/events", json={})
    assert (answer.status_code, answer.json()["reason"]) == (404, "not_found")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
PLACES = [
    *("specversion", "id", "source", "type", "time", "tenant", "traceparent", "data", "extra"),
    *(f"data.{name}" for name in ("recipients", "category", "priority", "template", "params", "content", "channels")),
    *(f"data.{name}" for name in ("expires_at", "ttl", "not_before", "tags", "extra")),
    *(f"data.recipients.{name}" for name in ("users", "exclude", "topics")),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=JSON | st.builds(changed, st.sampled_from(PLACES), JSON))
def test_no_json_fails_the_gateway(gateway: Gateway, document: Any) -> None:
    for body in (document, [document, event("beside")]):
        assert gateway.send(json.dumps(body).encode("utf-8", "surrogatepass")).status_code in (202, 207, 400, 413)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
def test_no_bytes_fail_the_gateway(gateway: Gateway, body: bytes) -> None:
    assert gateway.send(body).status_code in (202, 207, 400)
