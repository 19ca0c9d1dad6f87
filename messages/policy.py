"""The policy documents: what a deployment allows, as people write it; decoded strictly.

The set is one document. Overrides lie over it, each a document of its own under a name of its own: see ``Override``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from messages.codec import json_decoder
from messages.windows import WindowInput
from messages.words import END, CategoryClass, Channel, Country, Identifier, Key, Lane, Tenant, TimeZone, check_time_zone

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = r"^[1-9][0-9]{0,8}(ms|s|m|h|d)" + END

Duration = Annotated[str, Meta(pattern=_DURATION, description="A number and a unit: ms, s, m, h, d.")]
Span = Annotated[
    str,
    Meta(
        pattern=r"^([1-9][0-9]{0,8}(ms|s|m|h|d)|day|week)" + END,
        description="A duration, rolling; or `day` or `week` (from Monday) of the user's calendar.",
    ),
]
Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}" + END, description="A day of the deployment's calendar.")]

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


class _Part(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """What every part of a policy document has in common: an unknown key is an error."""


Excess = Literal["defer", "digest", "drop"]
"""What becomes of a notification that a throttle or a cap does not let pass."""


class Throttle(_Part, kw_only=True, frozen=True):
    """A token bucket per user, channel and category (or throttle_key): ``limit`` a ``period``, at most ``burst`` at once."""

    limit: Annotated[int, Meta(ge=1, le=1_000_000)]
    period: Duration
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    action: Excess = "defer"

    def __post_init__(self) -> None:
        if duration(self.period) > duration(LONGEST_PERIOD):
            raise ValueError(f"`period` ({self.period}) is longer than {LONGEST_PERIOD}")


class Cap(_Part, kw_only=True, frozen=True):
    """A frequency cap over all sources: at most ``limit`` a user in ``window``.

    Without ``channels`` a notification counts once, on however many channels it goes out; with them, once for each of
    them. ``classes`` and ``tags`` narrow what it concerns (any of the tags); left out, they do not.
    """

    limit: Annotated[int, Meta(ge=1, le=1_000)]
    window: Span
    channels: Annotated[list[Channel], Meta(min_length=1)] | None = None
    classes: Annotated[list[CategoryClass], Meta(min_length=1)] | None = None
    tags: Annotated[list[Key], Meta(min_length=1)] | None = None
    action: Excess = "drop"


class CapFlags(_Part, kw_only=True, frozen=True):
    """How a category stands to the caps: whether it ``obeys`` them (default: unless it is critical), and whether it
    ``counts`` towards them.
    """

    obeys: bool | None = None
    counts: bool = True


class Digest(_Part, kw_only=True, frozen=True):
    """Items are collected and go out as one.

    The window begins with its first item: fixed, or, where ``sliding``, ``window`` after the latest item, ``maximum`` after
    the first one at most. It closes early at ``at`` items. ``leading`` sends the first item at once and leaves it out.
    ``by`` is what items have in common; ``channels`` the ones that are collected for (default: all of the category).
    The template gets ``count``, ``first`` and ``last``.
    """

    window: Duration
    sliding: bool = False
    maximum: Duration | None = None
    at: Annotated[int, Meta(ge=2, le=1_000)] | None = None
    leading: bool = False
    by: Literal["category", "collapse_key"] = "category"
    channels: Annotated[list[Channel], Meta(min_length=1)] | None = None
    template: Identifier = "digest"

    def __post_init__(self) -> None:
        if self.sliding and self.maximum is None:
            raise ValueError("Object needs `maximum` where it is `sliding`: a window that slides for ever sends nothing")
        if self.maximum is not None:
            if not self.sliding:
                raise ValueError("`maximum` is for `sliding` windows; a fixed one has its length in `window`")
            if duration(self.maximum) < duration(self.window):
                raise ValueError(f"`maximum` ({self.maximum}) is shorter than `window` ({self.window})")


class Step(_Part, kw_only=True, frozen=True):
    """A rung of an escalation ladder: its channels, and how long they have before the next one."""

    channels: Annotated[list[Channel], Meta(min_length=1)]
    wait: Duration = "5m"


class OptIn(_Part, kw_only=True, frozen=True):
    """Where the user's express consent is needed: on ``channels``, in ``countries`` (default: all)."""

    channels: Annotated[list[Channel], Meta(min_length=1)]
    countries: Annotated[list[Country], Meta(min_length=1)] | None = None


Quiet = Literal["pass", "defer", "in_app", "digest", "drop"]


class Category(_Part, kw_only=True, frozen=True):
    """What a user can switch, and how it is treated.

    ``required`` ignores opt-outs; ``default`` is what holds where the user chose nothing. ``lane: background`` keeps its
    deliveries off the urgent lane, whatever an event's priority. ``quiet_hours`` is what happens then. ``dedup_window`` is
    how long a dedup_key is remembered. ``choice`` is one of ``all``, ``cheapest`` (``deadline``: how late it may be
    after its arrival) and ``escalation`` (``steps``). ``budgets``: an amount a channel and day, in the deployment's
    currency.
    """

    category_class: CategoryClass = msgspec.field(name="class")
    channels: Annotated[list[Channel], Meta(min_length=1)]
    lane: Lane = "urgent"
    max_age: Duration = "24h"
    required: bool = False
    default: Literal["allow", "deny"] = "allow"
    opt_in: list[OptIn] = []
    dedup_window: Duration = "24h"
    quiet_hours: Quiet = "defer"
    throttle: Throttle | None = None
    caps: CapFlags = CapFlags()
    digest: Digest | None = None
    choice: Literal["all", "cheapest", "escalation"] = "all"
    deadline: Duration = "1h"
    steps: Annotated[list[Step], Meta(max_length=8)] = []
    budgets: dict[Channel, Annotated[float, Meta(gt=0)]] = {}

    def __post_init__(self) -> None:
        if (self.choice == "escalation") != bool(self.steps):
            raise ValueError("`steps` belong to `choice: escalation`, which needs at least one")
        for part, channels in (
            ("digest.channels", (self.digest.channels if self.digest else None) or []),
            ("steps", [channel for step in self.steps for channel in step.channels]),
            ("budgets", list(self.budgets)),
        ):
            for channel in channels:
                if channel not in self.channels:
                    raise ValueError(f"`{part}` names `{channel}`, which is none of the category's `channels`")
        if len({channel for step in self.steps for channel in step.channels}) < sum(
            len(step.channels) for step in self.steps
        ):
            raise ValueError("`steps` name a channel twice")
        if self.digest is None:
            if self.quiet_hours == "digest":
                raise ValueError("`quiet_hours: digest` needs a `digest`")
            if self.throttle is not None and self.throttle.action == "digest":
                raise ValueError("`throttle.action: digest` needs a `digest`")


class Source(_Part, kw_only=True, frozen=True):
    """A source of events: the categories it may use (default: all), and how many events a second are expected of it.

    Past ``burst`` seconds' worth above the rate its events are held in the quarantine.
    """

    categories: Annotated[list[Identifier], Meta(min_length=1)] | None = None
    rate: Annotated[float, Meta(gt=0, le=10_000_000)] | None = None
    burst: Annotated[float, Meta(ge=1, le=3_600)] = 10.0


class CountryTable(_Part, kw_only=True, frozen=True):
    """What is particular to a country: its main time zone, and when marketing SMS are forbidden there."""

    time_zone: TimeZone | None = None
    marketing_sms: Annotated[tuple[WindowInput, ...], Meta(max_length=16)] = ()

    def __post_init__(self) -> None:
        if self.time_zone is not None:
            check_time_zone(self.time_zone)


class Price(_Part, kw_only=True, frozen=True):
    """What a message costs on a channel, an SMS a segment, and in ``countries``; ``latency`` is what to expect of it."""

    default: Annotated[float, Meta(ge=0)] = 0.0
    countries: dict[Country, Annotated[float, Meta(ge=0)]] = {}
    latency: Duration | None = None


class TenantDefaults(_Part, kw_only=True, frozen=True):
    """Choices that hold for a tenant's users who made none: ``category/channel`` (either may be ``*``) → allowed or not."""

    preferences: dict[Key, bool] = {}


class Defaults(_Part, kw_only=True, frozen=True):
    """What holds for the deployment: its calendar, and the country of users who have none."""

    time_zone: TimeZone = "UTC"
    country: Country | None = None
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}" + END, description="ISO 4217.")] = "USD"

    def __post_init__(self) -> None:
        check_time_zone(self.time_zone)


class Bounds(_Part, kw_only=True, frozen=True):
    """How much is remembered for one user; what does not fit is forgotten, or ended, and counted."""

    identities: Annotated[int, Meta(ge=1, le=10_000)] = 512
    contents: Annotated[int, Meta(ge=1, le=10_000)] = 128
    cancels: Annotated[int, Meta(ge=1, le=10_000)] = 64
    pending_items: Annotated[int, Meta(ge=1, le=1_000)] = 64
    pending_bytes: Annotated[int, Meta(ge=1_024, le=4_194_304)] = 262_144
    buckets: Annotated[int, Meta(ge=1, le=1_000)] = 64
    caps: Annotated[int, Meta(ge=1, le=1_000)] = 64
    digests: Annotated[int, Meta(ge=1, le=1_000)] = 32


class Policy(_Part, kw_only=True, frozen=True):
    """A whole, versioned set of policies; the higher version wins.

    ``wake_up_spread`` is the time over which releases at the end of quiet hours are spread.
    """

    v: Literal[1] = 1
    version: Annotated[int, Meta(ge=1)]
    identity_window: Duration = "24h"
    cancel_window: Duration = "24h"
    park: Duration = "30s"
    wake_up_spread: Duration | None = None
    defaults: Defaults = Defaults()
    bounds: Bounds = Bounds()
    categories: Annotated[dict[Identifier, Category], Meta(min_length=1)]
    sources: dict[Identifier, Source] = {}
    caps: Annotated[dict[Identifier, Cap], Meta(max_length=32)] = {}
    countries: dict[Country, CountryTable] = {}
    prices: dict[Channel, Price] = {}
    tenants: dict[Tenant, TenantDefaults] = {}

    def __post_init__(self) -> None:
        window = duration(self.identity_window)
        for name, category in self.categories.items():
            if duration(category.max_age) > window:
                raise ValueError(
                    f"`categories.{name}.max_age` ({category.max_age}) is longer than `identity_window` "
                    f"({self.identity_window}): a repeat could slip between the two"
                )
        for name, source in self.sources.items():
            for category_name in source.categories or ():
                if category_name not in self.categories:
                    raise ValueError(f"`sources.{name}.categories` names `{category_name}`, which is no category")


decode_policy = json_decoder(Policy)


class _Override(_Part, frozen=True, tag_field="kind"):
    """A document that lies over the set; its key on the policies topic is ``kind/`` and what it is about."""


class Pause(_Override, kw_only=True, frozen=True, tag="pause"):
    """Holds all events of a source, a category or a campaign, and their queued deliveries; key ``pause/scope/name``."""

    scope: Literal["source", "category", "campaign"]
    name: Identifier

    @property
    def key(self) -> str:
        """Its key on the policies topic."""
        return f"pause/{self.scope}/{self.name}"


class BudgetExhausted(_Override, kw_only=True, frozen=True, tag="budget"):
    """The budget of a category on a channel is spent for a day; key ``budget/category/channel``."""

    category: Identifier
    channel: Channel
    day: Day

    @property
    def key(self) -> str:
        """Its key on the policies topic."""
        return f"budget/{self.category}/{self.channel}"


class CategoryPatch(_Override, kw_only=True, frozen=True, tag="category"):
    """Changes some keys of one category: a JSON merge patch (RFC 7396); key ``category/name``."""

    name: Identifier
    patch: dict[str, msgspec.Raw]

    @property
    def key(self) -> str:
        """Its key on the policies topic."""
        return f"category/{self.name}"


Override = Pause | BudgetExhausted | CategoryPatch
# A union is not a type to mypy.
decode_override: Callable[[bytes], Override] = json_decoder(Override)  # type: ignore[arg-type]
