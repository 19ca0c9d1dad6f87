"""Content dedup: one dedup_key is sent once in its category's window, and a holder that is not sent gives it back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.policy import Bounds, Digest
from messages.profile import Cancel
from policy.core import decide
from policy.dedup import release, reserve
from policy.policies import Policies
from policy.state import UserState
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
    ends,
    event,
    fire,
    policies,
    throttle,
    user,
    verdict,
)

RULES = policies(news=category(dedup_window="10m"), short=category(dedup_window="1m"))
SENT = ("sent", None)
DUPLICATE = ("suppressed", "duplicate_content")


def judged(
    state: UserState, number: int | str, after: int = 0, rules: Policies = RULES, kind: str = "news", **data: object
) -> tuple[str, str | None]:
    """What becomes of an event with the key `k` that arrives so many milliseconds later."""
    data.setdefault("dedup_key", "k")
    return verdict(decide(NOW + after, rules, state, arrival(event(number, kind, NOW + after, **data))))


def test_the_first_one_wins_up_to_the_end_of_the_window() -> None:
    state = user()
    assert judged(state, 1) == SENT
    assert judged(state, 2, 10 * MINUTE) == DUPLICATE
    assert judged(state, 3, 10 * MINUTE + 1) == SENT


def test_a_duplicate_never_extends_the_window() -> None:
    state = user()
    assert judged(state, 0) == SENT
    assert {judged(state, minute, minute * MINUTE) for minute in range(1, 11)} == {DUPLICATE}
    assert judged(state, 11, 10 * MINUTE + 1) == SENT


def test_keys_and_users_are_apart_and_no_key_is_no_duplicate() -> None:
    state = user()
    assert judged(state, 1) == SENT
    assert judged(state, 2, dedup_key="l") == SENT
    assert judged(state, 3, dedup_key=None) == judged(state, 4, dedup_key=None) == SENT
    assert judged(user(), 1) == SENT


def test_a_key_is_one_over_categories_and_each_asks_for_its_own_window() -> None:
    state = user()
    assert judged(state, 1) == SENT
    assert judged(state, 2, MINUTE, kind="short") == DUPLICATE
    assert judged(state, 3, MINUTE + 1, kind="short") == SENT


def test_a_holder_of_a_shorter_window_that_ends_without_a_send_leaves_the_earlier_one() -> None:
    state = user()
    assert judged(state, 1) == SENT
    assert judged(state, 2, 2 * MINUTE, kind="short", expires_at=NOW + 3 * MINUTE, not_before=NOW + HOUR)[0] == "deferred"
    assert verdict(fire(RULES, state)) == ("suppressed", "expired")
    assert judged(state, 3, 10 * MINUTE) == DUPLICATE


# The holder's end


def test_a_holder_that_expires_while_it_waits_frees_the_key() -> None:
    state = user()
    assert judged(state, 1, not_before=NOW + HOUR, expires_at=NOW + MINUTE) == ("deferred", "not_before")
    assert judged(state, 2, SECOND) == DUPLICATE
    assert verdict(fire(RULES, state)) == ("suppressed", "expired")
    assert judged(state, 3, MINUTE) == SENT


def test_a_holder_that_is_cancelled_frees_the_key() -> None:
    state = user()
    judged(state, 1, not_before=NOW + HOUR)
    decide(NOW + 1, RULES, state, command(Cancel(id="c", source="tests", event_id="event-1"), 0))
    assert judged(state, 2, 2) == SENT


@pytest.mark.parametrize(
    ("state", "data", "reason"),
    [
        (user(preferences={"*/*": False}), {}, "opted_out"),
        (user(endpoint("e", "ses")), {}, "no_endpoint"),
        (user(endpoint(suppressed="stop")), {}, "endpoint_suppressed"),
        (user(), {"channels": ["email"]}, "no_channel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_holder_that_a_later_rule_refuses_frees_the_key(state: UserState, data: dict[str, object], reason: str) -> None:
    assert judged(state, 1, **data)[1] == reason
    assert state.activity.contents == b""
    assert judged(state, 2, **data)[1] == reason, "it is not the duplicate of something that was never sent"


def test_a_holder_that_does_not_fit_frees_the_key() -> None:
    rules = policies(bounds=Bounds(pending_items=1), news=category())
    state = user()
    judged(state, "first", rules=rules, dedup_key="other", not_before=NOW + HOUR)
    assert judged(state, 1, rules=rules, not_before=NOW + HOUR) == ("suppressed", "pending_full")
    assert judged(state, 2, rules=rules) == SENT


def test_a_marketing_holder_of_an_unknown_user_frees_the_key() -> None:
    rules = policies(news=category("marketing"))
    state = user(known=False)
    assert judged(state, 1, rules=rules) == ("parked", "parking")
    assert judged(state, 2, 1, rules=rules) == DUPLICATE
    assert verdict(fire(rules, state)) == ("suppressed", "unknown_user")
    decide(NOW + MINUTE, rules, state, command(add_endpoint(1), 0))
    assert judged(state, 3, MINUTE, rules=rules) == SENT


def test_a_holder_whose_category_is_gone_frees_the_key() -> None:
    state = user()
    judged(state, 1, not_before=NOW + MINUTE)
    assert verdict(fire(policies(short=category()), state)) == ("rejected", "unknown_category")
    assert judged(state, 2, MINUTE) == SENT


def test_a_holder_that_is_superseded_frees_the_key() -> None:
    state = user()
    judged(state, 1, not_before=NOW + HOUR, collapse_key="c")
    out = decide(NOW + 1, RULES, state, arrival(event(2, at=NOW + 1, collapse_key="c")))
    assert ends(out) == {"event-1": "superseded"}
    assert judged(state, 3, 2) == SENT


def test_an_event_that_was_refused_before_content_dedup_reserves_nothing() -> None:
    state = user()
    decide(NOW, RULES, state, command(Cancel(id="c", source="tests", event_id="event-1"), 0))
    assert judged(state, 1) == ("suppressed", "cancelled")
    assert judged(state, 2, expires_at=NOW) == ("suppressed", "expired")
    assert judged(state, 3) == SENT
    assert judged(state, 3) == ("suppressed", "duplicate_event")


def test_identity_is_never_given_back() -> None:
    state = user(preferences={"*/*": False})
    assert judged(state, 1)[1] == "opted_out"
    assert judged(state, 1)[1] == "duplicate_event"


def test_a_holder_that_was_sent_after_it_had_waited_keeps_the_key_from_its_arrival_on() -> None:
    state = user()
    judged(state, 1, not_before=NOW + 5 * MINUTE)
    assert verdict(fire(RULES, state)) == SENT
    assert judged(state, 2, 10 * MINUTE) == DUPLICATE
    assert judged(state, 3, 10 * MINUTE + 1) == SENT


def test_a_rest_that_ends_without_a_send_does_not_free_the_key_of_what_was_sent() -> None:
    rules = policies(news=category(channels=("push", "in_app"), throttle=throttle(1, "1h", burst=1)))
    state = user()
    judged(state, "first", rules=rules, channels=["push"], dedup_key=None)
    out = decide(NOW, rules, state, arrival(event(1, dedup_key="k", expires_at=NOW + MINUTE)))
    assert [record.outcome for record in out.decisions] == ["sent", "deferred"]
    assert verdict(fire(rules, state)) == ("suppressed", "expired")
    assert judged(state, 2, MINUTE, rules=rules) == DUPLICATE


def test_a_holder_that_ended_in_a_digest_keeps_the_key() -> None:
    rules = policies(news=category(digest=Digest(window="1m")))
    state = user()
    assert judged(state, 1, rules=rules) == ("collected", "digest")
    assert judged(state, 2, 1, rules=rules) == DUPLICATE
    assert ends(fire(rules, state)) == {"event-1": "digested"}
    assert judged(state, 3, MINUTE, rules=rules) == DUPLICATE


def test_a_lock_released_by_a_worker_that_never_owned_it() -> None:
    """The old holder's window has passed, a new one holds the key: the old one's end gives nothing back."""
    state = user()
    judged(state, "old", not_before=NOW + 2 * HOUR, expires_at=NOW + HOUR)
    assert judged(state, "new", 11 * MINUTE, not_before=NOW + 3 * HOUR) == ("deferred", "not_before")
    decide(NOW + 12 * MINUTE, RULES, state, command(Cancel(id="c", source="tests", event_id="event-old"), 0))
    assert judged(state, "late", 13 * MINUTE) == DUPLICATE
    decide(NOW + 14 * MINUTE, RULES, state, command(Cancel(id="d", source="tests", event_id="event-new"), 1))
    assert judged(state, "last", 14 * MINUTE) == SENT


def test_past_the_bound_the_oldest_key_is_forgotten_and_counted() -> None:
    rules = policies(bounds=Bounds(contents=2), news=category())
    state = user()
    hits = [
        decide(NOW + n, rules, state, arrival(event(n, dedup_key=f"k{n}"))).bounds_hit.get("contents", 0) for n in range(3)
    ]
    assert hits == [0, 0, 1]
    assert judged(state, "a", 3, rules=rules, dedup_key="k1") == DUPLICATE
    assert judged(state, "b", 3, rules=rules, dedup_key="k0") == SENT


WINDOWS = (50, 100)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(WINDOWS), st.integers(0, 40), st.sampled_from([None, 0, 30, 120])),
        max_size=60,
    )
)
def test_against_a_naive_list_of_reservations(arrivals: list[tuple[int, int, int, int | None]]) -> None:
    """A reservation is one line of a list, struck out by its own holder alone; None is a holder that was sent."""
    log = b""
    now = 1_000
    naive: list[tuple[int, int]] = []
    endings: list[tuple[int, int, int]] = []
    for key, window, step, gives_back in arrivals:
        now += step
        for ending in [ending for ending in endings if ending[0] <= now]:
            endings.remove(ending)
            _, owned, since = ending
            naive.remove((owned, since))
            log = release(log, bytes([owned] * 8), since)
        expected = any(known == key and now - since <= window for known, since in naive)
        taken, log, forgotten = reserve(log, bytes([key] * 8), now, window, max(WINDOWS), 10_000)
        assert (taken, forgotten) == (expected, 0)
        if not taken:
            naive.append((key, now))
            if gives_back is not None:
                endings.append((now + gives_back, key, now))
