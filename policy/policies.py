"""The compiled form of the policy documents: durations in milliseconds, ready to be asked at every decision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from messages.policy import (
    Bounds,
    BudgetExhausted,
    Cap,
    Category,
    Digest,
    Excess,
    Override,
    Policy,
    Price,
    Quiet,
    Throttle,
    duration,
)
from messages.profile import ANY
from messages.words import CHANNELS, CategoryClass, Channel, Lane, Provider
from policy.quiet_hours import Week, week_of
from policy.source_guard import pauses_in


class Limit(msgspec.Struct, frozen=True):
    """A token bucket's rule: ``limit`` tokens a ``period`` (milliseconds), at most ``burst`` at once."""

    limit: int
    period: int
    burst: int
    action: Excess


class CapRule(msgspec.Struct, frozen=True):
    """A frequency cap; ``rolling`` is its window in milliseconds, None where it is one of the user's calendar.

    ``channels`` None: a notification counts once. ``tags`` None: whatever its tags.
    """

    name: str
    limit: int
    window: str
    rolling: int | None
    channels: frozenset[Channel] | None
    tags: frozenset[str] | None
    action: Excess

    def concerns(self, tags: list[str] | None) -> bool:
        """Whether it is about a notification with these tags."""
        return self.tags is None or (tags is not None and not self.tags.isdisjoint(tags))


class DigestRule(msgspec.Struct, frozen=True):
    """How a category collects. ``slide`` is None where the window is fixed; ``longest`` is what it lasts at most."""

    channels: frozenset[Channel]
    by: Literal["category", "collapse_key"]
    slide: int | None
    longest: int
    at: int | None
    leading: bool
    template: str


class Rung(msgspec.Struct, frozen=True):
    """A step of an escalation ladder."""

    channels: frozenset[Channel]
    wait: int


class CategoryRules(msgspec.Struct, frozen=True):
    """One category, compiled. ``overrides_opt_out``: critical and required categories ignore opt-outs.

    ``scopes``: for each channel the preferences that concern it, the most specific one first. ``opt_in``: for each channel
    that needs consent the countries where it does, None for all. ``obeys`` and ``counts``: the caps that may concern it.
    ``override`` names the document that lies over it.
    """

    name: str
    category_class: CategoryClass
    channels: tuple[Channel, ...]
    lane: Lane
    max_age: int
    overrides_opt_out: bool
    scopes: dict[Channel, tuple[str, ...]]
    default_allow: bool
    opt_in: dict[Channel, frozenset[str] | None]
    dedup_window: int
    quiet_hours: Quiet
    throttle: Limit | None
    obeys: tuple[CapRule, ...]
    counts: tuple[CapRule, ...]
    digest: DigestRule | None
    choice: Literal["all", "cheapest", "escalation"]
    deadline: int
    rungs: tuple[Rung, ...]
    override: str | None


class CountryRules(msgspec.Struct, frozen=True):
    """A country's main time zone, and its windows without marketing SMS."""

    time_zone: str | None
    marketing_sms: Week


class Policies(msgspec.Struct, frozen=True):
    """A whole set and what lies over it, compiled, for a deployment that has workers for ``providers``; milliseconds.

    ``content_window``: the longest dedup_window. ``paused``: (scope, name). ``exhausted``: (category, channel, day of the
    deployment's calendar) of the budgets that are spent.
    """

    version: int
    providers: frozenset[Provider]
    identity_window: int
    cancel_window: int
    content_window: int
    park: int
    wake_up_spread: int
    time_zone: str
    country: str | None
    bounds: Bounds
    categories: dict[str, CategoryRules]
    countries: dict[str, CountryRules]
    prices: dict[Channel, Price]
    tenants: dict[str, dict[str, bool]]
    paused: frozenset[tuple[str, str]]
    exhausted: frozenset[tuple[str, Channel, str]]


def compile_policies(
    document: Policy, providers: frozenset[Provider], overrides: Iterable[Override] = (), patched: Iterable[str] = ()
) -> Policies:
    """Compile a validated document, the patches of categories applied already (``patched`` names those categories)."""
    overrides = tuple(overrides)
    patched = frozenset(patched)
    defaults = document.defaults
    return Policies(
        version=document.version,
        providers=providers,
        identity_window=duration(document.identity_window),
        cancel_window=duration(document.cancel_window),
        content_window=max(duration(category.dedup_window) for category in document.categories.values()),
        park=duration(document.park),
        wake_up_spread=0 if document.wake_up_spread is None else duration(document.wake_up_spread),
        time_zone=defaults.time_zone,
        country=defaults.country,
        bounds=document.bounds,
        categories={
            name: _category(name, category, document, f"category/{name}" if name in patched else None)
            for name, category in document.categories.items()
        },
        countries={
            name: CountryRules(table.time_zone, week_of(table.marketing_sms)) for name, table in document.countries.items()
        },
        prices=document.prices,
        tenants={name: tenant.preferences for name, tenant in document.tenants.items()},
        paused=pauses_in(overrides),
        exhausted=frozenset(
            (spent.category, spent.channel, spent.day) for spent in overrides if isinstance(spent, BudgetExhausted)
        ),
    )


def _category(name: str, category: Category, document: Policy, override: str | None) -> CategoryRules:
    caps = tuple(
        _cap(cap_name, cap)
        for cap_name, cap in document.caps.items()
        if (cap.classes is None or category.category_class in cap.classes)
        and (cap.channels is None or set(cap.channels) & set(category.channels))
    )
    opt_in: dict[Channel, frozenset[str] | None] = {}
    for rule in category.opt_in:
        for channel in rule.channels:
            before = opt_in.get(channel, frozenset())
            everywhere = before is None or rule.countries is None
            opt_in[channel] = None if everywhere else frozenset(before or ()) | frozenset(rule.countries or ())
    obeys = category.category_class != "critical" if category.caps.obeys is None else category.caps.obeys
    return CategoryRules(
        name=name,
        category_class=category.category_class,
        channels=tuple(dict.fromkeys(category.channels)),
        lane=category.lane,
        max_age=duration(category.max_age),
        overrides_opt_out=category.category_class == "critical" or category.required,
        scopes={channel: _scopes(name, channel) for channel in CHANNELS},
        default_allow=category.default == "allow",
        opt_in=opt_in,
        dedup_window=duration(category.dedup_window),
        quiet_hours="pass" if category.category_class == "critical" else category.quiet_hours,
        throttle=_limit(category.throttle),
        obeys=caps if obeys else (),
        counts=caps if category.caps.counts else (),
        digest=None if category.digest is None else _digest(category.digest, category),
        choice=category.choice,
        deadline=duration(category.deadline),
        rungs=tuple(Rung(frozenset(step.channels), duration(step.wait)) for step in category.steps),
        override=override,
    )


def _limit(throttle: Throttle | None) -> Limit | None:
    if throttle is None:
        return None
    return Limit(throttle.limit, duration(throttle.period), throttle.burst or throttle.limit, throttle.action)


def _cap(name: str, cap: Cap) -> CapRule:
    return CapRule(
        name=name,
        limit=cap.limit,
        window=cap.window,
        rolling=None if cap.window in ("day", "week") else duration(cap.window),
        channels=None if cap.channels is None else frozenset(cap.channels),
        tags=None if cap.tags is None else frozenset(cap.tags),
        action=cap.action,
    )


def _digest(digest: Digest, category: Category) -> DigestRule:
    window = duration(digest.window)
    return DigestRule(
        channels=frozenset(digest.channels or category.channels),
        by=digest.by,
        slide=window if digest.sliding else None,
        longest=window if digest.maximum is None else duration(digest.maximum),
        at=digest.at,
        leading=digest.leading,
        template=digest.template,
    )


def _scopes(category: str, channel: Channel) -> tuple[str, ...]:
    return f"{category}/{channel}", f"{category}/{ANY}", f"{ANY}/{channel}", f"{ANY}/{ANY}"
