"""Events in: one, or a batch with a result an event."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, post

from connectors.gateway.answers import UNAVAILABLE, BatchResult, Reason, Refusal, Result
from connectors.gateway.exchange import LOST, RETRY_AFTER, answer, body_of, caller_of, charge, gateway_of
from connectors.gateway.intake import Admitted, Record, admit, usable_traceparent
from connectors.gateway.keys import ApiKey
from connectors.gateway.openapi import BATCH, EVENT, JSON, operation
from connectors.gateway.state import Gateway
from messages.codec import DecodeError, json_decoder

BATCH_LIMIT = 1_000
"""The most events in one request."""

_YIELD_EVERY = 50

_decode_batch = json_decoder(list[msgspec.Raw])


_EVENT_PROBLEMS = {
    401: ("Problem", "No valid API key."),
    403: (
        "Problem|Result",
        "The key lacks the scope, or may not speak for this source or tenant, or that for this category.",
    ),
    408: ("Problem", "The body did not arrive in time."),
    413: ("Problem|Result", "The body, the batch or the event is too large."),
    415: ("Problem", "Not a media type of this path."),
}


@post(
    "/v1/events",
    opt={"scope": "events"},
    status_code=202,
    operation_class=operation(
        takes=((JSON, "Event"), (JSON, "Events"), (EVENT, "Event"), (BATCH, "Events")),
        gives={
            202: (
                "Result|BatchResult",
                "Every event is in Kafka; `held` ones in the quarantine, for an operator to release.",
            ),
            207: ("BatchResult", "A batch of which not every event was accepted or held; a result an event."),
            400: ("Problem|Result", "Not a valid event or batch; `path` names the place."),
            **_EVENT_PROBLEMS,
            429: ("Result|BatchResult", "The source's limit; `Retry-After` says when to send again."),
            503: ("Result|BatchResult", "Kafka did not acknowledge: send again with the same ids, which is harmless."),
        },
    ),
)
async def send_events(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Take one event (CloudEvents 1.0, structured JSON) or a batch of at most 1,000."""
    gateway, caller = gateway_of(request), caller_of(request)
    media_type, body = await body_of(request, (JSON, EVENT, BATCH))
    trace = usable_traceparent(request.headers.get("traceparent"))
    array = body.lstrip(b" \t\r\n")[:1] == b"["
    if array and media_type == EVENT:
        raise Refusal("invalid_request", f"one event is an object; a batch has the type `{BATCH}`", "$")
    if array or media_type == BATCH:
        return await _send_batch(gateway, caller, body, trace)
    try:
        admitted = _admit(gateway, caller, body, trace)
    except Refusal as refusal:
        return answer(refusal.result(None), refusal.status, refusal.retry_after)
    failed = _first_failure(await gateway.publisher.publish(admitted.records))
    if failed is None:
        return answer(_taken(admitted), 202)
    lost = Refusal(failed, f"{LOST[failed]}: send it again with the same id", id=admitted.id)
    return answer(lost.result(None), lost.status, RETRY_AFTER)


def _admit(gateway: Gateway, caller: ApiKey, raw: bytes, trace: str | None) -> Admitted:
    admitted = admit(raw, caller, trace)
    try:
        charge(gateway, caller, admitted.source)
        return gateway.guard.judge(admitted)
    except Refusal as refusal:
        refusal.id = admitted.id
        raise


def _taken(admitted: Admitted, index: int | None = None) -> Result:
    """What became of an event, once Kafka has it."""
    if admitted.held is None:
        return Result(index=index, id=admitted.id, status="accepted")
    return Result(
        index=index, id=admitted.id, status="held", reason=admitted.held, detail=admitted.detail, path=admitted.path
    )


async def _send_batch(gateway: Gateway, caller: ApiKey, body: bytes, trace: str | None) -> Response[bytes]:
    try:
        items = _decode_batch(body)
    except DecodeError as error:
        raise Refusal.of(error) from None
    if not items:
        raise Refusal("invalid_request", "a batch has at least one event", "$")
    if len(items) > BATCH_LIMIT:
        raise Refusal("too_large", f"a batch has at most {BATCH_LIMIT:,} events; this one has {len(items):,}", "$")

    results: list[Result] = []
    taken: list[tuple[int, Admitted]] = []
    records: list[Record] = []
    retry_after = 0.0
    for index, item in enumerate(items):
        if index % _YIELD_EVERY == _YIELD_EVERY - 1:
            # A large batch must not hold up everybody else's single event.
            await asyncio.sleep(0)
        try:
            admitted = _admit(gateway, caller, bytes(item), trace)
        except Refusal as refusal:
            result = refusal.result(index)
            retry_after = max(retry_after, refusal.retry_after or 0)
        else:
            result = _taken(admitted, index)
            taken.append((index, admitted))
            records += admitted.records
        if result.path is not None:
            result.path = f"$[{index}]{result.path.removeprefix('$')}"
        results.append(result)

    failures = iter(await gateway.publisher.publish(records) if records else ())
    for index, admitted in taken:
        failed = _first_failure([next(failures) for _ in admitted.records])
        if failed is not None:
            results[index] = Refusal(failed, f"{LOST[failed]}: send it again with the same id").result(index, admitted.id)
            retry_after = max(retry_after, RETRY_AFTER)
    return _batch_answer(results, retry_after or None)


def _first_failure(failures: list[Reason | None]) -> Reason | None:
    """An event whose records are not all in Kafka was not taken."""
    return next((reason for reason in failures if reason is not None), None)


def _batch_answer(results: list[Result], retry_after: float | None) -> Response[bytes]:
    """202 where all are accepted or held; 429 or 503 where none is and some may be later; else 207."""
    reasons = {result.reason for result in results}
    counts = dict.fromkeys(("accepted", "held", "rejected", "unavailable"), 0)
    for result in results:
        counts[result.status] += 1
    taken = counts["accepted"] + counts["held"]
    if taken == len(results):
        status = 202
    elif taken or not counts["unavailable"]:
        status = 207
    else:
        status = 429 if reasons & UNAVAILABLE == {"rate_limited"} else 503
    return answer(BatchResult(**counts, results=results), status, retry_after)
