"""Pauses: what is paused waits, by that name, and goes on once the pause is lifted."""

from __future__ import annotations

from typing import Any

import pytest

from messages.policy import Pause
from policy.core import PAUSED_FOR, decide
from policy.policies import Policies
from tests.policy.builders import (
    HOUR,
    MINUTE,
    NOW,
    add_endpoint,
    arrival,
    category,
    command,
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
)

PAUSES = [
    Pause(scope="source", name="tests"),
    Pause(scope="category", name="news"),
    Pause(scope="campaign", name="autumn"),
]
HELD = ("deferred", "paused")


def rules(*pauses: Pause, **settings: Any) -> Policies:
    """A policy of two categories under these pauses."""
    return policies(news=category(**settings), other=category(**settings), overrides=pauses)


@pytest.mark.parametrize("pause", PAUSES, ids=lambda pause: pause.scope)
def test_what_arrives_waits_and_goes_out_once_after_the_pause(pause: Pause) -> None:
    state = user()
    out = decide(NOW, rules(pause), state, arrival(event(1, campaign="autumn")))
    assert verdict(out) == HELD
    assert only(out).release_at == NOW + PAUSED_FOR
    assert verdict(fire(rules(pause), state)) == HELD, "it is still paused"
    assert sent(*run(rules(), state)) == [("event-1", "push")]
    assert (state.pending, state.activity.due) == ({}, 0)
    assert ends(decide(NOW, rules(), state, arrival(event(1)))) == {"event-1": "duplicate_event"}


@pytest.mark.parametrize("pause", PAUSES, ids=lambda pause: pause.scope)
def test_what_is_released_waits_on(pause: Pause) -> None:
    state = user()
    decide(NOW, rules(), state, arrival(event(1, campaign="autumn", not_before=NOW + HOUR)))
    assert verdict(fire(rules(pause), state)) == HELD
    assert sent(*run(rules(), state)) == [("event-1", "push")]


def test_only_what_is_named_is_held() -> None:
    state = user()
    names = [Pause(scope=pause.scope, name="another") for pause in PAUSES]
    mixed = [Pause(scope="source", name="news"), Pause(scope="category", name="tests"), Pause(scope="campaign", name="news")]
    for pause in (*names, *mixed):
        state = user()
        assert verdict(decide(NOW, rules(pause), state, arrival(event(1, campaign="autumn")))) == ("sent", None)
    held = rules(Pause(scope="category", name="news"))
    assert verdict(decide(NOW, held, state, arrival(event(2, "other")))) == ("sent", None)
    without = rules(Pause(scope="campaign", name="autumn"))
    assert verdict(decide(NOW, without, state, arrival(event(3)))) == ("sent", None)


def test_the_rest_of_what_was_sent_is_held_too_and_nothing_is_sent_twice() -> None:
    limited: dict[str, Any] = {"channels": ("push", "in_app"), "throttle": throttle(1, "1m", burst=1)}
    state = user()
    decide(NOW, rules(**limited), state, arrival(event(0, channels=["push"])))
    assert sent(decide(NOW, rules(**limited), state, arrival(event(1)))) == [("event-1", "in_app")]
    out = fire(rules(PAUSES[0], **limited), state)
    assert (only(out).reason, only(out).child, only(out).part) == ("paused", True, "rest")
    assert sent(*run(rules(**limited), state)) == [("event-1", "push")]


def test_a_parked_one_is_held_when_its_profile_comes() -> None:
    state = user(known=False)
    decide(NOW, rules(PAUSES[0]), state, arrival(event(1)))
    out = decide(NOW + 1, rules(PAUSES[0]), state, command(add_endpoint(1), 0))
    assert (verdict(out), only(out).step) == (HELD, 1)
    assert sent(*run(rules(), state)) == [("event-1", "push")]


def test_one_that_expires_under_a_pause_ends_at_that_instant() -> None:
    state = user()
    decide(NOW, rules(PAUSES[0]), state, arrival(event(1, expires_at=NOW + MINUTE)))
    out = fire(rules(PAUSES[0]), state)
    assert (verdict(out), only(out).decided_at) == (("suppressed", "expired"), NOW + MINUTE)


def test_what_the_rules_at_arrival_refuse_is_not_held() -> None:
    state = user()
    held = rules(PAUSES[0], max_age="1m")
    assert verdict(decide(NOW, held, state, arrival(event(1, expires_at=NOW)))) == ("suppressed", "expired")
    assert verdict(decide(NOW, held, state, arrival(event(2, at=NOW - HOUR)))) == ("suppressed", "stale")
    decide(NOW, held, state, arrival(event(3)))
    assert verdict(decide(NOW, held, state, arrival(event(3)))) == ("suppressed", "duplicate_event")


def test_what_was_held_is_deferred_work_that_balances() -> None:
    state = user()
    outs = [decide(NOW, rules(PAUSES[0]), state, arrival(event(1)))]
    outs += [fire(rules(PAUSES[0]), state) for _ in range(3)]
    outs += run(rules(), state)
    assert sum(out.deferred.get("entered", 0) for out in outs) == sum(out.deferred.get("released", 0) for out in outs) == 4


def test_what_is_held_keeps_its_order() -> None:
    state = user()
    for number in range(3):
        decide(NOW + number, rules(PAUSES[0]), state, arrival(event(number)))
    assert [name for name, _ in sent(*run(rules(), state))] == ["event-0", "event-1", "event-2"]
