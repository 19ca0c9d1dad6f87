"""The gateway's pure parts: admission and splitting, the rate limit."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.gateway.answers import STATUS, UNAVAILABLE, Reason, Refusal
from connectors.gateway.exchange import LOST
from connectors.gateway.intake import (
    EVENT_LIMIT,
    RECIPIENTS_A_RECORD,
    admit,
    check_plain,
    fresh_traceparent,
    usable_traceparent,
)
from connectors.gateway.keys import ApiKey, hash_key, new_key
from connectors.gateway.limits import RateLimit
from messages.codec import DecodeError
from messages.event import MAX_EVENT_BYTES, decode_event
from messages.words import user_key
from tests.gateway.gateway_process import event

KEY = ApiKey(name="k", hash=hash_key("k"), tenant="acme", sources=["shop"], scopes=["events"])


@given(
    users=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=1_200),
    exclude=st.lists(st.text(min_size=1, max_size=2), max_size=5),
    tenant=st.sampled_from([None, "acme"]),
    traceparent=st.sampled_from([None, "00-" + "1" * 32 + "-" + "2" * 16 + "-01"]),
    params=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3),
)
def test_the_records_are_the_event(
    users: list[str], exclude: list[str], tenant: str | None, traceparent: str | None, params: dict[str, Any]
) -> None:
    document = event("1", recipients={"users": users, "exclude": exclude}, params=params)
    document |= {name: value for name, value in (("tenant", tenant), ("traceparent", traceparent)) if value is not None}
    raw = json.dumps(document).encode()
    wanted = list(dict.fromkeys(user for user in users if user not in exclude))
    if not wanted:
        with pytest.raises(Refusal, match="no_recipients"):
            admit(raw, KEY, None)
        return
    records = admit(raw, KEY, None).records
    parts = [decode_event(record.value) for record in records]
    told = [
        user
        for part in parts
        for user in dict.fromkeys(part.data.recipients.users)
        if user not in part.data.recipients.exclude
    ]
    assert told == wanted
    original = decode_event(raw)
    for record, part in zip(records, parts, strict=True):
        check_plain(record.value)
        assert part.tenant == "acme"
        assert part.traceparent == (traceparent or parts[0].traceparent)
        assert record.topic == "events.background"
        assert record.key == (user_key("acme", wanted[0]).encode() if len(wanted) == 1 else None) or len(parts) > 1
        assert len(part.data.recipients.users) <= RECIPIENTS_A_RECORD or len(parts) == 1
        part.data.recipients = original.data.recipients
        part.traceparent = original.traceparent
        part.tenant = original.tenant
        assert part == original
    if traceparent and tenant and len(wanted) <= RECIPIENTS_A_RECORD:
        assert records[0].value == raw


def test_what_is_added_fits_beside_the_largest_event() -> None:
    """Traceparent, tenant, key and the frame of the record batch; the broker refuses a batch over its limit."""
    document = event("1", "ü" * 256) | {"subject": ""}
    document["subject"] = "x" * (EVENT_LIMIT - len(json.dumps(document)))
    (record,) = admit(json.dumps(document).encode(), KEY, None).records
    assert record.key is not None
    frame = 61 + 21 + 16
    assert len(record.value) + len(record.key) + frame <= MAX_EVENT_BYTES


def test_an_explicit_null_is_filled_in_and_not_repeated() -> None:
    (record,) = admit(json.dumps({**event("1"), "traceparent": None}).encode(), KEY, None).records
    check_plain(record.value)
    assert decode_event(record.value).traceparent is not None


def test_a_number_keeps_its_form_through_a_split() -> None:
    raw = json.dumps(event("1", [str(number) for number in range(501)], params={"n": "N"})).replace('"N"', "1.50e2").encode()
    records = admit(raw, KEY, None).records
    assert len(records) == 2
    assert all(b"1.50e2" in record.value for record in records)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"a": {"b": [{"c": 1, "\\u0063": 2}]}}', "[" * 101 + "]" * 101])
def test_what_readers_take_differently_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        check_plain(text.encode())


@pytest.mark.parametrize("text", ['{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}', "[" * 100 + "]" * 100, "9" * 1000, "1e5"])
def test_what_every_reader_takes_alike_is_plain(text: str) -> None:
    check_plain(text.encode())


def test_a_fresh_traceparent_is_usable_and_new() -> None:
    made = {fresh_traceparent() for _ in range(100)}
    assert len(made) == 100
    assert all(usable_traceparent(each) == each for each in made)


def test_every_reason_has_a_status_and_what_passes_says_how_to_repeat() -> None:
    reasons = set(Reason.__args__)  # type: ignore[attr-defined]
    assert set(STATUS) == reasons
    assert {reason for reason in reasons if STATUS[reason] in (429, 503)} == UNAVAILABLE | {"views_unavailable"}
    assert set(LOST) == UNAVAILABLE - {"rate_limited"}


def test_a_new_key_is_long_and_its_hash_is_what_the_file_takes() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) >= 43 for key in keys)
    assert len(hash_key(new_key())) == 64
    assert msgspec.convert(msgspec.to_builtins(KEY), ApiKey) == KEY


@given(
    rate=st.integers(1, 1_000),
    burst=st.integers(1, 50),
    gaps=st.lists(st.integers(0, 2_000), max_size=150),
)
def test_the_limit_is_a_token_bucket(rate: int, burst: int, gaps: list[int]) -> None:
    """Against one in exact fractions, except within a rounding error of the instant at which a token is due."""
    limit = RateLimit(rate, burst)
    tokens, now = Fraction(burst), Fraction(0)
    for gap in gaps:
        elapsed = Fraction(gap, 1000)
        now, tokens = now + elapsed, min(Fraction(burst), tokens + elapsed * rate)
        wait = limit.take("key", float(now))
        missing = max(Fraction(0), 1 - tokens) / rate
        assert abs(wait - float(missing)) < 1e-6
        if wait == 0.0:
            tokens -= 1


def test_keys_have_buckets_of_their_own() -> None:
    limit = RateLimit(1, 1)
    assert limit.take("a", 0) == 0
    assert limit.take("a", 0) == pytest.approx(1)
    assert limit.take("b", 0) == 0


def test_the_number_of_buckets_is_bounded() -> None:
    limit = RateLimit(1, 1)
    assert all(limit.take(number, 0) == 0 for number in range(20_000))
    assert limit.take(19_999, 0) > 0
    assert limit.take(0, 0) == 0, "the oldest was forgotten, and is full again"
