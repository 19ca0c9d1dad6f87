"""Endpoints of a channel that can be used."""

from __future__ import annotations

from messages.profile import Endpoint, Profile
from messages.words import Channel, Provider

INBOX = "inbox"


def usable(
    profile: Profile, user: str, channel: Channel, providers: frozenset[Provider]
) -> tuple[list[Endpoint], str | None]:
    """The endpoints of ``channel`` that may be used, of the providers that the deployment has; without one, the reason.

    Every user has an inbox, without registering one, unless the profile suppressed it.
    """
    found = [endpoint for endpoint in profile.endpoints if endpoint.channel == channel]
    if not found and channel == "in_app":
        found = [Endpoint(id=INBOX, provider="inapp", address=user)]
    if not found:
        return [], "no_endpoint"
    alive = [endpoint for endpoint in found if endpoint.suppressed is None]
    if not alive:
        return [], "endpoint_suppressed"
    carried = [endpoint for endpoint in alive if endpoint.provider in providers]
    return (carried, None) if carried else ([], "no_provider")
