"""Preferences: may this category reach this user on this channel, and which choice says so?"""

from __future__ import annotations

from collections.abc import Iterable

from messages.profile import Profile
from messages.words import Channel
from policy.policies import CategoryRules

REQUIRED = "required"
OPT_IN = "opt_in"
TENANT = "tenant"
DEFAULT = "default"
TOPIC = "topic:"
"""What the name of a subscription's scope begins with."""


def resolve(
    profile: Profile,
    category: CategoryRules,
    channel: Channel,
    country: str | None,
    tags: list[str] | None,
    tenant: dict[str, bool] | None,
) -> tuple[bool, str]:
    """(allowed, scope): any deny of the user's wins; then consent must be there where it is needed; then an allow of the
    user's at any scope, the tenant's default, the category's.

    The scope is ``category/channel`` as the user set it (either part may be ``*``), or ``topic:`` and a tag of the event,
    the most specific one that decided; ``required`` where the category overrides opt-outs, ``opt_in`` where consent is
    missing or was what allowed it, ``tenant/`` and the scope, or ``default``.
    """
    if category.overrides_opt_out:
        return True, REQUIRED
    scopes = category.scopes[channel]
    allowed_by = None
    if profile.preferences or profile.subscriptions:
        allowed, allowed_by = _own_choice(profile, scopes, tags or ())
        if allowed is False and allowed_by is not None:
            return False, allowed_by
    if channel in category.opt_in:
        countries = category.opt_in[channel]
        if countries is None or country in countries:
            if profile.consents.keys().isdisjoint(scopes):
                return False, OPT_IN
            allowed_by = allowed_by or OPT_IN
    if allowed_by is not None:
        return True, allowed_by
    if tenant:
        chosen = next((scope for scope in scopes if scope in tenant), None)
        if chosen is not None:
            return tenant[chosen], f"{TENANT}/{chosen}"
    return category.default_allow, DEFAULT


def _own_choice(profile: Profile, scopes: tuple[str, ...], tags: Iterable[str]) -> tuple[bool, str | None]:
    """(allowed, scope) as the user chose: the first deny, else the most specific allow, else (True, None).

    A topic is less specific than a category or a channel, and more than everything.
    """
    allowed_by = denied_by = None
    preferences = profile.preferences
    for scope in scopes:
        choice = preferences.get(scope)
        if choice is False:
            denied_by = scope
            break
        if choice and allowed_by is None:
            allowed_by = scope
    if profile.subscriptions and denied_by in (None, scopes[-1]):
        for tag in tags:
            choice = profile.subscriptions.get(tag)
            if choice is False:
                return False, TOPIC + tag
            if choice and (allowed_by is None or allowed_by == scopes[-1]):
                allowed_by = TOPIC + tag
    return (True, allowed_by) if denied_by is None else (False, denied_by)
