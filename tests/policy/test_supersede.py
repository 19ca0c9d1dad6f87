"""Supersede: of what waits with one collapse_key only the newest, by event time, is still to be shown."""

from __future__ import annotations

from typing import Any

from messages.policy import Digest
from policy.core import decide
from policy.policies import Policies
from policy.state import UserState
from policy.step import Decided
from tests.policy.builders import (
    HOUR,
    MINUTE,
    NOW,
    arrival,
    category,
    endpoint,
    ends,
    event,
    fire,
    policies,
    run,
    sent,
    throttle,
    user,
    verdict,
    window,
)

RULES = policies(news=category(channels=("push", "email")), other=category())
ASLEEP = (window("12:00", "20:00"),)  # NOW is a Monday, 14:13 UTC


def arrives(state: UserState, number: int | str, rules: Policies = RULES, at: int = NOW, **data: Any) -> Decided:
    """An event of that time with the collapse key `c` arrives now."""
    data.setdefault("collapse_key", "c")
    return decide(NOW, rules, state, arrival(event(number, data.pop("kind", "news"), at, **data)))


def test_a_newer_one_replaces_an_older_deferred_one() -> None:
    state = user(quiet_hours=ASLEEP)
    arrives(state, 1)
    out = arrives(state, 2, at=NOW + 1)
    assert ends(out) == {"event-1": "superseded"}
    assert out.decisions[0].detail == "event-2"
    assert out.deferred == {"superseded": 1, "entered": 1}
    assert sent(*run(RULES, state)) == [("event-2", "push")]


def test_one_that_goes_out_at_once_replaces_too() -> None:
    state = user()
    arrives(state, 1, not_before=NOW + HOUR)
    out = arrives(state, 2, at=NOW + 1)
    assert (ends(out), sent(out)) == ({"event-1": "superseded"}, [("event-2", "push")])
    assert state.pending == {}


def test_it_replaces_only_once_it_has_itself_passed_rule_8() -> None:
    state = user(preferences={"other/*": False}, quiet_hours=ASLEEP)
    arrives(state, 1)
    assert verdict(arrives(state, 2, at=NOW + 1, kind="other")) == ("suppressed", "opted_out")
    assert verdict(arrives(state, 3, at=NOW + 1, channels=["sms"])) == ("rejected", "no_channel")
    assert verdict(arrives(state, 4, at=NOW + 1, channels=["email"])) == ("suppressed", "no_endpoint")
    assert len(state.pending) == 1


def test_one_that_waits_for_its_not_before_has_not_passed_rule_8_and_replaces_nothing_yet() -> None:
    state = user(quiet_hours=ASLEEP)
    arrives(state, 1)
    assert verdict(arrives(state, 2, at=NOW + 1, not_before=NOW + MINUTE)) == ("deferred", "not_before")
    assert len(state.pending) == 2
    out = fire(RULES, state)
    assert ends(out) == {"event-1": "superseded"}
    assert [key.partition("/")[0] for key in state.pending] == [out.decisions[-1].notification_id]


def test_an_older_one_goes_out_while_a_newer_one_only_waits_for_its_not_before() -> None:
    """The newer one may yet find nobody who wants it."""
    state = user()
    arrives(state, 2, at=NOW + 1, not_before=NOW + HOUR)
    assert verdict(arrives(state, 1)) == ("sent", None)
    assert len(state.pending) == 1


def test_one_that_arrives_late_ends_where_a_newer_one_waits() -> None:
    state = user(quiet_hours=ASLEEP)
    arrives(state, 2, at=NOW + 1)
    out = arrives(state, 1)
    assert verdict(out) == ("suppressed", "superseded")
    assert out.deferred == {}, "it was never deferred"
    assert sent(*run(RULES, state)) == [("event-2", "push")]


def test_of_two_with_one_time_the_later_arrival_stays() -> None:
    state = user(quiet_hours=ASLEEP)
    arrives(state, 1)
    assert ends(arrives(state, 2)) == {"event-1": "superseded"}
    assert sent(*run(RULES, state)) == [("event-2", "push")]


def test_never_across_collapse_keys_and_never_without_one() -> None:
    state = user(quiet_hours=ASLEEP)
    arrives(state, 1)
    arrives(state, 2, at=NOW + 1, collapse_key="d")
    arrives(state, 3, at=NOW + 1, collapse_key=None)
    assert len(state.pending) == 3


def test_one_key_over_categories_and_sources() -> None:
    state = user(quiet_hours=ASLEEP)
    arrives(state, 1, source="shop")
    assert ends(arrives(state, 2, at=NOW + 1, kind="other", source="bank")) == {"event-1": "superseded"}


def test_what_waits_of_one_that_was_sent_in_part_is_replaced_and_the_newer_ones_own_rest_is_not() -> None:
    rules = policies(news=category(channels=("push", "in_app"), throttle=throttle(1, "1h", burst=1)))
    state = user()
    arrives(state, "first", rules, collapse_key=None, channels=["push"])
    arrives(state, 1, rules)
    out = arrives(state, 2, rules, at=NOW + 1, channels=["in_app", "push"])
    # Each channel's token is gone: number 2 waits whole, and number 1's rest ends.
    ended = [record for record in out.decisions if record.reason == "superseded"]
    assert [(record.event_id, record.child, record.part) for record in ended] == [("event-1", True, "rest")]
    assert set(sent(*run(rules, state))) == {("event-2", "push"), ("event-2", "in_app")}


def test_what_is_parked_or_in_a_digest_is_not_replaced() -> None:
    rules = policies(news=category(digest=Digest(window="1h")))
    state = user()
    arrives(state, 1, rules)
    arrives(state, 2, rules, at=NOW + 1)
    assert ends(fire(rules, state)) == {"event-1": "digested", "event-2": "digested"}
    unknown = user(known=False)
    arrives(unknown, 1)
    arrives(unknown, 2, at=NOW + 1)
    assert len(unknown.pending) == 2


def test_a_digest_that_waits_for_the_morning_is_not_replaced_by_one_more_item() -> None:
    rules = policies(news=category(quiet_hours="digest", digest=Digest(window="1m", by="collapse_key")))
    state = user(quiet_hours=(window("14:14", "20:00"),))
    for number in range(3):
        arrives(state, number, rules)
    assert fire(rules, state).decisions[-1].reason == "quiet_hours"
    late = NOW + 2 * MINUTE
    assert verdict(decide(late, rules, state, arrival(event(9, at=late, collapse_key="c")))) == ("collected", "digest")
    deliveries = [delivery for out in run(rules, state) for delivery in out.deliveries]
    assert sorted(delivery.params["count"] for delivery in deliveries if delivery.params) == [1, 3]


def test_one_of_two_that_are_due_together_replaces_the_other_within_the_step() -> None:
    state = user()
    arrives(state, 1, at=NOW + 1, not_before=NOW + HOUR)
    arrives(state, 2, at=NOW, not_before=NOW + HOUR)
    out = fire(RULES, state)
    assert (sent(out), ends(out)) == ([("event-1", "push")], {"event-2": "superseded"})
    assert state.pending == {}


def test_several_older_ones_are_replaced_at_once() -> None:
    state = user(endpoint(), endpoint("e", "ses"), quiet_hours=ASLEEP)
    for number in range(3):
        arrives(state, number, at=NOW - number, not_before=NOW + MINUTE)
    out = arrives(state, 9, at=NOW + 1)
    assert ends(out) == {f"event-{number}": "superseded" for number in range(3)}
    assert out.deferred == {"superseded": 3, "entered": 1}
