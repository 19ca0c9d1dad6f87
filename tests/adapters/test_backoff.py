from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from connectors.adapters.backoff import backoff


@given(st.integers(1, 10_000), st.integers(1, 5_000), st.integers(1, 60_000), st.integers())
def test_stays_below_the_doubled_base_and_the_cap(attempt: int, base: int, cap: int, seed: int) -> None:
    wait = backoff(attempt, base=base, cap=cap, random=Random(seed))
    assert 0 <= wait <= cap
    assert attempt > 30 or wait <= base * 2 ** (attempt - 1)


@given(st.integers(-10, 10_000_000), st.integers(0, 600_000), st.integers())
def test_a_retry_after_is_waited_in_full_up_to_its_cap(retry_after: int, cap: int, seed: int) -> None:
    wait = backoff(1, base=100, cap=1_000, random=Random(seed), retry_after=retry_after, retry_after_cap=cap)
    least = min(max(retry_after, 0), cap)
    assert least <= wait <= least + 100


def test_the_jitter_is_full() -> None:
    random = Random(1)
    waits = {backoff(4, base=1, cap=100, random=random) for _ in range(1_000)}
    assert waits == set(range(9))
