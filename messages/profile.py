"""A user's profile, the commands that change it, and those on what waits; the decision job is a profile's single writer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from messages.codec import json_decoder
from messages.windows import Window, WindowInput
from messages.words import (
    END,
    PROVIDERS,
    Channel,
    Country,
    Identifier,
    Key,
    Milliseconds,
    Provider,
    TimeZone,
    check_time_zone,
)

ANY: Final = "*"

MAX_ENDPOINTS = 64
MAX_PREFERENCES = 512
MAX_CONSENTS = 128
MAX_SUBSCRIPTIONS = 512
MAX_WINDOWS = 32

EndpointId = Annotated[
    str, Meta(min_length=1, max_length=128, description="Stable: the installation's id, or a keyed hash of the address.")
]


class EndpointInput(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One way to reach a user, as an outsider registers it."""

    id: EndpointId
    provider: Provider
    address: Annotated[str, Meta(min_length=1, max_length=4096, description="Token, number, address or subscription.")]
    app: Identifier | None = None


class Preference(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One choice of a user; the scope is category × channel, ``*`` standing for all."""

    category: Identifier = ANY
    channel: Channel | Literal["*"] = ANY
    allow: bool


class Consent(msgspec.Struct, omit_defaults=True, kw_only=True, frozen=True):
    """The proof of an opt-in: when it was given, where, and to which version of the text."""

    at: Milliseconds
    where: Annotated[str, Meta(min_length=1, max_length=256)]
    text_version: Annotated[str, Meta(min_length=1, max_length=64)]


class ConsentInput(Consent, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """An opt-in to a category on a channel, with its proof; ``*`` stands for all."""

    category: Identifier = ANY
    channel: Channel | Literal["*"] = ANY


class ProfileInput(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A whole profile as an outsider writes it; suppressions are not part of it and survive a replacement."""

    country: Country | None = None
    time_zone: TimeZone | None = None
    locale: Annotated[str, Meta(pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*" + END)] | None = None
    endpoints: Annotated[list[EndpointInput], Meta(max_length=MAX_ENDPOINTS)] = []
    preferences: Annotated[list[Preference], Meta(max_length=MAX_PREFERENCES)] = []
    quiet_hours: Annotated[tuple[WindowInput, ...], Meta(max_length=MAX_WINDOWS)] = ()
    subscriptions: Annotated[dict[Key, bool], Meta(max_length=MAX_SUBSCRIPTIONS)] = {}
    consents: Annotated[list[ConsentInput], Meta(max_length=MAX_CONSENTS)] = []

    def __post_init__(self) -> None:
        if self.time_zone is not None:
            check_time_zone(self.time_zone)
        ids = [endpoint.id for endpoint in self.endpoints]
        if len(ids) != len(set(ids)):
            raise ValueError("`endpoints` has the same `id` twice")


class _Command(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, tag_field="kind"):
    """Every command carries an ``id``: the same id again is a repeat and does nothing."""

    id: Identifier


class ReplaceProfile(_Command, tag="replace_profile"):
    """Replace everything but suppressions; refused where ``version`` is not above the version last replaced with."""

    profile: ProfileInput
    version: Annotated[int, Meta(ge=0, description="The writer's own version of the profile.")] | None = None


class SetPreferences(_Command, tag="set_preferences"):
    """Set some choices and leave the others."""

    preferences: Annotated[list[Preference], Meta(min_length=1, max_length=MAX_PREFERENCES)]


class AddEndpoint(_Command, tag="add_endpoint"):
    """Add an endpoint, or replace the one with the same id; a new address lifts an endpoint's suppression."""

    endpoint: EndpointInput


class RemoveEndpoint(_Command, tag="remove_endpoint"):
    """Remove an endpoint; one that does not exist is no error."""

    endpoint_id: EndpointId


class SuppressEndpoint(_Command, tag="suppress_endpoint"):
    """Stop using an endpoint: its token is dead, it bounced, complained or said STOP.

    ``registered_before`` guards a reinstall: an endpoint registered at or after that instant stays usable.
    """

    endpoint_id: EndpointId
    reason: Identifier
    registered_before: Milliseconds | None = None


class UnsuppressEndpoint(_Command, tag="unsuppress_endpoint"):
    """Use a suppressed endpoint again."""

    endpoint_id: EndpointId


class SetQuietHours(_Command, tag="set_quiet_hours"):
    """Replace the user's quiet hours; an empty list has none."""

    quiet_hours: Annotated[tuple[WindowInput, ...], Meta(max_length=MAX_WINDOWS)]


class Subscribe(_Command, tag="subscribe"):
    """Subscribe to a topic (a tag of events), or, with ``subscribed: false``, leave it."""

    topic: Key
    subscribed: bool = True


class GiveConsent(_Command, tag="give_consent"):
    """Record an opt-in with its proof."""

    consent: ConsentInput


class WithdrawConsent(_Command, tag="withdraw_consent"):
    """Remove an opt-in; one that does not exist is no error."""

    category: Identifier = ANY
    channel: Channel | Literal["*"] = ANY


class _EventCommand(_Command, kw_only=True):
    """A command on what waits of one event."""

    source: Identifier
    event_id: Identifier


class Cancel(_Command, tag="cancel"):
    """End what waits: of one event (``source`` and ``event_id``), or of all with a ``cancellation_key``.

    It is remembered, so it may come before what it cancels.
    """

    source: Identifier
    event_id: Identifier | None = None
    cancellation_key: Key | None = None

    def __post_init__(self) -> None:
        if (self.event_id is None) == (self.cancellation_key is None):
            raise ValueError("Object needs one of `event_id` and `cancellation_key`")


class Read(_EventCommand, tag="read"):
    """The user has read the notification: its ladder ends."""


class Opened(_EventCommand, tag="open"):
    """The notification was opened: its ladder ends, unless a machine did it (a scanner, a prefetch)."""

    machine: bool = False


class Failed(_EventCommand, tag="failed"):
    """A delivery has failed for good: where all of a ladder's step have, the next step is taken at once."""

    delivery_id: Identifier


class Stalled(_EventCommand, tag="stalled"):
    """An adapter has withdrawn a delivery for certain, its provider being away: as if it had failed."""

    delivery_id: Identifier


ProfileChange = (
    ReplaceProfile
    | SetPreferences
    | AddEndpoint
    | RemoveEndpoint
    | SuppressEndpoint
    | UnsuppressEndpoint
    | SetQuietHours
    | Subscribe
    | GiveConsent
    | WithdrawConsent
)
"""Commands on a profile."""

PendingChange = Cancel | Read | Opened | Failed | Stalled
"""Commands on what waits for the user."""

Command = ProfileChange | PendingChange


class Endpoint(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One way to reach a user, as the profile keeps it."""

    id: str
    provider: Provider
    address: str
    app: str | None = None
    registered_at: int = 0
    suppressed: str | None = None

    @property
    def channel(self) -> Channel:
        """The channel that the endpoint's provider carries."""
        return PROVIDERS[self.provider]


class Profile(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="v", tag=1):
    """A user's whole profile, as it travels on ``profiles``.

    ``preferences`` maps ``category/channel`` (either may be ``*``) to allowed or denied, ``consents`` such a scope to the
    proof of an opt-in, ``subscriptions`` a topic to whether it is wanted. ``replaced_with`` is the
    writer's version of the last replacement, ``applied`` the ids of the latest commands, newest last, and ``position``
    the partition and offset of the last one applied: with these a repeated command does nothing.
    """

    version: int = 0
    country: str | None = None
    time_zone: str | None = None
    locale: str | None = None
    endpoints: list[Endpoint] = []
    preferences: dict[str, bool] = {}
    quiet_hours: tuple[Window, ...] = ()
    subscriptions: dict[str, bool] = {}
    consents: dict[str, Consent] = {}
    replaced_with: int | None = None
    applied: list[str] = []
    position: tuple[int, int] | None = None


# A union is not a type to mypy.
decode_change: Callable[[bytes], Command] = json_decoder(Command)  # type: ignore[arg-type]
decode_profile = json_decoder(Profile)
decode_profile_input = json_decoder(ProfileInput)
