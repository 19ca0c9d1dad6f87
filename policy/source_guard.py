"""The source guard: which events are held whole, or refused, before anything else is decided about them.

The expand step of the job has the same rules (SourceGuard.java): what changes here changes there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, Protocol

import msgspec

from messages.policy import Override, Pause, Policy, Source

ANY_SOURCE: Final = "*"
"""The name of the rules for sources that have none of their own."""

Ruling = Literal["pass", "paused", "category_not_allowed", "source_quarantined"]


class HasPauses(Protocol):
    """Policies as far as pauses go."""

    @property
    def paused(self) -> frozenset[tuple[str, str]]:
        """What is paused, as (scope, name)."""


class SourceRules(msgspec.Struct, frozen=True):
    """What holds of sources, and what is paused, as (scope, name)."""

    sources: Mapping[str, Source] = {}
    paused: frozenset[tuple[str, str]] = frozenset()


class SourceBucket(msgspec.Struct, frozen=True):
    """The tokens of a source when it was last charged, at ``at`` (milliseconds); one that does not exist is full."""

    tokens: float
    at: int


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of an event. ``path`` and ``detail`` say why it does not pass.

    ``charged`` is the source's bucket after it, None where no rate was looked at.
    """

    ruling: Ruling
    path: str = ""
    detail: str = ""
    charged: SourceBucket | None = None


PASS = Verdict("pass")


def source_rules(policy: Policy | None, overrides: Iterable[Override] = ()) -> SourceRules:
    """The rules of a set and of the overrides that lie over it; None is a set without sources."""
    return SourceRules({} if policy is None else policy.sources, pauses_in(overrides))


def pauses_in(overrides: Iterable[Override]) -> frozenset[tuple[str, str]]:
    """What the overrides pause, as (scope, name)."""
    return frozenset((override.scope, override.name) for override in overrides if isinstance(override, Pause))


def pause_of(rules: HasPauses, source: str, category: str, campaign: str | None) -> tuple[str, str] | None:
    """The pause, as (scope, name), that holds what is of this source, category and campaign; None where none does."""
    if not rules.paused:
        return None
    for scope, name in (("source", source), ("category", category), ("campaign", campaign)):
        if name is not None and (scope, name) in rules.paused:
            return scope, name
    return None


def judge_event(
    rules: SourceRules,
    source: str,
    category: str,
    campaign: str | None,
    bucket: SourceBucket | None,
    now: int,
    shares: int = 1,
) -> Verdict:
    """Judge an event at ``now`` (milliseconds): pauses first, then what the source may use, then its rate.

    A source without rules of its own has those of ``*``. Its rate, a token bucket of ``rate`` a second and ``rate × burst``
    at most, is divided evenly over ``shares``, of which each has a ``bucket``. Only what passes takes a token. A clock that
    went back refills nothing.
    """
    paused = pause_of(rules, source, category, campaign)
    if paused is not None:
        scope, name = paused
        return Verdict("paused", "$.source" if scope == "source" else f"$.data.{scope}", f"the {scope} `{name}` is paused")
    rule = rules.sources.get(source, rules.sources.get(ANY_SOURCE))
    if rule is None:
        return PASS
    if rule.categories is not None and category not in rule.categories:
        return Verdict("category_not_allowed", "$.data.category", f"the source may not use the category `{category}`")
    if rule.rate is None:
        return PASS
    rate = rule.rate / shares
    depth = max(1.0, rate * rule.burst)
    tokens = depth
    if bucket is not None:
        tokens = min(depth, bucket.tokens + max(0, now - bucket.at) * rate / 1000)
        now = max(now, bucket.at)
    if tokens < 1:
        return Verdict(
            "source_quarantined",
            "$.source",
            f"the source is over its rate of {rule.rate:g} events a second",
            SourceBucket(tokens, now),
        )
    return Verdict("pass", charged=SourceBucket(tokens - 1, now))
