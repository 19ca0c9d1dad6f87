"""Rule 12: the channels a category chooses, what the cheapest one is, and budgets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.event import Content
from messages.policy import BudgetExhausted, Cap, Defaults, Digest, Price
from policy.choice import cheapest
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
    sent,
    throttle,
    user,
    verdict,
    window,
)

CHANNELS = ("push", "email", "sms")
PRICES = {
    "push": Price(default=0.01, latency="1s"),
    "email": Price(default=0.001, latency="10m"),
    "sms": Price(default=0.05, countries={"FR": 0.0005, "DE": 0.09}, latency="5s"),
}


def everywhere(**fields: Any) -> UserState:
    """A user with an endpoint on every channel."""
    return user(endpoint("p"), endpoint("e", "ses"), endpoint("s", "twilio"), **fields)


def news(prices: dict[str, Price] | None = None, defaults: Defaults | None = None, **settings: Any) -> Policies:
    """A policy of one category that goes out on its cheapest channel."""
    document = {name: settings.pop(name) for name in ("caps", "overrides") if name in settings}
    settings = {"channels": CHANNELS, "choice": "cheapest"} | settings
    return policies(
        news=category(**settings), prices=PRICES if prices is None else prices, defaults=defaults or Defaults(), **document
    )


def arrives(state: UserState, rules: Policies, number: int | str = 1, after: int = 0, **data: Any) -> Decided:
    """An event arrives so many milliseconds later."""
    return decide(NOW + after, rules, state, arrival(event(number, at=NOW + after, **data), NOW + after))


def chosen(state: UserState, rules: Policies, **data: Any) -> list[str]:
    """The channels on which an event goes out."""
    return [channel for _, channel in sent(arrives(state, rules, **data))]


def test_all_goes_out_everywhere() -> None:
    assert chosen(everywhere(), news(choice="all")) == list(CHANNELS)


def test_the_least_expensive_channel_goes_out_and_the_others_are_not_chosen() -> None:
    out = arrives(everywhere(), news())
    assert [channel for _, channel in sent(out)] == ["email"]
    assert only(out).channels == {"push": "not_chosen", "email": "sent", "sms": "not_chosen"}


@pytest.mark.parametrize(("country", "channel"), [("FR", "sms"), ("DE", "email"), ("US", "email"), (None, "email")])
def test_by_the_users_country(country: str | None, channel: str) -> None:
    assert chosen(everywhere(country=country), news()) == [channel]


def test_by_the_deployments_country_where_the_user_has_none() -> None:
    assert chosen(everywhere(), news(defaults=Defaults(country="FR"))) == ["sms"]


def test_by_the_segments_of_the_text() -> None:
    prices = {"push": Price(default=0.05), "sms": Price(default=0.03)}
    for body, channel in (("x" * 160, "sms"), ("x" * 161, "push"), ("ж" * 70, "sms"), ("ж" * 71, "push")):
        content = {name: Content(body=body) for name in ("push", "sms")}
        assert chosen(everywhere(), news(prices), content=content) == [channel]


def test_by_the_deadline() -> None:
    assert chosen(everywhere(), news(deadline="10m")) == ["email"]
    assert chosen(everywhere(), news(deadline="599s")) == ["push"]
    assert chosen(everywhere(), news(), expires_at=NOW + 10 * MINUTE) == ["email"]
    assert chosen(everywhere(), news(), expires_at=NOW + 10 * MINUTE - 1) == ["push"]


def test_where_none_is_in_time_the_earliest_goes_out() -> None:
    assert chosen(everywhere(), news(deadline="500ms")) == ["push"]


def test_without_prices_the_first_channel_goes_out() -> None:
    assert chosen(everywhere(), news({})) == ["push"]


def test_only_of_the_channels_that_reach_the_user() -> None:
    assert chosen(user(endpoint("p"), endpoint("s", "twilio"), preferences={"*/email": False}), news()) == ["push"]


def test_a_cheap_channel_that_is_due_before_the_deadline_is_waited_for() -> None:
    rules = news(throttle=throttle(1, "30m", burst=1))
    state = everywhere()
    assert chosen(state, rules, number=0, channels=["email"]) == ["email"]
    out = arrives(state, rules, 1)
    assert (only(out).outcome, only(out).reason, out.deliveries) == ("deferred", "throttled", [])
    assert only(out).channels == {"push": "not_chosen", "email": "throttled", "sms": "not_chosen"}
    assert [bucket.key for bucket in only(out).buckets] == ["news/push", "news/email", "news/sms"]
    assert sent(fire(rules, state)) == [("event-1", "email")]
    assert set(state.activity.buckets) == {"news/email"}, "what was not chosen cost nothing"


def test_a_cheap_channel_that_is_due_too_late_is_not_waited_for() -> None:
    rules = news(throttle=throttle(1, "55m", burst=1))
    state = everywhere()
    arrives(state, rules, 0, channels=["email"])
    assert chosen(state, rules) == ["push"]
    assert state.pending == {}


def test_a_cheap_channel_that_is_asleep_is_waited_for_until_the_deadline() -> None:
    asleep = (window("14:00", "14:30"),)
    rules = news(deadline="1h")
    state = everywhere(quiet_hours=asleep)
    assert only(arrives(state, rules)).outcome == "deferred"
    assert sent(fire(rules, state)) == [("event-1", "email")]


def test_a_whole_that_waited_is_chosen_for_again() -> None:
    rules = news(deadline="1h")
    state = everywhere(quiet_hours=(window("14:00", "15:10"),))
    arrives(state, rules)
    # Released 57 minutes after its arrival: an e-mail would be late by then.
    assert sent(fire(rules, state)) == [("event-1", "push")]


def test_a_cap_over_channels_of_which_one_goes_out_judges_each_as_if_it_were_alone() -> None:
    rules = news(caps={"loud": Cap(limit=1, window="24h", channels=["push", "email", "sms"])})
    state = everywhere()
    assert chosen(state, rules) == ["email"]
    assert verdict(arrives(state, rules, 2)) == ("suppressed", "capped")


def test_what_a_digest_would_take_is_not_sent_besides() -> None:
    rules = news(channels=("push", "email"), digest=Digest(window="10m", channels=["email"]))
    state = everywhere()
    assert only(arrives(state, rules)).channels == {"push": "sent", "email": "not_chosen"}
    assert state.pending == {}


def test_a_digest_chooses_when_it_closes() -> None:
    rules = news(channels=("push", "email"), digest=Digest(window="10m"))
    state = everywhere()
    assert verdict(arrives(state, rules)) == ("collected", "digest")
    assert [delivery.channel for delivery in fire(rules, state).deliveries] == ["email"]


channels_of = st.dictionaries(st.sampled_from(CHANNELS), st.integers(0, 3_000), min_size=1)
prices_of = st.dictionaries(
    st.sampled_from(CHANNELS),
    st.builds(Price, default=st.sampled_from([0.0, 0.1, 0.2]), latency=st.sampled_from([None, "1s", "2s"])),
)


@given(channels_of, prices_of, st.integers(0, 5_000))
def test_nothing_in_time_is_less_expensive(candidates: dict[str, int], prices: dict[str, Price], deadline: int) -> None:
    found = cheapest(candidates, prices, None, {}, deadline)  # type: ignore[arg-type]
    there = {
        name: at + int((prices[name].latency or "0s")[0]) * SECOND if name in prices else at
        for name, at in candidates.items()
    }
    cost = {name: prices[name].default if name in prices else 0.0 for name in candidates}
    in_time = [name for name in candidates if there[name] <= deadline]
    if in_time:
        assert found in in_time
        assert all((cost[found], there[found]) <= (cost[name], there[name]) for name in in_time)
    else:
        assert there[found] == min(there.values())


# Budgets


def spent(channel: str = "sms", day: str = "2026-09-21", kind: str = "news") -> tuple[BudgetExhausted, ...]:
    """The budget of a category on a channel is spent for a day."""
    return (BudgetExhausted(category=kind, channel=channel, day=day),)


def test_over_budget_falls_and_says_when_there_is_money_again() -> None:
    out = arrives(everywhere(), news(choice="all", overrides=spent()))
    assert only(out).channels == {"push": "sent", "email": "sent", "sms": "over_budget"}
    assert only(out).retry_at == {"sms": NOW + 9 * HOUR + 46 * MINUTE + 40 * SECOND}
    out = arrives(everywhere(), news(choice="all", overrides=spent()), channels=["sms"])
    assert verdict(out) == ("suppressed", "over_budget")


def test_a_budget_is_of_its_category_and_channel() -> None:
    for override in (spent("email"), spent(kind="other")):
        assert "sms" in chosen(everywhere(), news(choice="all", overrides=override))


def test_a_budget_is_of_a_day_of_the_deployments_calendar_whatever_the_users_zone() -> None:
    tokyo = Defaults(time_zone="Asia/Tokyo")  # where it is 23:13
    for state in (everywhere(), everywhere(time_zone="Pacific/Auckland")):
        rules = news(choice="all", defaults=tokyo, overrides=spent())
        assert verdict(arrives(state, rules, 1, channels=["sms"])) == ("suppressed", "over_budget")
        midnight = 46 * MINUTE + 40 * SECOND
        assert verdict(arrives(state, rules, 2, midnight - 1, channels=["sms"])) == ("suppressed", "over_budget")
        assert verdict(arrives(state, rules, 3, midnight, channels=["sms"])) == ("sent", None)


def test_the_cheapest_channel_that_is_over_budget_is_none() -> None:
    assert chosen(everywhere(country="FR"), news(overrides=spent())) == ["email"]


def test_critical_is_exempt_and_counted() -> None:
    rules = news(kind="critical", choice="all", overrides=spent())
    state = user(endpoint("p"), endpoint("s", "twilio"), endpoint("t", "twilio"))
    out = arrives(state, rules)
    assert ([channel for _, channel in sent(out)], out.budget_exempt) == (["push", "sms", "sms"], 2)
    assert arrives(state, rules, 2, channels=["push"]).budget_exempt == 0


def test_only_what_goes_out_is_counted_as_exempt() -> None:
    rules = news(kind="critical", overrides=spent(), throttle=throttle(1, "1h", burst=1))
    assert arrives(everywhere(), rules).budget_exempt == 0, "e-mail was less expensive"
    limited = news(kind="critical", choice="all", overrides=spent(), throttle=throttle(1, "1h", burst=1))
    state = everywhere()
    assert [arrives(state, limited, n, channels=["sms"]).budget_exempt for n in range(2)] == [1, 0]
    assert fire(limited, state).budget_exempt == 1


def test_what_is_over_budget_has_taken_no_token() -> None:
    rules = news(choice="all", overrides=spent(), throttle=throttle(1, "1h", burst=1))
    state = everywhere()
    arrives(state, rules, channels=["sms"])
    assert state.activity.buckets == {}
