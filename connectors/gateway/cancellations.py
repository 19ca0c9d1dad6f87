"""From a producer's cancellation to the records that carry it, one command a user; and what is answered."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from connectors.gateway.answers import Reason, Refusal
from connectors.gateway.intake import Record
from connectors.gateway.keys import ANY_SOURCE, ApiKey
from messages.codec import encode_json, json_decoder
from messages.event import MAX_EXPANDED_BYTES
from messages.profile import Cancel
from messages.topics import CHANGES
from messages.words import Identifier, Key, UserId, user_key


class Whom(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The users whose notifications are cancelled. A repeated user counts once."""

    users: Annotated[list[UserId], Meta(min_length=1)]


class Cancellation(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """End what waits for some users: of one event (``event_id``), or all with a ``cancellation_key``.

    ``source`` is whose events they are; a key that speaks for one source need not name it.
    """

    recipients: Whom
    source: Identifier | None = None
    event_id: Identifier | None = None
    cancellation_key: Key | None = None

    def __post_init__(self) -> None:
        if (self.event_id is None) == (self.cancellation_key is None):
            raise ValueError("Object needs one of `event_id` and `cancellation_key`")


class CancellationResult(msgspec.Struct, omit_defaults=True, kw_only=True):
    """For how many users the command is in Kafka; ``unavailable`` names the others.

    ``id`` names the cancellation: the same again is harmless. ``reason`` and ``detail`` say why it was not taken for all.
    """

    id: str
    accepted: int
    unavailable: list[str] = []
    reason: Reason | None = None
    detail: str | None = None


decode_cancellation = json_decoder(Cancellation)


def records_of(cancellation: Cancellation, caller: ApiKey, command_id: str) -> dict[str, Record]:
    """The command for each user; Refusal where the caller may not cancel this, or there would be too many bytes of them."""
    command = encode_json(
        Cancel(
            id=command_id,
            source=_source(cancellation, caller),
            event_id=cancellation.event_id,
            cancellation_key=cancellation.cancellation_key,
        )
    )
    users = dict.fromkeys(cancellation.recipients.users)
    if len(users) * len(command) > MAX_EXPANDED_BYTES:
        raise Refusal(
            "too_large",
            f"{len(users):,} users times {len(command):,} bytes (the command for one) is more than {MAX_EXPANDED_BYTES:,}; "
            "send several cancellations",
            "$.recipients.users",
        )
    return {user: Record(CHANGES, user_key(caller.tenant, user).encode(), command) for user in users}


def _source(cancellation: Cancellation, caller: ApiKey) -> str:
    """Whose events are cancelled: a caller may cancel what it may send."""
    source = cancellation.source
    if source is None:
        if len(caller.sources) != 1 or ANY_SOURCE in caller.sources:
            raise Refusal(
                "invalid_request", "this API key speaks for several sources, or none: name the `source`", "$.source"
            )
        return caller.sources[0]
    if not caller.speaks_for(source):
        raise Refusal("forbidden", f"this API key may not speak for the source `{source}`", "$.source")
    return source
