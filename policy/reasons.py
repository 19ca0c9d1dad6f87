"""Every reason code, with the sentence that explains it; a code never changes its meaning."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "expired": "it had expired before it could be sent",
    "stale": "the event was older than its category allows",
    "paused": "its source, its category or its campaign is paused",
    "source_quarantined": "its source sends faster than is expected of it, so its events are held",
    "category_not_allowed": "its source may not use this category",
    "duplicate_event": "this event had already been seen for this user",
    "duplicate_content": "another notification with its dedup_key had already been taken for this user",
    "unknown_user": "no profile of this user was known, and the category needs one",
    "parking": "no profile of this user was known yet, so it waits for one",
    "not_before": "the event asked not to be sent before a later time",
    "opted_out": "by the user's choices, or the defaults, it is allowed on none of its channels",
    "no_endpoint": "the user has no endpoint on the channels that are allowed",
    "endpoint_suppressed": "every endpoint on the channels that are allowed is suppressed",
    "no_provider": "this deployment has no worker for the user's endpoints",
    "quiet_hours": "quiet hours of the user, or of the country, were on",
    "digest": "it waits for its digest to close",
    "digested": "a digest took its place",
    "throttled": "the user's limit for this category was reached",
    "capped": "a frequency cap of the user's was reached",
    "over_budget": "the category's budget for the day was spent",
    "not_chosen": "another channel was chosen, for its cost or its time",
    "escalation": "what was sent has some time for an answer before the next step",
    "cancelled": "it was cancelled",
    "superseded": "a newer notification with the same collapse_key takes its place",
    "pending_full": "too much was already waiting for this user",
    "unknown_category": "no policy names this category",
    "no_channel": "the event allows, or has content for, none of its category's channels",
    "invalid_event": "the event is not a valid one",
    "internal_error": "the decision core failed on it",
}

CHANGE_REASONS: dict[str, str] = {
    "invalid_change": "the command is not a valid one",
    "old_version": "the profile was already replaced with this version or a later one",
    "too_many_endpoints": "the profile would have more endpoints than one may hold",
    "too_many_preferences": "the profile would have more preferences than one may hold",
    "too_many_subscriptions": "the profile would have more subscriptions than one may hold",
    "too_many_consents": "the profile would have more consents than one may hold",
    "profile_too_large": "the profile would have more bytes than one may hold",
    "internal_error": "the decision core failed on it",
}
"""Why a command on a profile was not applied."""
