"""Endpoints of a channel that can be used."""

from __future__ import annotations

from messages.profile import Endpoint, Profile
from messages.words import PROVIDERS, Channel, Provider

INBOX = "inbox"


def usable(
    profile: Profile, user: str, channel: Channel, providers: frozenset[Provider]
) -> tuple[list[Endpoint], str | None]:
    """The endpoints of ``channel`` that may be used, of the providers that the deployment has; without one, the reason.

    Every user has an inbox, without registering one, unless the profile suppressed it.
    """
    refusal: str | None = "no_endpoint"
    carried = []
    for endpoint in profile.endpoints:
        if PROVIDERS[endpoint.provider] != channel:
            continue
        if endpoint.suppressed is not None:
            if refusal == "no_endpoint":
                refusal = "endpoint_suppressed"
        elif endpoint.provider in providers:
            carried.append(endpoint)
        else:
            refusal = "no_provider"
    if carried:
        return carried, None
    if channel == "in_app" and refusal == "no_endpoint":
        inbox = Endpoint(id=INBOX, provider="inapp", address=user)
        return ([inbox], None) if inbox.provider in providers else ([], "no_provider")
    return [], refusal
