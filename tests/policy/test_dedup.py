"""Identity dedup against a naive list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from messages.policy import Bounds
from policy.core import decide
from policy.dedup import seen_before
from tests.policy.builders import HOUR, NOW, SECOND, arrival, category, event, policies, user, verdict

WINDOW = 100


def named(identity: int) -> bytes:
    """Numbers that overlap in their bytes, and with the instants: found is only what stands where a number stands."""
    return bytes([0, 0, 0, 0, 0, 0, identity % 2, identity // 2])


def entries(log: bytes) -> list[tuple[bytes, int]]:
    """The entries of a log, read one after the other."""
    pieces = [log[start : start + 14] for start in range(0, len(log), 14)]
    return [(piece[6:], int.from_bytes(piece[:6], "big")) for piece in pieces]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 60)), max_size=80), st.integers(1, 6), st.integers(0, 1_000))
def test_with_a_clock_that_moves_on_it_is_a_list_of_the_latest(
    arrivals: list[tuple[int, int]], bound: int, now: int
) -> None:
    log = b""
    naive: list[tuple[int, int]] = []
    for identity, step in arrivals:
        now += step
        inside = [(known, at) for known, at in naive if now - at <= WINDOW]
        expected = any(known == identity for known, _ in inside)
        surplus = max(0, len(inside) + 1 - bound) if not expected else 0
        seen, log, forgotten = seen_before(log, named(identity), now, now, WINDOW, bound)
        assert (seen, forgotten) == (expected, surplus)
        if not expected:
            naive = [*inside, (identity, now)][-bound:]
            assert entries(log) == [(named(known), at) for known, at in naive]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(-150, 150), st.integers(-50, 200)), max_size=80), st.integers(1, 6))
def test_whatever_the_clock_does_nothing_unseen_is_called_seen(arrivals: list[tuple[int, int, int]], bound: int) -> None:
    log = b""
    remembered: dict[int, int] = {}  # everything ever, only the latest of each
    forgotten_in_all = unexplained = 0
    now = 100_000
    for identity, step, ahead in arrivals:
        now += step
        since = max(now, now + ahead)
        known = identity in remembered and remembered[identity] >= now - WINDOW
        seen, log, forgotten = seen_before(log, named(identity), now, since, WINDOW, bound)
        assert not seen or known
        unexplained += known and not seen
        forgotten_in_all += forgotten
        if not seen:
            remembered[identity] = since
        assert len(entries(log)) <= bound
    if bound > 8 and all(step >= 0 for _, step, _ in arrivals):
        assert unexplained == 0
    assert unexplained == 0 or forgotten_in_all or any(step < 0 for _, step, _ in arrivals)


def test_seen_again_after_the_window_it_is_the_youngest_also_where_the_clock_left_it_in_the_middle() -> None:
    log = b""
    for identity, at in ((1, 1_000), (2, 500), (3, 520)):  # the clock went back after 1
        log = seen_before(log, named(identity), at, at, WINDOW * 100, 3)[1]
    for identity in (2, 4, 5):
        seen, log, _ = seen_before(log, named(identity), 605, 605, WINDOW, 3)
        assert seen is False
    assert [number for number, _ in entries(log)] == [named(2), named(4), named(5)]


def test_the_window_is_closed_at_its_end() -> None:
    log = seen_before(b"", named(7), 1_000, 1_000, WINDOW, 10)[1]
    assert seen_before(log, named(7), 1_000 + WINDOW, 1_000 + WINDOW, WINDOW, 10) == (True, log, 0)
    seen, later, _ = seen_before(log, named(7), 1_001 + WINDOW, 1_001 + WINDOW, WINDOW, 10)
    assert (seen, entries(later)) == (False, [(named(7), 1_001 + WINDOW)])


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
    assert state.activity.identities == b""
    assert not state.changed_activity
