"""The source guard: pauses, categories and rates, against rules written another way."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.policy import CategoryPatch, Pause, Source
from policy.source_guard import SourceBucket, SourceRules, judge_event, pause_of, source_rules

NOW = 1_795_000_000_000

NAMES = st.sampled_from(["a", "b", "*", ""])
SOURCES = st.dictionaries(
    st.sampled_from(["a", "b", "*"]),
    st.builds(
        Source,
        categories=st.none() | st.lists(st.sampled_from(["a", "b"]), min_size=1, unique=True),
        rate=st.none() | st.just(1.0),
    ),
)
PAUSES = st.frozensets(st.tuples(st.sampled_from(["source", "category", "campaign"]), NAMES), max_size=3)


@given(SOURCES, PAUSES, NAMES, NAMES, st.none() | NAMES, st.sampled_from([0.0, 0.5, 1.0]))
def test_the_first_rule_that_speaks_decides(
    sources: dict[str, Source],
    paused: frozenset[tuple[str, str]],
    source: str,
    category: str,
    campaign: str | None,
    tokens: float,
) -> None:
    event = {("source", source), ("category", category), ("campaign", campaign)}
    rule = sources.get(source) or sources.get("*") or Source()
    expected = (
        "paused"
        if event & paused
        else "category_not_allowed"
        if rule.categories and category not in rule.categories
        else "source_quarantined"
        if rule.rate and tokens < 1
        else "pass"
    )
    verdict = judge_event(SourceRules(sources, paused), source, category, campaign, SourceBucket(tokens, NOW), NOW)
    assert verdict.ruling == expected
    assert bool(verdict.detail) == bool(verdict.path) == (expected != "pass")
    # What another rule ends takes no token, and nothing is charged where there is no rate.
    assert (verdict.charged is not None) == (bool(rule.rate) and expected in ("pass", "source_quarantined"))


@given(
    rate=st.integers(1, 200),
    burst=st.integers(1, 20),
    shares=st.integers(1, 4),
    gaps=st.lists(st.integers(-50, 3_000), max_size=120),
)
def test_the_rate_is_a_token_bucket(rate: int, burst: int, shares: int, gaps: list[int]) -> None:
    """Against the log of what passed, in fractions: held exactly if some span up to now would have passed too many."""
    rules = SourceRules({"shop": Source(rate=rate, burst=burst)})
    share, depth = Fraction(rate, shares), max(Fraction(1), Fraction(rate * burst, shares))
    bucket, now, latest = None, NOW, NOW
    passed: list[int] = []
    for gap in gaps:
        now += gap
        latest = max(latest, now)
        spans = [len(passed) - first + 1 - depth - share * (latest - passed[first]) / 1000 for first in range(len(passed))]
        worst = max(spans, default=Fraction(-1))
        verdict = judge_event(rules, "shop", "c", None, bucket, now, shares)
        assert verdict.charged is not None
        bucket = verdict.charged
        if abs(worst) > Fraction(1, 1_000_000):  # else within a rounding error of a token's due time
            assert verdict.ruling == ("source_quarantined" if worst > 0 else "pass")
        if verdict.ruling == "pass":
            passed.append(latest)


def test_a_source_at_its_rate_is_never_held_and_a_flood_is_held_but_for_its_rate() -> None:
    rules = SourceRules({"shop": Source(rate=10, burst=5)})
    bucket, held = None, 0
    for number in range(1_000):
        verdict = judge_event(rules, "shop", "c", None, bucket, NOW + number * 100)
        bucket = verdict.charged
        assert verdict.ruling == "pass"
    for number in range(1_000):
        verdict = judge_event(rules, "shop", "c", None, bucket, NOW + 100_000 + number)
        bucket = verdict.charged
        held += verdict.ruling == "source_quarantined"
    assert held == pytest.approx(1_000 - 50 - 10, abs=2)


def test_only_pauses_are_pauses() -> None:
    pause = Pause(scope="campaign", name="spring")
    rules = source_rules(None, [pause, CategoryPatch(name="news", patch={})])
    assert rules.paused == {("campaign", "spring")}
    assert pause_of(rules, "spring", "spring", None) is None
    assert pause_of(rules, "shop", "news", "spring") == ("campaign", "spring")
