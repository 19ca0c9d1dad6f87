"""The OpenAPI description: Litestar's paths and parameters, with the bodies as the decoders really take and give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Reference,
    RequestBody,
    SecurityScheme,
)
from litestar.openapi.spec.schema import Schema

from connectors.explain import Explanation
from connectors.gateway.answers import BatchResult, CommandAccepted, Health, Problem, Result
from connectors.gateway.cancellations import Cancellation, CancellationResult
from connectors.inbox import Marked, Page
from messages.event import Event
from messages.profile import ConsentInput, EndpointInput, Preference, Profile, ProfileInput
from messages.windows import WindowInput

JSON = "application/json"
EVENT = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

_TYPES = {
    "Event": Event,
    "Events": list[Event],
    "Result": Result,
    "BatchResult": BatchResult,
    "Problem": Problem,
    "CommandAccepted": CommandAccepted,
    "Health": Health,
    "Profile": Profile,
    "ProfileInput": ProfileInput,
    "Preferences": list[Preference],
    "EndpointInput": EndpointInput,
    "QuietHours": list[WindowInput],
    "ConsentInput": ConsentInput,
    "Cancellation": Cancellation,
    "CancellationResult": CancellationResult,
    "Explanation": Explanation,
    "InboxPage": Page,
    "Marked": Marked,
}


def _content(*bodies: tuple[str, str]) -> dict[str, OpenAPIMediaType]:
    """Content by media type; a type given twice is one of several."""
    references: dict[str, list[Reference]] = {}
    for media_type, name in bodies:
        references.setdefault(media_type, []).append(Reference(ref=f"#/components/schemas/{name}"))
    return {
        media_type: OpenAPIMediaType(schema=found[0] if len(found) == 1 else Schema(any_of=list(found)))
        for media_type, found in references.items()
    }


def operation(*, takes: tuple[tuple[str, str], ...] = (), gives: dict[int, tuple[str, str]]) -> type[Operation]:
    """The class of an operation: what it takes (media type, schema), and what it gives by status (schema, when).

    Several schemas of one status are separated by a bar.
    """

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(content=_content(*takes), required=True) if takes else None
            self.responses = {
                str(status): OpenAPIResponse(
                    description=when, content=_content(*((JSON, name) for name in schemas.split("|"))) if schemas else None
                )
                for status, (schemas, when) in gives.items()
            }

    return Described


class _Document(JsonRenderPlugin):
    """Adds the schemas that the operations refer to."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        types, components = msgspec.json.schema_components(_TYPES.values(), ref_template="#/components/schemas/{name}")
        named = {name: schema for name, schema in zip(_TYPES, types, strict=True) if "$ref" not in schema}
        schemas = (
            components | named | {name: schema for name, schema in zip(_TYPES, types, strict=True) if name not in components}
        )
        document = openapi_schema | {"components": openapi_schema["components"] | {"schemas": schemas}}
        return msgspec.json.encode(document, order="deterministic")


CONFIG = OpenAPIConfig(
    title="Herald gateway",
    version="1",
    description="Events, users' profiles and inboxes. Every path but `/healthz` and this document needs an API key.",
    path="/schema",
    render_plugins=[_Document()],
    use_handler_docstrings=True,
    security=[{"bearer": []}, {"header": []}],
    components=Components(
        security_schemes={
            "bearer": SecurityScheme(type="http", scheme="bearer"),
            "header": SecurityScheme(type="apiKey", name="X-Api-Key", security_scheme_in="header"),
        }
    ),
)
