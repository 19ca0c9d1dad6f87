"""Quiet hours against an oracle that reads the wall clock, as text, of every minute of two years."""

from __future__ import annotations

from array import array
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.windows import WEEKDAYS, Window
from policy.policies import CountryRules
from policy.quiet_hours import Week, end_of_quiet, is_quiet, next_quiet, spread_out, union, week_of, zone_of

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
EIGHT_DAYS = 8 * DAY
TWO_YEARS = 731 * 1_440

# The first of two years in which the zone does what it is here for.
ODD_ZONES = {
    "Europe/Berlin": 2024,
    "America/New_York": 2024,
    "Australia/Lord_Howe": 2024,  # half an hour
    "America/Sao_Paulo": 2017,  # at midnight, in the southern summer
    "Asia/Beirut": 2022,  # at midnight; in 2023 decided on the eve
    "Africa/Casablanca": 2024,  # back for Ramadan
    "Asia/Tehran": 2021,  # at midnight, and then no more
    "Pacific/Apia": 2011,  # left out 30 December
    "Antarctica/Troll": 2024,  # two hours
    "Asia/Kathmandu": 2024,  # 5:45, never changes
    "America/St_Johns": 2010,  # at 00:01
    "Africa/Cairo": 2023,  # forward at midnight, back at midnight
    "Pacific/Chatham": 2024,  # 12:45
}


def at(text: str) -> int:
    """An ISO instant, with its offset, in milliseconds."""
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


def beginning(zone: str) -> int:
    """The first of the two years' minutes."""
    return round(datetime(ODD_ZONES[zone], 1, 1, tzinfo=UTC).timestamp() * 1_000)


READINGS = [f"{day} {hour:02}:{minute:02}" for day in WEEKDAYS for hour in range(24) for minute in range(60)]


@lru_cache(maxsize=len(ODD_ZONES))
def readings(zone: str) -> array[int]:
    """What the zone's clock reads in every minute of two years, as places in ``READINGS``."""
    place = {reading: number for number, reading in enumerate(READINGS)}
    rules = ZoneInfo(zone)
    first = beginning(zone) // 1_000
    clock = (datetime.fromtimestamp(first + 60 * minute, rules) for minute in range(TWO_YEARS))
    return array("H", (place[f"{WEEKDAYS[reading.weekday()]} {str(reading)[11:16]}"] for reading in clock))


@lru_cache(maxsize=len(ODD_ZONES))
def jumps(zone: str) -> list[int]:
    """The minutes of the two years that do not read the minute after the one before."""
    return [
        minute for minute, (before, now) in enumerate(pairwise(readings(zone)), 1) if now != (before + 1) % len(READINGS)
    ]


def covers(window: Window, reading: str) -> bool:
    """The rule in words: from the start on on the day itself, before the end on the day, or overnight on the day after."""
    day, time = reading.split()
    eve = WEEKDAYS[WEEKDAYS.index(day) - 1]
    if window.start <= window.end:
        return day in window.days and window.start <= time < window.end
    return (day in window.days and time >= window.start) or (eve in window.days and time < window.end)


def quiet_minutes(windows: tuple[Window, ...], zone: str) -> bytes:
    """For every minute of two years 1 where it is quiet."""
    quiet = [any(covers(window, reading) for window in windows) for reading in READINGS]
    return bytes(map(quiet.__getitem__, readings(zone)))


def minutes_of(week: Week) -> set[int]:
    return {minute for start, end in week for minute in range(start, end)}


clock_times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.sampled_from([0, 0, 0, 1, 2, 15, 30, 45, 59]))
windows = st.builds(
    Window,
    start=clock_times,
    end=clock_times | st.just("24:00"),
    days=st.just(WEEKDAYS) | st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=7).map(tuple),
)
some_windows = st.lists(windows, max_size=4).map(tuple)
zones = st.sampled_from(sorted(ODD_ZONES))

NIGHT_AND_NOON = (
    Window(start="22:00", end="06:00", days=("mon", "wed", "fri", "sun")),
    Window(start="00:30", end="02:15", days=("tue", "sun", "sat")),
    Window(start="12:00", end="12:01"),
)


@pytest.mark.parametrize("zone", ODD_ZONES)
def test_every_minute_of_two_years_in_an_odd_zone(zone: str) -> None:
    week, first = week_of(NIGHT_AND_NOON), beginning(zone)
    quiet = quiet_minutes(NIGHT_AND_NOON, zone)
    assert bytes(is_quiet(week, zone, first + MINUTE * minute) for minute in range(TWO_YEARS)) == quiet
    for minute in range(1, TWO_YEARS - 8 * 1_440):
        if quiet[minute] and not quiet[minute - 1]:
            assert end_of_quiet(week, zone, first + MINUTE * minute) == first + MINUTE * quiet.index(0, minute)
        elif quiet[minute - 1] and not quiet[minute]:
            assert next_quiet(week, zone, first + MINUTE * minute) == first + MINUTE * quiet.index(1, minute)


@settings(max_examples=150)
@given(zones, some_windows, st.data())
def test_an_instant_is_quiet_and_ceases_to_be_as_the_oracle_says(
    zone: str, some: tuple[Window, ...], data: st.DataObject
) -> None:
    week, first, quiet = week_of(some), beginning(zone), quiet_minutes(some, zone)
    near = st.sampled_from(jumps(zone) or [1_440 * 60]).flatmap(lambda jump: st.integers(jump - 2_880, jump + 1_440))
    anywhere = st.integers(0, TWO_YEARS)
    for minute in data.draw(st.lists(near | anywhere, min_size=20, max_size=20)):
        minute = min(max(0, minute), TWO_YEARS - 8 * 1_440 - 1)  # noqa: PLW2901 so that the oracle knows what follows
        now = first + MINUTE * minute + data.draw(st.integers(0, MINUTE - 1))
        assert is_quiet(week, zone, now) == quiet[minute]
        other = quiet.find(1 - quiet[minute], minute)
        expected = first + MINUTE * other if other >= 0 and first + MINUTE * other <= now + EIGHT_DAYS else None
        assert (end_of_quiet if quiet[minute] else next_quiet)(week, zone, now) == expected


@given(some_windows, some_windows)
def test_a_week_is_sorted_apart_and_covers_what_its_windows_do(some: tuple[Window, ...], more: tuple[Window, ...]) -> None:
    for chosen, week in ((some, week_of(some)), (some + more, union(week_of(some), week_of(more)))):
        covered = {minute for minute, reading in enumerate(READINGS) if any(covers(window, reading) for window in chosen)}
        assert minutes_of(week) == covered
        edges = [edge for span in week for edge in span]
        assert all(before < after for before, after in pairwise(edges))
        assert week == week_of(tuple(reversed(chosen)))


@pytest.mark.parametrize(
    ("window", "week"),
    [
        (Window(start="00:00", end="24:00", days=("tue",)), ((1_440, 2_880),)),
        (Window(start="00:00", end="24:00"), ((0, 10_080),)),
        (Window(start="08:00", end="08:00"), ()),
        (Window(start="00:00", end="00:00"), ()),
        (Window(start="22:00", end="24:00", days=("sun",)), ((10_000 - 40, 10_080),)),
        (Window(start="22:00", end="00:00", days=("sun",)), ((10_000 - 40, 10_080),)),
        (Window(start="22:00", end="06:00", days=("sun",)), ((0, 360), (9_960, 10_080))),
        (Window(start="22:00", end="06:00", days=("mon", "mon")), ((1_320, 1_800),)),
    ],
)
def test_what_a_window_covers(window: Window, week: Week) -> None:
    assert week_of((window,)) == week


def test_mondays_overnight_window_does_not_silence_tuesday_at_eleven_though_tuesday_is_free() -> None:
    """Adding the previous day's overnight window but testing both of its halves on both days."""
    week = week_of((Window(start="22:00", end="06:00", days=("mon",)),))
    quiet = {
        text: is_quiet(week, "UTC", at(f"{text}+00:00"))
        for text in (
            "2024-07-01T05:00",  # Monday morning belongs to Sunday's night
            "2024-07-01T21:59",
            "2024-07-01T22:00",
            "2024-07-02T05:59",
            "2024-07-02T06:00",
            "2024-07-02T23:00",  # Tuesday
            "2024-07-03T05:00",
        )
    }
    assert list(quiet.values()) == [False, False, True, True, False, False, False]


def test_inclusive_ends() -> None:
    """The last millisecond before the end is quiet and the end itself is not; the start is."""
    week = week_of((Window(start="12:00", end="13:00"),))
    start, end = at("2024-07-01T12:00+02:00"), at("2024-07-01T13:00+02:00")
    assert [is_quiet(week, "Europe/Berlin", now) for now in (start - 1, start, end - 1, end)] == [False, True, True, False]
    assert end_of_quiet(week, "Europe/Berlin", start) == end_of_quiet(week, "Europe/Berlin", end - 1) == end


@pytest.mark.parametrize(
    ("zone", "monday_begins"),
    [("Pacific/Auckland", "2024-07-01T00:00+12:00"), ("Pacific/Honolulu", "2024-07-01T00:00-10:00")],
)
def test_weekday_taken_in_utc_of_a_shifted_date(zone: str, monday_begins: str) -> None:
    """Monday is the user's Monday: in Auckland it begins on UTC's Sunday, in Honolulu it ends on UTC's Tuesday."""
    week = week_of((Window(start="00:00", end="24:00", days=("mon",)),))
    monday = at(monday_begins)
    edges = (monday - 1, monday, monday + DAY - 1, monday + DAY)
    assert [is_quiet(week, zone, now) for now in edges] == [False, True, True, False]


@pytest.mark.parametrize(
    ("zone", "start", "end", "now", "release"),
    [
        # The clock jumps from 02:00 to 03:00: over the end, over the whole window, out of its middle.
        ("Europe/Berlin", "22:00", "02:30", "2024-03-31T01:59+01:00", "2024-03-31T03:00+02:00"),
        ("Europe/Berlin", "22:00", "03:30", "2024-03-31T01:59+01:00", "2024-03-31T03:30+02:00"),
        ("Europe/Berlin", "01:30", "03:00", "2024-03-31T01:45+01:00", "2024-03-31T03:00+02:00"),
        # 02:00 to 03:00 comes twice: a window that ends in it ends, and comes again; one that ends after it is longer.
        ("Europe/Berlin", "22:00", "02:30", "2024-10-27T01:00+02:00", "2024-10-27T02:30+02:00"),
        ("Europe/Berlin", "22:00", "02:30", "2024-10-27T02:10+01:00", "2024-10-27T02:30+01:00"),
        ("Europe/Berlin", "22:00", "03:00", "2024-10-27T01:00+02:00", "2024-10-27T03:00+01:00"),
        # Half an hour.
        ("Australia/Lord_Howe", "22:00", "02:10", "2024-10-06T01:00+10:30", "2024-10-06T02:30+11:00"),
        # Midnight is not there; a window that ends at it ends at 01:00.
        ("America/Sao_Paulo", "20:00", "24:00", "2018-11-03T23:00-03:00", "2018-11-04T01:00-02:00"),
        # At midnight it is 23:00 again: the window goes on.
        ("America/Sao_Paulo", "20:00", "24:00", "2018-02-17T23:00-02:00", "2018-02-18T00:00-03:00"),
        # At 00:01 it is 23:01 again, and the first midnight was free.
        ("America/St_Johns", "20:00", "24:00", "2010-11-06T23:00-02:30", "2010-11-07T00:00-02:30"),
        ("America/St_Johns", "20:00", "24:00", "2010-11-06T23:01-03:30", "2010-11-07T00:00-03:30"),
        # From the 29th at midnight to the 31st.
        ("Pacific/Apia", "22:00", "07:00", "2011-12-29T23:00-10:00", "2011-12-31T07:00+14:00"),
    ],
)
def test_the_release_is_the_first_later_instant_that_is_not_quiet(
    zone: str, start: str, end: str, now: str, release: str
) -> None:
    week = week_of((Window(start=start, end=end),))
    assert is_quiet(week, zone, at(now))
    assert end_of_quiet(week, zone, at(now)) == at(release)


def test_a_window_that_is_jumped_into_is_quiet_at_once() -> None:
    week = week_of((Window(start="02:30", end="05:00"),))
    jump = at("2024-03-31T03:00+02:00")
    assert [is_quiet(week, "Europe/Berlin", now) for now in (jump - 1, jump)] == [False, True]
    assert next_quiet(week, "Europe/Berlin", jump - HOUR) == jump


def test_there_is_no_end_where_no_minute_is_free() -> None:
    now = at("2024-07-01T12:00+00:00")
    morning, afternoon = Window(start="00:00", end="12:00"), Window(start="12:00", end="24:00")
    assert end_of_quiet(week_of((Window(start="00:00", end="24:00"),)), "UTC", now) is None
    assert end_of_quiet(union(week_of((morning,)), week_of((afternoon,))), "UTC", now) is None
    assert next_quiet((), "UTC", now) is None


def test_the_end_is_found_within_eight_days_and_not_past_them() -> None:
    # The only free minute, Sunday 02:30, is one of those that Berlin skips on 31 March.
    week = week_of(
        (
            Window(start="00:00", end="24:00", days=("mon", "tue", "wed", "thu", "fri", "sat")),
            Window(start="02:31", end="24:00", days=("sun",)),
            Window(start="00:00", end="02:30", days=("sun",)),
        )
    )
    free = at("2024-04-07T02:30+02:00")
    assert end_of_quiet(week, "Europe/Berlin", free - EIGHT_DAYS) == free
    assert end_of_quiet(week, "Europe/Berlin", free - EIGHT_DAYS - 1) is None


def test_the_zone_is_the_users_else_the_countrys_else_the_deployments() -> None:
    countries = {"DE": CountryRules("Europe/Berlin", ()), "XX": CountryRules(None, ())}
    assert zone_of("Asia/Tokyo", "DE", countries, "UTC") == "Asia/Tokyo"
    assert zone_of(None, "DE", countries, "UTC") == "Europe/Berlin"
    assert zone_of(None, "XX", countries, "Asia/Tehran") == "Asia/Tehran"
    assert zone_of(None, "FR", countries, "Asia/Tehran") == "Asia/Tehran"
    assert zone_of(None, None, countries, "Asia/Tehran") == "Asia/Tehran"
    assert zone_of(None, "FR", {"FR": SimpleNamespace(time_zone="Europe/Paris")}, "UTC") == "Europe/Paris"


@given(st.integers(0, 10**13), st.text(max_size=30), st.integers(0, 10 * HOUR), st.none() | st.integers(-HOUR, 20 * HOUR))
def test_a_release_is_spread_within_the_interval_and_never_past_the_deadline(
    release: int, user: str, interval: int, left: int | None
) -> None:
    deadline = None if left is None else release + left
    spread = spread_out(release, user, interval, deadline)
    assert release <= spread <= release + max(0, interval - 1)
    assert spread == spread_out(release, user, interval, deadline)
    if deadline is not None and release < deadline:
        assert spread < deadline
    if deadline is not None and release + interval <= deadline:
        assert spread == spread_out(release, user, interval, None)
    if deadline is not None and deadline <= release:
        assert spread == release


@pytest.mark.parametrize("deadline", [None, at("2024-07-01T08:30+00:00")])
def test_releases_are_spread_evenly_also_where_a_deadline_leaves_less_room(deadline: int | None) -> None:
    release = at("2024-07-01T08:00+00:00")
    room = HOUR if deadline is None else deadline - release
    shares = Counter(
        (spread_out(release, f"default/{user}", HOUR, deadline) - release) * 10 // room for user in range(20_000)
    )
    assert sorted(shares) == list(range(10))
    assert all(1_800 < count < 2_200 for count in shares.values())


def test_a_users_part_of_the_spread_stays_the_same_over_releases_of_the_software() -> None:
    assert spread_out(0, "default/ada", 1_000_000, None) == 628_231
    assert spread_out(7, "default/ada", 0, None) == 7


def test_a_day_of_quiet_hours_is_shorter_in_spring_and_longer_in_autumn() -> None:
    week = week_of((Window(start="22:00", end="06:00"),))
    for evening, hours in (("2024-03-30T22:00+01:00", 7), ("2024-10-26T22:00+02:00", 9), ("2024-07-01T22:00+02:00", 8)):
        end = end_of_quiet(week, "Europe/Berlin", at(evening))
        assert end is not None
        assert timedelta(milliseconds=end - at(evening)) == timedelta(hours=hours)
