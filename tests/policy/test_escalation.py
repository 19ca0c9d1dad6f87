"""Ladders: one step after the other, each decided anew, until somebody looks."""

from __future__ import annotations

from typing import Any

import pytest

from messages.policy import BudgetExhausted, Cap, Digest, Override, Pause, Step
from messages.profile import Failed, Opened, PendingChange, Read, Stalled
from policy.core import decide
from policy.policies import Policies
from policy.state import UserState
from policy.step import Decided
from tests.policy.builders import (
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

STEPS = (Step(channels=["push"], wait="5m"), Step(channels=["sms"], wait="10m"), Step(channels=["email"]))
CHANNELS = ("push", "sms", "email")
ABOUT: dict[str, Any] = {"id": "c", "source": "tests", "event_id": "event-1"}


def ladder(
    kind: str = "transactional",
    steps: tuple[Step, ...] = STEPS,
    channels: tuple[str, ...] = CHANNELS,
    caps: dict[str, Cap] | None = None,
    overrides: tuple[Override, ...] = (),
    **settings: Any,
) -> Policies:
    """A policy of one category that climbs, and one that does not."""
    return policies(
        news=category(kind, channels, choice="escalation", steps=list(steps), **settings),
        other=category(channels=("push", "sms", "email", "in_app")),
        caps=caps or {},
        overrides=overrides,
    )


RULES = ladder()


def reachable(**fields: Any) -> UserState:
    """A user with a phone, a number and an address."""
    return user(endpoint("p"), endpoint("s", "twilio"), endpoint("e", "ses"), **fields)


def starts(state: UserState, rules: Policies = RULES, **data: Any) -> Decided:
    """Event 1 arrives now."""
    return decide(NOW, rules, state, arrival(event(1, **data)))


def tell(state: UserState, change: PendingChange, at: int, rules: Policies = RULES) -> Decided:
    """A command about event 1."""
    return decide(at, rules, state, command(change, 0, at=at))


def climb(state: UserState, rules: Policies = RULES) -> list[tuple[int, str]]:
    """What else goes out where nobody answers: when, and on which channel."""
    return [((d.decided_at - NOW) // SECOND, d.channel) for out in run(rules, state) for d in out.deliveries]


def test_it_climbs_while_nobody_answers() -> None:
    state = reachable()
    out = starts(state)
    assert sent(out) == [("event-1", "push")]
    whole, waits = out.decisions
    assert (whole.outcome, whole.child, whole.rung) == ("sent", False, 0)
    assert (waits.outcome, waits.reason, waits.child, waits.part, waits.rung) == (
        "escalating",
        "escalation",
        True,
        "ladder",
        1,
    )
    assert waits.release_at == NOW + 5 * MINUTE
    assert climb(state) == [(300, "sms"), (900, "email")]
    assert (state.pending, state.activity.due) == ({}, 0)


def test_the_deliveries_of_the_steps_have_their_own_ids_and_steps() -> None:
    state = reachable()
    outs = [starts(state), *run(RULES, state)]
    deliveries = [delivery for out in outs for delivery in out.deliveries]
    assert [delivery.step for delivery in deliveries] == [0, 1, 2]
    assert len({delivery.id for delivery in deliveries}) == 3


def test_conservation_the_first_send_is_sent_and_the_rest_are_children() -> None:
    state = reachable()
    outs = [starts(state), *run(RULES, state)]
    records = [record for out in outs for record in out.decisions]
    assert [(record.outcome, record.child) for record in records] == [
        ("sent", False),
        ("escalating", True),
        ("sent", True),
        ("escalating", True),
        ("sent", True),
    ]
    assert [record.step for record in records] == [0, 0, 1, 1, 2]
    assert all(out.deferred == {} for out in outs), "to wait for an answer is no deferral"


# What ends it


@pytest.mark.parametrize("answer", [Read(**ABOUT), Opened(**ABOUT)], ids=["read", "open"])
@pytest.mark.parametrize("after", [MINUTE, 6 * MINUTE], ids=["first step", "second step"])
def test_a_read_or_an_open_on_any_step_ends_it(answer: PendingChange, after: int) -> None:
    state = reachable()
    starts(state)
    run(RULES, state, NOW + after)
    record = only(tell(state, answer, NOW + after))
    assert (record.outcome, record.reason, record.part) == ("suppressed", "cancelled", "ladder")
    assert record.detail == ("read" if isinstance(answer, Read) else "open")
    assert (state.pending, state.activity.due) == ({}, 0)


def test_what_a_machine_opened_nobody_has_seen() -> None:
    state = reachable()
    starts(state)
    assert tell(state, Opened(**ABOUT, machine=True), NOW + MINUTE).decisions == []
    assert climb(state) == [(300, "sms"), (900, "email")]


def test_an_answer_to_another_event_or_another_sources_ends_nothing() -> None:
    state = reachable()
    starts(state)
    assert tell(state, Read(id="c", source="tests", event_id="event-2"), NOW + 1).decisions == []
    assert tell(state, Read(id="c", source="somebody", event_id="event-1"), NOW + 1).decisions == []
    assert len(state.pending) == 1


def test_expiry_ends_it() -> None:
    state = reachable()
    starts(state, expires_at=NOW + 7 * MINUTE)
    outs = run(RULES, state)
    assert [out.decisions[0].outcome for out in outs] == ["sent", "suppressed"]
    assert (outs[-1].decisions[0].reason, outs[-1].decisions[0].decided_at) == ("expired", NOW + 7 * MINUTE)


# What hurries it


@pytest.mark.parametrize("kind", [Failed, Stalled])
def test_where_all_deliveries_of_a_step_failed_the_next_one_is_taken_at_once(kind: type[Failed] | type[Stalled]) -> None:
    state = user(endpoint("a"), endpoint("b"), endpoint("s", "twilio"))
    first, second = (delivery.id for delivery in starts(state).deliveries)
    assert tell(state, kind(**ABOUT, delivery_id=first), NOW + 1).decisions == []
    assert tell(state, kind(**ABOUT, delivery_id=first), NOW + 2).decisions == [], "one that failed twice is one"
    assert state.activity.due == NOW + 5 * MINUTE
    assert sent(tell(state, kind(**ABOUT, delivery_id=second), NOW + 3)) == [("event-1", "sms")]


def test_failed_and_stalled_together_are_all() -> None:
    state = user(endpoint("a"), endpoint("b"), endpoint("s", "twilio"))
    first, second = (delivery.id for delivery in starts(state).deliveries)
    tell(state, Failed(**ABOUT, delivery_id=first), NOW + 1)
    assert sent(tell(state, Stalled(**ABOUT, delivery_id=second), NOW + 2)) == [("event-1", "sms")]


def test_a_failure_of_an_earlier_step_hurries_nothing() -> None:
    state = reachable()
    (push,) = starts(state).deliveries
    (sms,) = fire(RULES, state).deliveries
    assert tell(state, Failed(**ABOUT, delivery_id=push.id), NOW + 6 * MINUTE).decisions == []
    assert tell(state, Failed(**ABOUT, delivery_id="nothing"), NOW + 6 * MINUTE).decisions == []
    assert state.activity.due == NOW + 15 * MINUTE
    assert sent(tell(state, Failed(**ABOUT, delivery_id=sms.id), NOW + 7 * MINUTE)) == [("event-1", "email")]


def test_a_replay_of_a_failure_hurries_nothing_more() -> None:
    state = reachable()
    (push,) = starts(state).deliveries
    tell(state, Failed(**ABOUT, delivery_id=push.id), NOW + 1)
    assert tell(state, Failed(**ABOUT, delivery_id=push.id), NOW + 2).decisions == []
    assert state.activity.due == NOW + 1 + 10 * MINUTE


def test_the_clock_of_a_step_starts_when_the_one_before_was_emitted() -> None:
    state = reachable(quiet_hours=(window("14:00", "15:00"),))
    starts(state)
    opens = NOW + 46 * MINUTE + 40 * SECOND
    assert sent(fire(RULES, state)) == [("event-1", "push")]
    assert state.activity.due == opens + 5 * MINUTE


# Steps that cannot be taken


def test_where_no_step_is_left_that_the_event_allows_nothing_waits() -> None:
    state = reachable()
    assert verdict(starts(state, channels=["push"])) == ("sent", None)
    assert (state.pending, state.activity.due) == ({}, 0)


def test_steps_that_reach_nobody_are_skipped_at_once() -> None:
    state = user(endpoint("e", "ses"))
    out = starts(state)
    assert sent(out) == [("event-1", "email")]
    assert only(out).channels == {"push": "no_endpoint", "sms": "no_endpoint", "email": "sent"}
    assert only(out).rung == 2
    assert (state.pending, state.activity.due) == ({}, 0)


def test_a_ladder_that_reaches_nobody_ends_with_every_steps_reason() -> None:
    state = user(endpoint(suppressed="dead"), endpoint("s", "twilio"), preferences={"news/sms": False})
    out = starts(state)
    assert verdict(out) == ("suppressed", "endpoint_suppressed")
    assert only(out).channels == {"push": "endpoint_suppressed", "sms": "opted_out", "email": "no_endpoint"}


def test_a_step_that_finds_nobody_any_more_ends_the_rest_of_the_ladder_by_name() -> None:
    state = reachable()
    starts(state)
    assert state.profile is not None
    del state.profile.endpoints[1:]
    out = fire(RULES, state)
    assert (only(out).outcome, only(out).reason, only(out).part) == ("suppressed", "no_endpoint", "ladder")
    assert (state.pending, state.activity.due) == ({}, 0)


def test_an_event_that_excludes_a_channel_excludes_its_step() -> None:
    state = reachable()
    assert sent(starts(state, channels=["push", "email"])) == [("event-1", "push")]
    assert climb(state) == [(300, "email")]


# Each step is decided anew


def test_a_step_in_quiet_hours_waits_for_their_end_and_goes_on_from_there() -> None:
    state = reachable(quiet_hours=(window("14:15", "15:00"),))
    starts(state)
    waits = fire(RULES, state).decisions[-1]
    assert (waits.outcome, waits.reason, waits.part, waits.rung) == ("deferred", "quiet_hours", "ladder", 1)
    opens = 46 * 60 + 40
    assert climb(state) == [(opens, "sms"), (opens + 600, "email")]


def test_a_read_ends_a_ladder_that_waits_for_quiet_hours_to_end() -> None:
    state = reachable(quiet_hours=(window("14:15", "15:00"),))
    starts(state)
    fire(RULES, state)
    out = tell(state, Read(**ABOUT), NOW + 10 * MINUTE)
    assert (only(out).reason, out.deferred) == ("cancelled", {"cancelled": 1})
    assert state.pending == {}


def test_critical_passes_quiet_hours_on_every_step() -> None:
    rules = ladder("critical")
    state = reachable(quiet_hours=(window("00:00", "24:00"),))
    assert sent(starts(state, rules)) == [("event-1", "push")]
    assert climb(state, rules) == [(300, "sms"), (900, "email")]


def test_a_step_over_a_cap_or_a_budget_is_skipped() -> None:
    cap = {"sms": Cap(limit=1, window="day", channels=["sms"])}
    spent = BudgetExhausted(category="news", channel="sms", day="2026-09-21")
    for rules, reason in ((ladder(caps=cap), "capped"), (ladder(overrides=(spent,)), "over_budget")):
        state = reachable()
        decide(NOW, rules, state, arrival(event(0, "other", channels=["sms"])))
        starts(state, rules)
        out = fire(rules, state)
        assert only(out).channels == {"sms": reason, "email": "sent"}


def test_the_steps_of_a_ladder_count_once_for_any_channel_and_once_for_each() -> None:
    caps = {"any": Cap(limit=10, window="24h"), "sms": Cap(limit=10, window="24h", channels=["sms"])}
    rules = ladder("critical", caps=caps)
    state = reachable()
    starts(state, rules)
    run(rules, state)
    assert {name: len(log) // 6 for name, log in state.activity.caps.items()} == {"any": 1, "sms": 1}


def test_an_opt_out_on_the_way_holds_for_the_steps_to_come() -> None:
    state = reachable()
    starts(state)
    assert state.profile is not None
    state.profile.preferences["*/sms"] = False
    assert climb(state) == [(300, "email")]


def test_a_pause_holds_a_ladder() -> None:
    state = reachable()
    starts(state)
    held = ladder(overrides=(Pause(scope="source", name="tests"),))
    assert only(fire(held, state)).reason == "paused"
    assert [channel for _, channel in climb(state)] == ["sms", "email"]


# Parts


TWO = (Step(channels=["push", "in_app"], wait="5m"), Step(channels=["sms", "email"], wait="5m"))


def test_the_rest_of_a_step_goes_by_itself_and_never_climbs() -> None:
    rules = ladder(steps=TWO, channels=("push", "in_app", "sms", "email"), throttle=throttle(1, "3m", burst=1))
    state = reachable()
    decide(NOW, rules, state, arrival(event(0, channels=["push"])))
    out = decide(NOW, rules, state, arrival(event(1)))
    assert [(record.outcome, record.part) for record in out.decisions] == [
        ("sent", None),
        ("escalating", "ladder"),
        ("deferred", "rest"),
    ]
    assert climb(state, rules) == [(180, "push"), (300, "sms"), (300, "email")]


def test_the_rests_of_two_steps_wait_beside_each_other() -> None:
    rules = ladder(steps=TWO, channels=("push", "in_app", "sms", "email"), throttle=throttle(1, "30m", burst=1))
    state = reachable()
    decide(NOW, rules, state, arrival(event(0, channels=["push"])))
    decide(NOW, rules, state, arrival(event(2, channels=["sms"])))
    starts(state, rules)
    outs = [fire(rules, state)]
    assert len(state.pending) == 2
    outs += run(rules, state)
    assert sorted(d.channel for out in outs for d in out.deliveries) == ["email", "push", "sms"]
    assert sum(out.deferred.get("released", 0) for out in outs) == 2
    assert len({d.id for out in outs for d in out.deliveries}) == 3


def test_what_a_digest_takes_of_two_steps_is_one_item_of_it() -> None:
    rules = ladder(
        steps=TWO,
        channels=("push", "in_app", "sms", "email"),
        digest=Digest(window="1h", at=2, channels=["in_app", "email"]),
    )
    state = reachable()
    starts(state, rules)
    assert sent(fire(rules, state)) == [("event-1", "sms")]
    (out,) = run(rules, state)
    assert [(d.channel, d.params and d.params["count"]) for d in out.deliveries] == [("in_app", 1), ("email", 1)]
    assert (state.pending, state.activity.due) == ({}, 0)


def test_a_ladder_whose_category_no_longer_climbs_ends_and_repeats_nothing() -> None:
    state = reachable()
    starts(state)
    out = fire(policies(news=category(channels=CHANNELS)), state)
    assert (only(out).outcome, only(out).part, out.deliveries) == ("rejected", "ladder", [])


def test_a_ladder_that_became_shorter_ends() -> None:
    state = reachable()
    starts(state)
    fire(RULES, state)
    out = fire(ladder(steps=STEPS[:2]), state)
    assert (only(out).outcome, only(out).part, out.deliveries) == ("rejected", "ladder", [])


def test_what_waited_whole_climbs_from_the_step_it_waited_at() -> None:
    rules = ladder(throttle=throttle(1, "1h", burst=1))
    state = user(endpoint("s", "twilio"), endpoint("e", "ses"))
    decide(NOW, rules, state, arrival(event(0, channels=["sms"])))
    waits = only(starts(state, rules))
    assert (waits.outcome, waits.rung, waits.child) == ("deferred", 1, False)
    record = fire(rules, state).decisions[0]
    assert (record.outcome, record.child, record.rung) == ("sent", False, 1)
