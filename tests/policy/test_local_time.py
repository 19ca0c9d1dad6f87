"""Readings of the wall clock against datetime's, and days and weeks against a walk through every minute."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.local_time import day_name, day_start, minute_of_week, next_change, next_day, next_week, offset, week_start

HOUR, DAY = 3_600_000, 86_400_000
# `localtime` is whatever the machine has.
ZONES = sorted(zoneinfo.available_timezones() - {"localtime"})

# What a zone did around these days: a midnight that is not there, one that is read twice, a date that was left out.
ODD_DAYS = [
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Sao_Paulo", "2018-02-18"),
    ("Asia/Beirut", "2023-03-30"),
    ("Asia/Beirut", "2022-10-30"),
    ("America/Havana", "2019-03-10"),
    ("America/Havana", "2019-11-03"),
    ("Pacific/Apia", "2011-12-30"),
    ("Pacific/Kwajalein", "1993-08-21"),
    ("Australia/Lord_Howe", "2024-04-07"),
    ("Australia/Lord_Howe", "2024-10-06"),
    ("America/St_Johns", "2010-11-07"),
    ("America/St_Johns", "2010-03-14"),
    ("Antarctica/Troll", "2024-10-27"),
    ("Africa/Cairo", "2014-05-16"),
    ("Asia/Tehran", "2021-03-22"),
    ("Africa/Casablanca", "2024-03-10"),
    ("Atlantic/Azores", "2024-10-27"),
    ("Europe/Berlin", "2024-03-31"),
]


def at(text: str) -> int:
    """An ISO instant, UTC where it does not say, in milliseconds."""
    instant = datetime.fromisoformat(text)
    return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1_000)


def local(zone: str, now: int) -> datetime:
    """What the standard library has the zone's clock read, milliseconds left out."""
    return datetime.fromtimestamp(now // 1_000, ZoneInfo(zone))


@given(st.sampled_from(ZONES), st.integers(0, at("2100-01-01")))
def test_the_offset_is_the_databases_in_every_zone(zone: str, now: int) -> None:
    assert timedelta(milliseconds=offset(zone, now)) == local(zone, now).utcoffset()


@given(st.sampled_from(ZONES), st.integers(0, at("2040-01-01")))
def test_the_offset_changes_at_the_very_second(zone: str, now: int) -> None:
    until = now + 400 * DAY
    change = next_change(zone, now, until)
    readings = [local(zone, hour).utcoffset() for hour in range(now, until if change is None else change, 6 * HOUR)]
    assert len(set(readings)) == 1  # there was none before, and no zone changes its mind within hours
    if change is not None:
        assert timedelta(milliseconds=offset(zone, change)) == local(zone, change).utcoffset() != readings[0]
        assert timedelta(milliseconds=offset(zone, change - 1)) == local(zone, change - 1).utcoffset() == readings[0]
        assert next_change(zone, now, change) == change
        assert next_change(zone, now, change - 1) is None
        assert next_change(zone, change - 1, until) == change
        assert next_change(zone, change, change) is None


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Asia/Jerusalem", "2023-03-24"),  # at the very start of a span of those that are remembered
        ("Europe/Chisinau", "2020-10-25"),  # likewise
        ("Asia/Gaza", "2040-10-20"),  # as predicted: back for the end of Ramadan, and within the week again
    ],
)
def test_changes_at_the_edge_of_a_span_and_two_of_them_in_one(zone: str, day: str) -> None:
    for second in range(at(day) // 1_000 - 20 * 86_400, at(day) // 1_000 + 20 * 86_400, 1_800):
        for now in (second * 1_000 - 1, second * 1_000):
            assert timedelta(milliseconds=offset(zone, now)) == local(zone, now).utcoffset()
    assert next_change(zone, at(day) - 1, at(day)) == (
        at(day) if offset(zone, at(day) - 1) != offset(zone, at(day)) else None
    )


@given(st.sampled_from(ZONES), st.integers(0, at("2100-01-01")))
def test_the_minute_of_the_week_is_what_the_clock_reads_from_monday(zone: str, now: int) -> None:
    reading = local(zone, now)
    assert divmod(minute_of_week(zone, now), 1_440) == (reading.weekday(), reading.hour * 60 + reading.minute)


def test_the_minute_of_the_week_begins_on_monday_and_is_rounded_down() -> None:
    assert minute_of_week("UTC", at("2024-01-01T00:00")) == 0
    assert minute_of_week("UTC", at("2024-01-01T00:01") - 1) == 0
    assert minute_of_week("UTC", at("2024-01-07T23:59:59.999")) == 10_079
    assert minute_of_week("Asia/Kathmandu", at("2024-01-01T00:00")) == 5 * 60 + 45


@pytest.mark.parametrize(("zone", "day"), ODD_DAYS)
def test_days_and_weeks_minute_by_minute_where_a_zone_is_odd(zone: str, day: str) -> None:
    start, end = at(day) - 10 * DAY, at(day) + 10 * DAY
    minutes = range(start, end, 60_000)
    dates, begun = [], date.min
    for minute in minutes:
        begun = max(begun, local(zone, minute).date())
        dates.append(begun)
    weeks = [begun - timedelta(days=begun.weekday()) for begun in dates]
    inside = range(1_440 * 9, len(dates) - 1_440 * 8)
    first_of_day = {begun: minutes[dates.index(begun)] for begun in set(dates)}
    first_of_week = {begun: minutes[weeks.index(begun)] for begun in set(weeks)}
    for number in inside:
        now, begun, week = minutes[number] + number % 60_000, dates[number], weeks[number]
        assert day_name(zone, now) == begun.isoformat()
        assert day_start(zone, now) == first_of_day[begun]
        assert next_day(zone, now) == first_of_day[min(later for later in first_of_day if later > begun)]
        assert week_start(zone, now) == first_of_week[week]
        assert next_week(zone, now) == first_of_week[min(later for later in first_of_week if later > week)]


@given(st.sampled_from(ZONES), st.integers(0, at("2100-01-01")))
def test_days_and_weeks_divide_time(zone: str, now: int) -> None:
    for start, following in ((day_start, next_day), (week_start, next_week)):
        begin, end = start(zone, now), following(zone, now)
        assert begin <= now < end
        assert start(zone, begin) == start(zone, end - 1) == begin
        assert following(zone, begin) == following(zone, end - 1) == end
        assert start(zone, end) == end
        assert following(zone, begin - 1) == begin


@pytest.mark.parametrize(
    ("zone", "inside", "start", "end"),
    [
        # Midnight is skipped: the day begins at 01:00 and has 23 hours.
        ("America/Sao_Paulo", "2018-11-04T12:00-02:00", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"),
        ("America/Havana", "2019-03-10T12:00-04:00", "2019-03-10T01:00-04:00", "2019-03-11T00:00-04:00"),
        ("Asia/Beirut", "2022-03-27T12:00+03:00", "2022-03-27T01:00+03:00", "2022-03-28T00:00+03:00"),
        # At midnight it is 23:00 again: the old day has 25 hours, the new one begins when its date is first read.
        ("America/Sao_Paulo", "2018-02-17T23:30-02:00", "2018-02-17T00:00-02:00", "2018-02-18T00:00-03:00"),
        ("America/Sao_Paulo", "2018-02-17T23:30-03:00", "2018-02-17T00:00-02:00", "2018-02-18T00:00-03:00"),
        # At 01:00 it is 00:00 again: the day begins at the first of its two midnights.
        ("America/Havana", "2019-11-03T00:30-05:00", "2019-11-03T00:00-04:00", "2019-11-04T00:00-05:00"),
        # At 00:01 it is 23:01 again: the day has begun, and does so once.
        ("America/St_Johns", "2010-11-06T23:30-02:30", "2010-11-06T00:00-02:30", "2010-11-07T00:00-02:30"),
        ("America/St_Johns", "2010-11-07T00:00:30-02:30", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"),
        ("America/St_Johns", "2010-11-06T23:30-03:30", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"),
        # A date that was left out: the 29th is followed by the 31st.
        ("Pacific/Apia", "2011-12-29T12:00-10:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
        ("Pacific/Kwajalein", "1993-08-20T12:00-12:00", "1993-08-20T00:00-12:00", "1993-08-22T00:00+12:00"),
        ("Australia/Lord_Howe", "2024-04-07T12:00+10:30", "2024-04-07T00:00+11:00", "2024-04-08T00:00+10:30"),
    ],
)
def test_where_a_day_begins_and_ends(zone: str, inside: str, start: str, end: str) -> None:
    assert day_start(zone, at(inside)) == at(start)
    assert next_day(zone, at(inside)) == at(end)


def test_the_hour_that_is_read_again_is_named_after_the_day_that_has_begun() -> None:
    assert day_name("America/St_Johns", at("2010-11-06T23:30-02:30")) == "2010-11-06"
    assert day_name("America/St_Johns", at("2010-11-06T23:30-03:30")) == "2010-11-07"


def test_a_week_whose_monday_has_no_midnight_begins_at_one() -> None:
    monday = at("2021-03-22T01:00+04:30")
    assert week_start("Asia/Tehran", at("2021-03-24T12:00")) == monday
    assert next_week("Asia/Tehran", monday - 1) == monday


def test_an_unknown_zone_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        offset("Europe/Nowhere", 0)


def test_the_far_end_of_the_calendar_has_an_offset_too() -> None:
    assert offset("Europe/Berlin", at("9999-12-31T23:59")) == HOUR
