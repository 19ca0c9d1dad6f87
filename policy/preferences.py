"""Preferences: may this category reach this user on this channel, and which choice says so?"""

from __future__ import annotations

from messages.words import Channel
from policy.policies import CategoryRules

REQUIRED = "required"
DEFAULT = "default"


def resolve(preferences: dict[str, bool], category: CategoryRules, channel: Channel) -> tuple[bool, str]:
    """(allowed, scope): a user's deny at any scope wins, then an allow at any scope, then the category's default.

    The scope is ``category/channel`` as the user set it (either part may be ``*``), the most specific one that decided;
    ``required`` where the category overrides opt-outs, ``default`` where the user chose nothing.
    """
    if category.overrides_opt_out:
        return True, REQUIRED
    if not preferences:
        return category.default_allow, DEFAULT
    allowed_by = None
    for scope in category.scopes[channel]:
        choice = preferences.get(scope)
        if choice is False:
            return False, scope
        if choice and allowed_by is None:
            allowed_by = scope
    return (True, allowed_by) if allowed_by is not None else (category.default_allow, DEFAULT)
