"""Wall-clock readings of a zone: its offset, the minute of the week, and where local days and weeks begin.

A day begins at the first instant whose wall clock reads its date or a later one, and lasts until the next day begins; a
week begins with its Monday. So days and weeks divide time without gap or overlap whatever a zone does: a day whose
midnight is skipped begins at 01:00; a date that a zone left out is no day; and where clocks go back over midnight (00:01
becomes 23:01 of the day before) the new day has begun at the first midnight, and the hour that is read again is its own.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK_MINUTES = 7 * 24 * 60

_SPAN = 10 * DAY
_STEP = 86_400  # seconds; no zone changes its offset twice within a day, since 1970 not within six
_LAST = 253_370_764_800  # 9999-01-01: what datetime can read in any zone
_FURTHEST = 26 * HOUR  # no offset is further from UTC
_THURSDAY_MINUTES = 3 * 24 * 60
_THURSDAY = 3  # the epoch's day of the week, Monday being 0
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def offset(zone: str, now: int) -> int:
    """The zone's offset from UTC at an instant, in milliseconds, east being positive; KeyError for an unknown zone."""
    changes, offsets = _table(zone, now // _SPAN)
    return offsets[bisect_right(changes, now)] if changes else offsets[0]


def next_change(zone: str, now: int, until: int) -> int | None:
    """The first instant later than ``now``, and not later than ``until``, at which the zone's offset changes."""
    for number in range(now // _SPAN, until // _SPAN + 1):
        for change in _table(zone, number)[0]:
            if now < change <= until:
                return change
    return None


def minute_of_week(zone: str, now: int) -> int:
    """What the wall clock reads: the minute of the week, 0 (Monday 00:00) to 10079."""
    return ((now + offset(zone, now)) // MINUTE + _THURSDAY_MINUTES) % WEEK_MINUTES


def day_start(zone: str, now: int) -> int:
    """The first instant of the local day that contains ``now``, in milliseconds."""
    return _begin(zone, _day(zone, now))


def next_day(zone: str, now: int) -> int:
    """The first instant of the local day after the one that contains ``now``, in milliseconds."""
    return _begin(zone, _day(zone, now) + 1)


def week_start(zone: str, now: int) -> int:
    """The first instant of the local week, from Monday, that contains ``now``, in milliseconds."""
    return _begin(zone, _monday(_day(zone, now)))


def next_week(zone: str, now: int) -> int:
    """The first instant of the local week after the one that contains ``now``, in milliseconds."""
    return _begin(zone, _monday(_day(zone, now)) + 7)


def day_name(zone: str, now: int) -> str:
    """The ISO date of the local day that contains ``now``."""
    return date.fromordinal(_EPOCH_ORDINAL + _day(zone, now)).isoformat()


def _monday(day: int) -> int:
    return day - (day + _THURSDAY) % 7


def _day(zone: str, now: int) -> int:
    """The local day that contains ``now``, counted from 1970-01-01."""
    day = (now + offset(zone, now)) // DAY
    while _begin(zone, day + 1) <= now:  # read again after the clocks went back over midnight
        day += 1
    return day


@lru_cache(maxsize=16_384)
def _begin(zone: str, day: int) -> int:
    """The first instant at which the wall clock has come to that day or past it."""
    midnight = day * DAY
    at, end = midnight - _FURTHEST, midnight + _FURTHEST
    while True:
        due = midnight - offset(zone, at)
        change = next_change(zone, at, end)
        if change is None or due < change:
            return max(at, due)
        at = change


@lru_cache(maxsize=16_384)
def _table(zone: str, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The changes of the offset in one span of ten days, and the offsets before, between and after them."""
    rules = ZoneInfo(zone)

    def read(second: int) -> int:
        difference = datetime.fromtimestamp(min(second, _LAST), rules).utcoffset()
        assert difference is not None
        return round(difference.total_seconds() * 1_000)

    first, last = number * _SPAN // 1_000 - 1, (number + 1) * _SPAN // 1_000 - 1
    changes: list[int] = []
    offsets = [read(first)]
    for start in range(first, last, _STEP):
        low, high = start, min(start + _STEP, last)
        after = read(high)
        if after == offsets[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            if read(middle) == offsets[-1]:
                low = middle
            else:
                high = middle
        changes.append(high * 1_000)
        offsets.append(after)
    return tuple(changes), tuple(offsets)
