"""The gateway's application: routes, errors, start and stop.

An event or a change is acknowledged only after Kafka has it on every in-sync replica. If the process dies before the
answer, the caller does not know, and sends again with the same id: repeats are recognised downstream.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response, get
from litestar.enums import ParamType, ScopeType
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ASGIApp, Receive, Scope, Send

from connectors.gateway.answers import Health, Problem, Reason, Refusal
from connectors.gateway.commands import (
    add_endpoint,
    cancel,
    give_consent,
    remove_endpoint,
    replace_profile,
    set_preferences,
    set_quiet_hours,
    subscribe,
    unsubscribe,
    withdraw_consent,
)
from connectors.gateway.events import send_events
from connectors.gateway.exchange import answer, authorise, gateway_of
from connectors.gateway.openapi import CONFIG, operation
from connectors.gateway.state import Gateway
from connectors.gateway.users import mark_read, read_decisions, read_inbox, read_profile
from connectors.settings import Settings, load_settings

log = logging.getLogger(__name__)


@get(
    "/healthz",
    operation_class=operation(gives={200: ("Health", "All is well."), 503: ("Health", "What is the matter.")}),
    security=[{}],
)
async def healthz(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Whether Kafka and Redis can be reached, and what is paused is known."""
    health = await gateway_of(request).health()
    return answer(health, 200 if health == Health(kafka="ok", redis="ok", policies="ok") else 503)


def _refused(_: Request[Any, Any, Any], refusal: Refusal) -> Response[bytes]:
    return answer(refusal.problem, refusal.status, refusal.retry_after)


_REASONS: dict[int, Reason] = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def _framework_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What Litestar refuses itself, in the words of this interface."""
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        first = error.extra[0]
        name = str(first.get("key"))
        if first.get("source") == ParamType.HEADER:
            name = name.replace("_", "-").title()
        return answer(Problem(reason="invalid_request", detail=str(first["message"]), path=name), 400)
    reason = _REASONS.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal_error")
    detail = {
        "not_found": "there is nothing at this path",
        "method_not_allowed": "this path does not take this method",
        "too_large": "the body is larger than this path takes",
    }.get(reason, error.detail)
    return answer(Problem(reason=reason, detail=detail), error.status_code)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(Problem(reason="internal_error", detail="the gateway failed; its log says why"), 500)


@asynccontextmanager
async def _running(app: Litestar) -> AsyncIterator[None]:
    gateway: Gateway = Gateway(app.state.settings)
    app.state.gateway = gateway
    watch = asyncio.create_task(_watch(gateway))
    try:
        yield
    finally:
        watch.cancel()
        await gateway.close()


async def _watch(gateway: Gateway) -> None:
    """Once a second: read the keys again if they changed; end if the server's main process is gone."""
    parent = os.getppid()
    while True:
        await asyncio.sleep(1)
        gateway.keys.refresh()
        if os.getppid() != parent:
            # Nobody would stop this worker any more, and it would hold the port.
            log.critical("the main process is gone; this worker stops")
            os.kill(os.getpid(), signal.SIGTERM)
            return


def litestar_app(settings: Settings) -> Litestar:
    """The application."""
    app = Litestar(
        route_handlers=[
            send_events,
            replace_profile,
            set_preferences,
            add_endpoint,
            remove_endpoint,
            set_quiet_hours,
            subscribe,
            unsubscribe,
            give_consent,
            withdraw_consent,
            cancel,
            read_profile,
            read_decisions,
            read_inbox,
            mark_read,
            healthz,
        ],
        guards=[authorise],
        lifespan=[_running],
        exception_handlers={Refusal: _refused, HTTPException: _framework_error, Exception: _unexpected},
        openapi_config=CONFIG,
        request_max_body_size=settings.gateway.max_body,
        logging_config=None,
    )
    app.state.settings = settings
    return app


def application() -> ASGIApp:
    """The ASGI application with the settings that ``HERALD_CONFIG`` names.

    Routing sees the path percent-encoded, as it came: a user's id may hold a slash.
    """
    app = litestar_app(load_settings())

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            scope["path"] = scope["raw_path"].decode("latin-1")
        await app(scope, receive, send)

    return routed
