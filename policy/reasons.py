"""Every reason code, with the sentence that explains it; a code never changes its meaning."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "expired": "it had expired before it could be sent",
    "stale": "the event was older than its category allows",
    "duplicate_event": "this event had already been seen for this user",
    "unknown_user": "no profile of this user was known, and the category needs one",
    "parking": "no profile of this user was known yet, so it waits for one",
    "not_before": "the event asked not to be sent before a later time",
    "opted_out": "the user does not want this category on any of its channels",
    "no_endpoint": "the user has no endpoint on the channels that are allowed",
    "endpoint_suppressed": "every endpoint on the channels that are allowed is suppressed",
    "no_provider": "this deployment has no worker for the user's endpoints",
    "throttled": "the user's limit for this category was reached",
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
    "profile_too_large": "the profile would have more bytes than one may hold",
    "internal_error": "the decision core failed on it",
}
"""Why a command on a profile was not applied."""
