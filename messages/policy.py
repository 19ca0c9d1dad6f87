"""The policy document: what a deployment allows, per category, as people write it; decoded strictly."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from messages.codec import json_decoder
from messages.words import END, CategoryClass, Channel, Identifier

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = r"^[1-9][0-9]{0,8}(ms|s|m|h|d)" + END

Duration = Annotated[str, Meta(pattern=_DURATION, description="A number and a unit: ms, s, m, h, d.")]

POLICY_SET = "policies"
"""The key of the whole set on the policies topic."""

LONGEST_PERIOD = "366d"
"""A throttle's period at most: a bucket counts in tokens times milliseconds, and its state has 64 bits."""


def duration(text: str) -> int:
    """A duration such as ``30s`` or ``24h`` in milliseconds; ValueError for anything else."""
    match = re.fullmatch(r"([0-9]+)(ms|s|m|h|d)", text)
    if match is None:
        raise ValueError(f"`{text}` is not a duration; write a number and one of ms, s, m, h, d, such as `24h`")
    return int(match[1]) * _UNITS[match[2]]


class Throttle(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """A token bucket per user and category (or throttle_key): ``limit`` a ``period``, at most ``burst`` at once."""

    limit: Annotated[int, Meta(ge=1, le=1_000_000)]
    period: Duration
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    action: Literal["defer", "drop"] = "defer"

    def __post_init__(self) -> None:
        if duration(self.period) > duration(LONGEST_PERIOD):
            raise ValueError(f"`period` ({self.period}) is longer than {LONGEST_PERIOD}")


class Category(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """What a user can switch, and how it is treated.

    ``required`` ignores opt-outs; ``default`` is what holds where the user chose nothing.
    """

    category_class: CategoryClass = msgspec.field(name="class")
    channels: Annotated[list[Channel], Meta(min_length=1)]
    max_age: Duration = "24h"
    required: bool = False
    default: Literal["allow", "deny"] = "allow"
    throttle: Throttle | None = None


class Bounds(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """How much is remembered for one user; what does not fit is forgotten, or ended, and counted."""

    identities: Annotated[int, Meta(ge=1, le=10_000)] = 512
    pending_items: Annotated[int, Meta(ge=1, le=1_000)] = 64
    pending_bytes: Annotated[int, Meta(ge=1_024, le=4_194_304)] = 262_144
    buckets: Annotated[int, Meta(ge=1, le=1_000)] = 64


class Policy(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """A whole, versioned set of policies; the higher version wins."""

    v: Literal[1] = 1
    version: Annotated[int, Meta(ge=1)]
    identity_window: Duration = "24h"
    park: Duration = "30s"
    bounds: Bounds = Bounds()
    categories: Annotated[dict[Identifier, Category], Meta(min_length=1)]

    def __post_init__(self) -> None:
        window = duration(self.identity_window)
        for name, category in self.categories.items():
            if duration(category.max_age) > window:
                raise ValueError(
                    f"`categories.{name}.max_age` ({category.max_age}) is longer than `identity_window` "
                    f"({self.identity_window}): a repeat could slip between the two"
                )


decode_policy = json_decoder(Policy)
