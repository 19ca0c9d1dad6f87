"""HTTP/2 over TLS for many small requests at once, and for knowing what a failed one may have done.

A push provider gives no idempotency key, so the difference between "certainly not processed" and "no telling" is what
decides whether a message is sent again. Certain are: no connection; a request whose end was never written; a stream
refused (RST_STREAM with REFUSED_STREAM) or above the last one that a GOAWAY names (RFC 9113, 6.8 and 8.7); a refusal
whose status was read though its body was cut. Everything else that ends without a status is unanswered.

h2 closes a connection's state at the first GOAWAY and can then read no more of the streams that the server promised to
finish. So GOAWAY frames are taken out of the byte stream before h2 sees it. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import cast
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectors.adapters.channel import Failure, Response

Headers = list[tuple[bytes, bytes]]

_GOAWAY = 7
_MAX_FRAME = 16_384
_LAST_STREAM = 2**30
"""Stream ids end at 2^31; a connection is retired well before, which is after half a billion requests."""

_CONNECTION_WINDOW = 1_048_576
_CONNECT_AGAIN = 0.2
"""Seconds in which a failed connect answers for those who ask after it, so that a dead host is not stormed."""


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer offering HTTP/2 only, trusting ``ca_file`` alone where it is given, else the system's roots."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


class _GoAway:
    __slots__ = ("code", "last_stream")

    def __init__(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise h2.exceptions.FrameDataMissingError("GOAWAY too short")
        self.last_stream = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        self.code = int.from_bytes(payload[4:8], "big")


class _Frames:
    """Cuts received bytes into runs of whole frames and GOAWAY frames; ProtocolError for a frame over the limit."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes | _GoAway]:
        data = self._rest + data if self._rest else data
        start = at = 0
        size = len(data)
        while at + 9 <= size:
            length = int.from_bytes(data[at : at + 3], "big")
            if length > _MAX_FRAME:
                raise h2.exceptions.FrameTooLargeError(f"frame of {length} bytes")
            end = at + 9 + length
            if end > size:
                break
            if data[at + 3] == _GOAWAY:
                if start < at:
                    yield data[start:at]
                yield _GoAway(data[at + 9 : end])
                start = end
            at = end
        if start < at:
            yield data[start:at]
        self._rest = data[at:]


class _Exchange:
    """One request and what has come back of it. ``written``: its end was handed to the connection."""

    __slots__ = ("answer", "body", "headers", "rest", "started", "status", "written")

    def __init__(self, answer: asyncio.Future[Response | Failure], rest: bytes, started: float) -> None:
        self.answer = answer
        self.rest = rest
        self.started = started
        self.written = False
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = bytearray()


class _Connection(asyncio.Protocol):
    """One connection. It belongs to a pool, which it tells when room appears and when it is lost."""

    def __init__(self, pool: Http2Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frames = _Frames()
        self._exchanges: dict[int, _Exchange] = {}
        self._blocked: dict[int, None] = {}
        self._flush_due = False
        self._unacknowledged = 0
        self._heard_at = 0.0
        self._answered_at = 0.0
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.retired = False
        self.reserved = 0
        # Header names are lower case already; authorization may be indexed, for no other party's headers share the table.
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: 16_384},
        )
        self._limit = 0

    # What the pool asks.

    @property
    def load(self) -> int:
        return len(self._exchanges) + self.reserved

    @property
    def usable(self) -> bool:
        return self.ready.done() and not self.retired

    @property
    def room(self) -> int:
        return self._limit - self.load if self.usable else 0

    def idle_since(self, instant: float) -> bool:
        return not self.load and self._heard_at < instant

    def retire(self) -> None:
        """Take no new requests; close once those under way have ended."""
        self.retired = True
        if not self._exchanges and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, headers: Headers, body: bytes, until: float) -> Response | Failure:
        exchange = _Exchange(self._loop.create_future(), body, self._loop.time())
        try:
            stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream, headers, end_stream=not body)
        except h2.exceptions.ProtocolError as error:
            self.retire()
            return Failure(kind="not_sent", reason=f"connection unusable: {error}")
        finally:
            self.reserved -= 1
        if stream > _LAST_STREAM:
            self.retired = True
        self._exchanges[stream] = exchange
        exchange.written = not body
        self._push(stream, exchange)
        self._flush_soon()
        try:
            async with asyncio.timeout_at(until):
                return await exchange.answer
        except TimeoutError:
            if self._answered_at < exchange.started:
                self.retired = True  # Not one answer in all that time: another connection may reach a server that works.
            return self._cut(exchange, "time-out")
        finally:
            if self._exchanges.pop(stream, None) is not None:
                self._reset(stream)
            self._ended()

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._heard_at = self._loop.time()
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if chosen != "h2":
            self._lose("the server does not speak HTTP/2")
            return
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            for piece in self._frames.feed(data):
                if isinstance(piece, _GoAway):
                    self._go_away(piece)
                else:
                    for event in self._h2.receive_data(piece):
                        self._handle(event)
            if self._unacknowledged > _CONNECTION_WINDOW // 2:
                self._h2.increment_flow_control_window(self._unacknowledged)
                self._unacknowledged = 0
        except h2.exceptions.ProtocolError as error:
            self._flush()
            self._lose(f"protocol error: {error}")
            return
        self._flush_soon()

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(f"connection lost: {error or 'closed by the server'}")

    # Inside.

    def _handle(self, event: h2.events.Event) -> None:
        kind = event.__class__
        if kind is h2.events.ResponseReceived:
            response = cast(h2.events.ResponseReceived, event)
            if exchange := self._exchanges.get(response.stream_id):
                exchange.headers = {
                    bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in response.headers
                }
                status = exchange.headers.pop(":status")
                exchange.status = int(status) if status.isdigit() else 0
        elif kind is h2.events.DataReceived:
            self._receive_body(cast(h2.events.DataReceived, event))
        elif kind is h2.events.StreamEnded:
            stream = cast(h2.events.StreamEnded, event).stream_id
            self._answered_at = self._heard_at
            if exchange := self._exchanges.pop(stream, None):
                if not exchange.written:
                    self._reset(stream)  # Answered before the whole body was taken.
                self._resolve(exchange, self._response(exchange))
        elif kind is h2.events.StreamReset:
            reset = cast(h2.events.StreamReset, event)
            if exchange := self._exchanges.pop(reset.stream_id, None):
                refused = reset.error_code == ErrorCodes.REFUSED_STREAM
                self._resolve(exchange, self._cut(exchange, f"stream reset with code {int(reset.error_code)}", refused))
        elif kind is h2.events.WindowUpdated:
            self._unblock()
        elif kind is h2.events.RemoteSettingsChanged:
            # The first SETTINGS is what a connection waits for: before it, the stream limit is not known.
            self._limit = min(self._h2.remote_settings.max_concurrent_streams, self._pool.streams)
            if not self.ready.done():
                self.ready.set_result(None)
            self._unblock()
            self._pool.room_appeared()

    def _receive_body(self, event: h2.events.DataReceived) -> None:
        self._unacknowledged += event.flow_controlled_length
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            return
        exchange.body += event.data
        if len(exchange.body) > self._pool.max_response:
            del self._exchanges[event.stream_id]
            self._reset(event.stream_id)
            self._resolve(exchange, self._cut(exchange, f"answer over {self._pool.max_response} bytes"))

    def _go_away(self, frame: _GoAway) -> None:
        self.retired = True
        for stream in [stream for stream in self._exchanges if stream > frame.last_stream]:
            exchange = self._exchanges.pop(stream)
            self._blocked.pop(stream, None)
            self._resolve(exchange, Failure(kind="not_sent", reason=f"GOAWAY with code {frame.code}"))
        self._ended()

    def _push(self, stream: int, exchange: _Exchange) -> None:
        """Write as much of the body as the windows allow; the rest follows when they open."""
        while exchange.rest:
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if size <= 0:
                self._blocked[stream] = None
                return
            piece, exchange.rest = exchange.rest[:size], exchange.rest[size:]
            exchange.written = not exchange.rest
            self._h2.send_data(stream, piece, end_stream=exchange.written)
        self._blocked.pop(stream, None)

    def _unblock(self) -> None:
        for stream in list(self._blocked):
            if exchange := self._exchanges.get(stream):
                self._push(stream, exchange)
            else:
                del self._blocked[stream]

    def _reset(self, stream: int) -> None:
        self._blocked.pop(stream, None)
        try:
            self._h2.reset_stream(stream, ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            return  # The stream is over already.
        self._flush_soon()

    def _response(self, exchange: _Exchange) -> Response:
        assert exchange.status is not None
        return Response(
            status=exchange.status, headers=exchange.headers, body=bytes(exchange.body), at=self._pool.milliseconds()
        )

    def _cut(self, exchange: _Exchange, reason: str, refused: bool = False) -> Response | Failure:
        """What an exchange that ended early amounts to; a status that was read decides, for the server had decided."""
        if exchange.status is not None and 200 <= exchange.status < 300:
            return self._response(exchange)
        if exchange.status is not None:
            return Failure(kind="not_sent", reason=f"answer {exchange.status} cut short: {reason}")
        return Failure(kind="not_sent" if refused or not exchange.written else "unanswered", reason=reason)

    @staticmethod
    def _resolve(exchange: _Exchange, answer: Response | Failure) -> None:
        if not exchange.answer.done():
            exchange.answer.set_result(answer)

    def _ended(self) -> None:
        if self.retired:
            self.retire()
        self._pool.room_appeared()

    def _lose(self, reason: str) -> None:
        self.retired = True
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(reason))
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            self._resolve(exchange, self._cut(exchange, reason))
        if self._transport is not None:
            self._transport.close()
        self._pool.connection_lost(self)

    def _flush_soon(self) -> None:
        # One write a turn of the loop, for all requests made in it: a TLS record and a system call saved each.
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._transport is not None and not self._transport.is_closing() and (data := self._h2.data_to_send()):
            self._transport.write(data)


class Http2Pool:
    """Requests to one origin over at most ``connections`` connections of at most ``streams`` streams each.

    ``request_timeout`` (ms) bounds a request from the wait for a connection to the last byte of the answer. A body over
    ``max_response`` bytes is not read. Times of answers come from ``clock`` (seconds since the epoch).
    """

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext,
        *,
        connections: int = 4,
        streams: int = 100,
        request_timeout: int = 10_000,
        idle: float = 60.0,
        max_response: int = 32_768,
        clock: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"`{url}` is not an https URL")
        self.host = parts.hostname
        self.port = parts.port or 443
        self.authority = parts.netloc.encode()
        self.streams = streams
        self.max_response = max_response
        self._tls = tls
        self._size = connections
        self._timeout = request_timeout / 1000
        self._idle = idle
        self._clock = clock
        self._connections: list[_Connection] = []
        self._connecting: asyncio.Task[None] | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._failed_at = -1.0
        self._failed_with = ""
        self._closed = False

    def milliseconds(self) -> int:
        """Now, in milliseconds since the epoch."""
        return int(self._clock() * 1000)

    def deadline(self) -> float:
        """The loop's time by which a request that begins now has ended."""
        return asyncio.get_running_loop().time() + self._timeout

    async def request(
        self, method: bytes, path: bytes, headers: Headers, body: bytes = b"", until: float | None = None
    ) -> Response | Failure:
        """Send one request and return its answer, or what is known of it without one; raises only CancelledError.

        ``headers`` have lower-case names and no pseudo-headers. ``until``: a deadline of the caller's, by the loop's time.
        """
        until = self.deadline() if until is None else until
        connection = self._reserve()
        if connection is None:
            try:
                async with asyncio.timeout_at(until):
                    connection = await self._acquire()
            except TimeoutError:
                return Failure(kind="not_sent", reason="no connection in time")
            except OSError as error:
                return Failure(kind="not_sent", reason=f"no connection: {error}")
        pseudo = [(b":method", method), (b":scheme", b"https"), (b":authority", self.authority), (b":path", path)]
        if body:
            headers = [*headers, (b"content-length", str(len(body)).encode())]
        return await connection.exchange(pseudo + headers, body, until)

    async def close(self) -> None:
        """Close all connections at once; requests under way end as if the server had closed them."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in list(self._connections):
            connection.abort()
        self.room_appeared()

    def room_appeared(self) -> None:
        """Wake as many waiting requests as there may be room for; open another connection for the rest."""
        room = sum(connection.room for connection in self._connections)
        while self._waiters and (room > 0 or self._closed):
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1
        if self._waiters:
            self._grow()

    def connection_lost(self, connection: _Connection) -> None:
        """Forget a connection; those who wait for room may have to open another."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _reserve(self) -> _Connection | None:
        """The least busy connection with room for one more, reserved; None where there is none at the moment."""
        stale = asyncio.get_running_loop().time() - self._idle
        best: _Connection | None = None
        for connection in list(self._connections):
            if connection.idle_since(stale):
                self._connections.remove(connection)
                connection.retire()
            elif connection.room > 0 and (best is None or connection.load < best.load):
                best = connection
        if best is not None:
            best.reserved += 1
        return best

    async def _acquire(self) -> _Connection:
        """Wait for a connection with room for one more, reserved. OSError where none can be made."""
        loop = asyncio.get_running_loop()
        while True:
            if self._closed:
                raise ConnectionError("closed")
            if (connection := self._reserve()) is not None:
                return connection
            if not self._grow():
                raise ConnectionError(self._failed_with)
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake_one()
                raise

    def _grow(self) -> bool:
        """Begin to open a connection if one more is allowed; False where there is none, and none is to be had now."""
        loop = asyncio.get_running_loop()
        live = sum(connection.usable for connection in self._connections)
        if self._connecting is not None or live >= self._size or self._closed:
            return True
        if loop.time() - self._failed_at < _CONNECT_AGAIN:
            return live > 0
        self._connecting = loop.create_task(self._connect())
        return True

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self.host, self.port, ssl=self._tls, server_hostname=self.host
                )
                await connection.ready
            self._connections.append(connection)
            connection = None
        except (OSError, TimeoutError) as error:
            self._failed_at = loop.time()
            self._failed_with = str(error) or "time-out"
            if not any(each.usable for each in self._connections):
                waiters, self._waiters = self._waiters, deque()
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(ConnectionError(self._failed_with))
        finally:
            if connection is not None:
                connection.abort()
            self._connecting = None
            self.room_appeared()
