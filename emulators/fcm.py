"""A stand-in for FCM HTTP v1: ``python -m emulators.fcm --port P --directory D``.

One port, TLS. For those who speak HTTP/2:

    POST /token                             a service account's JWT for an access token (signature and claims checked)
    POST /v1/projects/{project}/messages:send   bearer token and message checked; documented success and error bodies

Into the directory it writes ``ca.pem`` (what a client trusts) and ``credentials.json`` (a service account whose
token_uri is this server); both are reused by the next start on the same port.

For those who speak HTTP/1.1 (tests and demos):

    GET  /healthz          200
    GET  /admin/stats      totals, see Book.stats
    GET  /admin/messages   every accepted message: NDJSON of delivery_id, token, received_at (ms), collapse_key, traceparent
    GET  /admin/tokens     accepted messages by token: JSON
    GET  /admin/faults     the faults in force
    POST /admin/faults     a Faults document, replacing the one in force; {} ends all faults
    POST /admin/goaway     GOAWAY on every open connection
    POST /admin/revoke     forget all access tokens
    POST /admin/reset      forget all messages, counts and faults

A message is recognised by its ``data.delivery_id``. The same id accepted again is a duplicate, except where both times
it was its own collapse key: then it replaced itself on the device, and is counted as collapsed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import re
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

import jwt
import msgspec
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from h2.errors import ErrorCodes
from msgspec import Meta

from emulators.certificates import private_pem, server_context, write_private
from emulators.http2_server import Exchange, Http2Server

PROJECT = "emulated-project"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
MAX_PAYLOAD = 4_096
MAX_TTL = 2_419_200

_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"

# The message as the v1 reference has it. Its JSON takes every name in snake_case and in lowerCamelCase.


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class Notification(_Part):
    title: str | None = None
    body: str | None = None
    image: str | None = None


class AndroidNotification(_Part):
    title: str | None = None
    body: str | None = None
    icon: str | None = None
    color: str | None = None
    sound: str | None = None
    tag: str | None = None
    click_action: str | None = None
    body_loc_key: str | None = None
    body_loc_args: list[str] = []
    title_loc_key: str | None = None
    title_loc_args: list[str] = []
    channel_id: str | None = None
    ticker: str | None = None
    sticky: bool = False
    event_time: str | None = None
    local_only: bool = False
    notification_priority: str | None = None
    default_sound: bool = False
    default_vibrate_timings: bool = False
    default_light_settings: bool = False
    vibrate_timings: list[str] = []
    visibility: str | None = None
    notification_count: int | None = None
    light_settings: dict[str, Any] | None = None
    image: str | None = None
    proxy: str | None = None
    bypass_proxy_notification: bool = False


class Android(_Part):
    collapse_key: str | None = None
    priority: Literal["NORMAL", "HIGH", "normal", "high"] | None = None
    ttl: Annotated[str, Meta(pattern=r"^[0-9]{1,12}(\.[0-9]{1,9})?s$")] | None = None
    restricted_package_name: str | None = None
    data: dict[str, str] | None = None
    notification: AndroidNotification | None = None
    fcm_options: dict[str, Any] | None = None
    direct_boot_ok: bool = False
    bandwidth_constrained_ok: bool = False
    restricted_satellite_ok: bool = False

    def __post_init__(self) -> None:
        if self.ttl is not None and float(self.ttl[:-1]) > MAX_TTL:
            raise ValueError(f"ttl must be at most {MAX_TTL}s")


class Apns(_Part):
    headers: dict[str, str] = {}
    payload: dict[str, Any] | None = None
    fcm_options: dict[str, Any] | None = None
    live_activity_token: str | None = None

    def __post_init__(self) -> None:
        if len(self.headers.get("apns-collapse-id", "").encode()) > 64:
            raise ValueError("apns-collapse-id must be at most 64 bytes")


class Message(_Part):
    name: str | None = None
    data: dict[str, str] = {}
    notification: Notification | None = None
    android: Android | None = None
    android_v2: dict[str, Any] | None = None
    webpush: dict[str, Any] | None = None
    apns: Apns | None = None
    fcm_options: dict[str, Any] | None = None
    token: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    fid: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    topic: str | None = None
    condition: str | None = None

    def __post_init__(self) -> None:
        if sum(target is not None for target in (self.token, self.fid, self.topic, self.condition)) != 1:
            raise ValueError("exactly one of token, fid, topic and condition must be given")
        if self.android is not None and self.android_v2 is not None:
            raise ValueError("android and androidV2 exclude each other")
        for key in self.data:
            if key in ("from", "message_type", "gcm") or key.startswith(("google.", "gcm.")):
                raise ValueError(f"data has the reserved key {key}")
        size = sum(len(key.encode()) + len(value.encode()) for key, value in self.data.items())
        if self.notification is not None:
            size += len((self.notification.title or "").encode()) + len((self.notification.body or "").encode())
        if size > (MAX_PAYLOAD // 2 if self.topic or self.condition else MAX_PAYLOAD):
            raise ValueError("message is too big")


class SendRequest(_Part):
    message: Message
    validate_only: bool = False


_decode_request = msgspec.json.Decoder(SendRequest).decode
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_FREE = {"data", "headers", "payload", "android_v2", "webpush"}
_PATH = re.compile(r" - at `\$\.?(.*)`$")


def _snake(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    renamed = {
        "android_v2" if key == "androidV2" else _CAMEL.sub(r"_\1", key).lower(): value for key, value in document.items()
    }
    return {key: value if key in _FREE else _snake(value) for key, value in renamed.items()}


def decode_request(body: bytes) -> SendRequest:
    """A valid request; msgspec's ValidationError names the field, DecodeError says that it is not JSON."""
    try:
        return _decode_request(body)
    except msgspec.ValidationError:
        return msgspec.convert(_snake(msgspec.json.decode(body)), SendRequest)


# Answers.

ERRORS: dict[str, tuple[int, str, str]] = {
    "UNREGISTERED": (404, "NOT_FOUND", "Requested entity was not found."),
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "INVALID_TOKEN": (400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED", "SenderId mismatch"),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service"),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED", "Quota exceeded for the project."),
    "UNAVAILABLE": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "INTERNAL": (500, "INTERNAL", "Internal error encountered."),
    "UNAUTHENTICATED": (401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    "PERMISSION_DENIED": (403, "PERMISSION_DENIED", "The caller does not have permission."),
}
"""HTTP status, google.rpc status and text by name. INVALID_TOKEN is FCM's INVALID_ARGUMENT about the token."""

_WITHOUT_FCM_ERROR = {"UNAUTHENTICATED", "PERMISSION_DENIED"}

Behaviour = Literal[
    "ok",
    "UNREGISTERED",
    "INVALID_ARGUMENT",
    "INVALID_TOKEN",
    "SENDER_ID_MISMATCH",
    "THIRD_PARTY_AUTH_ERROR",
    "QUOTA_EXCEEDED",
    "UNAVAILABLE",
    "INTERNAL",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "hang",
    "refuse",
    "reset",
    "answer_lost",
    "answer_never",
]
"""What happens to one message. ``hang``: taken by nobody, never answered. ``refuse``: REFUSED_STREAM. ``reset``: not
accepted, stream reset. ``answer_lost``: accepted, then the stream is reset. ``answer_never``: accepted, never answered."""


class Latency(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Milliseconds before an answer: log-normal by ``median`` and ``p99``; constant where they are equal."""

    median: Annotated[float, Meta(ge=0)]
    p99: Annotated[float, Meta(ge=0)]

    def __post_init__(self) -> None:
        if self.p99 < self.median:
            raise ValueError("p99 is below median")

    def draw(self) -> float:
        """Seconds."""
        if self.p99 == self.median or not self.median:
            return self.median / 1000
        return self.median / 1000 * math.exp(random.gauss(0, math.log(self.p99 / self.median) / 2.326))


class Faults(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What goes wrong. For one message the first that speaks decides: ``tokens``, ``next``, ``rates``.

    ``tokens``: by token, one behaviour for ever, or a list to be used up. ``next``: for the next messages, one each.
    ``rates``: shares from 0 to 1 by behaviour. ``retry_after``: seconds, in the answers 429 and 503. ``grant``: what the
    token exchange does. ``token_lifetime``: seconds, of access tokens given out from now on.
    """

    latency_ms: float | Latency = 0.0
    tokens: dict[str, Behaviour | list[Behaviour]] = {}
    next: list[Behaviour] = []
    rates: dict[Behaviour, Annotated[float, Meta(ge=0, le=1)]] = {}
    retry_after: int | None = None
    grant: Literal["ok", "refuse", "unavailable"] = "ok"
    token_lifetime: int = 3600

    def delay(self) -> float:
        """Seconds before the next answer."""
        return self.latency_ms.draw() if isinstance(self.latency_ms, Latency) else self.latency_ms / 1000

    def behaviour(self, address: str) -> Behaviour:
        """What happens to the next message; uses up lists."""
        told = self.tokens.get(address)
        if isinstance(told, str):
            return told
        if told:
            return told.pop(0)
        if self.next:
            return self.next.pop(0)
        if self.rates:
            point = random.random()  # noqa: S311 (not a secret)
            for behaviour, rate in self.rates.items():
                point -= rate
                if point < 0:
                    return behaviour
        return "ok"


class Book:
    """What was accepted, and how every request ended."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, int, str | None, str | None]] = []
        self.tokens: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.grants = 0
        self._first: dict[str, str | None] = {}
        self.duplicates = 0
        self.collapsed = 0
        self.duplicate_ids: list[str] = []

    def accept(self, message: Message, received_at: int, traceparent: str | None) -> None:
        identity = message.data.get("delivery_id", "")
        address = message.token or message.fid or message.topic or message.condition or ""
        collapse = message.android.collapse_key if message.android is not None else None
        if identity in self._first:
            if collapse == identity == self._first[identity]:
                self.collapsed += 1
            else:
                self.duplicates += 1
                if len(self.duplicate_ids) < 1000:
                    self.duplicate_ids.append(identity)
        elif identity:
            self._first[identity] = collapse
        self.tokens[address] += 1
        self.messages.append((identity, address, received_at, collapse, traceparent))

    def stats(self) -> dict[str, Any]:
        """``accepted`` messages, ``distinct`` delivery ids, ``duplicates``, ``collapsed``; ``answers`` by behaviour."""
        return {
            "accepted": len(self.messages),
            "distinct": len(self._first),
            "duplicates": self.duplicates,
            "duplicate_ids": self.duplicate_ids[:100],
            "collapsed": self.collapsed,
            "tokens": len(self.tokens),
            "answers": dict(self.answers),
            "grants": self.grants,
        }

    def lines(self) -> Iterator[bytes]:
        """All accepted messages as NDJSON, in chunks; those accepted meanwhile may be left out."""
        for start in range(0, len(self.messages), 5_000):
            yield msgspec.json.Encoder().encode_lines(
                dict(zip(("delivery_id", "token", "received_at", "collapse_key", "traceparent"), each, strict=True))
                for each in self.messages[start : start + 5_000]
            )


class Account(msgspec.Struct):
    """The service account that is served, as its key file has it."""

    type: str
    project_id: str
    private_key_id: str
    private_key: str
    client_email: str
    token_uri: str


def account(directory: Path, port: int) -> Account:
    """The account of ``directory``, made where it does not exist or belongs to another port."""
    file = directory / "credentials.json"
    token_uri = f"https://127.0.0.1:{port}/token"
    if file.exists():
        known = msgspec.json.decode(file.read_bytes(), type=Account)
        if known.token_uri == token_uri:
            return known
    made = Account(
        type="service_account",
        project_id=PROJECT,
        private_key_id=secrets.token_hex(20),
        private_key=private_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)).decode(),
        client_email=f"herald@{PROJECT}.iam.gserviceaccount.com",
        token_uri=token_uri,
    )
    write_private(file, msgspec.json.format(msgspec.json.encode(made), indent=2))
    return made


class Fcm:
    """The server's behaviour; runs on one event loop."""

    def __init__(self, served: Account) -> None:
        self._account = served
        algorithm = jwt.get_algorithm_by_name("RS256")
        self._public_key = algorithm.prepare_key(served.private_key).public_key()
        self._send_path = f"/v1/projects/{served.project_id}/messages:send"
        self._tokens: dict[str, float] = {}
        self.book = Book()
        self.faults = Faults()

    def handle(self, exchange: Exchange) -> None:
        """Route one request."""
        if exchange.method == "POST" and exchange.path == self._send_path:
            self._send(exchange)
        elif exchange.method == "POST" and exchange.path == "/token":
            self._grant(exchange)
        elif exchange.path == "/healthz":
            exchange.answer(200, b'"ok"')
        else:
            exchange.answer(404, b'{"error":{"code":404,"message":"Not Found","status":"NOT_FOUND"}}')

    def revoke(self) -> None:
        self._tokens.clear()

    def reset(self) -> None:
        self.book = Book()
        self.faults = Faults()

    def _send(self, exchange: Exchange) -> None:
        received_at = time.time_ns() // 1_000_000
        bearer = exchange.headers.get(b"authorization", b"").decode("latin-1")
        if self._tokens.get(bearer.removeprefix("Bearer "), 0.0) < time.time():
            self._answer_error(exchange, "UNAUTHENTICATED")
            return
        try:
            request = decode_request(exchange.body)
        except msgspec.MsgspecError as error:
            self.book.answers["invalid"] += 1
            path = _PATH.search(str(error))
            field = path[1].replace("android_v2", "androidV2").removesuffix("[...]") if path else ""
            self._error(exchange, "INVALID_ARGUMENT", [{"field": field, "description": _PATH.sub("", str(error))}])
            return
        message = request.message
        behaviour = self.faults.behaviour(message.token or message.fid or "")
        self.book.answers[behaviour] += 1
        if behaviour in ("ok", "answer_lost", "answer_never") and not request.validate_only:
            trace = exchange.headers.get(b"traceparent")
            self.book.accept(message, received_at, trace.decode("latin-1") if trace is not None else None)
        if behaviour in ("hang", "answer_never"):
            return
        action = partial(self._finish, exchange, behaviour)
        delay = self.faults.delay()
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, action)
        else:
            action()

    def _finish(self, exchange: Exchange, behaviour: Behaviour) -> None:
        if behaviour == "ok":
            name = f"projects/{self._account.project_id}/messages/0:{secrets.token_hex(16)}"
            exchange.answer(200, b'{\n  "name": "' + name.encode() + b'"\n}\n')
        elif behaviour == "refuse":
            exchange.reset(ErrorCodes.REFUSED_STREAM)
        elif behaviour in ("reset", "answer_lost"):
            exchange.reset(ErrorCodes.INTERNAL_ERROR)
        else:
            violations = [{"field": "message.data", "description": "Invalid value"}]
            self._error(exchange, behaviour, violations if behaviour == "INVALID_ARGUMENT" else None)

    def _answer_error(self, exchange: Exchange, name: str) -> None:
        self.book.answers[name] += 1
        self._error(exchange, name)

    def _error(self, exchange: Exchange, name: str, violations: list[dict[str, str]] | None = None) -> None:
        status, rpc, text = ERRORS[name]
        details: list[dict[str, Any]] = []
        if violations is not None:
            details.append({"@type": _BAD_REQUEST, "fieldViolations": violations})
        elif name not in _WITHOUT_FCM_ERROR:
            details.append({"@type": _FCM_ERROR, "errorCode": "INVALID_ARGUMENT" if name == "INVALID_TOKEN" else name})
        error = {"code": status, "message": text, "status": rpc, "details": details}
        wait = self.faults.retry_after
        headers = ((b"retry-after", str(wait).encode()),) if wait is not None and status in (429, 503) else ()
        exchange.answer(status, msgspec.json.encode({"error": error}), headers)

    def _grant(self, exchange: Exchange) -> None:
        self.book.grants += 1
        if self.faults.grant == "unavailable":
            exchange.answer(503, b'{"error":"temporarily_unavailable"}')
            return
        form = parse_qs(exchange.body.decode("latin-1"))
        try:
            if self.faults.grant == "refuse" or form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
                raise jwt.InvalidTokenError
            signed = form.get("assertion", [""])[0]
            if jwt.get_unverified_header(signed).get("kid") != self._account.private_key_id:
                raise jwt.InvalidTokenError
            claims = jwt.decode(
                signed,
                self._public_key,
                algorithms=["RS256"],
                audience=self._account.token_uri,
                issuer=self._account.client_email,
                options={"require": ["iss", "aud", "exp", "iat"]},
                leeway=5,
            )
            if claims["exp"] - claims["iat"] > 3600 or SCOPE not in str(claims.get("scope", "")).split():
                raise jwt.InvalidTokenError
        except jwt.InvalidTokenError:
            exchange.answer(400, b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}')
            return
        token = f"emulated.{secrets.token_urlsafe(150)}"
        lifetime = self.faults.token_lifetime
        self._tokens[token] = time.time() + lifetime
        grant = {"access_token": token, "expires_in": lifetime, "token_type": "Bearer"}
        exchange.answer(200, msgspec.json.encode(grant))


class _Admin(BaseHTTPRequestHandler):
    """Administration. Runs on threads; what changes the server's state is handed to its loop."""

    protocol_version = "HTTP/1.1"
    fcm: Fcm
    server_h2: Http2Server
    loop: asyncio.AbstractEventLoop

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        """Read."""
        if self.path == "/healthz":
            self._reply(200, b"ok\n", "text/plain")
        elif self.path == "/admin/stats":
            self._reply(200, msgspec.json.encode(self._on_loop(self.fcm.book.stats)))
        elif self.path == "/admin/tokens":
            self._reply(200, msgspec.json.encode(self._on_loop(lambda: dict(self.fcm.book.tokens))))
        elif self.path == "/admin/faults":
            self._reply(200, msgspec.json.encode(self.fcm.faults))
        elif self.path == "/admin/messages":
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Connection", "close")
            self.end_headers()
            for chunk in self.fcm.book.lines():
                self.wfile.write(chunk)
            self.close_connection = True
        else:
            self._reply(404, b'{"error":"no such page"}')

    def do_POST(self) -> None:
        """Change."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/admin/faults":
            try:
                faults = msgspec.json.decode(body or b"{}", type=Faults)
            except msgspec.MsgspecError as error:
                self._reply(400, msgspec.json.encode({"error": str(error)}))
                return
            self._on_loop(lambda: setattr(self.fcm, "faults", faults))
        elif self.path == "/admin/goaway":
            self._on_loop(self.server_h2.go_away)
        elif self.path == "/admin/revoke":
            self._on_loop(self.fcm.revoke)
        elif self.path == "/admin/reset":
            self._on_loop(self.fcm.reset)
        else:
            self._reply(404, b'{"error":"no such page"}')
            return
        self._reply(200, b"{}")

    def _on_loop(self, action: Any) -> Any:
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(action())
            except BaseException as error:
                done.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return done.result(timeout=10)

    def _reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


async def serve(port: int, directory: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    tls = server_context(directory)
    fcm = Fcm(account(directory, port))

    class Admin(_Admin):
        pass

    server = Http2Server(fcm.handle, Admin, tls)
    Admin.fcm, Admin.server_h2, Admin.loop = fcm, server, loop
    await server.start(port)
    await stopped.wait()
    await server.stop()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m emulators.fcm", description="A stand-in for FCM HTTP v1.")
    parser.add_argument("--port", type=int, required=True, help="TLS, HTTP/2 and HTTP/1.1")
    parser.add_argument("--directory", type=Path, required=True, help="where ca.pem and credentials.json are written")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.directory))


if __name__ == "__main__":
    main()
