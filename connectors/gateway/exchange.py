"""From a request to what a handler works with, and back: the caller, the body, path parameters, the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from connectors.gateway.answers import Reason, Refusal
from connectors.gateway.intake import check_plain
from connectors.gateway.keys import ApiKey
from connectors.gateway.openapi import JSON
from connectors.gateway.state import Gateway
from messages.codec import DecodeError, encode_json

T = TypeVar("T")

RETRY_AFTER = 2.0
"""Seconds after which a caller is told to try again when Kafka or Redis is away."""


def gateway_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Gateway:
    """What the handlers share."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


async def authorise(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Guard of every route with a scope: no body is read, and nothing decoded, for a caller without a key.

    A coroutine, though it waits for nothing: Litestar runs plain guards in a thread.
    """
    scope = handler.opt.get("scope")
    if scope is None:
        return
    headers = connection.headers
    kind, _, presented = headers.get("authorization", "").partition(" ")
    key = presented.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
    caller = gateway_of(connection).keys.find(key) if key else None
    if caller is None:
        raise Refusal("unauthenticated", "send a valid API key as `Authorization: Bearer KEY` or `X-Api-Key: KEY`")
    if scope not in caller.scopes:
        raise Refusal("forbidden", f"this API key lacks the scope `{scope}`")
    connection.scope["caller"] = caller  # type: ignore[typeddict-unknown-key]


def caller_of(request: Request[Any, Any, Any]) -> ApiKey:
    """The API key that the guard let in."""
    caller: ApiKey = request.scope["caller"]  # type: ignore[typeddict-item]
    return caller


async def body_of(request: Request[Any, Any, Any], accepted: tuple[str, ...] = (JSON,)) -> tuple[str, bytes]:
    """Media type and body; the size is bounded while reading (by the route), and so is the time."""
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    media_type = media_type.strip().lower()
    charset = parameters.strip().lower().replace('"', "")
    if media_type not in accepted or charset not in ("", "charset=utf-8"):
        raise Refusal(
            "unsupported_media_type", f"send {' or '.join(f'`{each}`' for each in accepted)} in UTF-8", "Content-Type"
        )
    try:
        async with asyncio.timeout(gateway_of(request).settings.gateway.read_within / 1000):
            return media_type, await request.body()
    except TimeoutError:
        raise Refusal("read_timeout", "the body did not arrive in time; send it faster") from None


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """The body as a document; Refusal names the JSON path."""
    try:
        value = decode(body)
        check_plain(body)
    except DecodeError as error:
        raise Refusal.of(error) from None
    return value


def path_text(value: str, kind: type[T], name: str) -> T:
    """A path parameter, which comes percent-encoded so that it may hold a slash."""
    try:
        return msgspec.convert(unquote_to_bytes(value.encode("latin-1")).decode(), kind)
    except UnicodeDecodeError:
        raise Refusal("invalid_request", "not UTF-8 in percent-encoding", name) from None
    except msgspec.ValidationError as error:
        raise Refusal("invalid_request", DecodeError.of(error).reason, name) from None


def charge(gateway: Gateway, caller: ApiKey, source: str) -> None:
    """Charge one unit to the caller's limit for ``source``; Refusal says when there will be one again."""
    wait = gateway.limit.take((caller.name, source), time.monotonic())
    if wait:
        raise Refusal("rate_limited", "this source sends faster than its limit; slow down", retry_after=wait)


# What publishing may end with, in sentences; the caller adds how to repeat.
LOST: dict[Reason, str] = {
    "unacknowledged": "Kafka did not acknowledge in time; it may have been taken or not",
    "overloaded": "too much is waiting for Kafka; it was not taken, or not as a whole",
}


def _retry_after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(max(1, -int(-seconds // 1)))}


def answer(body: object, status: int, retry_after: float | None = None) -> Response[bytes]:
    """A JSON response; ``retry_after`` in seconds."""
    return Response(encode_json(body), status_code=status, media_type=JSON, headers=_retry_after(retry_after))


def now_millis() -> int:
    """The time, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
