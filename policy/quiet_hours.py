"""Quiet hours: windows of wall-clock time, whether an instant lies in one, and when it ends.

An instant is quiet exactly if its wall-clock reading lies in a window: what the clock skips is not there, what it reads
twice is quiet twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from messages.windows import WEEKDAYS, Window
from policy.local_time import DAY, MINUTE, WEEK_MINUTES, minute_of_week, next_change, offset

Week = tuple[tuple[int, int], ...]
"""``[start, end)`` in minutes of the week from Monday 00:00, sorted; no two overlap or touch."""

HORIZON = 8 * DAY
"""How far ahead the end of quiet hours is looked for: a week, and a day for what clocks do."""

_ALWAYS: Week = ((0, WEEK_MINUTES),)
_DAY_MINUTES = 24 * 60


class HasTimeZone(Protocol):
    """A country as far as its main time zone goes."""

    @property
    def time_zone(self) -> str | None:
        """The country's main zone, None where it has none."""


@lru_cache(maxsize=8_192)
def week_of(windows: tuple[Window, ...]) -> Week:
    """The minutes of the week that the windows cover.

    A window that runs overnight belongs to the day it starts on; Sunday's runs into Monday. Start = end is empty.
    """
    spans = []
    for window in windows:
        start, end = _minute(window.start), _minute(window.end)
        if start > end:
            end += _DAY_MINUTES
        for day in window.days:
            midnight = WEEKDAYS.index(day) * _DAY_MINUTES
            spans.append((midnight + start, midnight + end))
    return _merged(spans)


@lru_cache(maxsize=8_192)
def union(a: Week, b: Week) -> Week:
    """The minutes that one of the two covers."""
    return _merged((*a, *b))


def is_quiet(week: Week, zone: str, now: int) -> bool:
    """Whether the zone's wall clock, at ``now``, reads a minute that ``week`` covers."""
    if not week:
        return False
    minute = minute_of_week(zone, now)
    before = bisect_right(week, (minute, WEEK_MINUTES))
    return before > 0 and minute < week[before - 1][1]


def end_of_quiet(week: Week, zone: str, now: int) -> int | None:
    """The first instant later than ``now``, which is quiet, that is not; None where there is none within ``HORIZON``.

    It is the end of a window, or the middle of one where the clock jumps over its end or out of it.
    """
    if week == _ALWAYS:
        return None
    last = now + HORIZON
    at: int | None = now
    while at is not None and is_quiet(week, zone, at):
        # Until the offset changes the reading goes along with the instant: it is quiet up to the window's end.
        into_minute = (at + offset(zone, at)) % MINUTE
        end = at - into_minute + _minutes_left(week, minute_of_week(zone, at)) * MINUTE
        at = next_change(zone, at, min(end, last)) or (end if end <= last else None)
    return at


def next_quiet(week: Week, zone: str, now: int) -> int | None:
    """The first instant later than ``now``, which is not quiet, that is; None where there is none within ``HORIZON``."""
    return end_of_quiet(_complement(week), zone, now)


def zone_of(profile_zone: str | None, country: str | None, countries: Mapping[str, HasTimeZone], default: str) -> str:
    """The zone a user lives by: the user's own, else the country's main one, else the deployment's."""
    if profile_zone is not None:
        return profile_zone
    rules = None if country is None else countries.get(country)
    return default if rules is None or rules.time_zone is None else rules.time_zone


def spread_out(release: int, user: str, interval: int, deadline: int | None) -> int:
    """When this user's release is due: a part of ``interval`` (milliseconds) later, by a hash of the user.

    Where the deadline comes first the spread is over what is left until then, so that every release is before it and they
    do not pile up just there. A release at the deadline or past it stays.
    """
    if deadline is not None:
        interval = min(interval, deadline - release)
    if interval <= 0:
        return release
    share = int.from_bytes(blake2b(user.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return release + (share * interval >> 64)


def _minute(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def _minutes_left(week: Week, minute: int) -> int:
    """From the start of a covered minute to the end of its window, which may go on from Sunday to Monday."""
    _, end = week[bisect_right(week, (minute, WEEK_MINUTES)) - 1]
    if end == WEEK_MINUTES and week[0][0] == 0:
        end += week[0][1]
    return end - minute


@lru_cache(maxsize=8_192)
def _complement(week: Week) -> Week:
    edges = [0, *(minute for span in week for minute in span), WEEK_MINUTES]
    return tuple((start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end)


def _merged(spans: Iterable[tuple[int, int]]) -> Week:
    """Sorted, cut at the week's end, and joined where they touch."""
    cut = []
    for start, end in spans:
        cut.append((start, min(end, WEEK_MINUTES)))
        cut.append((0, end - WEEK_MINUTES))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for span in cut if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)
