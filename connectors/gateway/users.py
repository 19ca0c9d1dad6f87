"""Users: changes of their profiles in; profiles, decisions and inboxes out."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request, Response, delete, get, patch, post, put
from litestar.params import Parameter
from msgspec import Meta
from redis.exceptions import RedisError

from connectors.gateway.answers import CommandAccepted, Refusal
from connectors.gateway.exchange import (
    LOST,
    RETRY_AFTER,
    answer,
    body_of,
    caller_of,
    charge,
    decoded,
    gateway_of,
    now_millis,
    path_text,
)
from connectors.gateway.intake import EVENT_LIMIT, Record
from connectors.gateway.openapi import JSON, operation
from messages.codec import encode_json, json_decoder
from messages.profile import (
    MAX_PREFERENCES,
    AddEndpoint,
    EndpointId,
    EndpointInput,
    Preference,
    ProfileInput,
    RemoveEndpoint,
    ReplaceProfile,
    SetPreferences,
    decode_profile_input,
)
from messages.topics import CHANGES
from messages.words import Identifier, UserId, user_key

log = logging.getLogger(__name__)

T = TypeVar("T")

Preferences = Annotated[list[Preference], Meta(min_length=1, max_length=MAX_PREFERENCES)]

_decode_preferences = json_decoder(Preferences)
_decode_endpoint = json_decoder(EndpointInput)


_COMMAND_ID = Annotated[
    str | None,
    Parameter(
        header="Idempotency-Key",
        min_length=1,
        max_length=256,
        description="Names the change: the same again does nothing. A new one is made where it is missing.",
    ),
]
_CHANGE_ANSWERS = {
    202: ("CommandAccepted", "The change is in Kafka; it will be applied in order."),
    400: ("Problem", "Not a valid document, parameter or header; `path` names the place."),
    401: ("Problem", "No valid API key."),
    403: ("Problem", "The key lacks the scope."),
    408: ("Problem", "The body did not arrive in time."),
    413: ("Problem", "The body is too large."),
    415: ("Problem", "Not JSON."),
    429: ("Problem", "The key's limit; `Retry-After` says when to send again."),
    503: ("Problem", "Kafka did not acknowledge: send again with the same `Idempotency-Key`, which is harmless."),
}
_BODILESS = (408, 413, 415)


async def _change(
    request: Request[Any, Any, Any], user_id: str, command: Callable[[str], object], command_id: str | None
) -> Response[bytes]:
    gateway, caller = gateway_of(request), caller_of(request)
    user = path_text(user_id, UserId, "user_id")
    charge(gateway, caller, "")
    command_id = command_id or str(uuid.uuid4())
    value = encode_json(command(command_id))
    if len(value) > EVENT_LIMIT:
        raise Refusal("too_large", f"the change has {len(value):,} bytes; {EVENT_LIMIT:,} is the most", "$")
    (failed,) = await gateway.publisher.publish([Record(CHANGES, user_key(caller.tenant, user).encode(), value)])
    if failed is not None:
        detail = f"{LOST[failed]}: send it again with `Idempotency-Key: {command_id}`"
        raise Refusal(failed, detail, retry_after=RETRY_AFTER)
    return answer(CommandAccepted(id=command_id), 202)


@put(
    "/v1/users/{user_id:str}",
    opt={"scope": "profiles"},
    status_code=202,
    request_max_body_size=EVENT_LIMIT,
    operation_class=operation(takes=((JSON, "ProfileInput"),), gives=_CHANGE_ANSWERS),
)
async def replace_profile(
    request: Request[Any, Any, Any],
    user_id: str,
    idempotency_key: _COMMAND_ID = None,
    if_version: Annotated[
        int | None,
        Parameter(
            header="If-Version",
            ge=0,
            le=2**63 - 1,
            description="The writer's own version: the replacement is dropped where a higher or equal one came before.",
        ),
    ] = None,
) -> Response[bytes]:
    """Replace a user's profile; suppressions stay."""
    _, body = await body_of(request)
    profile: ProfileInput = decoded(decode_profile_input, body)
    return await _change(
        request, user_id, lambda id: ReplaceProfile(id=id, profile=profile, version=if_version), idempotency_key
    )


@patch(
    "/v1/users/{user_id:str}/preferences",
    opt={"scope": "profiles"},
    status_code=202,
    request_max_body_size=EVENT_LIMIT,
    operation_class=operation(takes=((JSON, "Preferences"),), gives=_CHANGE_ANSWERS),
)
async def set_preferences(
    request: Request[Any, Any, Any], user_id: str, idempotency_key: _COMMAND_ID = None
) -> Response[bytes]:
    """Set some of a user's choices and leave the others."""
    _, body = await body_of(request)
    preferences = decoded(_decode_preferences, body)
    return await _change(request, user_id, lambda id: SetPreferences(id=id, preferences=preferences), idempotency_key)


@post(
    "/v1/users/{user_id:str}/endpoints",
    opt={"scope": "profiles"},
    status_code=202,
    request_max_body_size=EVENT_LIMIT,
    operation_class=operation(takes=((JSON, "EndpointInput"),), gives=_CHANGE_ANSWERS),
)
async def add_endpoint(
    request: Request[Any, Any, Any], user_id: str, idempotency_key: _COMMAND_ID = None
) -> Response[bytes]:
    """Add an endpoint, or replace the one with the same id."""
    _, body = await body_of(request)
    endpoint = decoded(_decode_endpoint, body)
    return await _change(request, user_id, lambda id: AddEndpoint(id=id, endpoint=endpoint), idempotency_key)


@delete(
    "/v1/users/{user_id:str}/endpoints/{endpoint_id:str}",
    opt={"scope": "profiles"},
    status_code=202,
    operation_class=operation(
        gives={status: answer for status, answer in _CHANGE_ANSWERS.items() if status not in _BODILESS}
    ),
)
async def remove_endpoint(
    request: Request[Any, Any, Any], user_id: str, endpoint_id: str, idempotency_key: _COMMAND_ID = None
) -> Response[bytes]:
    """Remove an endpoint; one that does not exist is no error."""
    endpoint: str = path_text(endpoint_id, EndpointId, "endpoint_id")
    return await _change(request, user_id, lambda id: RemoveEndpoint(id=id, endpoint_id=endpoint), idempotency_key)


_READ_ANSWERS = {
    400: ("Problem", "Not a valid parameter; `path` names it."),
    401: ("Problem", "No valid API key."),
    403: ("Problem", "The key lacks the scope."),
    503: ("Problem", "Redis does not answer; `Retry-After` says when to ask again."),
}


async def _view(reading: Awaitable[T]) -> T:
    try:
        return await reading
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("Redis: %s", error)
        raise Refusal("views_unavailable", "the views do not answer; ask again", retry_after=RETRY_AFTER) from None


@get(
    "/v1/users/{user_id:str}",
    opt={"scope": "profiles"},
    operation_class=operation(
        gives={
            200: ("Profile", "The profile, as last applied."),
            404: ("Problem", "No recent profile is known."),
            **_READ_ANSWERS,
        }
    ),
)
async def read_profile(request: Request[Any, Any, Any], user_id: str) -> Response[bytes]:
    """A user's profile, from the view: changes show a moment after they were taken."""
    gateway = gateway_of(request)
    user: str = path_text(user_id, UserId, "user_id")
    profile = await _view(gateway.views.profile(caller_of(request).tenant, user))
    if profile is None:
        hours = gateway.settings.views.ttl / 3_600_000
        raise Refusal("not_found", f"no profile of this user was written in the last {hours:g} hours", "user_id")
    # How the operator recognises repeats concerns nobody outside.
    return answer(msgspec.structs.replace(profile, applied=[], position=None), 200)


@get(
    "/v1/users/{user_id:str}/decisions",
    opt={"scope": "profiles"},
    operation_class=operation(gives={200: ("History", "The last decisions, oldest first."), **_READ_ANSWERS}),
)
async def read_decisions(
    request: Request[Any, Any, Any],
    user_id: str,
    event: Annotated[str | None, Parameter(description="Only those of this event id.", required=False)] = None,
) -> Response[bytes]:
    """What was decided for a user lately, and what became of the deliveries; empty where nothing recent is known."""
    user: str = path_text(user_id, UserId, "user_id")
    return answer(await _view(gateway_of(request).views.history(caller_of(request).tenant, user, event)), 200)


@get(
    "/v1/users/{user_id:str}/inbox",
    opt={"scope": "inbox"},
    operation_class=operation(gives={200: ("InboxPage", "Newest first."), **_READ_ANSWERS}),
)
async def read_inbox(
    request: Request[Any, Any, Any],
    user_id: str,
    limit: int = 20,
    before: Annotated[str | None, Parameter(description="The `next` of the page before.", required=False)] = None,
) -> Response[bytes]:
    """A page of a user's inbox."""
    user: str = path_text(user_id, UserId, "user_id")
    reading = gateway_of(request).inbox.page(caller_of(request).tenant, user, now_millis(), limit=limit, before=before)
    try:
        return answer(await _view(reading), 200)
    except ValueError as error:
        raise Refusal("invalid_request", str(error), "limit" if "`limit`" in str(error) else "before") from None


@post(
    "/v1/users/{user_id:str}/inbox/{delivery_id:str}/read",
    opt={"scope": "inbox"},
    status_code=200,
    operation_class=operation(gives={200: ("Marked", "How many were marked, and are unread now."), **_READ_ANSWERS}),
)
async def mark_read(request: Request[Any, Any, Any], user_id: str, delivery_id: str) -> Response[bytes]:
    """Mark an item of a user's inbox as read; one that is read already, or gone, is no error."""
    user: str = path_text(user_id, UserId, "user_id")
    delivery: str = path_text(delivery_id, Identifier, "delivery_id")
    marking = gateway_of(request).inbox.mark_read(caller_of(request).tenant, user, now_millis(), [delivery])
    return answer(await _view(marking), 200)
