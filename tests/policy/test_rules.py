"""The rules of ``decide`` one by one: boundaries to the millisecond, their order, and defects known from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.event import Content, ContentInput
from messages.policy import Bounds
from policy.core import decide
from policy.release import URGENT_FOR
from tests.policy.builders import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    add_endpoint,
    arrival,
    category,
    command,
    endpoint,
    event,
    fire,
    only,
    policies,
    throttle,
    user,
    verdict,
)

NEWS = policies(news=category())

# Rule 1: expiry and staleness


@pytest.mark.parametrize(("now", "outcome"), [(NOW - 1, ("sent", None)), (NOW, ("suppressed", "expired"))])
def test_it_has_expired_at_the_very_instant_of_expires_at(now: int, outcome: tuple[str, str | None]) -> None:
    assert verdict(decide(now, NEWS, user(), arrival(event(1, at=NOW - HOUR, expires_at=NOW)))) == outcome


@pytest.mark.parametrize(("now", "outcome"), [(NOW + 4_999, ("sent", None)), (NOW + 5_000, ("suppressed", "expired"))])
def test_a_ttl_counts_from_the_events_time(now: int, outcome: tuple[str, str | None]) -> None:
    assert verdict(decide(now, NEWS, user(), arrival(event(1, at=NOW, ttl=5), at=now))) == outcome


@pytest.mark.parametrize(("late", "outcome"), [(60_000, ("sent", None)), (60_001, ("suppressed", "stale"))])
def test_it_is_stale_after_max_age_and_not_at_it(late: int, outcome: tuple[str, str | None]) -> None:
    rules = policies(news=category(max_age="1m"))
    assert verdict(decide(NOW + late, rules, user(), arrival(event(1, at=NOW)))) == outcome


@pytest.mark.parametrize(("not_before", "outcome"), [(NOW, "sent"), (NOW + 1, "deferred"), (NOW - HOUR, "sent")])
def test_not_before_is_reached_at_its_own_instant(not_before: int, outcome: str) -> None:
    out = decide(NOW, NEWS, user(), arrival(event(1, not_before=not_before)))
    assert only(out).outcome == outcome
    assert only(out).release_at == (not_before if outcome == "deferred" else None)


@given(st.integers(1, 999))
def test_parts_of_a_millisecond_are_rounded_down(microseconds: int) -> None:
    what = event(1, expires_at=NOW)
    assert what.data.expires_at is not None
    what.data.expires_at = what.data.expires_at.replace(microsecond=microseconds)
    assert verdict(decide(NOW - 1, NEWS, user(), arrival(what))) == ("sent", None)
    assert verdict(decide(NOW, NEWS, user(), arrival(what))) == ("suppressed", "expired")


# The order of the rules: an event that every rule would refuse, relieved of one after the other.


def test_the_first_terminal_reason_wins() -> None:
    rules = policies(
        bounds=Bounds(pending_items=1),
        news=category("marketing", max_age="1m", default="deny", throttle=throttle(1, "1h", action="drop")),
    )
    everything: dict[str, Any] = {"at": NOW - HOUR, "expires_at": NOW, "not_before": NOW + HOUR}
    state = user(endpoint(suppressed="bounce"))
    assert state.profile is not None

    def judged(kind: str = "news", number: int = 1) -> tuple[str, str | None]:
        return verdict(decide(NOW, rules, state, arrival(event(number, kind, **everything))))

    assert judged("nothing") == ("rejected", "unknown_category")
    assert judged() == ("suppressed", "expired")
    everything["expires_at"] = NOW + 2 * HOUR
    assert judged() == ("suppressed", "stale")
    everything["at"] = NOW
    assert judged() == ("deferred", "not_before")
    assert judged() == ("suppressed", "duplicate_event")
    assert judged(number=2) == ("suppressed", "pending_full")
    del everything["not_before"]
    assert judged(number=3) == ("suppressed", "opted_out")
    state.profile.preferences["*/*"] = True
    assert judged(number=4) == ("suppressed", "endpoint_suppressed")
    state.profile.endpoints[0].suppressed = None
    assert judged(number=5) == ("sent", None)
    assert judged(number=6) == ("suppressed", "throttled")


# Parking


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("critical", ("sent", None)), ("transactional", ("sent", None)), ("marketing", ("suppressed", "unknown_user"))],
)
def test_parking_ends_by_class(kind: str, outcome: tuple[str, str | None]) -> None:
    rules = policies(park="30s", news=category(kind, ("push", "in_app")))
    state = user(known=False)
    parked = only(decide(NOW, rules, state, arrival(event())))
    assert (parked.outcome, parked.reason, parked.release_at) == ("parked", "parking", NOW + 30 * SECOND)
    out = fire(rules, state)
    assert verdict(out) == outcome
    assert only(out).step == 1
    assert [d.channel for d in out.deliveries] == ([] if kind == "marketing" else ["in_app"])
    assert (state.pending, state.activity.due) == ({}, 0)


def test_a_profile_that_arrives_releases_what_was_parked_in_order() -> None:
    state = user(known=False)
    for number in range(5):
        decide(NOW + number, NEWS, state, arrival(event(number)))
    out = decide(NOW + SECOND, NEWS, state, command(add_endpoint(1), 0))
    assert [d.event_id for d in out.deliveries] == [f"event-{number}" for number in range(5)]
    assert (state.pending, state.activity.due) == ({}, 0)


def test_a_parked_item_resumes_at_not_before() -> None:
    state = user(known=False)
    decide(NOW, NEWS, state, arrival(event(1, not_before=NOW + HOUR)))
    out = decide(NOW + SECOND, NEWS, state, command(add_endpoint(1), 0))
    assert verdict(out) == ("deferred", "not_before")
    assert only(out).step == 1
    assert fire(NEWS, state).decisions[0].step == 2


# Release


def test_a_release_judges_by_the_preferences_and_the_policy_of_that_moment() -> None:
    state = user()
    decide(NOW, NEWS, state, arrival(event(1, not_before=NOW + HOUR)))
    decide(NOW, NEWS, state, arrival(event(2, not_before=NOW + 2 * HOUR)))
    assert state.profile is not None
    state.profile.preferences["news/*"] = False
    assert verdict(fire(NEWS, state)) == ("suppressed", "opted_out")
    without = policies(offers=category())
    assert verdict(fire(without, state)) == ("rejected", "unknown_category")


def test_a_release_repeats_expiry_at_the_instant_of_expiry_and_not_later() -> None:
    state = user()
    waiting = only(decide(NOW, NEWS, state, arrival(event(1, not_before=NOW + 2 * HOUR, expires_at=NOW + HOUR))))
    assert waiting.release_at == state.activity.due == NOW + HOUR
    assert verdict(fire(NEWS, state)) == ("suppressed", "expired")


def test_an_overnight_deferral_that_its_own_release_declares_stale() -> None:
    """Staleness is judged once, at arrival: eight hours of waiting by our own decision make nothing stale."""
    rules = policies(news=category(max_age="10m"), chat=category(max_age="10m", throttle=throttle(1, "8h", burst=1)))
    state = user()
    decide(NOW, rules, state, arrival(event(1, not_before=NOW + 8 * HOUR)))
    decide(NOW, rules, state, arrival(event(2, "chat")))
    decide(NOW, rules, state, arrival(event(3, "chat")))
    out = fire(rules, state)
    assert [(record.event_id, record.outcome) for record in out.decisions] == [("event-1", "sent"), ("event-3", "sent")]
    parked = user(known=False)
    slow = policies(park="20m", news=category(max_age="10m", channels=("in_app",)))
    decide(NOW, slow, parked, arrival(event(1)))
    assert verdict(fire(slow, parked)) == ("sent", None)


def test_a_token_taken_by_a_notification_that_a_later_rule_then_refused() -> None:
    """A refusal costs nothing, whichever rule refuses, on this channel or on another one."""
    rules = policies(
        bounds=Bounds(pending_items=1),
        providers=frozenset({"fcm"}),
        news=category(channels=("push", "sms", "email"), throttle=throttle(1, "1h", burst=2)),
    )
    state = user(endpoint("p"), endpoint("s", "twilio"), endpoint("e", "ses"), preferences={"news/email": False})
    for number in range(2):
        out = decide(NOW, rules, state, arrival(event(number)))
        assert only(out).channels == {"push": "sent", "sms": "no_provider", "email": "opted_out"}
    assert set(state.activity.buckets) == {"news/push"}, "a channel that was refused has no bucket"
    before = state.activity.buckets["news/push"]
    assert verdict(decide(NOW, rules, state, arrival(event(2)))) == ("deferred", "throttled")
    assert verdict(decide(NOW, rules, state, arrival(event(3)))) == ("suppressed", "pending_full")
    assert state.activity.buckets["news/push"] == before
    assert state.profile is not None
    state.profile.preferences["news/push"] = False
    assert only(fire(rules, state)).channels == {"push": "opted_out", "sms": "no_provider", "email": "opted_out"}
    assert state.activity.buckets["news/push"] == before


def test_an_urgent_notification_that_waited_longer_than_claims_live_goes_out_in_the_background() -> None:
    for waited, lane in ((URGENT_FOR, "urgent"), (URGENT_FOR + 1, "background")):
        state = user()
        decide(NOW, NEWS, state, arrival(event(1, not_before=NOW + waited), lane="urgent"))
        out = fire(NEWS, state)
        assert [d.lane for d in out.deliveries] == [only(out).lane] == [lane]


# Channels and children


def test_the_channels_are_the_categorys_that_the_event_allows_and_has_content_for() -> None:
    rules = policies(news=category(channels=("push", "sms", "in_app")))
    state = user(endpoint("p"), endpoint("s", "twilio"), endpoint("e", "ses"))

    def channels(number: int, **data: Any) -> list[str]:
        return [d.channel for d in decide(NOW, rules, state, arrival(event(number, **data))).deliveries]

    assert channels(1) == ["push", "sms", "in_app"]
    assert channels(2, channels=["in_app", "email", "push"]) == ["push", "in_app"]
    assert channels(3, content={"sms": Content(body="x"), "email": Content(body="x")}) == ["sms"]
    assert channels(4, template="t") == ["push", "sms", "in_app"]
    for number, data in ((5, {"channels": []}), (6, {"channels": ["email"]}), (7, {"content": {"email": Content()}})):
        assert verdict(decide(NOW, rules, state, arrival(event(number, **data)))) == ("rejected", "no_channel")


def test_what_waits_on_one_channel_is_a_child_of_what_was_sent_on_another() -> None:
    rules = policies(news=category(channels=("push", "in_app"), throttle=throttle(1, "1m", burst=1)))
    state = user()
    decide(NOW, rules, state, arrival(event(1, channels=["push"])))
    sent, child = decide(NOW + SECOND, rules, state, arrival(event(2))).decisions
    assert (sent.outcome, sent.child, sent.step, sent.channels) == (
        "sent",
        False,
        0,
        {"push": "throttled", "in_app": "sent"},
    )
    assert (child.outcome, child.reason, child.child, child.step) == ("deferred", "throttled", True, 0)
    assert child.notification_id == sent.notification_id
    assert child.release_at == NOW + MINUTE
    out = fire(rules, state)
    assert (only(out).outcome, only(out).child, only(out).step, only(out).channels) == ("sent", True, 1, {"push": "sent"})
    assert [d.channel for d in out.deliveries] == ["push"]


def test_of_two_channels_that_wait_each_goes_when_its_own_token_is_there() -> None:
    rules = policies(news=category(channels=("push", "in_app"), throttle=throttle(1, "1m", burst=1)))
    state = user()
    decide(NOW, rules, state, arrival(event(1, channels=["push"])))
    decide(NOW + SECOND, rules, state, arrival(event(2, channels=["in_app"])))
    waiting = only(decide(NOW + 2 * SECOND, rules, state, arrival(event(3))))
    assert (waiting.outcome, waiting.child, waiting.release_at) == ("deferred", False, NOW + MINUTE)
    first, rest = fire(rules, state).decisions
    assert (first.outcome, first.child, first.step, first.channels["push"]) == ("sent", False, 1, "sent")
    assert (rest.outcome, rest.child, rest.step, rest.release_at) == ("deferred", True, 1, NOW + MINUTE + SECOND)
    last = only(fire(rules, state))
    assert (last.outcome, last.child, last.step, last.channels) == ("sent", True, 2, {"in_app": "sent"})


def test_a_child_goes_only_to_channels_that_its_category_still_has() -> None:
    rules = policies(news=category(channels=("push", "in_app"), throttle=throttle(1, "1m", burst=1)))
    state = user()
    decide(NOW, rules, state, arrival(event(1, channels=["push"])))
    decide(NOW, rules, state, arrival(event(2)))
    narrowed = policies(version=2, news=category(channels=("in_app",)))
    out = fire(narrowed, state)
    assert out.deliveries == []
    assert verdict(out) == ("rejected", "no_channel")


def test_a_child_that_is_a_duplicate_of_nothing_but_itself() -> None:
    """A repeat of an event whose rest still waits is a duplicate, also where its identity was forgotten."""
    rules = policies(
        bounds=Bounds(identities=1), news=category(channels=("push", "in_app"), throttle=throttle(1, "1m", burst=1))
    )
    state = user()
    decide(NOW, rules, state, arrival(event(1, channels=["push"])))
    decide(NOW, rules, state, arrival(event(2)))
    decide(NOW, rules, state, arrival(event(3, channels=["push"])))
    assert verdict(decide(NOW, rules, state, arrival(event(2)))) == ("suppressed", "duplicate_event")


# First in, first out

FIFO = policies(news=category(throttle=throttle(1, "10s", burst=1)))


def test_deferred_ones_drain_first_in_first_out_before_new_arrivals() -> None:
    state = user()
    for number in range(4):
        decide(NOW + number, FIFO, state, arrival(event(number)))
    order = []
    for number in range(4, 8):
        # A millisecond before the token is there, and at the very millisecond, before the timer.
        due = state.activity.due
        order += [d.event_id for d in decide(due - 1, FIFO, state, arrival(event(number))).deliveries]
        order += [d.event_id for d in decide(due, FIFO, state, arrival(event(f"{number}b"))).deliveries]
    while state.pending:
        order += [d.event_id for d in fire(FIFO, state).deliveries]
    assert order == ["event-1", "event-2", "event-3", *(f"event-{n}{b}" for n in range(4, 8) for b in ("", "b"))]


def test_an_arrival_does_not_overtake_what_a_late_timer_still_holds() -> None:
    """Two tokens are there, the timer of the first one waiting is late: both go out, the older one first."""
    rules = policies(news=category(throttle=throttle(1, "10s", burst=2)))
    state = user()
    for number in range(3):
        decide(NOW, rules, state, arrival(event(number)))
    assert len(state.pending) == 1
    out = decide(NOW + HOUR, rules, state, arrival(event(3)))
    assert [d.event_id for d in out.deliveries] == ["event-2", "event-3"]
    assert (state.pending, state.activity.due) == ({}, 0)


def test_a_stream_of_arrivals_does_not_move_a_late_timer_away_for_ever() -> None:
    state = user()
    decide(NOW, NEWS, state, arrival(event(0, not_before=NOW + 5)))
    sent = [d.event_id for n in range(1, 20) for d in decide(NOW + n, NEWS, state, arrival(event(n))).deliveries]
    assert sent.index("event-0") == 4


def test_a_more_generous_policy_does_not_turn_the_order_round() -> None:
    state = user()
    for number in range(3):
        decide(NOW, FIFO, state, arrival(event(number)))
    generous = policies(version=2, news=category(throttle=throttle(100, "1s", burst=100)))
    assert verdict(decide(NOW + SECOND, generous, state, arrival(event(3)))) == ("deferred", "throttled")
    order = []
    while state.pending:
        order += [d.event_id for d in fire(generous, state).deliveries]
    assert order == ["event-1", "event-2", "event-3"]


# Bounds


def test_pending_full_by_items_and_by_bytes() -> None:
    by_items = policies(bounds=Bounds(pending_items=2), news=category())
    state = user()
    outs = [decide(NOW, by_items, state, arrival(event(n, not_before=NOW + HOUR))) for n in range(3)]
    assert [verdict(out) for out in outs] == [("deferred", "not_before")] * 2 + [("suppressed", "pending_full")]
    assert [out.bounds_hit for out in outs] == [{}, {}, {"pending": 1}]
    state = user()
    first, second = (arrival(event(n, not_before=NOW + HOUR, params={"x": "y" * 600})) for n in range(2))
    by_bytes = policies(bounds=Bounds(pending_bytes=len(first.payload) + len(second.payload) - 1), news=category())
    assert verdict(decide(NOW, by_bytes, state, first)) == ("deferred", "not_before")
    assert verdict(decide(NOW, by_bytes, state, second)) == ("suppressed", "pending_full")


def test_buckets_past_the_bound_are_forgotten_and_counted() -> None:
    rules = policies(bounds=Bounds(buckets=2), news=category(throttle=throttle(1, "1h", action="drop")))
    state = user()
    hits = [decide(NOW + n, rules, state, arrival(event(n, throttle_key=f"k{n}"))).bounds_hit for n in range(3)]
    assert hits == [{}, {}, {"buckets": 1}]
    assert set(state.activity.buckets) == {"key:k1/push", "key:k2/push"}


# What a delivery carries


def test_a_delivery_carries_what_the_adapter_needs() -> None:
    state = user(endpoint("p", address="token", app="shop", registered_at=5))
    assert state.profile is not None
    state.profile.locale = "de"
    what = event(
        1,
        content={"push": ContentInput(title="T", body="B", data={"k": "v"}), "email": Content(body="no")},
        params={"a": [1, {"b": None}]},
        collapse_key="c",
        cancellation_key="x",
        campaign="autumn",
        expires_at=NOW + HOUR,
    )
    what.traceparent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    out = decide(NOW + 3, policies(version=9, news=category("marketing")), state, arrival(what, NOW + 1, lane="urgent"))
    (delivery,) = out.deliveries
    assert (delivery.tenant, delivery.user, delivery.event_id, delivery.source) == ("default", "ada", "event-1", "tests")
    assert (delivery.category, delivery.category_class, delivery.lane) == ("news", "marketing", "urgent")
    assert (delivery.channel, delivery.provider, delivery.endpoint.address) == ("push", "fcm", "token")
    assert (delivery.endpoint.app, delivery.endpoint.registered_at, delivery.locale) == ("shop", 5, "de")
    assert (delivery.content, delivery.params, delivery.template) == (
        ContentInput(title="T", body="B", data={"k": "v"}),
        {"a": [1, {"b": None}]},
        None,
    )
    assert (delivery.collapse_key, delivery.cancellation_key, delivery.campaign) == ("c", "x", "autumn")
    assert (delivery.expires_at, delivery.arrived_at, delivery.decided_at) == (NOW + HOUR, NOW + 1, NOW + 3)
    assert (delivery.policy_version, delivery.traceparent) == (9, what.traceparent)
    record = only(out)
    assert (record.policy_version, record.profile_version, record.origin) == (9, 1, "events.urgent/0/0")
    assert (record.campaign, record.traceparent, record.deliveries) == ("autumn", what.traceparent, [delivery.id])
