"""Rule 9 in the core: what quiet hours do to a notification, by category and channel, and when it goes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.event import ContentInput
from messages.policy import CountryTable, Defaults, Digest
from messages.profile import SetQuietHours
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
    command,
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
    window,
)

# NOW is Monday 2026-09-21, 14:13:20 UTC.
ASLEEP = (window("14:00", "16:00"),)
MORNING = NOW + HOUR + 46 * MINUTE + 40 * SECOND
WHOLE_WEEK = (window("00:00", "24:00"),)


def news(channels: tuple[str, ...] = ("push",), kind: str = "transactional", **settings: Any) -> Policies:
    """A policy of one category."""
    document = {name: settings.pop(name) for name in ("countries", "defaults", "wake_up_spread") if name in settings}
    return policies(news=category(kind, channels, **settings), **document)


def asleep(*endpoints: Any, **fields: Any) -> UserState:
    """A user for whom NOW is quiet, until MORNING."""
    return user(*endpoints, quiet_hours=ASLEEP, **fields)


def arrives(state: UserState, rules: Policies, number: int | str = 1, after: int = 0, **data: Any) -> Decided:
    """An event arrives so many milliseconds later."""
    return decide(NOW + after, rules, state, arrival(event(number, at=NOW + after, **data), NOW + after))


# What becomes of it


def test_defer_waits_for_the_first_instant_that_is_not_quiet() -> None:
    rules, state = news(), asleep()
    record = only(arrives(state, rules))
    assert (record.outcome, record.reason, record.release_at) == ("deferred", "quiet_hours", MORNING)
    assert (record.channels, record.retry_at) == ({"push": "quiet_hours"}, {"push": MORNING})
    assert sent(fire(rules, state)) == [("event-1", "push")]


def test_pass_goes_out() -> None:
    assert sent(arrives(asleep(), news(quiet_hours="pass"))) == [("event-1", "push")]


def test_drop_ends_and_says_when_it_could_have_gone_out() -> None:
    state = asleep()
    record = only(arrives(state, news(quiet_hours="drop")))
    assert (record.outcome, record.reason, record.retry_at) == ("suppressed", "quiet_hours", {"push": MORNING})
    assert state.pending == {}


def test_digest_collects_what_comes_in_quiet_hours() -> None:
    rules, state = news(quiet_hours="digest", digest=Digest(window="5m")), asleep()
    for number in range(3):
        assert verdict(arrives(state, rules, number, number)) == ("collected", "digest")
    (delivery,) = [delivery for out in run(rules, state) for delivery in out.deliveries]
    assert (delivery.decided_at, delivery.params and delivery.params["count"]) == (MORNING, 3)


@pytest.mark.parametrize("action", ["defer", "in_app", "drop", "pass"])
def test_critical_passes(action: str) -> None:
    assert sent(arrives(asleep(), news(kind="critical", quiet_hours=action))) == [("event-1", "push")]


@pytest.mark.parametrize("action", ["defer", "in_app", "drop", "pass"])
def test_in_app_passes_by_itself(action: str) -> None:
    rules = news(("push", "in_app"), quiet_hours=action)
    out = arrives(asleep(), rules)
    assert ("event-1", "in_app") in sent(out)
    assert len([d for d in out.deliveries if d.channel == "in_app"]) == 1


def test_what_waits_on_one_channel_while_the_inbox_has_it_is_a_child() -> None:
    rules, state = news(("push", "in_app")), asleep()
    whole, rest = arrives(state, rules).decisions
    assert (whole.outcome, whole.channels) == ("sent", {"push": "quiet_hours", "in_app": "sent"})
    assert (rest.outcome, rest.child, rest.release_at) == ("deferred", True, MORNING)
    assert sent(fire(rules, state)) == [("event-1", "push")]


TABLE = {"FR": CountryTable(time_zone="Europe/Paris", marketing_sms=(window("16:00", "17:00"),))}

# Downgrade to the inbox


def test_the_inbox_shows_the_content_of_the_channel_it_stands_in_for() -> None:
    out = arrives(asleep(), news(quiet_hours="in_app"), content={"push": ContentInput(title="T", body="B")})
    (delivery,) = out.deliveries
    assert (delivery.channel, delivery.content) == ("in_app", ContentInput(title="T", body="B"))
    assert only(out).channels == {"push": "quiet_hours", "in_app": "sent"}


def test_the_inbox_shows_its_own_content_where_there_is_some() -> None:
    content = {"push": ContentInput(body="push"), "in_app": ContentInput(body="inbox")}
    assert arrives(asleep(), news(quiet_hours="in_app"), content=content).deliveries[0].content == ContentInput(body="inbox")


def test_the_inbox_stands_in_once_for_all_channels() -> None:
    state = asleep(endpoint("p"), endpoint("e", "ses"))
    assert sent(arrives(state, news(("push", "email"), quiet_hours="in_app"))) == [("event-1", "in_app")]
    assert state.pending == {}


def test_the_inbox_stands_in_only_where_the_user_wants_the_category_there() -> None:
    state = asleep(preferences={"news/in_app": False})
    record = only(arrives(state, news(quiet_hours="in_app")))
    assert (record.outcome, record.reason) == ("suppressed", "quiet_hours")
    assert (record.channels["in_app"], record.scopes) == ("opted_out", {"in_app": "news/in_app"})


def test_the_inbox_shows_nothing_twice() -> None:
    """What waited on push while the inbox had it is not downgraded to the inbox once more."""
    rules = news(("push", "in_app"), quiet_hours="in_app", throttle=throttle(1, "1m", burst=1))
    state = user(quiet_hours=(window("14:14", "16:00"),))
    arrives(state, rules, 0, channels=["push"])
    assert sent(arrives(state, rules)) == [("event-1", "in_app")]
    out = fire(rules, state)
    assert (verdict(out), out.deliveries) == (("suppressed", "quiet_hours"), [])


def test_the_inbox_stands_in_once_a_notification_also_over_its_releases() -> None:
    rules = news(("push", "sms"), "marketing", quiet_hours="in_app", throttle=throttle(1, "1m", burst=1), countries=TABLE)
    state = user(endpoint(), endpoint("s", "twilio"), country="FR", quiet_hours=(window("16:14", "18:00"),))
    arrives(state, rules, 0, channels=["push"])
    assert sent(arrives(state, rules)) == [("event-1", "in_app")], "for the SMS; push waits for its token"
    out = fire(rules, state)
    assert (verdict(out), out.deliveries) == (("suppressed", "quiet_hours"), [])


def test_where_others_go_out_the_rest_of_a_stand_in_is_the_channel_itself() -> None:
    early = {"FR": CountryTable(time_zone="Europe/Paris", marketing_sms=(window("16:00", "16:14"),))}
    rules = news(("push", "sms"), "marketing", quiet_hours="in_app", throttle=throttle(1, "1m", burst=1), countries=early)
    state = user(endpoint(), endpoint("s", "twilio"), country="FR")
    assert sent(arrives(state, rules, 0, channels=["sms"])) == [("event-0", "in_app")]
    assert sent(arrives(state, rules)) == [("event-1", "push")]
    assert sent(fire(rules, state)) == [("event-1", "sms")], "it is no longer quiet"


def test_a_stand_in_that_has_to_wait_waits_in_the_place_of_its_channel() -> None:
    rules = news(("sms",), "marketing", quiet_hours="in_app", throttle=throttle(1, "1m", burst=1))
    state = user(endpoint("s", "twilio"), quiet_hours=(window("14:00", "14:14"),))
    arrives(state, rules, 0)
    record = only(arrives(state, rules, 1))
    assert (record.outcome, record.reason, record.channels) == (
        "deferred",
        "throttled",
        {"sms": "quiet_hours", "in_app": "throttled"},
    )
    assert sent(fire(rules, state)) == [("event-1", "sms")], "it is no longer quiet"


# Country tables


@pytest.mark.parametrize(
    ("kind", "channel", "country", "outcome"),
    [
        ("marketing", "sms", "FR", "deferred"),
        ("marketing", "sms", "DE", "sent"),
        ("marketing", "email", "FR", "sent"),
        ("transactional", "sms", "FR", "sent"),
        ("critical", "sms", "FR", "sent"),
    ],
)
def test_a_country_forbids_marketing_sms_only(kind: str, channel: str, country: str, outcome: str) -> None:
    rules = news((channel,), kind, countries=TABLE)
    state = user(endpoint("s", "twilio"), endpoint("e", "ses"), country=country)
    assert only(arrives(state, rules)).outcome == outcome


def test_the_union_of_the_countrys_and_the_users_windows_counts() -> None:
    # 16:13 in Paris: the country's window goes on to 17:00, the user's from there to 18:00.
    rules = news(("sms",), "marketing", countries=TABLE)
    state = user(endpoint("s", "twilio"), country="FR", quiet_hours=(window("16:30", "18:00"),))
    assert only(arrives(state, rules)).release_at == NOW + HOUR + 46 * MINUTE + 40 * SECOND


def test_the_deployments_country_counts_where_the_user_has_none() -> None:
    rules = news(("sms",), "marketing", countries=TABLE, defaults=Defaults(country="FR"))
    assert only(arrives(user(endpoint("s", "twilio")), rules)).outcome == "deferred"
    assert only(arrives(user(endpoint("s", "twilio"), country="DE"), rules)).outcome == "sent"


# Whose wall clock


@pytest.mark.parametrize(
    ("zone", "country", "local"),
    [("Asia/Tokyo", "FR", "23"), (None, "FR", "16"), (None, "XX", "10"), (None, None, "10")],
    ids=["the user's own", "the country's", "the deployment's", "the deployment's without a country"],
)
def test_the_zone_is_the_users_else_the_countrys_else_the_deployments(
    zone: str | None, country: str | None, local: str
) -> None:
    rules = news(countries=TABLE, defaults=Defaults(time_zone="America/New_York"))
    hour_after = f"{(int(local) + 1) % 24:02}"
    inside = user(time_zone=zone, country=country, quiet_hours=(window(f"{local}:00", f"{hour_after}:00"),))
    beside = user(time_zone=zone, country=country, quiet_hours=(window(f"{hour_after}:00", f"{local}:00"),))
    assert only(arrives(inside, rules)).outcome == "deferred"
    assert only(arrives(beside, rules)).outcome == "sent"


# The release


def test_a_release_is_judged_by_the_windows_of_that_moment() -> None:
    rules, state = news(), asleep()
    arrives(state, rules)
    change = SetQuietHours(id="c", quiet_hours=(window("14:00", "17:00"),))
    assert decide(NOW + MINUTE, rules, state, command(change, 0)).decisions == []
    again = only(fire(rules, state))
    assert (again.outcome, again.reason, again.release_at) == ("deferred", "quiet_hours", MORNING + HOUR)
    assert sent(fire(rules, state)) == [("event-1", "push")]


def test_a_user_who_is_always_asleep_does_not_wait_for_ever() -> None:
    for action in ("defer", "digest"):
        state = user(quiet_hours=WHOLE_WEEK)
        rules = news(quiet_hours=action, digest=Digest(window="5m") if action == "digest" else None)
        arrives(state, rules)
        run(rules, state)
        assert (state.pending, state.activity.due) == ({}, 0)
    assert verdict(arrives(user(quiet_hours=WHOLE_WEEK), news())) == ("suppressed", "quiet_hours")


@given(st.text(min_size=1, max_size=5), st.sampled_from(["1s", "30m", "3h"]), st.sampled_from([None, 1, 20 * MINUTE]))
def test_releases_are_spread_within_the_interval_and_never_past_the_deadline(
    name: str, spread: str, left: int | None
) -> None:
    rules = news(wake_up_spread=spread)
    state = asleep()
    state.user = name
    expires_at = None if left is None else MORNING + left
    arrives(state, rules, expires_at=expires_at)
    interval = {"1s": SECOND, "30m": 30 * MINUTE, "3h": 3 * HOUR}[spread]
    assert MORNING <= state.activity.due < MORNING + min(interval, left or interval)
    assert sent(fire(rules, state)) == [("event-1", "push")]


def test_users_are_spread_apart() -> None:
    rules = news(wake_up_spread="30m")
    releases = set()
    for number in range(50):
        state = asleep()
        state.user = f"user-{number}"
        arrives(state, rules)
        releases.add(state.activity.due)
    assert len(releases) == 50


@given(st.text(min_size=1, max_size=5))
def test_a_short_pause_between_two_windows_is_long_enough_for_every_user_of_a_long_spread(name: str) -> None:
    """Spread past the pause, a release would find the next window, and the next day the same again, for ever."""
    rules = news(wake_up_spread="3h")
    state = user(quiet_hours=(window("00:00", "16:00"), window("16:01", "24:00")))
    state.user = name
    arrives(state, rules)
    out = fire(rules, state)
    assert sent(out) == [("event-1", "push")]
    assert MORNING <= only(out).decided_at < MORNING + MINUTE


def test_one_that_expires_before_the_morning_ends_then() -> None:
    rules, state = news(), asleep()
    arrives(state, rules, expires_at=NOW + HOUR)
    out = fire(rules, state)
    assert (verdict(out), only(out).decided_at) == (("suppressed", "expired"), NOW + HOUR)
    assert out.deferred == {"expired": 1}


def test_quiet_hours_cost_nothing() -> None:
    rules = news(throttle=throttle(1, "1h"))
    state = asleep()
    assert only(arrives(state, rules)).buckets == []
    assert state.activity.buckets == {}
