"""Which endpoints of a channel are used, and the reason where none is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.profile import Endpoint, Profile
from messages.words import CHANNELS, PROVIDERS
from policy.core import decide
from policy.endpoints import usable
from tests.policy.builders import NOW, arrival, category, endpoint, event, policies, user, verdict

endpoints = st.lists(
    st.builds(
        Endpoint,
        id=st.sampled_from("abcdef"),
        provider=st.sampled_from(sorted(PROVIDERS)),
        address=st.just("x"),
        suppressed=st.sampled_from([None, "stop"]),
    ),
    max_size=6,
    unique_by=lambda one: one.id,
)


@given(endpoints, st.sampled_from(CHANNELS), st.frozensets(st.sampled_from(sorted(PROVIDERS))))
def test_exactly_the_living_ones_that_the_deployment_can_reach(
    found: list[Endpoint], channel: str, providers: frozenset[str]
) -> None:
    profile = Profile(endpoints=found)
    here = [one for one in found if PROVIDERS[one.provider] == channel]
    living = [one for one in here if one.suppressed is None]
    reached = [one for one in living if one.provider in providers]
    used, reason = usable(profile, "ada", channel, providers)
    if channel == "in_app" and not here:
        assert (used, reason) == (
            ([Endpoint(id="inbox", provider="inapp", address="ada")], None) if "inapp" in providers else ([], "no_provider")
        )
    elif reached:
        assert (used, reason) == (reached, None)
    elif not here:
        assert (used, reason) == ([], "no_endpoint")
    else:
        assert (used, reason) == ([], "no_provider" if living else "endpoint_suppressed")


def test_one_delivery_an_endpoint_each_with_its_address() -> None:
    state = user(endpoint("a", address="token-a", app="shop"), endpoint("b", "apns", address="token-b", registered_at=7))
    out = decide(NOW, policies(news=category()), state, arrival(event()))
    assert [
        (d.endpoint.id, d.endpoint.address, d.endpoint.app, d.endpoint.registered_at, d.provider) for d in out.deliveries
    ] == [
        ("a", "token-a", "shop", 0, "fcm"),
        ("b", "token-b", None, 7, "apns"),
    ]
    assert out.decisions[0].deliveries == [d.id for d in out.deliveries]
    assert len({d.id for d in out.deliveries}) == 2


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([], "no_endpoint"),
        ([endpoint("e", "ses")], "no_endpoint"),
        ([endpoint("p", "apns")], "no_provider"),
        ([endpoint("p", suppressed="unregistered")], "endpoint_suppressed"),
        ([endpoint("p", suppressed="unregistered"), endpoint("q", "apns")], "no_provider"),
    ],
)
def test_the_reason_where_no_endpoint_is_usable(found: list[Endpoint], reason: str) -> None:
    state = user()
    assert state.profile is not None
    state.profile.endpoints = found
    rules = policies(providers=frozenset({"fcm", "ses"}), news=category())
    assert verdict(decide(NOW, rules, state, arrival(event()))) == ("suppressed", reason)


def test_over_several_channels_the_last_rule_that_refused_gives_the_reason() -> None:
    rules = policies(news=category(channels=("push", "email", "sms")))
    state = user(endpoint("e", "ses", suppressed="bounce"), preferences={"*/sms": False})
    out = decide(NOW, rules, state, arrival(event()))
    assert verdict(out) == ("suppressed", "endpoint_suppressed")
    assert out.decisions[0].channels == {"push": "no_endpoint", "email": "endpoint_suppressed", "sms": "opted_out"}
