"""A small HTTP/2 server that can misbehave: a handler may answer, wait, reset a stream or send a whole connection away.

Handlers are plain functions called on the event loop with an Exchange; they answer when they like, or never. A client
that does not ask for HTTP/2 is handed to ``http.server`` on the same port: that is the door of administration.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

MAX_BODY = 65_536


class Exchange:
    """One request, and the ways to end it. After the client has gone, ending it does nothing."""

    __slots__ = ("_connection", "_stream", "body", "headers", "method", "path")

    def __init__(self, connection: Connection, stream: int, headers: dict[bytes, bytes]) -> None:
        self._connection = connection
        self._stream = stream
        self.method = headers.pop(b":method", b"").decode("latin-1")
        self.path = headers.pop(b":path", b"").decode("latin-1")
        self.headers = headers
        self.body = b""

    def answer(self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Send a JSON answer."""
        self._connection.answer(self._stream, status, body, headers)

    def reset(self, code: ErrorCodes) -> None:
        """Send RST_STREAM."""
        self._connection.reset(self._stream, code)


Handler = Callable[[Exchange], None]


class Connection(asyncio.Protocol):
    """One client. A stream is handed to the handler when its request is complete."""

    def __init__(self, handler: Handler, streams: int, open_connections: set[Connection]) -> None:
        self._handler = handler
        self._open = open_connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._requests: dict[int, Exchange] = {}
        self._flush_due = False
        self._unacknowledged = 0
        self._last = 2**31 - 1
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: streams, SettingCodes.MAX_HEADER_LIST_SIZE: 65_536},
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(1_048_576)
        self._flush_soon()

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)
        self._requests.clear()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._handle(event)
            if self._unacknowledged > 500_000:
                self._h2.increment_flow_control_window(self._unacknowledged)
                self._unacknowledged = 0
        except h2.exceptions.ProtocolError:
            self._flush()
            self.close()
            return
        self._flush_soon()

    def answer(self, stream: int, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        head = [(b":status", str(status).encode()), (b"content-type", b"application/json; charset=UTF-8"), *headers]

        def send() -> None:
            self._h2.send_headers(stream, head)
            self._h2.send_data(stream, body, end_stream=True)

        self._write(stream, send)

    def reset(self, stream: int, code: ErrorCodes) -> None:
        self._requests.pop(stream, None)
        self._write(stream, lambda: self._h2.reset_stream(stream, code))

    def go_away(self) -> None:
        """Promise to finish what was begun and take nothing more: GOAWAY with the highest stream handed on."""
        # Not by h2's close_connection, after which it could not answer the streams that were begun.
        self._last = min(self._last, self._h2.highest_inbound_stream_id)
        if self._transport is not None:
            self._flush()
            payload = self._last.to_bytes(4, "big") + int(ErrorCodes.NO_ERROR).to_bytes(4, "big")
            self._transport.write(len(payload).to_bytes(3, "big") + b"\x07\x00" + b"\x00\x00\x00\x00" + payload)

    def close(self) -> None:
        """Close the connection as it is."""
        if self._transport is not None:
            self._transport.close()

    def _handle(self, event: h2.events.Event) -> None:
        kind = event.__class__
        if kind is h2.events.RequestReceived:
            request = cast(h2.events.RequestReceived, event)
            if request.stream_id > self._last:
                return  # Sent before the GOAWAY was read; it promised that this would not be processed.
            self._requests[request.stream_id] = Exchange(self, request.stream_id, dict(request.headers))
        elif kind is h2.events.DataReceived:
            data = cast(h2.events.DataReceived, event)
            self._unacknowledged += data.flow_controlled_length
            if exchange := self._requests.get(data.stream_id):
                exchange.body += data.data
                if len(exchange.body) > MAX_BODY:
                    self.reset(data.stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
        elif kind is h2.events.StreamEnded:
            stream = cast(h2.events.StreamEnded, event).stream_id
            if exchange := self._requests.pop(stream, None):
                self._handler(exchange)
        elif kind is h2.events.StreamReset:
            self._requests.pop(cast(h2.events.StreamReset, event).stream_id, None)

    def _write(self, stream: int, action: Callable[[], object]) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        try:
            action()
        except (h2.exceptions.ProtocolError, KeyError):
            return  # The client has given the stream up.
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._transport is not None and not self._transport.is_closing() and (data := self._h2.data_to_send()):
            self._transport.write(data)


class _Far(asyncio.Protocol):
    """The end of a bridge that faces http.server."""

    def __init__(self, near: _Near) -> None:
        self._near = near

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._near.opened(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._near.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._near.transport.close()


class _Near(asyncio.Protocol):
    """The end of a bridge that faces a client over TLS."""

    transport: asyncio.Transport

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._early = b""
        self._far: asyncio.Transport | None = None
        self._opening: asyncio.Task[object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        ours, theirs = socket.socketpair()
        self._server.process_request(theirs, ("127.0.0.1", 0))  # On a thread of its own.
        loop = asyncio.get_running_loop()
        self._opening = loop.create_task(loop.create_connection(lambda: _Far(self), sock=ours))

    def opened(self, far: asyncio.Transport) -> None:
        self._far = far
        far.write(self._early)

    def data_received(self, data: bytes) -> None:
        if self._far is None:
            self._early += data
        else:
            self._far.write(data)

    def pause_writing(self) -> None:
        if self._far is not None:
            self._far.pause_reading()

    def resume_writing(self) -> None:
        if self._far is not None:
            self._far.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self._far is not None:
            self._far.close()


class _Chosen(asyncio.Protocol):
    """Becomes one or the other when the client has said what it speaks."""

    def __init__(self, http2: Callable[[], asyncio.Protocol], http1: Callable[[], asyncio.Protocol]) -> None:
        self._http2 = http2
        self._http1 = http1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol = self._http2() if chosen == "h2" else self._http1()
        cast(asyncio.Transport, transport).set_protocol(protocol)
        protocol.connection_made(transport)


class Http2Server:
    """Serves ``handler`` (HTTP/2) and ``admin`` (HTTP/1.1, on threads) on one port of 127.0.0.1, over TLS."""

    def __init__(
        self, handler: Handler, admin: type[BaseHTTPRequestHandler], tls: ssl.SSLContext, *, streams: int = 256
    ) -> None:
        self.connections: set[Connection] = set()
        self._handler = handler
        self._tls = tls
        self._streams = streams
        self._server: asyncio.Server | None = None
        self._admin = ThreadingHTTPServer(("127.0.0.1", 0), admin, bind_and_activate=False)
        self._admin.daemon_threads = True

    async def start(self, port: int) -> int:
        """Listen; the port that was taken (``port`` 0: any)."""

        def protocol() -> asyncio.Protocol:
            return _Chosen(lambda: Connection(self._handler, self._streams, self.connections), lambda: _Near(self._admin))

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(protocol, "127.0.0.1", port, ssl=self._tls, backlog=256)
        return int(self._server.sockets[0].getsockname()[1])

    def go_away(self) -> None:
        """Send GOAWAY on every connection."""
        for connection in list(self.connections):
            connection.go_away()

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self._admin.server_close()
        for connection in list(self.connections):
            connection.close()
