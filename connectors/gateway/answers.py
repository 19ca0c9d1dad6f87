"""What the gateway answers: the bodies of its responses, and the refusal that ends a request early."""

from __future__ import annotations

from typing import Literal

import msgspec

from messages.codec import DecodeError
from messages.quarantine import HoldReason

Reason = Literal[
    "invalid_request",
    "invalid_event",
    "no_recipients",
    "recipients_topics_unsupported",
    "unauthenticated",
    "forbidden",
    "category_not_allowed",
    "not_found",
    "method_not_allowed",
    "read_timeout",
    "too_large",
    "event_too_large",
    "unsupported_media_type",
    "rate_limited",
    "overloaded",
    "unacknowledged",
    "views_unavailable",
    "internal_error",
]
STATUS: dict[Reason, int] = {
    "invalid_request": 400,
    "invalid_event": 400,
    "no_recipients": 400,
    "recipients_topics_unsupported": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "category_not_allowed": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "read_timeout": 408,
    "too_large": 413,
    "event_too_large": 413,
    "unsupported_media_type": 415,
    "rate_limited": 429,
    "internal_error": 500,
    "overloaded": 503,
    "unacknowledged": 503,
    "views_unavailable": 503,
}
"""The HTTP status of each reason."""

UNAVAILABLE: frozenset[Reason] = frozenset({"rate_limited", "overloaded", "unacknowledged"})
"""Reasons that pass: the same request again, with the same ids, is harmless and may succeed."""


class Problem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Why a request was refused: a stable code, a sentence, and the JSON path (or header, or parameter) it concerns."""

    reason: Reason
    detail: str
    path: str | None = None


class Result(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What became of one event; ``index`` is its place in the batch.

    ``accepted``: Kafka has it. ``held``: Kafka has it in the quarantine, where it waits for an operator; do not send it
    again. ``rejected``: it will never be taken as it is. ``unavailable``: not now; ``reason`` ``unacknowledged`` means that
    it may have been taken all the same, and that sending it again is harmless.
    """

    index: int | None = None
    id: str | None = None
    status: Literal["accepted", "held", "rejected", "unavailable"]
    reason: Reason | HoldReason | None = None
    detail: str | None = None
    path: str | None = None


class BatchResult(msgspec.Struct, kw_only=True):
    """What became of a batch, an entry an event, in its order."""

    accepted: int
    held: int
    rejected: int
    unavailable: int
    results: list[Result]


class CommandAccepted(msgspec.Struct, kw_only=True):
    """A change was taken; ``id`` names it, and the same id again does nothing."""

    id: str
    status: Literal["accepted"] = "accepted"


class Health(msgspec.Struct, kw_only=True):
    """Whether the gateway can do its work: ``ok``, or what is the matter."""

    kafka: str
    redis: str
    policies: str


class Refusal(Exception):
    """Ends a request, or one event of a batch, with a Problem; ``retry_after`` is in seconds."""

    def __init__(
        self,
        reason: Reason,
        detail: str,
        path: str | None = None,
        *,
        id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.problem = Problem(reason=reason, detail=detail, path=path)
        self.id = id
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: DecodeError, reason: Reason = "invalid_request") -> Refusal:
        """The refusal of a document that does not decode."""
        return cls(reason, error.reason, error.path)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.problem.reason]

    def result(self, index: int | None, id: str | None = None) -> Result:
        """This refusal as the result of one event."""
        problem = self.problem
        return Result(
            index=index,
            id=self.id if id is None else id,
            status="unavailable" if problem.reason in UNAVAILABLE else "rejected",
            reason=problem.reason,
            detail=problem.detail,
            path=problem.path,
        )
