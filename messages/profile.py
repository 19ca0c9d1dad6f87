"""A user's profile and the commands that change it; the decision job is the single writer of a profile."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from messages.codec import json_decoder
from messages.words import END, PROVIDERS, Channel, Identifier, Milliseconds, Provider

ANY: Final = "*"

MAX_ENDPOINTS = 64
MAX_PREFERENCES = 512

EndpointId = Annotated[
    str, Meta(min_length=1, max_length=128, description="Stable: the installation's id, or a keyed hash of the address.")
]


@lru_cache(maxsize=1024)
def check_time_zone(name: str) -> None:
    """Raise ValueError unless ``name`` is a zone of the IANA database."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"Unknown time zone `{name}`; use an IANA name such as `Europe/Berlin`") from None


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


class ProfileInput(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A whole profile as an outsider writes it; suppressions are not part of it and survive a replacement."""

    country: Annotated[str, Meta(pattern=r"^[A-Z]{2}" + END, description="ISO 3166-1 alpha-2.")] | None = None
    time_zone: str | None = None
    locale: Annotated[str, Meta(pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*" + END)] | None = None
    endpoints: Annotated[list[EndpointInput], Meta(max_length=MAX_ENDPOINTS)] = []
    preferences: Annotated[list[Preference], Meta(max_length=MAX_PREFERENCES)] = []

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


ProfileChange = ReplaceProfile | SetPreferences | AddEndpoint | RemoveEndpoint | SuppressEndpoint | UnsuppressEndpoint


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

    ``preferences`` maps ``category/channel`` (either may be ``*``) to allowed or denied. ``replaced_with`` is the
    writer's version of the last replacement, ``applied`` the ids of the latest commands, newest last, and ``position``
    the partition and offset of the last one applied: with these a repeated command does nothing.
    """

    version: int = 0
    country: str | None = None
    time_zone: str | None = None
    locale: str | None = None
    endpoints: list[Endpoint] = []
    preferences: dict[str, bool] = {}
    replaced_with: int | None = None
    applied: list[str] = []
    position: tuple[int, int] | None = None


# A union is not a type to mypy.
decode_change: Callable[[bytes], ProfileChange] = json_decoder(ProfileChange)  # type: ignore[arg-type]
decode_profile = json_decoder(Profile)
decode_profile_input = json_decoder(ProfileInput)
