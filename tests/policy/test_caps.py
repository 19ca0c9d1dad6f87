"""Frequency caps against a full log of everything that was ever taken, judged with datetime."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.caps import forget_past, free_at, take, taken
from policy.policies import CapRule

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

# Each with a day on which its clock changes; the runs are around it.
CLOCK_CHANGES = [
    ("Europe/Berlin", "2024-03-31"),
    ("America/New_York", "2024-11-03"),
    ("Australia/Lord_Howe", "2024-04-07"),
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Sao_Paulo", "2018-02-18"),
    ("America/Havana", "2019-11-03"),
    ("Asia/Beirut", "2022-03-27"),
    ("Asia/Tehran", "2021-03-22"),
    ("Pacific/Apia", "2011-12-30"),
    ("Asia/Kathmandu", "2024-01-01"),
]


def at(text: str) -> int:
    """An ISO instant, UTC where it does not say, in milliseconds."""
    instant = datetime.fromisoformat(text)
    return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1_000)


def cap(limit: int, window: str | int) -> CapRule:
    """A cap over a calendar window, or a rolling one of so many milliseconds."""
    rolling = window if isinstance(window, int) else None
    return CapRule("all", limit, "rolling" if rolling else str(window), rolling, None, None, "drop")


def monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def counted(everything: list[int], rule: CapRule, zone: str, now: int) -> int:
    """By definition, over everything that was ever taken; the future of a clock that went back counts."""
    if rule.rolling is not None:
        window = timedelta(milliseconds=rule.rolling)
        return sum(instant(now) < instant(unit) + window for unit in everything)
    rules = ZoneInfo(zone)
    days = [instant(unit).astimezone(rules).date() for unit in everything]
    today = instant(now).astimezone(rules).date()
    if rule.window == "week":
        days, today = [monday(day) for day in days], monday(today)
    return sum(day >= today for day in days)


def instant(now: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now)


rules = st.builds(cap, st.integers(1, 8), st.sampled_from(["day", "week"]) | st.integers(1, 3 * DAY))
# A step of the clock and how many units are taken then, whatever the cap says: not every category obeys.
steps = st.lists(
    st.tuples(st.one_of(st.integers(0, 12 * HOUR), st.just(0), st.integers(0, 5 * MINUTE)), st.integers(0, 3)), max_size=40
)


@given(st.sampled_from(CLOCK_CHANGES), rules, steps, st.integers(0, DAY))
def test_what_counts_is_what_counts_in_the_full_log(
    change: tuple[str, str], rule: CapRule, run: list[tuple[int, int]], before: int
) -> None:
    zone, now = change[0], at(change[1]) - 2 * DAY + before
    log, everything = b"", list[int]()
    for step, units in run:
        now += step
        assert min(rule.limit, counted(everything, rule, zone, now)) == taken(log, rule, zone, now)
        log = take(log, rule, now, units)
        everything += [now] * units


@given(st.sampled_from(CLOCK_CHANGES), rules, steps, st.integers(0, 10))
def test_what_is_free_is_free_at_that_instant_and_not_one_before(
    change: tuple[str, str], rule: CapRule, run: list[tuple[int, int]], ahead: int
) -> None:
    zone, now = change[0], at(change[1]) - 2 * DAY
    log, everything = b"", list[int]()
    needed = min(rule.limit, 1 + ahead)
    for step, units in run:
        now += step
        free = free_at(log, rule, zone, now, ahead)
        assert free >= now
        assert rule.limit - counted(everything, rule, zone, free) >= needed
        # It only becomes less, so that the instant before is enough to look at.
        assert free == now or rule.limit - counted(everything, rule, zone, free - 1) < needed
        log = take(log, rule, now, units)
        everything += [now] * units


@given(
    st.sampled_from(CLOCK_CHANGES),
    rules,
    st.lists(st.tuples(st.integers(-2 * DAY, 2 * DAY) | st.integers(-2, 2), st.integers(0, 3)), max_size=40),
    st.integers(0, 10),
)
def test_a_clock_that_goes_back_and_forth_leaves_the_log_in_order_and_exact(
    change: tuple[str, str], rule: CapRule, run: list[tuple[int, int]], ahead: int
) -> None:
    zone, now = change[0], at(change[1])
    log, everything = b"", list[int]()
    for step, units in run:
        now += step
        assert min(rule.limit, counted(everything, rule, zone, now)) == taken(log, rule, zone, now)
        assert rule.limit - counted(everything, rule, zone, free_at(log, rule, zone, now, ahead)) >= min(
            rule.limit, 1 + ahead
        )
        log = take(log, rule, now, units)
        everything = sorted([*everything, *[now] * units])
        assert log == b"".join(unit.to_bytes(6, "big") for unit in everything[-rule.limit :])


@given(st.sampled_from(["day", "week", DAY]), st.integers(1, 6), st.integers(1, 6), st.integers(0, 8))
def test_under_another_limit_the_log_says_what_it_knows(window: str | int, old: int, new: int, units: int) -> None:
    now = at("2024-07-03T12:00")
    log = take(b"", cap(old, window), now, units)
    rule = cap(new, window)
    assert taken(log, rule, "UTC", now) == min(old, units)
    free = free_at(log, rule, "UTC", now, 0)
    assert (free == now) == (min(old, units) < new)
    assert taken(log, rule, "UTC", free) < new
    assert len(take(log, rule, now, 1)) == 6 * min(new, min(old, units) + 1)


def test_a_sliding_window_that_is_a_fixed_one() -> None:
    """Two late in one hour and two early in the next are four within minutes: a fixed window would let them pass."""
    rule = cap(2, HOUR)
    late, early = at("2024-07-01T10:58"), at("2024-07-01T11:01")
    log = take(take(b"", rule, late, 1), rule, late + MINUTE, 1)
    assert taken(log, rule, "UTC", early) == 2
    assert free_at(log, rule, "UTC", early, 0) == late + HOUR
    assert taken(log, rule, "UTC", late + HOUR - 1) == 2
    assert taken(log, rule, "UTC", late + HOUR) == 1
    assert free_at(log, rule, "UTC", early, 1) == late + MINUTE + HOUR


def test_a_limiter_that_checks_count_below_limit_and_then_adds_more_than_one_point() -> None:
    """Whether two more fit is asked with one ahead: with one unit left there is room for one, not for two."""
    rule, now = cap(3, DAY), at("2024-07-01T12:00")
    log = take(b"", rule, now, 2)
    assert taken(log, rule, "UTC", now) == 2 < rule.limit
    assert free_at(log, rule, "UTC", now, 0) == now
    assert free_at(log, rule, "UTC", now, 1) == now + DAY


def test_calendar_day_caps_judged_in_utc() -> None:
    """In Auckland the day ends at noon of UTC's: what was taken before counts no more, what was taken after does on."""
    rule, zone = cap(1, "day"), "Pacific/Auckland"
    midnight = at("2024-07-02T00:00+12:00")
    log = take(b"", rule, midnight - HOUR, 1)
    assert taken(log, rule, zone, midnight - 1) == 1
    assert free_at(log, rule, zone, midnight - 1, 0) == midnight
    assert taken(log, rule, zone, midnight) == 0
    log = take(log, rule, midnight, 1)
    assert taken(log, rule, zone, at("2024-07-02T00:00")) == 1  # a new day of UTC's
    assert free_at(log, rule, zone, at("2024-07-02T00:00"), 0) == at("2024-07-03T00:00+12:00")


def test_a_calendar_week_begins_on_the_users_monday() -> None:
    rule, zone = cap(1, "week"), "America/New_York"
    sunday, start = at("2024-11-03T23:59-05:00"), at("2024-11-04T00:00-05:00")
    log = take(b"", rule, at("2024-10-28T00:00-04:00"), 1)
    assert taken(log, rule, zone, sunday) == 1
    assert free_at(log, rule, zone, sunday, 0) == free_at(log, rule, zone, sunday, 5) == start
    assert taken(log, rule, zone, start) == 0


@pytest.mark.parametrize(
    ("zone", "day", "hours"), [("Europe/Berlin", "2024-03-31", 23), ("Europe/Berlin", "2024-10-27", 25)]
)
def test_a_day_on_which_the_clock_changes_is_as_long_as_it_is(zone: str, day: str, hours: int) -> None:
    rule = cap(1, "day")
    start = round(datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1_000)
    assert free_at(take(b"", rule, start, 1), rule, zone, start, 0) == start + hours * HOUR


def test_units_that_nobody_took_are_free_at_once() -> None:
    for rule in (cap(1, "day"), cap(1, "week"), cap(1, DAY)):
        assert taken(b"", rule, "UTC", 0) == 0
        assert free_at(b"", rule, "UTC", 5, 99) == 5


def test_a_window_may_reach_back_past_the_epoch() -> None:
    rule = cap(1, DAY)
    assert taken(take(b"", rule, 0, 1), rule, "UTC", 10) == 1


def test_the_log_is_six_bytes_a_unit_and_never_longer_than_the_limit() -> None:
    rule = cap(3, DAY)
    assert take(b"", rule, 1, 2) == bytes([0, 0, 0, 0, 0, 1] * 2)
    assert take(bytes([0, 0, 0, 0, 0, 1] * 2), rule, 258, 2) == bytes([0, 0, 0, 0, 0, 1, *[0, 0, 0, 0, 1, 2] * 2])
    assert take(b"", rule, 1, 100) == bytes([0, 0, 0, 0, 0, 1] * 3)


@given(st.dictionaries(st.text(max_size=3), st.lists(st.integers(0, 1_000), max_size=4), max_size=12), st.integers(0, 12))
def test_past_the_bound_the_logs_whose_latest_unit_is_oldest_are_forgotten(logs: dict[str, list[int]], bound: int) -> None:
    caps = {}
    for name, units in logs.items():
        caps[name] = b""
        for unit in units:
            caps[name] = take(caps[name], cap(8, DAY), unit, 1)
    before = dict(caps)
    dropped = forget_past(caps, bound)
    assert dropped == max(0, len(logs) - bound)
    assert len(caps) == len(logs) - dropped
    assert all(caps[name] == before[name] for name in caps)
    latest = {name: max(units, default=-1) for name, units in logs.items()}
    assert all(latest[kept] >= latest[gone] for kept in caps for gone in before.keys() - caps.keys())
