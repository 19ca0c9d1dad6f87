"""Token buckets against the definition: a full log of what went out, and fractions instead of levels."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from policy.core import decide
from policy.policies import Limit
from policy.state import BucketState
from policy.throttle import forget_past, refill, wait_for_token
from tests.policy.builders import NOW, SECOND, arrival, category, endpoint, event, fire, policies, throttle, user, verdict

limits = st.builds(
    Limit,
    limit=st.integers(1, 50),
    period=st.integers(1, 5_000),
    burst=st.integers(1, 20),
    action=st.just("defer"),
)


def charge(bucket: BucketState) -> BucketState:
    """What the core does on emission."""
    return BucketState(bucket.level - bucket.period, bucket.at, bucket.period)


def tokens_by_definition(log: list[int], rule: Limit, elapsed_since: list[int]) -> Fraction:
    """What a window that starts at any earlier emission leaves: at most ``burst`` plus what flowed in since its start.

    ``elapsed_since[j]`` is the time from emission j to now on a clock that never goes back.
    """
    rate = Fraction(rule.limit, rule.period)
    room = [rule.burst + rate * elapsed_since[first] - (len(log) - first) for first in range(len(log))]
    return min([Fraction(rule.burst), *room])


@given(limits, st.lists(st.integers(-300, 2_000), max_size=60))
def test_a_token_is_there_exactly_if_no_window_of_the_full_log_is_too_full(rule: Limit, steps: list[int]) -> None:
    bucket: BucketState | None = None
    now, log = 100_000, []
    for step in steps:
        now += step
        # The clock as the bucket knows it: what went back between two emissions did not pass.
        passed = [max(0, later - earlier) for earlier, later in zip(log, [*log[1:], now], strict=False)]
        elapsed_since = [sum(passed[first:]) for first in range(len(log))]
        exact = tokens_by_definition(log, rule, elapsed_since)
        current = refill(bucket, rule, now)
        assert Fraction(current.level, rule.period) == exact
        if exact >= 1:
            assert wait_for_token(current, rule, 0) == 0
            bucket = charge(current)
            log.append(now)
        else:
            assert wait_for_token(current, rule, 0) > 0


@given(limits, st.integers(0, 10**6), st.integers(0, 30))
def test_the_wait_ends_at_the_first_millisecond_at_which_the_token_is_there(rule: Limit, level: int, ahead: int) -> None:
    level = min(level, rule.burst * rule.period)
    tokens, rate = Fraction(level, rule.period), Fraction(rule.limit, rule.period)
    wait = wait_for_token(BucketState(level, NOW, rule.period), rule, ahead)
    assert tokens + rate * wait >= 1 + ahead
    assert wait == 0 or tokens + rate * (wait - 1) < 1 + ahead


@given(st.lists(st.tuples(limits, st.integers(0, 3_000)), min_size=1, max_size=30))
def test_a_policy_change_keeps_the_tokens_and_never_makes_any(changes: list[tuple[Limit, int]]) -> None:
    bucket: BucketState | None = None
    left, lost, now, before = Fraction(0), Fraction(0), NOW, NOW
    for rule, step in changes:
        now += step
        rate, burst = Fraction(rule.limit, rule.period), Fraction(rule.burst)
        exact = burst if bucket is None else min(burst, left + rate * (now - before))
        if bucket is not None and bucket.period != rule.period:
            lost += Fraction(1, rule.period)  # the level is a whole number of units, the rest is rounded away
        current = refill(bucket, rule, now)
        assert exact - lost <= Fraction(current.level, rule.period) <= exact
        if wait_for_token(current, rule, 0) == 0:
            bucket, before, left = charge(current), now, exact - 1


@given(limits)
def test_a_bucket_that_does_not_exist_is_a_full_one(rule: Limit) -> None:
    assert refill(None, rule, NOW).level == rule.burst * rule.period


def test_after_a_clock_that_went_back_nothing_flows_in_until_it_moves_on() -> None:
    rule = Limit(1, SECOND, 1, "defer")
    empty = BucketState(0, NOW, SECOND)
    assert refill(empty, rule, NOW - 10 * SECOND).level == 0
    assert wait_for_token(refill(empty, rule, NOW - 10 * SECOND), rule, 0) == SECOND


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=12), st.integers(0, 12))
def test_past_the_bound_the_least_recently_used_are_forgotten(ages: dict[str, int], bound: int) -> None:
    buckets = {name: BucketState(0, at, 1) for name, at in ages.items()}
    dropped = forget_past(buckets, bound)
    assert len(buckets) == min(bound, len(ages))
    assert dropped == len(ages) - len(buckets)
    gone = [at for name, at in ages.items() if name not in buckets]
    assert all(kept.at >= max(gone) for kept in buckets.values()) if gone else dropped == 0


def test_the_release_is_the_first_millisecond_and_not_one_before() -> None:
    rules = policies(news=category(throttle=throttle(3, "10s", burst=1)))
    state = user()
    assert verdict(decide(NOW, rules, state, arrival(event(1)))) == ("sent", None)
    out = decide(NOW, rules, state, arrival(event(2)))
    # 3 tokens in 10 s: one each 3333.3… ms, so that the first whole millisecond is 3334.
    assert out.decisions[0].release_at == NOW + 3_334
    assert state.activity.due == NOW + 3_334
    early = decide(NOW + 3_333, rules, state, arrival(event(3)))
    assert verdict(early) == ("deferred", "throttled")
    assert early.decisions[0].release_at == NOW + 6_667
    assert verdict(fire(rules, state)) == ("sent", None)


def test_a_limiter_that_checks_count_below_limit_and_then_adds_more_than_one_point() -> None:
    """Three phones and an inbox cost one token a channel, and the last token of a channel lets one more out, not four."""
    rules = policies(news=category(channels=("push", "in_app"), throttle=throttle(2, "1m", action="drop")))
    state = user(*(endpoint(name) for name in "abc"))
    sent = [decide(NOW, rules, state, arrival(event(number))) for number in range(4)]
    assert [len(out.deliveries) for out in sent] == [4, 4, 0, 0]
    assert [bucket.tokens for out in sent for bucket in out.decisions[0].buckets] == [2, 2, 1, 1, 0, 0, 0, 0]


def test_a_throttle_key_is_one_bucket_over_categories_and_apart_from_theirs() -> None:
    rules = policies(
        news=category(throttle=throttle(1, "1m", action="drop")), offers=category(throttle=throttle(1, "1m", action="drop"))
    )
    state = user()
    assert verdict(decide(NOW, rules, state, arrival(event(1, throttle_key="k")))) == ("sent", None)
    assert verdict(decide(NOW, rules, state, arrival(event(2, "offers", throttle_key="k")))) == ("suppressed", "throttled")
    assert verdict(decide(NOW, rules, state, arrival(event(3, "offers", throttle_key="l")))) == ("sent", None)
    assert verdict(decide(NOW, rules, state, arrival(event(4)))) == ("sent", None)


def test_the_record_says_what_was_there_before_the_charge() -> None:
    rules = policies(news=category(throttle=throttle(3, "10s", burst=2)))
    state = user()
    decide(NOW, rules, state, arrival(event(1)))
    (bucket,) = decide(NOW + 1_000, rules, state, arrival(event(2))).decisions[0].buckets
    assert (bucket.key, bucket.tokens, bucket.limit, bucket.period, bucket.burst) == ("news/push", 1.3, 3, 10_000, 2)
