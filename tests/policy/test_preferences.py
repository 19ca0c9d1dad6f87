"""Preferences against the whole table of scopes and choices."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.profile import Profile
from messages.words import CHANNELS
from policy.core import decide
from policy.policies import CategoryRules
from policy.preferences import resolve
from tests.policy.builders import NOW, arrival, category, endpoint, event, policies, user

# From the most specific to the least.
SCOPES = ("news/push", "news/*", "*/push", "*/*")


def rules(kind: str, **settings: object) -> CategoryRules:
    return policies(news=category(kind, **settings)).categories["news"]


def chosen_by(preferences: dict[str, bool], rule: CategoryRules) -> tuple[bool, str]:
    return resolve(Profile(preferences=preferences), rule, "push", None, None, None)


@pytest.mark.parametrize("default", ["allow", "deny"])
@pytest.mark.parametrize("kind", ["critical", "required", "transactional", "marketing"])
def test_the_whole_table(kind: str, default: str) -> None:
    ignores = kind in ("critical", "required")
    rule = rules("marketing" if kind == "required" else kind, required=kind == "required", default=default)
    for choices in product((None, True, False), repeat=4):
        chosen = {scope: choice for scope, choice in zip(SCOPES, choices, strict=True) if choice is not None}
        denies = [scope for scope in SCOPES if chosen.get(scope) is False]
        allows = [scope for scope in SCOPES if chosen.get(scope) is True]
        if ignores:
            expected = True, "required"
        elif denies:
            expected = False, denies[0]
        elif allows:
            expected = True, allows[0]
        else:
            expected = default == "allow", "default"
        assert chosen_by(chosen, rule) == expected, chosen


others = st.sampled_from(
    ["offers/push", "offers/*", "*/email", "news/email", "new/push", "news/push/x", "NEWS/push", "push", "*", "news", ""]
)


@given(st.dictionaries(others, st.booleans()), st.sampled_from(["allow", "deny"]))
def test_another_scope_never_matters(choices: dict[str, bool], default: str) -> None:
    assert chosen_by(choices, rules("marketing", default=default)) == (default == "allow", "default")


@given(st.dictionaries(st.sampled_from(SCOPES), st.booleans()), st.sampled_from(SCOPES))
def test_one_more_deny_never_allows(choices: dict[str, bool], scope: str) -> None:
    rule = rules("marketing")
    assert not chosen_by(choices | {scope: False}, rule)[0]


def test_each_channel_is_judged_by_itself_and_the_record_says_which_scope_denied() -> None:
    everywhere = policies(news=category(channels=CHANNELS))
    state = user(
        endpoint("p", "fcm"),
        endpoint("w", "webpush"),
        endpoint("e", "ses"),
        endpoint("s", "twilio"),
        preferences={"*/sms": False, "news/email": False, "news/*": True},
    )
    out = decide(NOW, everywhere, state, arrival(event()))
    (record,) = out.decisions
    assert record.outcome == "sent"
    assert record.channels == {
        "push": "sent",
        "web_push": "sent",
        "email": "opted_out",
        "sms": "opted_out",
        "in_app": "sent",
    }
    assert record.scopes == {"email": "news/email", "sms": "*/sms"}
    assert [delivery.channel for delivery in out.deliveries] == ["push", "web_push", "in_app"]


def test_critical_ignores_opt_outs_and_not_dead_endpoints() -> None:
    rule = policies(code=category("critical", ("push", "sms")))
    state = user(
        endpoint("p", "fcm", suppressed="unregistered"),
        endpoint("s", "twilio", suppressed="stop"),
        preferences={"*/*": False},
    )
    out = decide(NOW, rule, state, arrival(event(1, "code")))
    assert out.deliveries == []
    assert (out.decisions[0].outcome, out.decisions[0].reason) == ("suppressed", "endpoint_suppressed")
