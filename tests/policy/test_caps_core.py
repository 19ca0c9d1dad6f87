"""Frequency caps in the core: whom they concern, what counts, and that none is ever exceeded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.policy import Bounds, Cap, CapFlags, Digest
from policy.core import decide
from policy.policies import Policies
from policy.state import UserState
from policy.step import Decided
from tests.policy.builders import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    arrival,
    category,
    endpoint,
    event,
    fire,
    only,
    policies,
    run,
    sent,
    throttle,
    user,
    verdict,
)

SENT = ("sent", None)
CAPPED = ("suppressed", "capped")
ALL = ("push", "email", "sms", "in_app")


def everywhere(**fields: Any) -> UserState:
    """A user with an endpoint on every channel."""
    return user(endpoint("p"), endpoint("e", "ses"), endpoint("s", "twilio"), **fields)


def arrives(state: UserState, rules: Policies, number: int | str = 1, after: int = 0, **data: Any) -> Decided:
    """An event arrives so many milliseconds later."""
    return decide(NOW + after, rules, state, arrival(event(number, at=NOW + after, **data), NOW + after))


def units(state: UserState) -> dict[str, int]:
    """How many units each cap's log holds."""
    return {name: len(log) // 6 for name, log in state.activity.caps.items()}


def test_all_caps_that_concern_it_must_allow() -> None:
    rules = policies(
        caps={"wide": Cap(limit=5, window="24h"), "narrow": Cap(limit=1, window="24h", channels=["push"])},
        news=category(),
    )
    state = user()
    assert verdict(arrives(state, rules, 1)) == SENT
    out = arrives(state, rules, 2)
    assert verdict(out) == CAPPED
    assert [(cap.name, cap.taken, cap.limit, cap.window) for cap in only(out).caps] == [
        ("wide", 1, 5, "24h"),
        ("narrow", 1, 1, "24h"),
    ]


def test_any_channel_counts_once_a_notification_and_a_channel_once_each() -> None:
    caps = {
        "any": Cap(limit=9, window="24h"),
        "loud": Cap(limit=9, window="24h", channels=["push", "sms"]),
        "mail": Cap(limit=9, window="24h", channels=["email"]),
        "none": Cap(limit=9, window="24h", channels=["web_push"]),
    }
    state = everywhere()
    arrives(state, policies(caps=caps, news=category(channels=ALL)))
    assert units(state) == {"any": 1, "loud": 2, "mail": 1}


def test_a_channel_counts_once_and_not_once_an_endpoint() -> None:
    state = user(endpoint("a"), endpoint("b"))
    out = arrives(state, policies(caps={"push": Cap(limit=9, window="24h", channels=["push"])}, news=category()))
    assert len(out.deliveries) == 2
    assert units(state) == {"push": 1}


def test_a_limiter_that_checks_count_below_limit_and_then_adds_more_than_one_point() -> None:
    """Of a notification on three channels only as many go out as there are units left."""
    rules = policies(
        caps={"loud": Cap(limit=2, window="24h", channels=["push", "email", "sms"])}, news=category(channels=ALL)
    )
    state = everywhere()
    out = arrives(state, rules)
    assert only(out).channels == {"push": "sent", "email": "sent", "sms": "capped", "in_app": "sent"}
    assert units(state) == {"loud": 2}


def test_a_cap_on_some_channels_leaves_the_others() -> None:
    rules = policies(
        caps={"push": Cap(limit=1, window="24h", channels=["push"])}, news=category(channels=("push", "in_app"))
    )
    state = user()
    arrives(state, rules, 1)
    assert only(arrives(state, rules, 2)).channels == {"push": "capped", "in_app": "sent"}


# Whom a cap concerns


@pytest.mark.parametrize(
    ("kind", "flags", "obeys", "counts"),
    [
        ("transactional", CapFlags(), True, True),
        ("marketing", CapFlags(obeys=False), False, True),
        ("marketing", CapFlags(counts=False), True, False),
        ("critical", CapFlags(), False, True),
        ("critical", CapFlags(obeys=True), True, True),
        ("transactional", CapFlags(obeys=False, counts=False), False, False),
    ],
)
def test_a_category_obeys_and_counts_as_it_says(kind: str, flags: CapFlags, obeys: bool, counts: bool) -> None:
    rules = policies(caps={"any": Cap(limit=1, window="24h")}, news=category(kind, caps=flags), other=category())
    state = user()
    arrives(state, rules, 1)
    assert units(state) == ({"any": 1} if counts else {})
    state = user()
    arrives(state, rules, 1, kind="other")
    assert verdict(arrives(state, rules, 2)) == (CAPPED if obeys else SENT)


def test_a_cap_is_over_all_sources_and_categories() -> None:
    rules = policies(caps={"any": Cap(limit=1, window="24h")}, news=category(), other=category())
    state = user()
    assert verdict(arrives(state, rules, 1, source="shop")) == SENT
    assert verdict(arrives(state, rules, 2, source="bank", kind="other")) == CAPPED


def test_a_cap_on_classes_concerns_only_them() -> None:
    rules = policies(
        caps={"ads": Cap(limit=1, window="24h", classes=["marketing"])}, ads=category("marketing"), news=category()
    )
    state = user()
    assert verdict(arrives(state, rules, 1, kind="news")) == SENT
    assert units(state) == {}
    assert verdict(arrives(state, rules, 2, kind="ads")) == SENT
    assert verdict(arrives(state, rules, 3, kind="ads")) == CAPPED
    assert verdict(arrives(state, rules, 4, kind="news")) == SENT


def test_a_cap_on_tags_concerns_what_has_any_of_them() -> None:
    rules = policies(caps={"sport": Cap(limit=1, window="24h", tags=["football", "tennis"])}, news=category())
    state = user()
    assert verdict(arrives(state, rules, 1)) == verdict(arrives(state, rules, 2, tags=["chess"])) == SENT
    assert units(state) == {}
    assert verdict(arrives(state, rules, 3, tags=["chess", "tennis"])) == SENT
    assert verdict(arrives(state, rules, 4, tags=["football"])) == CAPPED
    assert verdict(arrives(state, rules, 5, tags=["chess"])) == SENT


# What becomes of what does not fit


def test_deferred_ones_go_out_first_in_first_out_as_units_come_back() -> None:
    rules = policies(caps={"any": Cap(limit=2, window="1h", action="defer")}, news=category())
    state = user()
    records = [only(arrives(state, rules, number, number * MINUTE)) for number in range(5)]
    assert [record.outcome for record in records] == ["sent"] * 2 + ["deferred"] * 3
    assert [record.release_at for record in records[2:]] == [NOW + HOUR, NOW + HOUR + MINUTE, NOW + HOUR + MINUTE]
    assert verdict(arrives(state, rules, 9, HOUR - 1)) == ("deferred", "capped")
    went = [(d.event_id, d.decided_at - NOW) for out in run(rules, state) for d in out.deliveries]
    assert went == [
        ("event-2", HOUR),
        ("event-3", HOUR + MINUTE),
        ("event-4", 2 * HOUR),
        ("event-9", 2 * HOUR + MINUTE),
    ]


def test_an_arrival_does_not_take_the_unit_that_one_before_it_waits_for() -> None:
    rules = policies(caps={"any": Cap(limit=1, window="1h", action="defer")}, news=category())
    state = user()
    for number in range(2):
        arrives(state, rules, number)
    out = arrives(state, rules, 2, HOUR)
    assert sent(out) == [("event-1", "push")]
    assert out.decisions[-1].outcome == "deferred"


def test_a_digest_takes_what_does_not_fit_and_drops_where_the_category_has_none() -> None:
    cap = {"push": Cap(limit=1, window="1h", channels=["push"], action="digest")}
    rules = policies(
        caps=cap,
        news=category(channels=("push", "in_app"), digest=Digest(window="5m", channels=["in_app"])),
        other=category(),
    )
    state = user()
    assert verdict(arrives(state, rules, 1, channels=["push"])) == SENT
    assert verdict(arrives(state, rules, 2, channels=["push"])) == ("collected", "digest")
    assert verdict(arrives(state, rules, 3, kind="other")) == CAPPED


def test_a_refusal_says_when_there_would_be_a_unit() -> None:
    rules = policies(caps={"any": Cap(limit=1, window="1h")}, news=category())
    state = user()
    arrives(state, rules, 1)
    assert only(arrives(state, rules, 2, MINUTE)).retry_at == {"push": NOW + HOUR}


# When a unit is taken


def test_a_unit_is_taken_only_by_what_goes_out() -> None:
    rules = policies(
        caps={"any": Cap(limit=1, window="24h")},
        news=category(channels=("push", "email"), throttle=throttle(1, "1h", burst=1)),
        free=category(caps=CapFlags(counts=False), throttle=throttle(1, "1h", burst=1)),
    )
    state = user()
    arrives(state, rules, 1, kind="free", throttle_key="k")
    assert only(arrives(state, rules, 2, throttle_key="k")).outcome == "deferred"
    assert verdict(arrives(state, rules, 3, channels=["email"])) == ("suppressed", "no_endpoint")
    assert units(state) == {}
    fire(rules, state)
    assert units(state) == {"any": 1}


def test_a_refusal_by_one_cap_takes_no_unit_of_another() -> None:
    rules = policies(
        caps={"any": Cap(limit=9, window="24h"), "push": Cap(limit=1, window="24h", channels=["push"])}, news=category()
    )
    state = user()
    for number in range(3):
        arrives(state, rules, number)
    assert units(state) == {"any": 1, "push": 1}


def test_a_child_counts_for_its_channel_and_not_again_for_any() -> None:
    caps = {"any": Cap(limit=1, window="24h"), "push": Cap(limit=5, window="24h", channels=["push"])}
    rules = policies(
        caps=caps,
        news=category(channels=("push", "in_app"), throttle=throttle(1, "1h", burst=1)),
        free=category(caps=CapFlags(counts=False), throttle=throttle(1, "1h", burst=1)),
    )
    state = user()
    arrives(state, rules, 0, kind="free", throttle_key="k")
    out = arrives(state, rules, 1, throttle_key="k")
    assert [record.outcome for record in out.decisions] == ["sent", "deferred"]
    assert units(state) == {"any": 1}
    assert sent(fire(rules, state)) == [("event-1", "push")], "the cap on any channel has counted it before"
    assert units(state) == {"any": 1, "push": 1}


# Calendars


def test_calendar_day_caps_judged_in_utc() -> None:
    """A day is the user's: in Tokyo, where NOW is 23:13, it ends 47 minutes later, and in UTC it does not."""
    rules = policies(caps={"daily": Cap(limit=1, window="day")}, news=category())
    for zone, second in (("Asia/Tokyo", SENT), ("UTC", CAPPED), ("America/New_York", CAPPED)):
        state = user(time_zone=zone)
        assert verdict(arrives(state, rules, 1)) == SENT
        assert verdict(arrives(state, rules, 2, HOUR)) == second
    state = user(time_zone="Asia/Tokyo")
    arrives(state, rules, 1)
    assert verdict(arrives(state, rules, 2, 46 * MINUTE + 40 * SECOND - 1)) == CAPPED
    assert verdict(arrives(state, rules, 3, 46 * MINUTE + 40 * SECOND)) == SENT


def test_a_week_begins_on_the_users_monday() -> None:
    rules = policies(caps={"weekly": Cap(limit=1, window="week", action="defer")}, news=category())
    state = user(time_zone="America/New_York")
    arrives(state, rules, 1)
    release = only(arrives(state, rules, 2)).release_at
    assert release == int(datetime(2026, 9, 28, tzinfo=ZoneInfo("America/New_York")).astimezone(UTC).timestamp()) * 1000


def test_past_the_bound_the_cap_used_longest_ago_is_forgotten_and_counted() -> None:
    caps = {name: Cap(limit=1, window="24h", tags=[name]) for name in "abc"}
    rules = policies(bounds=Bounds(caps=2), caps=caps, news=category())
    state = user()
    hits = [arrives(state, rules, tag, number, tags=[tag]).bounds_hit for number, tag in enumerate("abc")]
    assert hits == [{}, {}, {"caps": 1}]
    assert set(units(state)) == {"b", "c"}


# Never exceeded

windows = st.sampled_from(["10ms", "50ms", "100ms"])
caps_of = st.dictionaries(
    st.sampled_from("abc"),
    st.builds(
        Cap,
        limit=st.integers(1, 3),
        window=windows,
        channels=st.sampled_from([None, None, ["push"], ["push", "email"], ["in_app"]]),
        classes=st.sampled_from([None, None, ["marketing"]]),
        tags=st.sampled_from([None, None, ["t"]]),
        action=st.sampled_from(["drop", "defer"]),
    ),
    min_size=1,
)
arrivals = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from(["news", "ads"]), st.sampled_from([None, ["t"], ["u", "t"]])), max_size=25
)


@given(caps_of, arrivals, st.booleans())
def test_no_cap_is_ever_exceeded_and_none_refuses_what_it_could_let_pass(
    caps: dict[str, Cap], events: list[tuple[int, str, list[str] | None]], counts: bool
) -> None:
    """Against a full log of what went out."""
    rules = policies(
        caps=caps,
        news=category(channels=("push", "email", "in_app"), caps=CapFlags(counts=counts)),
        ads=category("marketing", ("in_app", "push")),
    )
    state = everywhere()
    tags_of: dict[str, set[str]] = {}
    now = NOW
    outs: list[Decided] = []
    for number, (gap, kind, tags) in enumerate(events):
        now += gap
        outs += run(rules, state, now - 1)
        tags_of[f"event-{number}"] = set(tags or [])
        outs.append(decide(now, rules, state, arrival(event(number, kind, now, tags=tags), now)))
    outs += run(rules, state)
    assert (state.pending, state.activity.due) == ({}, 0)

    log: dict[str, list[int]] = {name: [] for name in caps}
    queues = any(cap.action == "defer" for cap in caps.values())
    for record in (record for out in outs for record in out.decisions):
        going = [channel for channel, word in record.channels.items() if word == "sent" and record.outcome == "sent"]
        full: list[Cap] = []
        for name, cap in caps.items():
            if (cap.classes and record.category != "ads") or (cap.tags and not tags_of[record.event_id] & set(cap.tags)):
                continue
            inside = sum(record.decided_at - at < int(cap.window.removesuffix("ms")) for at in log[name])
            units = len([channel for channel in going if not cap.channels or channel in cap.channels])
            if not cap.channels:  # what went out of it before has counted
                units = min(units, 1, 0 if record.child else 1)
            assert inside + units <= cap.limit or not units, name
            if inside + units >= cap.limit:
                full.append(cap)
            if counts or record.category == "ads":
                log[name] += [record.decided_at] * units
        for channel, word in record.channels.items():
            if word == "capped" and not queues:
                assert any(not cap.channels or channel in cap.channels for cap in full), "there was room"
