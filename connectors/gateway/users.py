"""Users: profiles, decisions and inboxes out, and the marks of what was read in."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request, Response, get, post
from litestar.params import Parameter
from redis.exceptions import RedisError

from connectors.explain import Explanation, stories
from connectors.gateway.answers import Refusal
from connectors.gateway.exchange import (
    LOST,
    RETRY_AFTER,
    answer,
    caller_of,
    charge,
    gateway_of,
    now_millis,
    path_text,
)
from connectors.gateway.intake import Record
from connectors.gateway.openapi import operation
from connectors.inbox import InboxItem
from messages.codec import encode_json
from messages.profile import Read
from messages.topics import CHANGES
from messages.words import Identifier, UserId, user_key

log = logging.getLogger(__name__)

T = TypeVar("T")

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
    operation_class=operation(
        gives={200: ("Explanation", "The notifications known lately, the first one first."), **_READ_ANSWERS}
    ),
)
async def read_decisions(
    request: Request[Any, Any, Any],
    user_id: str,
    event: Annotated[str | None, Parameter(description="Only the one of this event id.", required=False)] = None,
    limit: Annotated[
        int | None, Parameter(ge=1, description="Only this many, the latest. Default: all.", required=False)
    ] = None,
) -> Response[bytes]:
    """What was decided for a user lately and why, in records and in sentences, and what became of the deliveries."""
    user: str = path_text(user_id, UserId, "user_id")
    tenant = caller_of(request).tenant
    history = await _view(gateway_of(request).views.history(tenant, user))
    told = stories(history, now_millis(), event=event, limit=limit)
    return answer(Explanation(tenant=tenant, user=user, notifications=told), 200)


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
    operation_class=operation(
        gives={
            **_READ_ANSWERS,
            200: ("Marked", "How many were marked, and are unread now."),
            429: ("Problem", "The key's limit; `Retry-After` says when to send again."),
            503: ("Problem", "Redis or Kafka does not answer: send again after `Retry-After`, which is harmless."),
        }
    ),
)
async def mark_read(request: Request[Any, Any, Any], user_id: str, delivery_id: str) -> Response[bytes]:
    """Mark an item of a user's inbox as read, which ends its ladder; one that is read already, or gone, is no error."""
    gateway, tenant = gateway_of(request), caller_of(request).tenant
    user: str = path_text(user_id, UserId, "user_id")
    delivery: str = path_text(delivery_id, Identifier, "delivery_id")
    item = await _view(gateway.inbox.item(tenant, user, now_millis(), delivery))
    # The command first: after a death in between the item is unread, and reading it again sends the command again, which is
    # harmless. The other way round the ladder of an item marked as read would climb on.
    if item is not None and item.read_at is None:
        await _tell_of_reading(request, user, item)
    return answer(await _view(gateway.inbox.mark_read(tenant, user, now_millis(), [delivery])), 200)


async def _tell_of_reading(request: Request[Any, Any, Any], user: str, item: InboxItem) -> None:
    """Publish that the user has read an item; one of an older version, which does not know its event, ends no ladder."""
    if item.source is None or item.event_id is None:
        return
    gateway, caller = gateway_of(request), caller_of(request)
    charge(gateway, caller, "")
    command = Read(id=f"read/{item.id}", source=item.source, event_id=item.event_id)
    record = Record(CHANGES, user_key(caller.tenant, user).encode(), encode_json(command))
    (failed,) = await gateway.publisher.publish([record])
    if failed is not None:
        raise Refusal(failed, f"{LOST[failed]}: mark it again", retry_after=RETRY_AFTER)
