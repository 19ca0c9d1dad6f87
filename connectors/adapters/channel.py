"""What a channel is to the worker: a pure ``build``, a pure ``classify`` and a transport.

The worker acts on a classification alone; it knows nothing of status codes. A new provider is one class of this form,
and has to pass the conformance suite.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeVar

import msgspec

from messages.delivery import Delivery, OutcomeClass
from messages.event import Content
from messages.words import Provider

Scope = Literal["message", "endpoint", "platform", "account", "provider"]
"""What an answer speaks of. It is here that a circuit breaker finds what to count by: only ``account`` and ``provider``
are the trouble of more than one delivery; ``platform`` is one kind of device behind the provider."""


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """An answer over HTTP: header names in lower case, ``at`` the time it was complete (ms)."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""
    at: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """No answer. ``reason`` is for people and never holds a secret or a device's address.

    ``not_sent``: certainly not processed, sending again cannot double. ``unanswered``: the request was written, and
    what became of it is unknown. ``credentials``: not sent, since our credentials were refused.
    """

    kind: Literal["not_sent", "unanswered", "credentials"]
    reason: str


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer means. ``retry_after`` (ms) is the least to wait; ``error`` and ``status_code`` the provider's words.

    ``sent``: the provider may have seen the request; what it never saw is no attempt. ``repeat``: it had it before.
    ``suspect``: the endpoint may only look dead because our account is the wrong one; it is retired only by a worker
    whose account has been accepted before.
    """

    outcome: OutcomeClass
    scope: Scope = "message"
    status_code: int | None = None
    error: str | None = None
    provider_message_id: str | None = None
    retry_after: int | None = None
    sent: bool = True
    repeat: bool = False
    suspect: bool = False


class Unsendable(ValueError):
    """A delivery that no request can be built from; the message is a stable code."""


RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


class Channel(Protocol[RequestT, AnswerT]):
    """One provider. ``idempotent``: sending twice shows once, so that neither claims nor ``unknown`` are needed."""

    provider: Provider
    idempotent: bool

    def build(self, delivery: Delivery, content: Content, now: int) -> RequestT:
        """Make the request, pure; ``now`` in milliseconds. Unsendable where the delivery cannot be one."""

    def classify(self, answer: AnswerT | Failure) -> Classification:
        """Say what an answer means, pure; every answer has a class."""

    async def send(self, request: RequestT) -> AnswerT | Failure:
        """Send once, within a bounded time; raises nothing but CancelledError."""

    async def close(self) -> None:
        """Close connections; what is under way then is cut off."""
