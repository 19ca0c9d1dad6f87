"""The compiled form of a policy document: durations in milliseconds, ready to be asked at every decision."""

from __future__ import annotations

import msgspec

from messages.policy import Bounds, Policy, Throttle, duration
from messages.profile import ANY
from messages.words import CategoryClass, Channel, Provider


class Limit(msgspec.Struct, frozen=True):
    """A token bucket's rule: ``limit`` tokens a ``period`` (milliseconds), at most ``burst`` at once."""

    limit: int
    period: int
    burst: int
    defer: bool


class CategoryRules(msgspec.Struct, frozen=True):
    """One category, compiled. ``overrides_opt_out``: critical and required categories ignore opt-outs.

    ``scopes``: for each channel the preferences that concern it, the most specific one first.
    """

    name: str
    category_class: CategoryClass
    channels: tuple[Channel, ...]
    max_age: int
    overrides_opt_out: bool
    scopes: dict[Channel, tuple[str, ...]]
    default_allow: bool
    throttle: Limit | None


class Policies(msgspec.Struct, frozen=True):
    """A whole set, compiled, for a deployment that has workers for ``providers``; times in milliseconds."""

    version: int
    providers: frozenset[Provider]
    identity_window: int
    park: int
    bounds: Bounds
    categories: dict[str, CategoryRules]


def _limit(throttle: Throttle | None) -> Limit | None:
    if throttle is None:
        return None
    return Limit(throttle.limit, duration(throttle.period), throttle.burst or throttle.limit, throttle.action == "defer")


def _scopes(category: str, channel: Channel) -> tuple[str, ...]:
    return f"{category}/{channel}", f"{category}/{ANY}", f"{ANY}/{channel}", f"{ANY}/{ANY}"


def compile_policies(document: Policy, providers: frozenset[Provider]) -> Policies:
    """Compile a validated document."""
    categories = {}
    for name, category in document.categories.items():
        categories[name] = CategoryRules(
            name=name,
            category_class=category.category_class,
            channels=tuple(dict.fromkeys(category.channels)),
            max_age=duration(category.max_age),
            overrides_opt_out=category.category_class == "critical" or category.required,
            scopes={channel: _scopes(name, channel) for channel in category.channels},
            default_allow=category.default == "allow",
            throttle=_limit(category.throttle),
        )
    return Policies(
        document.version,
        providers,
        duration(document.identity_window),
        duration(document.park),
        document.bounds,
        categories,
    )
