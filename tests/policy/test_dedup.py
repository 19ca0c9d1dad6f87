"""Identity dedup against a naive list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from messages.policy import Bounds
from policy.core import decide
from policy.dedup import seen_before
from tests.policy.builders import HOUR, NOW, SECOND, arrival, category, event, policies, user, verdict

WINDOW = 100


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 60)), max_size=80), st.integers(1, 6))
def test_with_a_clock_that_moves_on_it_is_a_list_of_the_latest(arrivals: list[tuple[int, int]], bound: int) -> None:
    identities: dict[int, int] = {}
    naive: list[tuple[int, int]] = []
    now = 1_000
    for identity, step in arrivals:
        now += step
        inside = [(known, at) for known, at in naive if now - at <= WINDOW]
        expected = any(known == identity for known, _ in inside)
        surplus = max(0, len(inside) + 1 - bound) if not expected else 0
        assert seen_before(identities, identity, now, now, WINDOW, bound) == (expected, surplus)
        naive = inside if expected else [*inside, (identity, now)][-bound:]
        assert list(identities.items()) == naive


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(-150, 150), st.integers(-50, 200)), max_size=80), st.integers(1, 6))
def test_whatever_the_clock_does_nothing_unseen_is_called_seen(arrivals: list[tuple[int, int, int]], bound: int) -> None:
    identities: dict[int, int] = {}
    remembered: dict[int, int] = {}  # everything ever, only the latest of each
    forgotten_in_all = unexplained = 0
    now = 1_000
    for identity, step, ahead in arrivals:
        now += step
        since = max(now, now + ahead)
        known = identity in remembered and remembered[identity] >= now - WINDOW
        seen, forgotten = seen_before(identities, identity, now, since, WINDOW, bound)
        assert not seen or known
        unexplained += known and not seen
        forgotten_in_all += forgotten
        if not seen:
            remembered[identity] = since
        assert len(identities) <= bound
    if bound > 8 and all(step >= 0 for _, step, _ in arrivals):
        assert unexplained == 0
    assert unexplained == 0 or forgotten_in_all or any(step < 0 for _, step, _ in arrivals)


def test_seen_again_after_the_window_it_is_the_youngest_also_where_the_clock_left_it_in_the_middle() -> None:
    identities = {1: 1_000, 2: 500, 3: 520}  # the clock went back after 1
    for identity in (2, 4, 5):
        assert seen_before(identities, identity, 605, 605, WINDOW, 3)[0] is False
    assert list(identities) == [2, 4, 5]


def test_the_window_is_closed_at_its_end() -> None:
    identities = {7: 1_000}
    assert seen_before(identities, 7, 1_000 + WINDOW, 1_000 + WINDOW, WINDOW, 10) == (True, 0)
    assert seen_before(identities, 7, 1_001 + WINDOW, 1_001 + WINDOW, WINDOW, 10) == (False, 0)


def test_a_repeat_never_extends_the_window() -> None:
    rules = policies(identity_window="10s", news=category(max_age="10s"))
    state = user()
    assert verdict(decide(NOW, rules, state, arrival(event(1, at=NOW)))) == ("sent", None)
    for second in range(1, 11):
        repeat = arrival(event(1, at=NOW + second * SECOND))  # the same identity with a fresher time is not stale
        assert verdict(decide(NOW + second * SECOND, rules, state, repeat)) == ("suppressed", "duplicate_event")
    late = arrival(event(1, at=NOW + 10 * SECOND + 1))
    assert verdict(decide(NOW + 10 * SECOND + 1, rules, state, late)) == ("sent", None)


@given(st.integers(-2 * HOUR, 2 * HOUR), st.integers(0, 6 * HOUR), st.integers(-SECOND, SECOND), st.booleans())
def test_no_instant_lies_between_the_dedup_window_and_staleness(
    event_is_ahead: int, repeated_after: int, near: int, at_the_boundary: bool
) -> None:
    """With max_age as long as the window a repeat is either known or stale, also of an event from the future."""
    rules = policies(identity_window="3h", news=category(max_age="3h"))
    state = user()
    happened = NOW + event_is_ahead
    assert verdict(decide(NOW, rules, state, arrival(event(1, at=happened)))) == ("sent", None)
    again = max(NOW, happened + 3 * HOUR + near) if at_the_boundary else NOW + repeated_after
    assert verdict(decide(again, rules, state, arrival(event(1, at=happened)))) in (
        ("suppressed", "duplicate_event"),
        ("suppressed", "stale"),
    )


def test_past_the_bound_the_oldest_is_forgotten_and_counted() -> None:
    rules = policies(bounds=Bounds(identities=2), news=category())
    state = user()
    hits = [decide(NOW + n, rules, state, arrival(event(n))).bounds_hit for n in range(3)]
    assert hits == [{}, {}, {"identities": 1}]
    assert verdict(decide(NOW + 3, rules, state, arrival(event(1)))) == ("suppressed", "duplicate_event")
    assert verdict(decide(NOW + 3, rules, state, arrival(event(0)))) == ("sent", None)


def test_what_waits_is_known_even_where_the_window_forgot_it() -> None:
    rules = policies(bounds=Bounds(identities=1), news=category())
    state = user()
    waiting = arrival(event(1, not_before=NOW + HOUR))
    assert verdict(decide(NOW, rules, state, waiting)) == ("deferred", "not_before")
    assert verdict(decide(NOW, rules, state, arrival(event(2)))) == ("sent", None)
    assert verdict(decide(NOW, rules, state, waiting)) == ("suppressed", "duplicate_event")
    assert len(state.pending) == 1


def test_an_event_that_ended_before_dedup_leaves_no_trace() -> None:
    """Expired and stale are told by the event alone; the identity is remembered from the first that gets further."""
    rules = policies(news=category(max_age="1m"))
    state = user()
    decide(NOW, rules, state, arrival(event(1, at=NOW - HOUR)))
    decide(NOW, rules, state, arrival(event(2, expires_at=NOW)))
    decide(NOW, rules, state, arrival(event(3, "unknown")))
    assert state.activity.identities == {}
    assert not state.changed_activity
