"""Preferences against the whole table of scopes and choices."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.policy import Defaults, OptIn, TenantDefaults
from messages.profile import Consent, ConsentInput, GiveConsent, Profile, Subscribe, SuppressEndpoint, WithdrawConsent
from messages.words import CHANNELS
from policy.core import decide
from policy.policies import CategoryRules
from policy.preferences import resolve
from tests.policy.builders import NOW, arrival, category, command, endpoint, event, only, policies, user, verdict

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


# Topics, consents and the tenant's defaults

RANKS = {"news/push": 0, "news/*": 1, "*/push": 2, "topic:t": 3, "*/*": 4}
GIVEN = Consent(at=NOW, where="web", text_version="1")
EVERYWHERE, IN_FRANCE = OptIn(channels=["push"]), OptIn(channels=["push"], countries=["FR"])


@pytest.mark.parametrize("default", ["allow", "deny"])
@pytest.mark.parametrize("needed", [None, EVERYWHERE, IN_FRANCE, OptIn(channels=["sms"])], ids=["no", "all", "FR", "sms"])
def test_the_whole_table_with_topics_consents_and_the_tenants_defaults(needed: OptIn | None, default: str) -> None:
    """Each source of an answer is a row (how strong it is, how specific, its answer, its name); the first row counts."""
    rule = rules("marketing", default=default, channels=("push", "sms"), opt_in=[needed] if needed else [])
    choices = product((None, True, False), repeat=3)
    cases = product(choices, (None, True, False), (None, "news/push", "*/*", "news/sms"), ("FR", "DE", None))
    for (specific, middle, everything), topic, consent, country in cases:
        own = {"news/push": specific, "*/push": middle, "*/*": everything, "topic:t": topic}
        asked = needed is not None and "push" in needed.channels and (needed.countries is None or country == "FR")
        has = consent in ("news/push", "*/*")
        for tenant in (None, {"*/*": False}, {"news/*": True, "*/push": False}, {"news/sms": False}):
            rows = [(0, RANKS[name], False, name) for name, choice in own.items() if choice is False]
            rows += [(1, 0, False, "opt_in")] if asked and not has else []
            rows += [(2, RANKS[name], True, name) for name, choice in own.items() if choice is True]
            rows += [(3, 0, True, "opt_in")] if asked and has else []
            rows += [(4, RANKS[name], allow, f"tenant/{name}") for name, allow in (tenant or {}).items() if name in RANKS]
            rows += [(5, 0, default == "allow", "default")]
            profile = Profile(
                preferences={name: choice for name, choice in own.items() if choice is not None and name in SCOPES},
                subscriptions={} if topic is None else {"t": topic},
                consents={} if consent is None else {consent: GIVEN},
            )
            assert resolve(profile, rule, "push", country, ["u", "t"], tenant) == min(rows)[2:], (own, consent, tenant)


def test_a_topic_concerns_the_events_that_have_its_tag() -> None:
    profile = Profile(subscriptions={"t": False, "u": True})
    rule = rules("marketing", default="deny")
    assert resolve(profile, rule, "push", None, ["t", "u"], None) == (False, "topic:t")
    assert resolve(profile, rule, "push", None, ["u"], None) == (True, "topic:u")
    assert resolve(profile, rule, "push", None, ["v"], None) == (False, "default")


def consent(**scope: str) -> GiveConsent:
    return GiveConsent(id="give", consent=ConsentInput(at=NOW, where="web", text_version="1", **scope))


ADS = policies(ads=category("marketing", ("sms", "email"), opt_in=[OptIn(channels=["sms"], countries=["FR"])]))


def test_an_opt_in_is_needed_on_its_channel_in_its_country() -> None:
    for country, words in (("FR", "opted_out"), ("DE", "sent"), (None, "sent")):
        state = user(endpoint("s", "twilio"), endpoint("e", "ses"), country=country)
        record = only(decide(NOW, ADS, state, arrival(event(1, "ads"))))
        assert record.channels == {"sms": words, "email": "sent"}
        assert record.scopes == ({"sms": "opt_in"} if country == "FR" else {})


def test_an_opt_in_is_needed_in_the_deployments_country_where_the_user_has_none() -> None:
    rule = policies(
        defaults=Defaults(country="FR"),
        ads=category("marketing", ("sms",), opt_in=[OptIn(channels=["sms"], countries=["FR"])]),
    )
    assert verdict(decide(NOW, rule, user(endpoint("s", "twilio")), arrival(event(1, "ads")))) == ("suppressed", "opted_out")


def test_a_consent_allows_until_it_is_withdrawn_and_an_allow_is_no_consent() -> None:
    state = user(endpoint("s", "twilio"), country="FR", preferences={"ads/sms": True})
    assert verdict(decide(NOW, ADS, state, arrival(event(1, "ads", channels=["sms"])))) == ("suppressed", "opted_out")
    decide(NOW, ADS, state, command(consent(category="ads", channel="sms"), 1))
    assert verdict(decide(NOW, ADS, state, arrival(event(2, "ads", channels=["sms"])))) == ("sent", None)
    decide(NOW, ADS, state, command(WithdrawConsent(id="w", category="ads", channel="sms"), 2))
    assert verdict(decide(NOW, ADS, state, arrival(event(3, "ads", channels=["sms"])))) == ("suppressed", "opted_out")


def test_a_stop_counts_in_spite_of_a_consent() -> None:
    state = user(endpoint("s", "twilio"), country="FR")
    decide(NOW, ADS, state, command(consent(), 1))
    decide(NOW, ADS, state, command(SuppressEndpoint(id="s", endpoint_id="s", reason="stop"), 2))
    assert verdict(decide(NOW, ADS, state, arrival(event(1, "ads", channels=["sms"])))) == (
        "suppressed",
        "endpoint_suppressed",
    )


def test_a_topic_that_was_left_is_denied_by_name() -> None:
    state = user()
    rule = policies(news=category())
    decide(NOW, rule, state, command(Subscribe(id="s", topic="sport", subscribed=False), 1))
    record = only(decide(NOW, rule, state, arrival(event(1, tags=["sport"]))))
    assert (record.reason, record.scopes) == ("opted_out", {"push": "topic:sport"})
    decide(NOW, rule, state, command(Subscribe(id="t", topic="sport"), 2))
    assert verdict(decide(NOW, rule, state, arrival(event(2, tags=["sport"])))) == ("sent", None)


def test_a_tenants_default_holds_for_its_users_and_names_itself() -> None:
    rule = policies(tenants={"default": TenantDefaults(preferences={"news/*": False})}, news=category())
    record = only(decide(NOW, rule, user(), arrival(event(1))))
    assert (record.reason, record.scopes) == ("opted_out", {"push": "tenant/news/*"})
    assert verdict(decide(NOW, rule, user(preferences={"*/*": True}), arrival(event(1)))) == ("sent", None)
    elsewhere = user()
    elsewhere.tenant = "another"
    assert verdict(decide(NOW, rule, elsewhere, arrival(event(1)))) == ("sent", None)
