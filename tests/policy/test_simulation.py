"""Recorded input of one user, replayed: times, outcomes, costs, and what is left out."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from messages.codec import encode_json
from messages.decision import PENDING
from messages.policy import CategoryPatch, Defaults, Digest, Pause, Policy, Price, Source
from messages.profile import Cancel, Preference, Profile, ProfileInput, ReplaceProfile, SetPreferences, SetQuietHours
from messages.windows import Window
from policy.core import Arrival
from policy.simulation import BILLION, Input, Replayed, Side, arrived, expand, replay, side_of
from tests.policy.builders import (
    ALL_PROVIDERS,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    arrival,
    category,
    command,
    endpoint,
    event,
    throttle,
)

DAY = 24 * HOUR
UNTIL = NOW + 7 * DAY

# NOW is 13:46:40 UTC.
NIGHT = (Window(start="13:00", end="15:00"),)


def side(**settings: Any) -> Side:
    categories = {name: settings.pop(name) for name in list(settings) if name in ("news", "other")}
    document = Policy(version=1, categories=categories or {"news": category()}, **settings)
    return side_of(document, {}, ALL_PROVIDERS)


def person(**fields: Any) -> Profile:
    return Profile(version=1, endpoints=fields.pop("endpoints", [endpoint()]), **fields)


def events(*times: int, **data: Any) -> list[Input]:
    return [Input(at, arrival(event(number, at=at, **data), at, offset=number)) for number, at in enumerate(times)]


def run(under: Side, inputs: list[Input], profile: Profile | None = None, until: int = UNTIL) -> Replayed:
    return replay(under, "default", "ada", profile or person(), inputs, until)


def ends(found: Replayed) -> Counter[str]:
    """The last decisions of what arrived and of digests, as outcome or reason."""
    last = {each.record.origin: each.record for each in found.decisions if not each.record.child}
    return Counter(record.reason or record.outcome for record in last.values())


def deliveries(found: Replayed) -> int:
    return sum(len(each.deliveries) for each in found.decisions)


BURST = [NOW + number * MINUTE for number in range(10)]


def test_a_throttle_of_five_an_hour_halves_ten_sends() -> None:
    assert ends(run(side(), events(*BURST))) == {"sent": 10}
    dropping = side(news=category(throttle=throttle(5, "1d", action="drop")))
    assert ends(run(dropping, events(*BURST))) == {"sent": 5, "throttled": 5}


def test_quiet_hours_defer_to_their_end_exactly() -> None:
    found = run(side(), events(NOW), person(quiet_hours=NIGHT))
    first, second = (each.record for each in found.decisions)
    assert (first.outcome, first.reason, first.decided_at) == ("deferred", "quiet_hours", NOW)
    assert (second.outcome, second.decided_at) == ("sent", first.release_at)
    assert second.decided_at % DAY == 15 * HOUR


def test_what_waits_is_released_between_arrivals_and_not_at_the_next_one() -> None:
    slow = side(news=category(throttle=throttle(1, "1m")))
    found = run(slow, events(NOW, NOW + SECOND, NOW + HOUR))
    sent = [each.record.decided_at for each in found.decisions if each.record.outcome == "sent"]
    assert sent == [NOW, NOW + MINUTE, NOW + HOUR]


def test_a_digest_makes_one_delivery_of_many() -> None:
    inputs = events(*BURST)
    collecting = side(news=category(digest=Digest(window="1h")))
    found = run(collecting, inputs)
    assert ends(found) == {"digested": 10, "sent": 1}
    assert (deliveries(run(side(), inputs)), deliveries(found)) == (10, 1)
    assert found.decisions[-1].record.decided_at == NOW + HOUR


@pytest.mark.parametrize(
    ("country", "body", "cost"),
    [(None, "short", 0.05), ("DE", "short", 0.11), ("DE", "x" * 161, 0.22), ("DE", "я" * 71, 0.22), ("FR", "", 0.05)],
)
def test_an_sms_costs_its_segments_at_the_price_of_the_country(country: str | None, body: str, cost: float) -> None:
    priced = side(
        news=category(channels=("sms", "push")),
        prices={"sms": Price(default=0.05, countries={"DE": 0.11}), "push": Price(default=0.001)},
    )
    profile = person(
        country=country, endpoints=[endpoint("number", "twilio"), endpoint("phone"), endpoint("tablet"), endpoint("other")]
    )
    content = {"sms": {"body": body}, "push": {"body": "x"}}
    (item,) = events(NOW, content=content)
    (judged,) = run(priced, [item], profile).decisions
    assert sorted(judged.deliveries) == sorted([("sms", round(cost * BILLION)), *[("push", BILLION // 1000)] * 3])


def test_the_country_is_the_deployment_s_where_the_user_has_none() -> None:
    priced = side(
        news=category(channels=("sms",)),
        prices={"sms": Price(default=0.05, countries={"DE": 0.11})},
        defaults=Defaults(country="DE"),
    )
    (judged,) = run(priced, events(NOW), person(endpoints=[endpoint("number", "twilio")])).decisions
    assert judged.deliveries == [("sms", 110_000_000)]


def test_what_waits_longer_than_it_is_followed_is_left_by_kind() -> None:
    slow = side(news=category(throttle=throttle(1, "10d")), other=category(digest=Digest(window="30d")))
    inputs = [*events(NOW, NOW + 1), *_other(NOW + 2)]
    found = run(slow, inputs)
    assert found.waiting == {"deferred": 1, "collected": 1}
    assert ends(found) == {"sent": 1, "throttled": 1, "digest": 1}
    assert run(slow, inputs, until=NOW + 31 * DAY).waiting == {}


def _other(at: int) -> list[Input]:
    return [Input(at, arrival(event("other", kind="other", at=at), at, offset=99))]


def test_a_cancel_counts_from_its_own_time_on() -> None:
    slow = side(news=category(throttle=throttle(1, "1h")))
    cancel = Cancel(id="c", source="tests", event_id="event-1")

    def with_cancel_at(at: int) -> Counter[str]:
        inputs = [*events(NOW, NOW + 1), Input(at, command(cancel, 0, at=at))]
        return ends(run(slow, sorted(inputs, key=lambda each: each.at)))

    assert with_cancel_at(NOW + HOUR - 1) == {"sent": 1, "cancelled": 1}
    assert with_cancel_at(NOW + HOUR + 1) == {"sent": 2}


def test_a_profile_command_is_applied_at_its_time_unless_the_profile_has_it_already() -> None:
    refuse = SetPreferences(id="p", preferences=[Preference(category="news", allow=False)])
    inputs = [*events(NOW), Input(NOW + 1, command(refuse, 7, at=NOW + 1)), *events(NOW + 2)]
    inputs[2] = Input(NOW + 2, arrival(event("later", at=NOW + 2), NOW + 2, offset=50))
    assert ends(run(side(), inputs, person(position=(0, 6)))) == {"sent": 1, "opted_out": 1}
    assert ends(run(side(), inputs, person(position=(0, 7)))) == {"sent": 2}


def test_a_profile_that_only_a_command_makes_ends_the_parking_then() -> None:
    make = SetQuietHours(id="q", quiet_hours=())
    inputs = [*events(NOW), Input(NOW + SECOND, command(make, 0, at=NOW + SECOND))]
    channels = {"news": category("marketing", channels=("in_app",))}
    found = replay(side(**channels), "default", "ada", None, inputs, UNTIL)
    assert [(each.record.outcome, each.record.decided_at) for each in found.decisions] == [
        ("parked", NOW),
        ("sent", NOW + SECOND),
    ]
    assert ends(replay(side(**channels), "default", "ada", None, inputs[:1], UNTIL)) == {"unknown_user": 1}


def test_a_refused_command_is_counted_and_changes_nothing() -> None:
    old = ReplaceProfile(id="r", version=3, profile=ProfileInput())
    found = run(side(), [Input(NOW, command(old, 0)), *events(NOW)], person(replaced_with=3))
    assert (found.refused, ends(found)) == (1, {"sent": 1})


def test_a_source_may_send_its_categories_at_any_rate() -> None:
    rules = {"tests": Source(categories=["other"], rate=0.001)}
    both = {"news": category(), "other": category()}
    inputs = [*events(NOW, NOW + 1), *_other(NOW + 2), Input(NOW + 3, arrival(event("o", "other", NOW + 3), NOW + 3, 98))]
    assert ends(run(side(sources=rules, **both), inputs)) == {"category_not_allowed": 2, "sent": 2}


def test_overrides_lie_over_a_side_except_pauses() -> None:
    patch = CategoryPatch(name="news", patch={"throttle": msgspec.Raw(b'{"limit":1,"period":"1d","action":"drop"}')})
    pause = Pause(scope="category", name="news")
    document = Policy(version=1, categories={"news": category()})
    under = side_of(document, {override.key: override for override in (patch, pause)}, ALL_PROVIDERS)
    found = run(under, events(NOW, NOW + 1))
    assert ends(found) == {"sent": 1, "throttled": 1}
    assert {each.record.override for each in found.decisions} == {"category/news"}


def test_an_event_that_is_not_valid_is_rejected_under_its_own_name() -> None:
    data = {"category": "news", "template": "t", "recipients": {"users": ["ada"]}}
    payload = json.dumps({"id": "e", "source": "s", "data": data}).encode()
    item = arrived(payload, "urgent", "events.urgent/0/1", NOW)
    (judged,) = run(side(), [Input(NOW, item)]).decisions
    record = judged.record
    assert (record.outcome, record.reason, record.lane) == ("rejected", "invalid_event", "urgent")
    assert (record.source, record.event_id, record.category) == ("s", "e", "news")
    assert "specversion" in (record.detail or "")


def test_an_input_on_which_the_core_fails_is_left_out_and_the_others_are_decided_without_it() -> None:
    slow = side(news=category(throttle=throttle(1, "1m")))
    inputs = events(NOW, NOW + 1, NOW + 2)
    broken = inputs[1].item
    assert isinstance(broken, Arrival)
    # It is read again when it is released.
    inputs[1] = Input(NOW + 1, Arrival(broken.event, b"{", broken.lane, broken.origin, broken.arrived_at))
    found = run(slow, inputs)
    assert ends(found) == {"sent": 2, "internal_error": 1}
    times = [each.record.decided_at for each in found.decisions if each.record.outcome == "sent"]
    assert times == [NOW, NOW + MINUTE]
    (failed,) = (each.record for each in found.decisions if each.record.reason == "internal_error")
    assert (failed.event_id, failed.detail is not None) == ("event-1", True)


def body(**data: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "1", "data": {"category": "news"} | data}).encode()


def test_recipients_are_those_named_once_less_the_excluded() -> None:
    payload = body(recipients={"users": ["a", "b", "a", "c"], "exclude": ["b", "z"]}, colour="kept")
    found = expand(payload)
    assert found is not None
    tenant, users, rest = found
    assert (tenant, users) == ("default", ["a", "c"])
    assert json.loads(rest)["data"] == {"category": "news", "colour": "kept", "recipients": {"users": [], "exclude": []}}


def test_an_event_for_one_stays_as_it_came() -> None:
    payload = b'{ "tenant":"acme",  "data": {"recipients": {"users": ["a"]}}}'
    assert expand(payload) == ("acme", ["a"], payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"data":{}}',
        body(recipients={"users": []}),
        body(recipients={"users": ["a"], "exclude": ["a"]}),
        body(recipients={"users": ["a", 7]}),
        body(recipients={"users": ["a", ""]}),
        body(recipients={"users": ["a"], "topics": ["all"]}),
        b'{"tenant":"a b","data":{"recipients":{"users":["a"]}}}',
        body(recipients={"users": ["a"]}, text="x" * 1024 * 1024),
        body(recipients={"users": [f"user-{number}" for number in range(40)]}, text="x" * 500_000),
    ],
)
def test_what_names_no_recipient_or_is_too_large_reaches_nobody(payload: bytes) -> None:
    assert expand(payload) is None


def test_the_same_input_gives_the_same_records_and_is_not_changed() -> None:
    chance = random.Random(7)
    under = side(
        news=category(channels=("push", "in_app"), throttle=throttle(3, "1h"), quiet_hours="defer"),
        other=category(digest=Digest(window="20m"), dedup_window="1h"),
    )
    times = sorted(NOW + chance.randrange(12 * HOUR) for _ in range(120))
    inputs = [
        Input(at, arrival(event(chance.randrange(100), chance.choice(("news", "other")), at, dedup_key=f"k{at % 9}"), at, n))
        for n, at in enumerate(times)
    ]
    profile = person(quiet_hours=NIGHT)
    before = [encode_json(inputs), encode_json(profile)]
    first, second = run(under, inputs, profile), run(under, inputs, profile)
    assert encode_json(first) == encode_json(second)
    assert [encode_json(inputs), encode_json(profile)] == before
    # Each that arrived has one end, and nothing waits for ever.
    last = {each.record.origin: each.record for each in first.decisions if not each.record.child}
    assert {item.item.origin for item in inputs if isinstance(item.item, Arrival)} <= set(last)
    assert not any(record.outcome in PENDING for record in last.values())
    assert first.waiting == {}
