"""FCM HTTP v1: push to Android, to the web and, through FCM, to Apple devices.

An address is a registration token, or ``fid:`` and a Firebase installation id. A delivery of class ``critical`` carries
its own id as the collapse key, tag and apns-collapse-id from the first send on: sent again after an ambiguous answer,
the second replaces the first on the device. (A device stores at most four collapse keys while it is offline.)
"""

from __future__ import annotations

import asyncio
import hashlib
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from connectors.adapters.channel import Classification, Failure, Response, Scope, Unsendable
from connectors.adapters.http2 import Http2Pool
from connectors.adapters.oauth import Credentials, TokenSource
from messages.codec import DecodeError, json_decoder
from messages.delivery import Delivery, OutcomeClass
from messages.event import Content
from messages.words import Provider

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
MAX_TTL = 2_419_200
MAX_PAYLOAD = 4_096
QUOTA_WAIT = 60_000
"""Milliseconds to wait at least after QUOTA_EXCEEDED without Retry-After (FCM's own advice)."""

FID = "fid:"
_MAX_COLLAPSE_BYTES = 64
_MISMATCH = "SENDER_ID_MISMATCH"


class FcmRequest(msgspec.Struct, frozen=True):
    """A request's body, and the trace it belongs to."""

    body: bytes
    traceparent: str | None = None


class _Violation(msgspec.Struct):
    field: str = ""


class _Detail(msgspec.Struct):
    type: str = msgspec.field(name="@type", default="")
    error_code: str | None = msgspec.field(name="errorCode", default=None)
    field_violations: list[_Violation] = msgspec.field(name="fieldViolations", default_factory=list)


class _Error(msgspec.Struct):
    status: str = ""
    message: str = ""
    details: list[_Detail] = []


class _ErrorBody(msgspec.Struct):
    error: _Error = msgspec.field(default_factory=_Error)


class _Sent(msgspec.Struct):
    name: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_error = json_decoder(_ErrorBody)
_decode_sent = json_decoder(_Sent)


def _collapse_id(text: str) -> str:
    """At most 64 bytes, which is APNs' limit for a collapse id."""
    return text if len(text.encode()) <= _MAX_COLLAPSE_BYTES else hashlib.sha256(text.encode()).hexdigest()


def build(delivery: Delivery, content: Content, now: int) -> FcmRequest:
    """The message for one device. Unsendable ``payload_too_large`` where keys and values alone exceed FCM's limit."""
    data = {**content.data, "delivery_id": delivery.id, "event_id": delivery.event_id, "category": delivery.category}
    notification = {name: text for name, text in (("title", content.title), ("body", content.body)) if text is not None}
    size = sum(len(key.encode()) + len(value.encode()) for part in (data, notification) for key, value in part.items())
    if size > MAX_PAYLOAD:
        raise Unsendable("payload_too_large")
    android: dict[str, Any] = {"priority": "HIGH" if delivery.lane == "urgent" else "NORMAL"}
    apns: dict[str, str] = {}
    collapse = delivery.id if delivery.category_class == "critical" else delivery.collapse_key
    if collapse is not None:
        collapse = _collapse_id(collapse)
        android["collapse_key"] = collapse
        apns["apns-collapse-id"] = collapse
        if notification:
            android["notification"] = {"tag": collapse}
    if delivery.expires_at is not None:
        life = min(max((delivery.expires_at - now) // 1000, 0), MAX_TTL)
        android["ttl"] = f"{life}s"
        apns["apns-expiration"] = str(now // 1000 + life)
    address = delivery.endpoint.address
    message: dict[str, Any] = {"fid": address[len(FID) :]} if address.startswith(FID) else {"token": address}
    message |= {"data": data, "android": android}
    if notification:
        message["notification"] = notification
    if apns:
        message["apns"] = {"headers": apns}
    return FcmRequest(_encode({"message": message}), delivery.traceparent)


def retry_after(response: Response) -> int | None:
    """The header Retry-After, seconds or a date, in milliseconds from the answer on; None where absent or unreadable."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return int(value[:9]) * 1000
    try:
        return max(int(parsedate_to_datetime(value).timestamp() * 1000) - response.at, 0) if value else None
    except (ValueError, OverflowError):
        return None


def _error_of(response: Response) -> tuple[str, _Error]:
    """FCM's error code, else the status of google.rpc, else the HTTP status; and the whole error."""
    try:
        error = _decode_error(response.body).error
    except DecodeError:
        error = _Error()
    codes = [detail.error_code for detail in error.details if detail.error_code]
    return (codes[0] if codes else error.status or f"HTTP_{response.status}")[:64], error


def _names_the_address(error: _Error) -> bool:
    """Whether an INVALID_ARGUMENT speaks of the device's address and of nothing else.

    Either a BadRequest whose violations are all of message.token (or message.fid), or a lone FcmError, whose text
    alone says what it is about.
    """
    fields = {violation.field for detail in error.details for violation in detail.field_violations}
    if fields:
        return fields <= {"message.token", "message.fid"}
    return "registration token" in error.message.lower() and any(detail.error_code for detail in error.details)


_BY_CODE: dict[tuple[int, str], tuple[OutcomeClass, Scope]] = {
    (404, "UNREGISTERED"): ("recipient_dead", "endpoint"),
    # Another project's token; or ours is the wrong project, and then every token is answered so.
    (403, _MISMATCH): ("recipient_dead", "endpoint"),
    # The credentials that FCM holds for APNs or web push: Android is not concerned.
    (401, "THIRD_PARTY_AUTH_ERROR"): ("config", "platform"),
}


def _by_status(status: int) -> tuple[OutcomeClass, Scope]:
    if status in (408, 429):
        return "transient", "account"
    if status >= 500:
        return "transient", "provider"
    if status in (401, 403, 404) or status < 400:
        return "config", "account"  # Below 400 is a redirect: the configured address is not FCM's.
    return "rejected", "message"


def _without_answer(failure: Failure) -> Classification:
    if failure.kind == "credentials":
        return Classification(outcome="config", scope="account", error=failure.reason, sent=False)
    if failure.kind == "unanswered":
        return Classification(outcome="ambiguous", error=failure.reason)
    return Classification(outcome="transient", scope="provider", error=failure.reason, sent=False)


def classify(answer: Response | Failure) -> Classification:
    """The meaning of FCM's answer: by the ErrorCode of the v1 reference, else by the HTTP status."""
    if isinstance(answer, Failure):
        return _without_answer(answer)
    status = answer.status
    if 200 <= status < 300:
        try:
            name = _decode_sent(answer.body).name
        except DecodeError:
            name = None  # The status has decided: FCM took it.
        return Classification(outcome="accepted", status_code=status, provider_message_id=name)
    code, error = _error_of(answer)
    if (status, code) == (400, "INVALID_ARGUMENT") and _names_the_address(error):
        outcome, scope = _BY_CODE[404, "UNREGISTERED"]
    else:
        outcome, scope = _BY_CODE.get((status, code)) or _by_status(status)
    wait = retry_after(answer) if outcome == "transient" else None
    if wait is None and code == "QUOTA_EXCEEDED":
        wait = QUOTA_WAIT
    return Classification(
        outcome=outcome, scope=scope, status_code=status, error=code, retry_after=wait, suspect=code == _MISMATCH
    )


class Fcm:
    """The channel; two pools, since tokens may come from another host than messages go to."""

    provider: Provider = "fcm"
    idempotent = False

    def __init__(self, credentials: Credentials, messages: Http2Pool, tokens: Http2Pool) -> None:
        self._messages = messages
        self._tokens = tokens
        self._source = TokenSource(credentials, SCOPE, tokens)
        self._path = f"/v1/projects/{credentials.project_id}/messages:send".encode()
        self._token = ""
        self._authorization = b""

    build = staticmethod(build)
    classify = staticmethod(classify)

    async def send(self, request: FcmRequest) -> Response | Failure:
        """Send once; where FCM refuses the access token itself, once more with a new one (a 401 is never processed).

        All of it within one request's time: whoever finds the claim later relies on that.
        """
        until = self._messages.deadline()
        for last in (False, True):
            token: str | Failure | None = self._source.cached()
            if token is None:
                try:
                    async with asyncio.timeout_at(until):
                        token = await self._source.token()
                except TimeoutError:
                    return Failure(kind="not_sent", reason="token exchange: time-out")
            if isinstance(token, Failure):
                return token
            if token != self._token:
                self._token, self._authorization = token, b"Bearer " + token.encode()
            headers = [(b"authorization", self._authorization), (b"content-type", b"application/json")]
            if request.traceparent is not None:
                headers.append((b"traceparent", request.traceparent.encode()))
            answer = await self._messages.request(b"POST", self._path, headers, request.body, until)
            if last or isinstance(answer, Failure) or answer.status != 401 or classify(answer).scope == "platform":
                return answer
            self._source.reject(token)
        raise AssertionError("the loop returns on its second turn")

    async def close(self) -> None:
        """Close the connections and drop a token exchange under way."""
        await self._source.close()
        await self._messages.close()
        await self._tokens.close()
