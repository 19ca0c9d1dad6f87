"""Commands in: changes of users' profiles, and cancellations of what waits for users."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, patch, post, put
from litestar.params import Parameter
from msgspec import Meta
from msgspec.structs import replace

from connectors.gateway.answers import CommandAccepted, Reason, Refusal
from connectors.gateway.cancellations import CancellationResult, decode_cancellation, records_of
from connectors.gateway.exchange import (
    LOST,
    RETRY_AFTER,
    answer,
    body_of,
    caller_of,
    charge,
    decoded,
    gateway_of,
    path_text,
)
from connectors.gateway.intake import EVENT_LIMIT, Record
from connectors.gateway.openapi import JSON, operation
from messages.codec import DecodeError, encode_json, json_decoder
from messages.profile import (
    ANY,
    MAX_PREFERENCES,
    MAX_WINDOWS,
    AddEndpoint,
    ConsentInput,
    EndpointId,
    EndpointInput,
    GiveConsent,
    Preference,
    ProfileInput,
    RemoveEndpoint,
    ReplaceProfile,
    SetPreferences,
    SetQuietHours,
    Subscribe,
    WithdrawConsent,
    decode_profile_input,
)
from messages.topics import CHANGES
from messages.windows import WindowInput
from messages.words import Key, UserId, user_key

Preferences = Annotated[list[Preference], Meta(min_length=1, max_length=MAX_PREFERENCES)]
QuietHours = Annotated[tuple[WindowInput, ...], Meta(max_length=MAX_WINDOWS)]

_decode_preferences = json_decoder(Preferences)
_decode_endpoint = json_decoder(EndpointInput)
_decode_quiet_hours = json_decoder(QuietHours)
_decode_consent = json_decoder(ConsentInput)

_SLICE = 1_000
"""How many commands of one cancellation are with Kafka at a time: others' single requests must not wait for all."""


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
_BODILESS_ANSWERS = {status: given for status, given in _CHANGE_ANSWERS.items() if status not in (408, 413, 415)}


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
    operation_class=operation(gives=_BODILESS_ANSWERS),
)
async def remove_endpoint(
    request: Request[Any, Any, Any], user_id: str, endpoint_id: str, idempotency_key: _COMMAND_ID = None
) -> Response[bytes]:
    """Remove an endpoint; one that does not exist is no error."""
    endpoint: str = path_text(endpoint_id, EndpointId, "endpoint_id")
    return await _change(request, user_id, lambda id: RemoveEndpoint(id=id, endpoint_id=endpoint), idempotency_key)


@put(
    "/v1/users/{user_id:str}/quiet-hours",
    opt={"scope": "profiles"},
    status_code=202,
    request_max_body_size=EVENT_LIMIT,
    operation_class=operation(takes=((JSON, "QuietHours"),), gives=_CHANGE_ANSWERS),
)
async def set_quiet_hours(
    request: Request[Any, Any, Any], user_id: str, idempotency_key: _COMMAND_ID = None
) -> Response[bytes]:
    """Replace a user's quiet hours: windows of local wall-clock time; an empty list has none."""
    _, body = await body_of(request)
    windows = decoded(_decode_quiet_hours, body)
    return await _change(request, user_id, lambda id: SetQuietHours(id=id, quiet_hours=windows), idempotency_key)


@put(
    "/v1/users/{user_id:str}/subscriptions/{topic:str}",
    opt={"scope": "profiles"},
    status_code=202,
    operation_class=operation(gives=_BODILESS_ANSWERS),
)
async def subscribe(
    request: Request[Any, Any, Any], user_id: str, topic: str, idempotency_key: _COMMAND_ID = None
) -> Response[bytes]:
    """Subscribe a user to a topic, which is a tag of events."""
    name: str = path_text(topic, Key, "topic")
    return await _change(request, user_id, lambda id: Subscribe(id=id, topic=name), idempotency_key)


@delete(
    "/v1/users/{user_id:str}/subscriptions/{topic:str}",
    opt={"scope": "profiles"},
    status_code=202,
    operation_class=operation(gives=_BODILESS_ANSWERS),
)
async def unsubscribe(
    request: Request[Any, Any, Any], user_id: str, topic: str, idempotency_key: _COMMAND_ID = None
) -> Response[bytes]:
    """Leave a topic: its events do not reach the user any more, whether there was a subscription or not."""
    name: str = path_text(topic, Key, "topic")
    return await _change(request, user_id, lambda id: Subscribe(id=id, topic=name, subscribed=False), idempotency_key)


@post(
    "/v1/users/{user_id:str}/consents",
    opt={"scope": "profiles"},
    status_code=202,
    request_max_body_size=EVENT_LIMIT,
    operation_class=operation(takes=((JSON, "ConsentInput"),), gives=_CHANGE_ANSWERS),
)
async def give_consent(
    request: Request[Any, Any, Any], user_id: str, idempotency_key: _COMMAND_ID = None
) -> Response[bytes]:
    """Record a user's opt-in with its proof: when it was given, where, and to which version of the text."""
    _, body = await body_of(request)
    consent = decoded(_decode_consent, body)
    return await _change(request, user_id, lambda id: GiveConsent(id=id, consent=consent), idempotency_key)


@delete(
    "/v1/users/{user_id:str}/consents",
    opt={"scope": "profiles"},
    status_code=202,
    operation_class=operation(gives=_BODILESS_ANSWERS),
)
async def withdraw_consent(
    request: Request[Any, Any, Any],
    user_id: str,
    category: Annotated[str | None, Parameter(description="As it was given for; default `*`.", required=False)] = None,
    channel: Annotated[str | None, Parameter(description="As it was given for; default `*`.", required=False)] = None,
    idempotency_key: _COMMAND_ID = None,
) -> Response[bytes]:
    """Remove the opt-in that was given for exactly this category and channel; one that does not exist is no error."""
    if category is None and channel is None:
        # It would look as if it withdrew all of them.
        raise Refusal(
            "invalid_request", "name the `category`, the `channel`, or both, for which the consent was given", "category"
        )
    scope = {"category": category or ANY, "channel": channel or ANY}
    try:
        withdrawal = msgspec.convert({"id": "-", "kind": "withdraw_consent"} | scope, WithdrawConsent)
    except msgspec.ValidationError as error:
        problem = DecodeError.of(error)
        raise Refusal("invalid_request", problem.reason, problem.path.removeprefix("$.")) from None
    return await _change(request, user_id, lambda id: replace(withdrawal, id=id), idempotency_key)


@post(
    "/v1/cancellations",
    opt={"scope": "events"},
    status_code=202,
    request_max_body_size=EVENT_LIMIT,
    operation_class=operation(
        takes=((JSON, "Cancellation"),),
        gives={
            **_CHANGE_ANSWERS,
            202: ("CancellationResult", "The command is in Kafka for every user."),
            207: ("CancellationResult", "It is not for those in `unavailable`: send it again for them."),
            403: ("Problem", "The key lacks the scope, or may not speak for this source."),
            503: ("CancellationResult", "It is for nobody: send it again, which is harmless."),
        },
    ),
)
async def cancel(request: Request[Any, Any, Any], idempotency_key: _COMMAND_ID = None) -> Response[bytes]:
    """End what still waits for some users, of one event or of all with a cancellation_key; it may come before these."""
    gateway, caller = gateway_of(request), caller_of(request)
    _, body = await body_of(request)
    cancellation = decoded(decode_cancellation, body)
    command_id = idempotency_key or str(uuid.uuid4())
    commands = records_of(cancellation, caller, command_id)
    charge(gateway, caller, cancellation.source or caller.sources[0])
    users, records = list(commands), list(commands.values())
    failures: list[Reason | None] = []
    for start in range(0, len(records), _SLICE):
        failures += await gateway.publisher.publish(records[start : start + _SLICE])
        if any(failures):
            # Kafka is away: what is left is reported and not tried, or each slice would wait for as long again.
            break
    failures += ["overloaded"] * (len(users) - len(failures))
    lost = [user for user, failed in zip(users, failures, strict=True) if failed is not None]
    result = CancellationResult(id=command_id, accepted=len(users) - len(lost), unavailable=lost)
    if not lost:
        return answer(result, 202)
    reason: Reason = "unacknowledged" if "unacknowledged" in failures else "overloaded"
    detail = f"{LOST[reason]}: send it again for these users with `Idempotency-Key: {command_id}`"
    return answer(replace(result, reason=reason, detail=detail), 207 if result.accepted else 503, RETRY_AFTER)
