"""The words that several messages share: tenants and users, channels, providers, lanes, classes."""

from __future__ import annotations

import zoneinfo
from functools import lru_cache
from typing import Annotated, Literal

from msgspec import Meta

Channel = Literal["push", "web_push", "email", "sms", "in_app"]
Provider = Literal["apns", "fcm", "webpush", "ses", "twilio", "inapp"]
Lane = Literal["urgent", "background"]
CategoryClass = Literal["critical", "transactional", "marketing"]

CHANNELS: tuple[Channel, ...] = ("push", "web_push", "email", "sms", "in_app")
PROVIDERS: dict[Provider, Channel] = {
    "apns": "push",
    "fcm": "push",
    "webpush": "web_push",
    "ses": "email",
    "twilio": "sms",
    "inapp": "in_app",
}
LANES: tuple[Lane, ...] = ("urgent", "background")

DEFAULT_TENANT = "default"

END = r"$(?!\n)"
"""The end of a pattern: Python's ``$`` alone would let a line feed follow; in JSON Schema this means the same."""

Tenant = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}" + END, description="An app, brand or organisation.")]
UserId = Annotated[str, Meta(min_length=1, max_length=256, description="A user of the tenant.")]
Identifier = Annotated[str, Meta(min_length=1, max_length=256)]
Key = Annotated[str, Meta(min_length=1, max_length=256)]
Traceparent = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}" + END, description="W3C Trace Context.")
]
Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}" + END, description="ISO 3166-1 alpha-2.")]
TimeZone = Annotated[str, Meta(min_length=1, max_length=64, description="A zone of the IANA database.")]
Milliseconds = Annotated[int, Meta(ge=0, description="Milliseconds since 1970-01-01T00:00:00Z.")]


@lru_cache(maxsize=1024)
def check_time_zone(name: str) -> None:
    """Raise ValueError unless ``name`` is a zone of the IANA database."""
    try:
        if name == "localtime":  # whatever this machine is set to
            raise ValueError
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"Unknown time zone `{name}`; use an IANA name such as `Europe/Berlin`") from None


def user_key(tenant: str, user: str) -> str:
    """The key of everything that belongs to one user: ``tenant/user``; a tenant has no slash, a user may."""
    return f"{tenant}/{user}"


def split_user_key(key: str) -> tuple[str, str]:
    """Tenant and user of a key; ValueError where it is not of the form ``tenant/user``."""
    tenant, slash, user = key.partition("/")
    if not (tenant and slash and user):
        raise ValueError(f"user key {key!r} is not of the form tenant/user")
    return tenant, user
