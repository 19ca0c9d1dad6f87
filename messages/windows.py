"""Windows of local wall-clock time on chosen weekdays, as users and countries write them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from messages.words import END

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)

Start = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]" + END, description="HH:MM, 00:00 to 23:59.")]
Stop = Annotated[str, Meta(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)" + END, description="HH:MM, 00:00 to 24:00.")]


class Window(msgspec.Struct, omit_defaults=True, kw_only=True, frozen=True):
    """``[start, end)`` in local wall-clock time on ``days``.

    Where start > end it runs overnight and belongs to the day it starts on; start = end is empty; a whole day is
    00:00 to 24:00.
    """

    start: Start
    end: Stop
    days: Annotated[tuple[Weekday, ...], Meta(min_length=1, max_length=7)] = WEEKDAYS


class WindowInput(Window, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """A window as an outsider writes it."""
