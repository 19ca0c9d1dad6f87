"""Users over HTTP: changes become commands on the log, views and inboxes are read from Redis."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import redis
import redis.asyncio

from connectors.inbox import Inbox, InboxItem
from connectors.settings import Settings
from connectors.view_store import ViewKeys, ViewWriter, namespace
from messages.codec import encode_json
from messages.decision import CapCount, DecisionRecord
from messages.delivery import Outcome
from messages.profile import (
    AddEndpoint,
    Endpoint,
    GiveConsent,
    Profile,
    Read,
    RemoveEndpoint,
    ReplaceProfile,
    SetPreferences,
    SetQuietHours,
    Subscribe,
    WithdrawConsent,
    decode_change,
)
from tests.gateway.gateway_process import ALL, INBOX, PROFILES, SHOP, Gateway, Topics

PROFILE = {
    "country": "DE",
    "time_zone": "Europe/Berlin",
    "locale": "de-DE",
    "endpoints": [{"id": "phone", "provider": "fcm", "address": "token"}],
    "preferences": [{"category": "news", "channel": "email", "allow": False}],
}
CONSENT = {"category": "news", "channel": "sms", "at": 1_790_000_000_000, "where": "web", "text_version": "3"}
CHANGES: dict[str, tuple[str, str, Any, type]] = {
    "replace": ("PUT", "", PROFILE, ReplaceProfile),
    "preferences": ("PATCH", "/preferences", [{"category": "news", "allow": False}], SetPreferences),
    "add": ("POST", "/endpoints", {"id": "phone", "provider": "fcm", "address": "token"}, AddEndpoint),
    "remove": ("DELETE", "/endpoints/phone%2F1", None, RemoveEndpoint),
    "quiet hours": ("PUT", "/quiet-hours", [{"start": "22:00", "end": "07:00", "days": ["mon"]}], SetQuietHours),
    "subscribe": ("PUT", "/subscriptions/sport%2F1", None, Subscribe),
    "leave": ("DELETE", "/subscriptions/sport%2F1", None, Subscribe),
    "consent": ("POST", "/consents", CONSENT, GiveConsent),
    "withdrawal": ("DELETE", "/consents?category=news&channel=sms", None, WithdrawConsent),
}


@pytest.fixture
def store(gateway_settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(gateway_settings.redis.url)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_a_command_on_the_log(gateway: Gateway, written: Topics, fresh: str, change: str) -> None:
    method, path, body, kind = CHANGES[change]
    answer = gateway.call(method, f"/v1/users/{fresh}{path}", json=body, headers={"Idempotency-Key": f"c-{fresh}"})
    assert (answer.status_code, answer.json()) == (202, {"id": f"c-{fresh}", "status": "accepted"})
    (record,) = written.with_text(f"c-{fresh}")
    assert (record.topic, record.key) == ("changes", f"default/{fresh}".encode())
    assert isinstance(decode_change(record.value), kind)


def test_the_commands_say_what_was_asked(gateway: Gateway, written: Topics, fresh: str) -> None:
    for name, (method, path, body, _) in CHANGES.items():
        headers = {"Idempotency-Key": fresh, **({"If-Version": "7"} if name == "replace" else {})}
        assert gateway.call(method, f"/v1/users/u{path}", json=body, headers=headers).status_code == 202
    commands = [record.document for record in written.with_text(fresh, len(CHANGES))]
    assert all(command.pop("id") == fresh for command in commands)
    assert commands == [
        {"kind": "replace_profile", "version": 7, "profile": PROFILE},
        {"kind": "set_preferences", "preferences": CHANGES["preferences"][2]},
        {"kind": "add_endpoint", "endpoint": CHANGES["add"][2]},
        {"kind": "remove_endpoint", "endpoint_id": "phone/1"},
        {"kind": "set_quiet_hours", "quiet_hours": CHANGES["quiet hours"][2]},
        {"kind": "subscribe", "topic": "sport/1"},
        {"kind": "subscribe", "topic": "sport/1", "subscribed": False},
        {"kind": "give_consent", "consent": CONSENT},
        {"kind": "withdraw_consent", "category": "news", "channel": "sms"},
    ]


def test_no_quiet_hours_is_an_empty_list(gateway: Gateway, written: Topics, fresh: str) -> None:
    answer = gateway.call("PUT", f"/v1/users/{fresh}/quiet-hours", json=[], headers={"Idempotency-Key": fresh})
    assert answer.status_code == 202
    assert written.with_text(fresh)[0].document == {"kind": "set_quiet_hours", "id": fresh, "quiet_hours": []}


def test_a_users_id_may_hold_a_slash_and_anything_else(gateway: Gateway, written: Topics, fresh: str) -> None:
    answer = gateway.call("PUT", f"/v1/users/{fresh}%2F%C3%BC%20%25", json={}, headers={"Idempotency-Key": fresh})
    assert answer.status_code == 202
    assert written.with_text(fresh)[0].key == f"default/{fresh}/ü %".encode()


def test_a_change_without_a_name_gets_one(gateway: Gateway, written: Topics, fresh: str) -> None:
    first, second = (gateway.call("PUT", f"/v1/users/{fresh}", json={}).json()["id"] for _ in range(2))
    assert first != second
    assert written.with_text(first)[0].document["id"] == first


def test_the_tenant_is_the_keys(gateway: Gateway, written: Topics, fresh: str) -> None:
    assert gateway.call("PUT", f"/v1/users/{fresh}", json={"locale": "de"}, key=PROFILES).status_code == 202
    answer = gateway.call("PUT", "/v1/users/u", json={}, key=PROFILES, headers={"Idempotency-Key": fresh})
    assert answer.status_code == 202
    assert written.with_text(fresh)[0].key == b"acme/u"


@pytest.mark.parametrize(
    ("method", "path", "body", "place", "detail"),
    [
        ("PUT", "", {"colour": "red"}, "$", "unknown field `colour`"),
        ("PUT", "", {"time_zone": "Europe/Bern"}, "$", "Unknown time zone `Europe/Bern`"),
        ("PUT", "", {"country": "Germany"}, "$.country", "regex"),
        ("PUT", "", {"endpoints": [{"id": "a", "provider": "smoke", "address": "x"}]}, "$.endpoints[0].provider", "smoke"),
        ("PUT", "", {"endpoints": [{"id": "a", "provider": "fcm", "address": "x"}] * 2}, "$", "same `id` twice"),
        ("PUT", "", [], "$", "Expected `object`"),
        ("PATCH", "/preferences", [], "$", "length >= 1"),
        ("PATCH", "/preferences", [{"channel": "fax", "allow": True}], "$[0].channel", "fax"),
        ("PATCH", "/preferences", [{"category": "news"}], "$[0]", "missing required field `allow`"),
        ("PATCH", "/preferences", {"category": "news", "allow": False}, "$", "Expected `array`"),
        ("POST", "/endpoints", {"id": "", "provider": "fcm", "address": "x"}, "$.id", "length >= 1"),
        ("POST", "/endpoints", {"id": "a", "provider": "fcm", "address": ""}, "$.address", "length >= 1"),
        ("PUT", "/quiet-hours", {"start": "22:00", "end": "07:00"}, "$", "Expected `array`"),
        ("PUT", "/quiet-hours", [{"start": "22:00", "end": "24:01"}], "$[0].end", "regex"),
        ("PUT", "/quiet-hours", [{"start": "24:00", "end": "07:00"}], "$[0].start", "regex"),
        ("PUT", "/quiet-hours", [{"start": "22:00", "end": "07:00", "days": ["monday"]}], "$[0].days[0]", "monday"),
        ("PUT", "/quiet-hours", [{"start": "22:00", "end": "07:00", "days": []}], "$[0].days", "length >= 1"),
        ("PUT", "/quiet-hours", [{"start": "22:00", "end": "07:00"}] * 33, "$", "length <= 32"),
        ("PUT", "", {"quiet_hours": [{"start": "22:00"}]}, "$.quiet_hours[0]", "missing required field `end`"),
        ("PUT", "", {"consents": [{"at": 1, "where": "web"}]}, "$.consents[0]", "missing required field `text_version`"),
        ("POST", "/consents", {"channel": "sms"}, "$", "missing required field `at`"),
        ("POST", "/consents", CONSENT | {"at": -1}, "$.at", ">= 0"),
        ("POST", "/consents", CONSENT | {"channel": "fax"}, "$.channel", "fax"),
        ("POST", "/consents", CONSENT | {"proof": "x"}, "$", "unknown field `proof`"),
    ],
)
def test_what_is_no_valid_change_is_refused_with_its_place(
    gateway: Gateway, method: str, path: str, body: Any, place: str, detail: str
) -> None:
    answer = gateway.call(method, f"/v1/users/u{path}", json=body)
    assert (answer.status_code, answer.json()["path"]) == (400, place)
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "headers", "place"),
    [
        ("/v1/users/%FF", {}, "user_id"),
        (f"/v1/users/{'x' * 257}", {}, "user_id"),
        ("/v1/users/u", {"If-Version": "one"}, "If-Version"),
        ("/v1/users/u", {"If-Version": "-1"}, "If-Version"),
        ("/v1/users/u", {"If-Version": str(2**63)}, "If-Version"),
        ("/v1/users/u", {"Idempotency-Key": "x" * 257}, "Idempotency-Key"),
    ],
)
def test_a_wrong_parameter_is_named(gateway: Gateway, path: str, headers: dict[str, str], place: str) -> None:
    answer = gateway.call("PUT", path, json={}, headers=headers)
    assert (answer.status_code, answer.json()["reason"], answer.json()["path"]) == (400, "invalid_request", place)


@pytest.mark.parametrize(
    ("query", "place", "detail"),
    [
        ("", "category", "name the `category`, the `channel`, or both"),
        ("?channel=fax", "channel", "fax"),
        (f"?category={'x' * 257}", "category", "length <= 256"),
    ],
)
def test_a_withdrawal_says_what_it_withdraws(gateway: Gateway, query: str, place: str, detail: str) -> None:
    answer = gateway.call("DELETE", f"/v1/users/u/consents{query}")
    assert (answer.status_code, answer.json()["reason"], answer.json()["path"]) == (400, "invalid_request", place)
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_topic_that_is_none_is_named(gateway: Gateway, method: str) -> None:
    answer = gateway.call(method, f"/v1/users/u/subscriptions/{'x' * 257}")
    assert (answer.status_code, answer.json()["path"]) == (400, "topic")


def test_a_field_twice_is_refused(gateway: Gateway) -> None:
    headers = {"Content-Type": "application/json"}
    answer = gateway.call("PUT", "/v1/users/u", data=b'{"locale": "de", "locale": "en"}', headers=headers)
    assert answer.status_code == 400
    assert "`locale` twice" in answer.json()["detail"]


def test_an_oversized_profile_is_refused(gateway: Gateway) -> None:
    endpoints = [{"id": str(number), "provider": "webpush", "address": "ü" * 4096} for number in range(64)]
    preferences = [{"category": f"{number}{'x' * 250}", "allow": True} for number in range(512)]
    document = {"endpoints": endpoints, "preferences": preferences}
    body = json.dumps(document, ensure_ascii=False).encode() + b" " * (1024 * 1024)
    answer = gateway.call("PUT", "/v1/users/u", data=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("PUT", "/v1/users/u", None, 401),
        ("PUT", "/v1/users/u", SHOP, 403),
        ("GET", "/v1/users/u", INBOX, 403),
        ("GET", "/v1/users/u/decisions", INBOX, 403),
        ("GET", "/v1/users/u/inbox", PROFILES, 403),
        ("POST", "/v1/users/u/inbox/d/read", PROFILES, 403),
        ("DELETE", "/v1/users/u/endpoints/e", SHOP, 403),
        ("PUT", "/v1/users/u/quiet-hours", SHOP, 403),
        ("PUT", "/v1/users/u/subscriptions/t", SHOP, 403),
        ("DELETE", "/v1/users/u/subscriptions/t", SHOP, 403),
        ("POST", "/v1/users/u/consents", SHOP, 403),
        ("DELETE", "/v1/users/u/consents?channel=sms", SHOP, 403),
    ],
)
def test_a_key_with_the_scope_is_needed(gateway: Gateway, method: str, path: str, key: str | None, status: int) -> None:
    assert gateway.call(method, path, key=key).status_code == status


def test_a_change_must_be_json(gateway: Gateway) -> None:
    assert gateway.call("PUT", "/v1/users/u", data="{}", headers={"Content-Type": "text/plain"}).status_code == 415


def test_a_profile_is_read_from_the_view(gateway: Gateway, gateway_settings: Settings, store: Any, fresh: str) -> None:
    assert gateway.call("GET", f"/v1/users/{fresh}%2F1").status_code == 404
    profile = Profile(
        version=3,
        time_zone="Europe/Berlin",
        endpoints=[Endpoint(id="phone", provider="fcm", address="token")],
        preferences={"news/email": False},
        applied=["c-1"],
        position=(0, 7),
    )
    key = f"default/{fresh}/1".encode()
    store.execute_command(*ViewWriter(gateway_settings.kafka, gateway_settings.views).profile(key, encode_json(profile)))
    answer = gateway.call("GET", f"/v1/users/{fresh}%2F1")
    assert answer.status_code == 200
    assert answer.json()["endpoints"] == [{"id": "phone", "provider": "fcm", "address": "token"}]
    assert answer.json()["version"] == 3
    assert "applied" not in answer.json()
    assert gateway.call("GET", f"/v1/users/{fresh}%2F1", key=PROFILES).status_code == 404


def test_decisions_are_explained_from_the_view(gateway: Gateway, gateway_settings: Settings, store: Any, fresh: str) -> None:
    empty = {"tenant": "default", "user": fresh, "notifications": []}
    assert gateway.call("GET", f"/v1/users/{fresh}/decisions").json() == empty
    writer = ViewWriter(gateway_settings.kafka, gateway_settings.views)
    shared: dict[str, Any] = {"tenant": "default", "user": fresh, "source": "shop", "category": "news", "lane": "urgent"}
    for step, event_id in enumerate(("e-1", "e-2")):
        record = DecisionRecord(
            notification_id=event_id,
            event_id=event_id,
            outcome="sent",
            channels={"push": "sent"},
            caps=[CapCount(name="daily", taken=1, limit=3, window="day")],
            deliveries=[f"{fresh}-{event_id}"],
            policy_version=1,
            origin="events.urgent/0/1",
            arrived_at=1,
            decided_at=2 + step,
            **shared,
        )
        store.execute_command(*writer.decision(f"default/{fresh}".encode(), encode_json(record)))
    outcome = Outcome(
        delivery_id=f"{fresh}-e-2",
        event_id="e-2",
        channel="push",
        provider="fcm",
        endpoint_id="phone",
        status="accepted",
        at=9,
        **shared,
    )
    store.execute_command(*writer.outcome(encode_json(outcome)))
    first, second = gateway.call("GET", f"/v1/users/{fresh}/decisions").json()["notifications"]
    assert (first["event_id"], second["event_id"]) == ("e-1", "e-2")
    assert {name: each["status"] for name, each in second["outcomes"].items()} == {f"{fresh}-e-2": "accepted"}
    assert second["decisions"][0]["caps"] == [{"name": "daily", "taken": 1, "limit": 3, "window": "day"}]
    assert "1 delivery went out." in second["sentences"][0]
    assert "fcm accepted it" in second["sentences"][-1]
    for query, left in (("event=e-1", ["e-1"]), ("limit=1", ["e-2"]), ("event=e-1&limit=1", ["e-1"]), ("event=e-3", [])):
        body = gateway.call("GET", f"/v1/users/{fresh}/decisions?{query}").json()
        assert [each["event_id"] for each in body["notifications"]] == left


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_wrong_limit_is_refused(gateway: Gateway, limit: str) -> None:
    answer = gateway.call("GET", f"/v1/users/u/decisions?limit={limit}")
    assert (answer.status_code, answer.json()["path"]) == (400, "limit")


def put_items(settings: Settings, user: str, *items: InboxItem) -> None:
    """As the adapter does."""

    async def put() -> None:
        client = redis.asyncio.Redis.from_url(settings.redis.url)
        inbox = Inbox(client, prefix=namespace(settings.kafka))
        for number, item in enumerate(items):
            await inbox.put("default", user, item, 1_800_000_000_000 + number)
        await client.aclose()

    asyncio.run(put())


def test_an_inbox_is_paged_and_marked(gateway: Gateway, gateway_settings: Settings, fresh: str) -> None:
    put_items(gateway_settings, fresh, *(InboxItem(id=f"d-{number}", category="news") for number in range(3)))
    first = gateway.call("GET", f"/v1/users/{fresh}/inbox?limit=2", key=INBOX).json()
    assert ([item["id"] for item in first["items"]], first["unread"]) == (["d-2", "d-1"], 3)
    second = gateway.call("GET", f"/v1/users/{fresh}/inbox?limit=2&before={first['next']}").json()
    assert ([item["id"] for item in second["items"]], "next" in second) == (["d-0"], False)
    for marked in (1, 0):
        answer = gateway.call("POST", f"/v1/users/{fresh}/inbox/d-1/read")
        assert (answer.status_code, answer.json()) == (200, {"marked": marked, "unread": 2})
    assert gateway.call("POST", f"/v1/users/{fresh}/inbox/nothing/read").json() == {"marked": 0, "unread": 2}
    items = gateway.call("GET", f"/v1/users/{fresh}/inbox").json()["items"]
    assert [item["id"] for item in items if item.get("read_at")] == ["d-1"]


def test_an_item_that_is_read_ends_its_ladder(
    gateway: Gateway, gateway_settings: Settings, written: Topics, fresh: str
) -> None:
    put_items(gateway_settings, fresh, InboxItem(id=fresh, category="news", source="shop", event_id=f"e-{fresh}"))
    for marked in (1, 0):
        assert gateway.call("POST", f"/v1/users/{fresh}/inbox/{fresh}/read").json() == {"marked": marked, "unread": 0}
    assert written.has(f"read/{fresh}")
    # It was unread but once.
    (record,) = written.with_text(f"read/{fresh}")
    assert (record.topic, record.key) == ("changes", f"default/{fresh}".encode())
    assert decode_change(record.value) == Read(id=f"read/{fresh}", source="shop", event_id=f"e-{fresh}")


def test_an_item_of_an_older_version_is_marked_and_ends_nothing(
    gateway: Gateway, gateway_settings: Settings, written: Topics, fresh: str
) -> None:
    put_items(gateway_settings, fresh, InboxItem(id=fresh, category="news", event_id=f"e-{fresh}"))
    assert gateway.call("POST", f"/v1/users/{fresh}/inbox/{fresh}/read").json() == {"marked": 1, "unread": 0}
    assert not written.has(fresh)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=many", "before=nonsense"])
def test_a_wrong_page_is_refused(gateway: Gateway, query: str) -> None:
    answer = gateway.call("GET", f"/v1/users/u/inbox?{query}")
    assert (answer.status_code, answer.json()["path"]) == (400, query.partition("=")[0])


def test_views_of_two_prefixes_do_not_meet(gateway_settings: Settings) -> None:
    other = type(gateway_settings.kafka)(prefix="other.")
    assert ViewKeys(gateway_settings.kafka).profile(b"default/u") != ViewKeys(other).profile(b"default/u")


def test_the_document_describes_every_path_and_its_parameters(gateway: Gateway) -> None:
    document = gateway.described.document
    assert set(document["paths"]) == {
        "/healthz",
        "/v1/events",
        "/v1/users/{user_id}",
        "/v1/users/{user_id}/preferences",
        "/v1/users/{user_id}/endpoints",
        "/v1/users/{user_id}/endpoints/{endpoint_id}",
        "/v1/users/{user_id}/quiet-hours",
        "/v1/users/{user_id}/subscriptions/{topic}",
        "/v1/users/{user_id}/consents",
        "/v1/cancellations",
        "/v1/users/{user_id}/decisions",
        "/v1/users/{user_id}/inbox",
        "/v1/users/{user_id}/inbox/{delivery_id}/read",
    }
    put = document["paths"]["/v1/users/{user_id}"]["put"]
    assert {each["name"] for each in put["parameters"]} == {"user_id", "Idempotency-Key", "If-Version"}
    profile = gateway.described.validator(put["requestBody"]["content"]["application/json"]["schema"])
    assert profile.is_valid(PROFILE)
    assert not profile.is_valid({"colour": "red"})
    events = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert set(events) == {"application/json", "application/cloudevents+json", "application/cloudevents-batch+json"}
    assert ALL not in json.dumps(document)


def test_healthz_needs_no_key(gateway: Gateway) -> None:
    answer = gateway.call("GET", "/healthz", key=None)
    assert (answer.status_code, answer.json()) == (200, {"kafka": "ok", "redis": "ok", "policies": "ok"})
