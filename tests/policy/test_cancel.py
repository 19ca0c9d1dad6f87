"""Cancel: a command that ends what waits, remembered for a while, so that it may come first."""

from __future__ import annotations

from typing import Any

import pytest

from messages.policy import Bounds, Digest, Step
from messages.profile import Cancel
from policy.core import decide
from policy.policies import Policies
from policy.state import UserState
from policy.step import Decided
from tests.policy.builders import (
    HOUR,
    MINUTE,
    NOW,
    add_endpoint,
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
)

RULES = policies(cancel_window="24h", news=category(max_age="24h"))
DAY = 24 * HOUR
BY_ID: dict[str, Any] = {"event_id": "event-1"}
BY_KEY: dict[str, Any] = {"cancellation_key": "order-7"}


def cancel(
    state: UserState,
    at: int = NOW,
    rules: Policies = RULES,
    source: str = "tests",
    given_at: int | None = None,
    offset: int = 0,
    **what: str,
) -> Decided:
    """A cancel takes effect, by default the moment it is given."""
    change = Cancel(id=f"cancel-{offset}", source=source, **what)
    return decide(at, rules, state, command(change, offset, at=at if given_at is None else given_at))


def waiting(rules: Policies = RULES, **data: Any) -> UserState:
    """A user for whom event 1, with its cancellation key, waits for an hour."""
    state = user()
    out = decide(NOW, rules, state, arrival(event(1, cancellation_key="order-7", not_before=NOW + HOUR, **data)))
    assert verdict(out) == ("deferred", "not_before")
    return state


# After the event


@pytest.mark.parametrize("what", [BY_ID, BY_KEY], ids=["by id", "by key"])
def test_it_ends_what_is_deferred(what: dict[str, str]) -> None:
    state = waiting()
    out = cancel(state, NOW + MINUTE, **what)
    assert verdict(out) == ("suppressed", "cancelled")
    assert out.deferred == {"cancelled": 1}
    assert (state.pending, state.activity.due) == ({}, 0)


def test_it_ends_what_is_parked() -> None:
    state = user(known=False)
    decide(NOW, RULES, state, arrival(event(1)))
    out = cancel(state, NOW + 1, **BY_ID)
    assert verdict(out) == ("suppressed", "cancelled")
    assert out.deferred == {}, "what is parked is not deferred"
    assert decide(NOW + 2, RULES, state, command(add_endpoint(1), 1)).deliveries == []


def test_it_takes_an_item_out_of_its_digest() -> None:
    rules = policies(news=category(digest=Digest(window="1h")))
    state = user()
    for number in range(3):
        decide(NOW, rules, state, arrival(event(number)))
    assert ends(cancel(state, NOW + 1, rules, **BY_ID)) == {"event-1": "cancelled"}
    out = fire(rules, state)
    assert ends(out) == {"event-0": "digested", "event-2": "digested"}
    assert out.deliveries[0].params is not None
    assert out.deliveries[0].params["count"] == 2


def test_a_digest_whose_last_item_is_cancelled_sends_nothing_and_sets_no_timer() -> None:
    rules = policies(news=category(digest=Digest(window="1h")))
    state = user()
    decide(NOW, rules, state, arrival(event(1)))
    cancel(state, NOW + 1, rules, **BY_ID)
    assert (state.pending, state.activity.due) == ({}, 0)


def test_an_item_that_was_cancelled_does_not_count_for_the_early_close() -> None:
    rules = policies(news=category(digest=Digest(window="1h", at=2)))
    state = user()
    decide(NOW, rules, state, arrival(event(1)))
    cancel(state, NOW + 1, rules, **BY_ID)
    assert verdict(decide(NOW + 2, rules, state, arrival(event(2)))) == ("collected", "digest")


def test_it_ends_a_ladder() -> None:
    rules = policies(
        news=category(
            channels=("push", "email"),
            choice="escalation",
            steps=[Step(channels=["push"], wait="5m"), Step(channels=["email"])],
        )
    )
    state = user(endpoint(), endpoint("e", "ses"))
    assert sent(decide(NOW, rules, state, arrival(event(1)))) == [("event-1", "push")]
    out = cancel(state, NOW + MINUTE, rules, **BY_ID)
    assert (only(out).part, only(out).reason) == ("ladder", "cancelled")
    assert (state.pending, state.activity.due) == ({}, 0)


def test_it_ends_all_parts_of_a_notification() -> None:
    rules = policies(
        news=category(
            channels=("push", "email", "in_app"),
            throttle=throttle(1, "1h", burst=1),
            digest=Digest(window="1h", channels=["email"]),
        )
    )
    state = user(endpoint(), endpoint("e", "ses"))
    decide(NOW, rules, state, arrival(event(0, channels=["push"])))
    out = decide(NOW, rules, state, arrival(event(1)))
    assert [(record.outcome, record.part) for record in out.decisions] == [
        ("sent", None),
        ("deferred", "rest"),
        ("collected", "digest"),
    ]
    out = cancel(state, NOW + 1, rules, **BY_ID)
    assert {record.part for record in out.decisions} == {"rest", "digest"}
    assert {record.reason for record in out.decisions} == {"cancelled"}
    assert all(record.child for record in out.decisions)
    assert state.pending == {}


def test_by_key_it_ends_everything_with_the_key_and_nothing_else() -> None:
    state = waiting()
    decide(NOW, RULES, state, arrival(event(2, cancellation_key="order-7", not_before=NOW + HOUR)))
    decide(NOW, RULES, state, arrival(event(3, cancellation_key="order-8", not_before=NOW + HOUR)))
    assert ends(cancel(state, NOW + 1, **BY_KEY)) == {"event-1": "cancelled", "event-2": "cancelled"}
    assert sent(*run(RULES, state)) == [("event-3", "push")]


@pytest.mark.parametrize("what", [BY_ID, BY_KEY], ids=["by id", "by key"])
def test_another_sources_cancel_does_nothing(what: dict[str, str]) -> None:
    state = waiting()
    assert cancel(state, NOW + 1, source="somebody", **what).decisions == []
    assert sent(*run(RULES, state)) == [("event-1", "push")]
    decide(NOW + HOUR, RULES, state, command(Cancel(id="c", source="somebody", **what), 1))
    late = event(2 if "cancellation_key" in what else 1, at=NOW + HOUR, cancellation_key="order-7")
    assert verdict(decide(NOW + HOUR, RULES, state, arrival(late)))[1] != "cancelled"


def test_what_was_sent_is_past_cancelling() -> None:
    state = user()
    decide(NOW, RULES, state, arrival(event(1)))
    assert cancel(state, NOW + 1, **BY_ID).decisions == []


# Before the event


@pytest.mark.parametrize("what", [BY_ID, BY_KEY], ids=["by id", "by key"])
@pytest.mark.parametrize(("later", "reason"), [(0, "cancelled"), (DAY, "cancelled"), (DAY + 1, None)])
def test_it_is_remembered_for_the_window_and_not_longer(what: dict[str, str], later: int, reason: str | None) -> None:
    state = user()
    assert cancel(state, NOW, **what).decisions == []
    late = arrival(event(1, at=NOW + later, cancellation_key="order-7"), NOW + later)
    assert verdict(decide(NOW + later, RULES, state, late))[1] == reason


def test_an_id_is_no_key() -> None:
    state = user()
    cancel(state, cancellation_key="event-1")
    assert verdict(decide(NOW, RULES, state, arrival(event(1)))) == ("sent", None)
    cancel(state, offset=1, event_id="order-7")
    assert verdict(decide(NOW, RULES, state, arrival(event(2, cancellation_key="order-7")))) == ("sent", None)


def test_an_event_that_was_cancelled_before_it_came_is_known_when_it_comes_again() -> None:
    state = user()
    cancel(state, **BY_ID)
    assert verdict(decide(NOW, RULES, state, arrival(event(1)))) == ("suppressed", "cancelled")
    assert verdict(decide(NOW, RULES, state, arrival(event(1)))) == ("suppressed", "duplicate_event")


def test_a_cancel_concerns_a_user_who_is_not_known_yet() -> None:
    state = user(known=False)
    cancel(state, **BY_ID)
    assert verdict(decide(NOW, RULES, state, arrival(event(1)))) == ("suppressed", "cancelled")
    assert state.profile is None


# Repeats and replays


def test_repeats_are_harmless() -> None:
    state = waiting()
    cancel(state, NOW + 1, **BY_ID)
    before = state.activity.cancels
    assert cancel(state, NOW + 2, given_at=NOW + 1, **BY_ID).decisions == []
    assert state.activity.cancels == before


def test_it_is_remembered_by_when_it_was_given() -> None:
    """A job that was away takes an old command up late: its memory is no longer for that."""
    state = user()
    cancel(state, NOW + 10 * HOUR, given_at=NOW, **BY_ID)
    late = arrival(event(1, at=NOW + DAY + 1), NOW + DAY + 1)
    assert verdict(decide(NOW + DAY + 1, RULES, state, late)) == ("sent", None)


def test_a_replayed_old_command_does_not_cancel_anew() -> None:
    state = user()
    for replayed_at in (NOW + DAY + 1, NOW + DAY + HOUR):
        cancel(state, replayed_at, given_at=NOW, **BY_KEY)
        assert state.activity.cancels == b""
    data: dict[str, Any] = {"cancellation_key": "order-7", "not_before": NOW + 3 * DAY}
    decide(NOW + 2 * DAY, RULES, state, arrival(event(2, at=NOW + 2 * DAY, **data), NOW + 2 * DAY))
    assert cancel(state, NOW + 2 * DAY, given_at=NOW, **BY_KEY).decisions == []
    assert sent(*run(RULES, state)) == [("event-2", "push")]


def test_a_replayed_command_still_ends_what_it_concerned() -> None:
    state = waiting()
    assert ends(cancel(state, NOW + MINUTE, given_at=NOW - DAY, **BY_ID)) == {"event-1": "cancelled"}


def test_a_command_from_the_future_is_given_now() -> None:
    state = user()
    cancel(state, NOW, given_at=NOW + 10 * DAY, **BY_ID)
    late = arrival(event(1, at=NOW + DAY + 1), NOW + DAY + 1)
    assert verdict(decide(NOW + DAY + 1, RULES, state, late)) == ("sent", None)


def test_past_the_bound_the_oldest_cancel_is_forgotten_and_counted() -> None:
    rules = policies(bounds=Bounds(cancels=2), news=category())
    state = user()
    hits = [cancel(state, NOW, rules, offset=n, event_id=f"event-{n}").bounds_hit for n in range(3)]
    assert hits == [{}, {}, {"cancels": 1}]
    assert verdict(decide(NOW, rules, state, arrival(event(0)))) == ("sent", None)
    assert verdict(decide(NOW, rules, state, arrival(event(1)))) == ("suppressed", "cancelled")
