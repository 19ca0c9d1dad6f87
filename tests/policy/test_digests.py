"""Digests: what they take, when they close, and that the close is a notification like any other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.event import Content, decode_event
from messages.policy import Bounds, Cap, Digest, Pause, Throttle
from messages.profile import Preference, SetPreferences
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
    ends,
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

COLLECTED = ("collected", "digest")
SENT = ("sent", None)


def news(digest: Digest, channels: tuple[str, ...] = ("push",), **settings: Any) -> Policies:
    """A policy of one category that digests."""
    document = {name: settings.pop(name) for name in ("caps", "bounds") if name in settings}
    return policies(news=category(channels=channels, digest=digest, **settings), **document)


def arrives(state: UserState, rules: Policies, number: int | str, after: int = 0, **data: Any) -> Decided:
    """An event arrives so many milliseconds later."""
    return decide(NOW + after, rules, state, arrival(event(number, at=NOW + after, **data), NOW + after))


def digests(*outs: Decided) -> list[tuple[int, list[str]]]:
    """The digests that went out: when, and the ids of the first and last items."""
    return [
        (delivery.decided_at, [item["id"] for item in delivery.params["first"] + delivery.params["last"]])
        for out in outs
        for delivery in out.deliveries
        if delivery.params is not None
    ]


# Windows


def test_a_fixed_window_begins_with_its_first_item() -> None:
    rules, state = news(Digest(window="10m")), user()
    assert verdict(arrives(state, rules, 1)) == COLLECTED
    assert verdict(arrives(state, rules, 2, 10 * MINUTE - 1)) == COLLECTED
    assert state.activity.due == NOW + 10 * MINUTE
    assert digests(fire(rules, state)) == [(NOW + 10 * MINUTE, ["event-1", "event-2"])]
    assert (state.pending, state.activity.due, state.activity.digests) == ({}, 0, {})


def test_what_comes_at_the_close_is_the_first_of_the_next_also_where_the_timer_is_late() -> None:
    rules, state = news(Digest(window="10m")), user()
    arrives(state, rules, 1)
    out = arrives(state, rules, 2, 10 * MINUTE)
    assert digests(out) == [(NOW + 10 * MINUTE, ["event-1"])]
    assert out.decisions[-1].outcome == "collected"
    assert digests(fire(rules, state)) == [(NOW + 20 * MINUTE, ["event-2"])]


def test_a_sliding_window_that_is_a_fixed_one() -> None:
    """Each item moves the close; the maximum counts from the first one, and is not moved."""
    rules, state = news(Digest(window="2m", sliding=True, maximum="5m")), user()
    for number, (after, close) in enumerate([(0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]):
        arrives(state, rules, number, after * MINUTE)
        assert state.activity.due == NOW + close * MINUTE
    assert digests(fire(rules, state)) == [(NOW + 5 * MINUTE, [f"event-{number}" for number in range(5)])]


def test_it_closes_early_at_so_many_items() -> None:
    rules, state = news(Digest(window="10m", at=3)), user()
    assert digests(*(arrives(state, rules, number) for number in range(2))) == []
    assert digests(arrives(state, rules, 2)) == [(NOW, ["event-0", "event-1", "event-2"])]
    assert (state.pending, state.activity.due) == ({}, 0)


def test_a_leading_item_goes_out_at_once_and_is_left_out() -> None:
    rules, state = news(Digest(window="10m", leading=True)), user()
    assert verdict(arrives(state, rules, 1)) == SENT
    assert verdict(arrives(state, rules, 2, 5 * MINUTE)) == COLLECTED
    assert digests(fire(rules, state)) == [(NOW + 10 * MINUTE, ["event-2"])]
    assert verdict(arrives(state, rules, 3, 10 * MINUTE)) == SENT


def test_after_a_leading_item_alone_nothing_more_is_sent() -> None:
    rules, state = news(Digest(window="10m", leading=True)), user()
    arrives(state, rules, 1)
    assert (state.pending, state.activity.due) == ({}, 0)
    assert decide_nothing(rules, state, 10 * MINUTE) == []
    assert verdict(arrives(state, rules, 2, 10 * MINUTE)) == SENT


def decide_nothing(rules: Policies, state: UserState, after: int) -> list[object]:
    """What a command that changes nothing lets out."""
    change = SetPreferences(id="c", preferences=[Preference(category="else", allow=True)])
    return [*decide(NOW + after, rules, state, command(change, 0)).decisions]


def test_a_leading_item_that_does_not_go_out_opens_nothing() -> None:
    once = Throttle(limit=1, period="1m", action="drop")
    rules = policies(news=category(throttle=once, digest=Digest(window="10m", leading=True)), other=category(throttle=once))
    state = user()
    arrives(state, rules, 0, kind="other", throttle_key="k")
    assert verdict(arrives(state, rules, 1, throttle_key="k")) == ("suppressed", "throttled")
    assert verdict(arrives(state, rules, 2, throttle_key="l")) == SENT


def test_a_send_on_a_channel_that_is_not_collected_leads_nothing() -> None:
    both, once = ("push", "email"), throttle(1, "1m", burst=1)
    rules = policies(
        news=category(channels=both, throttle=once, digest=Digest(window="10m", leading=True, channels=["email"])),
        other=category(channels=both, throttle=once),
    )
    state = user(endpoint(), endpoint("e", "ses"))
    arrives(state, rules, 0, kind="other", channels=["email"], throttle_key="k")
    out = arrives(state, rules, 1, throttle_key="k")
    assert (sent(out), out.decisions[-1].reason) == ([("event-1", "push")], "throttled")
    assert sent(fire(rules, state)) == [("event-1", "email")], "the first one goes out by itself"
    assert verdict(arrives(state, rules, 2, MINUTE, channels=["email"])) == COLLECTED


def test_two_windows_in_one_millisecond_are_two_digests() -> None:
    rules, state = news(Digest(window="10m", at=2)), user()
    outs = [arrives(state, rules, number) for number in range(4)]
    assert digests(*outs) == [(NOW, ["event-0", "event-1"]), (NOW, ["event-2", "event-3"])]
    assert len({delivery.id for out in outs for delivery in out.deliveries}) == 2
    assert len({count.origin for out in outs for count in out.counts}) == 2


def test_one_released_at_the_close_is_the_first_of_the_next_digest() -> None:
    rules, state = news(Digest(window="2m", sliding=True, maximum="1h")), user()
    arrives(state, rules, 1)
    arrives(state, rules, 2, not_before=NOW + 2 * MINUTE)
    assert digests(fire(rules, state)) == [(NOW + 2 * MINUTE, ["event-1"])]
    assert digests(fire(rules, state)) == [(NOW + 4 * MINUTE, ["event-2"])]


def expected_digests(
    times: list[int], rule: Digest, length: int, longest: int
) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """(leading items, digests with their closes) of arrivals, by looking at the whole list."""
    left = list(range(len(times)))
    leaders, closed = [], []
    while left:
        opened = times[left[0]]
        items = []
        if rule.leading:
            leaders.append(left.pop(0))
        else:
            items.append(left.pop(0))
        while True:
            last = times[items[-1]] if items else opened
            close = min(opened + longest, last + length) if rule.sliding else opened + length
            if rule.at is not None and len(items) >= rule.at:
                close = last
                break
            if not left or times[left[0]] >= close:
                break
            items.append(left.pop(0))
        if items:
            closed.append((close, items))
    return leaders, closed


@given(
    st.lists(st.sampled_from([0, 1, 10, 29, 30, 31, 60, 90, 200]), min_size=1, max_size=30),
    st.sampled_from([30, 60]),
    st.sampled_from([None, 60, 90]),
    st.sampled_from([None, 2, 5]),
    st.booleans(),
)
def test_windows_against_the_whole_list(
    gaps: list[int], length: int, longest: int | None, early: int | None, leading: bool
) -> None:
    rule = Digest(
        window=f"{length}ms",
        sliding=longest is not None,
        maximum=None if longest is None else f"{longest}ms",
        at=early,
        leading=leading,
    )
    rules, state = news(rule), user()
    times = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    outs: list[Decided] = []
    for number, time in enumerate(times):
        outs += run(rules, state, NOW + time - 1)
        outs.append(arrives(state, rules, number, time))
    outs += run(rules, state)
    leaders, closed = expected_digests(times, rule, length, longest or length)
    deliveries = [delivery for out in outs for delivery in out.deliveries]
    assert [d.event_id for d in deliveries if d.params is None] == [f"event-{number}" for number in leaders]
    assert [(d.decided_at - NOW, d.params["count"]) for d in deliveries if d.params] == [
        (close, len(items)) for close, items in closed
    ]
    taken = {record.event_id: record.detail for out in outs for record in out.decisions if record.reason == "digested"}
    by_digest = [[f"event-{number}" for number in items] for _, items in closed]
    names = [d.event_id for d in deliveries if d.params]
    assert [[item for item, into in taken.items() if into == name] for name in names] == by_digest
    assert (state.pending, state.activity.due) == ({}, 0)


# What the close is


def test_the_close_is_a_notification_counted_like_an_event_of_its_own() -> None:
    rules, state = news(Digest(window="10m", template="news_digest")), user()
    arrives(state, rules, 1, campaign="autumn")
    arrives(state, rules, 2, campaign="autumn")
    out = fire(rules, state)
    (count,) = out.counts
    one, two, digest = out.decisions
    (delivery,) = out.deliveries
    assert [(each.outcome, each.reason, each.detail, each.child, each.step) for each in (one, two)] == [
        ("suppressed", "digested", digest.event_id, False, 1)
    ] * 2
    assert (digest.outcome, digest.source, digest.category, digest.step) == ("sent", "herald", "news", 0)
    assert (count.origin, count.recipients, count.arrived_at, count.campaign) == (
        digest.origin,
        1,
        NOW + 10 * MINUTE,
        "autumn",
    )
    assert (digest.arrived_at, digest.campaign) == (count.arrived_at, count.campaign)
    assert (delivery.template, delivery.content, delivery.event_id) == ("news_digest", None, digest.event_id)
    assert delivery.params is not None
    assert delivery.params["count"] == 2


def test_a_digest_of_two_campaigns_is_of_none() -> None:
    rules, state = news(Digest(window="10m")), user()
    arrives(state, rules, 1, campaign="autumn")
    arrives(state, rules, 2)
    assert fire(rules, state).deliveries[0].campaign is None


@given(st.integers(1, 45), st.sampled_from([None, "t"]))
def test_the_template_gets_the_count_and_the_first_and_last_ten(number: int, template: str | None) -> None:
    """Against the list of all: whole, and in order, although what lies between is no longer kept."""
    rules, state = news(Digest(window="10m")), user()
    shown = []
    for item in range(number):
        data: dict[str, Any] = {"params": {"n": item}}
        data |= {"template": template} if template else {"content": {"push": Content(body=f"text {item}")}}
        arrives(state, rules, item, item, **data)
        shown.append({"n": item} if template else ({"n": item}, {"push": {"body": f"text {item}"}}))
    for item_waiting in state.pending.values():
        decode_event(item_waiting.payload)
    (delivery,) = fire(rules, state).deliveries
    assert delivery.params is not None
    params = delivery.params
    assert params["count"] == number

    def as_shown(items: list[dict[str, Any]]) -> list[Any]:
        return [item["params"] if template else (item["params"], item["content"]) for item in items]

    assert as_shown(params["first"]) == shown[:10]
    assert as_shown(params["last"]) == shown[10:][-10:]
    assert [item["id"] for item in params["first"]] == [f"event-{n}" for n in range(min(10, number))]


@pytest.mark.parametrize("template", [None, "t"])
def test_what_is_at_neither_end_of_a_digest_is_kept_without_its_content(template: str | None) -> None:
    rules, state = news(Digest(window="10m")), user()
    data: dict[str, Any] = {"params": {"x": "y" * 900}}
    data |= {"template": template} if template else {"content": {"push": Content(body="z" * 900)}}
    for number in range(25):
        arrives(state, rules, number, number, expires_at=NOW + HOUR, dedup_key=f"k{number}", **data)
    items = sorted(state.pending.values(), key=lambda item: item.sequence)
    assert [len(item.payload) > 800 for item in items] == [True] * 10 + [False] * 5 + [True] * 10
    slim = decode_event(items[12].payload)
    assert (slim.id, slim.data.dedup_key, slim.data.expires_at is not None) == ("event-12", "k12", True)
    assert len(ends(fire(rules, state))) == 25


# Rules 7 to 13 at the close


def test_preferences_judged_only_when_the_digest_opens() -> None:
    """An opt-out while it is open holds at the close; what was allowed again goes out."""
    rules, state = news(Digest(window="10m")), user()
    arrives(state, rules, 1)
    assert state.profile is not None
    state.profile.preferences["news/*"] = False
    assert verdict(arrives(state, rules, 2, 1)) == ("suppressed", "opted_out")
    out = fire(rules, state)
    assert out.deliveries == []
    assert [(record.outcome, record.reason) for record in out.decisions] == [
        ("suppressed", "digested"),
        ("suppressed", "opted_out"),
    ]
    state.profile.preferences.clear()
    arrives(state, rules, 3, HOUR)
    assert digests(fire(rules, state)) == [(NOW + HOUR + 10 * MINUTE, ["event-3"])]


def test_a_digest_that_merges_with_itself_and_sends_nothing() -> None:
    """The close is of a category that digests, at any hour and however often it waits: it is never collected."""
    rules = news(
        Digest(window="1m"), quiet_hours="digest", throttle=Throttle(limit=1, period="1h", burst=1, action="digest")
    )
    state = user(quiet_hours=(window("14:14", "15:00"),))
    arrives(state, rules, 1)
    quiet = fire(rules, state).decisions[-1]
    assert (quiet.outcome, quiet.reason) == ("deferred", "quiet_hours")
    assert digests(fire(rules, state)) == [(NOW + 46 * MINUTE + 40 * SECOND, ["event-1"])]
    arrives(state, rules, 2, 47 * MINUTE)
    throttled = fire(rules, state).decisions[-1]
    assert (throttled.outcome, throttled.reason) == ("deferred", "throttled")
    assert digests(fire(rules, state)) == [(NOW + HOUR + 46 * MINUTE + 40 * SECOND, ["event-2"])]
    assert (state.pending, state.activity.due) == ({}, 0)


def test_a_close_in_quiet_hours_waits_and_is_sent_once_later() -> None:
    rules = news(Digest(window="1m"))
    state = user(quiet_hours=(window("14:14", "16:00"),))
    arrives(state, rules, 1)
    outs = run(rules, state)
    assert [out.decisions[-1].outcome for out in outs] == ["deferred", "sent"]
    assert [out.deferred for out in outs] == [{"entered": 1}, {"released": 1}]
    assert [len(out.counts) for out in outs] == [1, 0]


def test_expiry_is_judged_at_the_close() -> None:
    rules, state = news(Digest(window="10m")), user()
    arrives(state, rules, 1, expires_at=NOW + 10 * MINUTE)
    arrives(state, rules, 2, expires_at=NOW + 10 * MINUTE + 1)
    out = fire(rules, state)
    assert ends(out) == {"event-1": "expired", "event-2": "digested"}
    assert digests(out) == [(NOW + 10 * MINUTE, ["event-2"])]


def test_a_digest_of_which_all_items_have_expired_sends_nothing_and_is_no_notification() -> None:
    rules, state = news(Digest(window="10m")), user()
    arrives(state, rules, 1, expires_at=NOW + MINUTE)
    out = fire(rules, state)
    assert (ends(out), out.deliveries, out.counts) == ({"event-1": "expired"}, [], [])
    assert (state.pending, state.activity.due) == ({}, 0)


def test_it_costs_one_token_and_one_cap_unit() -> None:
    rules = news(
        Digest(window="10m"), throttle=throttle(5, "1h"), caps={"daily": Cap(limit=3, window="24h")}, channels=("push",)
    )
    state = user()
    for number in range(4):
        out = arrives(state, rules, number)
        assert (only(out).buckets, only(out).caps) == ([], []), "an item costs nothing, and is not judged by them"
    digest = fire(rules, state).decisions[-1]
    assert [(bucket.key, bucket.tokens) for bucket in digest.buckets] == [("news/push", 5)]
    arrives(state, rules, 9, HOUR)
    digest = fire(rules, state).decisions[-1]
    assert [(cap.name, cap.taken) for cap in digest.caps] == [("daily", 1)]


def test_caps_are_judged_at_the_close() -> None:
    rules = policies(
        caps={"daily": Cap(limit=1, window="24h")}, news=category(digest=Digest(window="10m")), other=category()
    )
    state = user()
    arrives(state, rules, 1)
    decide(NOW + 1, rules, state, arrival(event(2, "other")))
    out = fire(rules, state)
    assert out.decisions[-1].reason == "capped"
    assert out.deliveries == []


def test_a_category_that_is_gone_at_the_close() -> None:
    rules, state = news(Digest(window="10m")), user()
    arrives(state, rules, 1)
    out = fire(policies(other=category()), state)
    assert [(record.outcome, record.reason) for record in out.decisions] == [("rejected", "unknown_category")]
    assert (state.pending, state.activity.digests, out.counts) == ({}, {}, [])


def test_a_category_that_no_longer_digests_closes_what_is_open() -> None:
    rules, state = news(Digest(window="10m", template="t")), user()
    arrives(state, rules, 1)
    out = fire(policies(news=category()), state)
    assert [delivery.template for delivery in out.deliveries] == ["digest"]


def test_a_close_that_is_paused_waits() -> None:
    pause = Pause(scope="category", name="news")
    rules, state = news(Digest(window="10m")), user()
    arrives(state, rules, 1)
    held = policies(news=category(digest=Digest(window="10m")), overrides=(pause,))
    assert fire(held, state).decisions[-1].reason == "paused"
    assert len(digests(*run(rules, state))) == 1


# Channels


def test_some_channels_collect_while_others_go_out_at_once() -> None:
    rules, state = news(Digest(window="10m", channels=["push"]), ("push", "in_app")), user()
    out = arrives(state, rules, 1)
    assert sent(out) == [("event-1", "in_app")]
    whole, part = out.decisions
    assert (whole.outcome, whole.child, whole.channels) == ("sent", False, {"push": "digest", "in_app": "sent"})
    assert (part.outcome, part.child, part.part) == ("collected", True, "digest")
    out = fire(rules, state)
    assert [delivery.channel for delivery in out.deliveries] == ["push"]
    assert (out.decisions[0].reason, out.decisions[0].child, out.decisions[1].child) == ("digested", True, False)


def test_a_channel_that_is_collected_is_not_judged_again_when_the_others_are_released() -> None:
    rules = news(Digest(window="30s", channels=["email"]), ("push", "email"), throttle=throttle(1, "1m", burst=1))
    state = user(endpoint(), endpoint("e", "ses"))
    arrives(state, rules, 0, channels=["push"])
    out = arrives(state, rules, 1)
    assert [(record.outcome, record.part) for record in out.decisions] == [("deferred", None), ("collected", "digest")]
    (delivery,) = fire(rules, state).deliveries
    assert (delivery.channel, delivery.params and delivery.params["count"]) == ("email", 1)
    assert sent(fire(rules, state)) == [("event-1", "push")]
    assert (state.pending, state.activity.due) == ({}, 0)


def test_one_that_two_of_its_parts_brought_into_a_digest_is_one_item() -> None:
    rules = news(
        Digest(window="3h", channels=["email"]),
        ("push", "email"),
        quiet_hours="digest",
        throttle=throttle(1, "1m", burst=1),
    )
    state = user(endpoint(), endpoint("e", "ses"), quiet_hours=(window("14:14", "16:00"),))
    arrives(state, rules, 0, channels=["push"])
    arrives(state, rules, 1)
    assert only(fire(rules, state)).outcome == "collected"
    out = run(rules, state)[-1]
    assert sorted(delivery.channel for delivery in out.deliveries) == ["email", "push"]
    assert {delivery.params and delivery.params["count"] for delivery in out.deliveries} == {1}


def test_items_with_a_collapse_key_of_their_own_digest_are_apart() -> None:
    rules, state = news(Digest(window="10m", by="collapse_key")), user()
    for number, key in enumerate(["a", "b", "a", None]):
        arrives(state, rules, number, collapse_key=key)
    found = digests(*run(rules, state))
    assert sorted(items for _, items in found) == [["event-0", "event-2"], ["event-1"], ["event-3"]]


def test_two_categories_never_share_a_digest_whatever_their_names() -> None:
    digest = Digest(window="10m", by="collapse_key")
    rules = policies(**{"a": category(digest=digest), "a/b": category(digest=digest)})
    state = user()
    decide(NOW, rules, state, arrival(event(1, "a", collapse_key="b/c")))
    decide(NOW, rules, state, arrival(event(2, "a/b", collapse_key="c")))
    decide(NOW, rules, state, arrival(event(3, "a", collapse_key="b")))
    decide(NOW, rules, state, arrival(event(4, "a/b")))
    assert sorted(items for _, items in digests(*run(rules, state))) == [[f"event-{n}"] for n in (1, 2, 3, 4)]


# The action `digest` of other rules


def test_what_a_throttle_does_not_let_pass_is_collected() -> None:
    rules = news(
        Digest(window="10m", channels=["in_app"]),
        ("push", "in_app"),
        throttle=Throttle(limit=1, period="1m", action="digest"),
    )
    state = user()
    assert sent(arrives(state, rules, 1, channels=["push"])) == [("event-1", "push")]
    assert verdict(arrives(state, rules, 2, channels=["push"])) == COLLECTED
    assert [delivery.channel for delivery in fire(rules, state).deliveries] == ["push"]


def test_what_a_cap_does_not_let_pass_is_collected_and_the_close_waits_for_a_unit() -> None:
    rules = news(
        Digest(window="10m", channels=["in_app"]),
        ("push", "in_app"),
        caps={"hourly": Cap(limit=1, window="1h", channels=["push"], action="digest")},
    )
    state = user()
    arrives(state, rules, 1, channels=["push"])
    assert verdict(arrives(state, rules, 2, MINUTE, channels=["push"])) == COLLECTED
    closing = fire(rules, state).decisions[-1]
    assert (closing.outcome, closing.reason, closing.release_at) == ("deferred", "capped", NOW + HOUR)
    assert digests(fire(rules, state)) == [(NOW + HOUR, ["event-2"])]


def test_what_quiet_hours_do_not_let_pass_is_collected() -> None:
    rules = news(Digest(window="10m", leading=True), quiet_hours="digest")
    state = user(quiet_hours=(window("14:00", "15:00"),))
    assert verdict(arrives(state, rules, 1)) == COLLECTED, "in quiet hours nothing leads"
    outs = run(rules, state)
    assert digests(*outs) == [(NOW + 46 * MINUTE + 40 * SECOND, ["event-1"])]


# Bounds


def test_past_the_bound_of_digests_an_item_ends_and_is_counted() -> None:
    rules = news(Digest(window="10m", by="collapse_key"), bounds=Bounds(digests=2))
    state = user()
    outs = [arrives(state, rules, number, collapse_key=f"k{number}") for number in range(3)]
    assert [verdict(out) for out in outs] == [COLLECTED, COLLECTED, ("suppressed", "pending_full")]
    assert [out.bounds_hit for out in outs] == [{}, {}, {"digests": 1}]


def test_digests_that_are_over_make_room() -> None:
    rules = news(Digest(window="10m", leading=True, by="collapse_key"), bounds=Bounds(digests=1))
    state = user()
    assert verdict(arrives(state, rules, 1, collapse_key="a")) == SENT
    assert verdict(arrives(state, rules, 2, 10 * MINUTE, collapse_key="b")) == SENT
    assert len(state.activity.digests) == 1


def test_past_the_bound_of_pending_items_an_item_ends() -> None:
    rules = news(Digest(window="10m"), bounds=Bounds(pending_items=2))
    state = user()
    outs = [arrives(state, rules, number) for number in range(3)]
    assert verdict(outs[-1]) == ("suppressed", "pending_full")
    (delivery,) = fire(rules, state).deliveries
    assert delivery.params is not None
    assert delivery.params["count"] == 2
