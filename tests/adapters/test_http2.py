"""The transport against servers that misbehave: what is certainly not processed, and what nobody can know."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectors.adapters.channel import Failure, Response
from connectors.adapters.http2 import Http2Pool, tls_context
from emulators.certificates import server_context
from tests.adapters.harness import free_port

BODY = b"b" * 500


class Server(asyncio.Protocol):
    """One connection of a server whose behaviour is a function of the test: ``behave(server, stream, complete)``.

    It is called when a request's headers have come (``complete`` False) and when its body has (True).
    """

    def __init__(
        self, behave: Callable[[Server, int, bool], None], opened: list[Server], settings: dict[SettingCodes, int]
    ) -> None:
        self.behave = behave
        self.opened = opened
        self.settings = settings
        self.received: dict[int, bytes] = {}
        self.resets: list[int] = []
        self.open = True
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None, validate_outbound_headers=False)
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.opened.append(self)
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=self.settings)
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.received[event.stream_id] = b""
                self.behave(self, event.stream_id, False)
            elif isinstance(event, h2.events.DataReceived):
                self.received[event.stream_id] += event.data
                if event.flow_controlled_length:  # The connection's window only; a stream's is the test's.
                    self.h2.increment_flow_control_window(event.flow_controlled_length)
            elif isinstance(event, h2.events.StreamEnded):
                self.behave(self, event.stream_id, True)
            elif isinstance(event, h2.events.StreamReset):
                self.resets.append(event.stream_id)
        self.flush()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.transport.write(data)

    def head(self, stream: int, status: int = 200, end: bool = False) -> None:
        self.h2.send_headers(stream, [(b":status", str(status).encode()), (b"x-kind", b"test")], end_stream=end)

    def answer(self, stream: int, body: bytes = b"{}", status: int = 200) -> None:
        self.head(stream, status)
        self.h2.send_data(stream, body, end_stream=True)

    def raw(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame as it is, past h2's rules."""
        self.flush()
        head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
        self.transport.write(head + payload)

    def go_away(self, last: int, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        self.raw(7, 0, 0, last.to_bytes(4, "big") + int(code).to_bytes(4, "big"))


@asynccontextmanager
async def served(
    directory: Path,
    behave: Callable[[Server, int, bool], None],
    settings: dict[SettingCodes, int] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Http2Pool, list[Server]]]:
    """A server that behaves so, a pool to it, and the connections that were made."""
    opened: list[Server] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: Server(behave, opened, settings or {}), "127.0.0.1", 0, ssl=server_context(directory)
    )
    port = server.sockets[0].getsockname()[1]
    options = {"request_timeout": 5_000, **options}
    pool = Http2Pool(f"https://127.0.0.1:{port}", tls_context(str(directory / "ca.pem")), **options)
    try:
        yield pool, opened
    finally:
        await pool.close()
        server.close()
        for each in opened:
            each.transport.abort()


def post(pool: Http2Pool, body: bytes = BODY) -> Awaitable[Response | Failure]:
    return pool.request(b"POST", b"/send", [(b"content-type", b"application/json")], body)


async def soon(condition: Callable[[], object]) -> None:
    """Let the loop turn until the condition holds; the scenario's own bound ends it otherwise."""
    while not condition():  # noqa: ASYNC110 (the condition is of the other side, which has no event for it)
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())


def failure(answer: Response | Failure) -> str:
    assert isinstance(answer, Failure), answer
    return answer.kind


def test_many_at_once_share_connections_and_respect_the_stream_limit(tmp_path: Path) -> None:
    highest = 0

    def behave(server: Server, stream: int, complete: bool) -> None:
        nonlocal highest
        if complete:
            highest = max(highest, server.h2.open_inbound_streams)
            server.answer(stream, server.received[stream])

    async def scenario() -> None:
        limit = {SettingCodes.MAX_CONCURRENT_STREAMS: 3}
        async with served(tmp_path, behave, limit, connections=2) as (pool, opened):
            bodies = [f"body {number}".encode() for number in range(60)]
            answers = await asyncio.gather(*(post(pool, body) for body in bodies))
            assert [answer.body for answer in answers if isinstance(answer, Response)] == bodies
            assert len(opened) == 2

    run(scenario)
    assert highest <= 3


def test_goaway_tells_the_unprocessed_from_those_still_answered(tmp_path: Path) -> None:
    seen: list[int] = []

    def behave(server: Server, stream: int, complete: bool) -> None:
        if not complete:
            return
        seen.append(stream)
        if len(server.opened) > 1:
            server.answer(stream, b"second connection")
        elif len(seen) == 4:
            first, second, *_ = seen
            server.go_away(last=second)
            server.answer(first, b"first")
            server.answer(second, b"second")

    async def scenario() -> None:
        async with served(tmp_path, behave) as (pool, opened):
            answers = await asyncio.gather(*(post(pool) for _ in range(4)))
            assert [answer.body for answer in answers[:2] if isinstance(answer, Response)] == [b"first", b"second"]
            assert [failure(answer) for answer in answers[2:]] == ["not_sent", "not_sent"]
            # The connection that went away takes nothing more and is closed; the next request opens another.
            later = await post(pool)
            assert isinstance(later, Response)
            assert later.body == b"second connection"
            await soon(lambda: not opened[0].open)

    run(scenario)


def test_a_goaway_that_allows_all_and_then_the_close_leaves_nobody_knowing(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete:
            server.go_away(last=stream)
            server.transport.close()

    async def scenario() -> None:
        async with served(tmp_path, behave) as (pool, _):
            assert failure(await post(pool)) == "unanswered"

    run(scenario)


@pytest.mark.parametrize(
    ("code", "kind"), [(ErrorCodes.REFUSED_STREAM, "not_sent"), (ErrorCodes.INTERNAL_ERROR, "unanswered")]
)
def test_a_reset_after_the_body_is_certain_only_if_refused(tmp_path: Path, code: ErrorCodes, kind: str) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete:
            server.h2.reset_stream(stream, code)

    async def scenario() -> None:
        async with served(tmp_path, behave) as (pool, _):
            assert failure(await post(pool)) == kind

    run(scenario)


def test_a_reset_before_the_body_was_written_is_certain(tmp_path: Path) -> None:
    """The window is shut, so the body cannot be written; whatever the code, the request was never whole."""

    def behave(server: Server, stream: int, complete: bool) -> None:
        assert not complete
        server.h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)

    async def scenario() -> None:
        async with served(tmp_path, behave, {SettingCodes.INITIAL_WINDOW_SIZE: 10}) as (pool, opened):
            assert failure(await post(pool)) == "not_sent"
            assert opened[0].received[1] in (b"", BODY[:10])

    run(scenario)


def test_a_connection_lost_before_the_body_was_written_is_certain(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        server.transport.abort()

    async def scenario() -> None:
        async with served(tmp_path, behave, {SettingCodes.INITIAL_WINDOW_SIZE: 10}) as (pool, _):
            assert failure(await post(pool)) == "not_sent"

    run(scenario)


def test_a_connection_lost_after_the_body_is_unanswered(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete:
            server.transport.abort()

    async def scenario() -> None:
        async with served(tmp_path, behave) as (pool, _):
            assert failure(await post(pool)) == "unanswered"

    run(scenario)


def test_a_body_is_written_as_the_window_opens(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete:
            server.answer(stream, str(len(server.received[stream])).encode())
        else:
            server.h2.increment_flow_control_window(200, stream)
            server.flush()
            server.h2.increment_flow_control_window(40_000, stream)

    async def scenario() -> None:
        async with served(tmp_path, behave, {SettingCodes.INITIAL_WINDOW_SIZE: 7}) as (pool, _):
            answer = await post(pool, b"x" * 40_000)
            assert isinstance(answer, Response)
            assert answer.body == b"40000"

    run(scenario)


def test_empty_data_frames_do_no_harm(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete:
            server.head(stream)
            server.h2.send_data(stream, b"")
            server.h2.send_data(stream, b"{}")
            server.h2.send_data(stream, b"")
            server.h2.send_data(stream, b"", end_stream=True)

    async def scenario() -> None:
        async with served(tmp_path, behave) as (pool, opened):
            for _ in range(3):
                answer = await post(pool)
                assert isinstance(answer, Response)
                assert answer.body == b"{}"
            assert len(opened) == 1

    run(scenario)


@pytest.mark.parametrize(("status", "expected"), [(200, "accepted"), (503, "not_sent")])
def test_a_huge_answer_is_not_read_and_its_status_decides(tmp_path: Path, status: int, expected: str) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if not complete:
            return
        if len(server.received) > 1:
            server.answer(stream)
            return
        server.head(stream, status)
        for _ in range(3):
            server.h2.send_data(stream, b"x" * 16_000)

    async def scenario() -> None:
        async with served(tmp_path, behave, max_response=20_000) as (pool, opened):
            answer = await post(pool)
            if expected == "accepted":
                assert isinstance(answer, Response)
                assert answer.status == status
            else:
                assert failure(answer) == expected
            assert isinstance(await post(pool), Response), "the connection goes on"
            assert opened[0].resets == [1]

    run(scenario)


def test_no_answer_in_time_is_unanswered_and_the_next_request_gets_a_new_connection(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete and len(server.opened) > 1:
            server.answer(stream)

    async def scenario() -> None:
        async with served(tmp_path, behave, request_timeout=300) as (pool, opened):
            assert failure(await post(pool)) == "unanswered"
            assert isinstance(await post(pool), Response)
            assert len(opened) == 2

    run(scenario)


def test_a_slow_answer_beside_quick_ones_keeps_the_connection(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete and server.received[stream] != b"slow":
            server.answer(stream)

    async def scenario() -> None:
        async with served(tmp_path, behave, request_timeout=400) as (pool, opened):
            slow = asyncio.ensure_future(post(pool, b"slow"))
            while not slow.done():
                assert isinstance(await post(pool), Response)
            assert failure(await slow) == "unanswered"
            assert len(opened) == 1
            assert isinstance(await post(pool), Response)
            assert len(opened[0].resets) == 1

    run(scenario)


def test_an_answer_before_the_whole_body_counts(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if not complete:
            server.answer(stream, b"too large", 413)

    async def scenario() -> None:
        async with served(tmp_path, behave, {SettingCodes.INITIAL_WINDOW_SIZE: 10}) as (pool, opened):
            answer = await post(pool)
            assert isinstance(answer, Response)
            assert (answer.status, answer.body) == (413, b"too large")
            await soon(lambda: opened[0].resets)

    run(scenario)


def test_a_reset_after_an_accepting_status_is_accepted(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete:
            server.head(stream, 200)
            server.flush()
            server.h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)

    async def scenario() -> None:
        async with served(tmp_path, behave) as (pool, _):
            answer = await post(pool)
            assert isinstance(answer, Response)
            assert answer.status == 200

    run(scenario)


def test_a_redirect_is_an_answer_and_is_not_followed(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete:
            server.answer(stream, b"", 307)

    async def scenario() -> None:
        async with served(tmp_path, behave) as (pool, opened):
            answer = await post(pool)
            assert isinstance(answer, Response)
            assert answer.status == 307
            assert len(opened[0].received) == 1

    run(scenario)


@pytest.mark.parametrize("garbage", [b"\xff" * 200, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x00"])
def test_garbage_ends_the_connection_and_not_the_process(tmp_path: Path, garbage: bytes) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if not complete:
            return
        if len(server.opened) == 1:
            server.transport.write(garbage)
            server.transport.close()
        else:
            server.answer(stream)

    async def scenario() -> None:
        async with served(tmp_path, behave) as (pool, _):
            assert failure(await post(pool)) == "unanswered"
            assert isinstance(await post(pool), Response)

    run(scenario)


def test_nobody_listening_is_certain_and_quick_for_all_who_wait(tmp_path: Path) -> None:
    server_context(tmp_path)

    async def scenario() -> None:
        pool = Http2Pool(f"https://127.0.0.1:{free_port()}", tls_context(str(tmp_path / "ca.pem")))
        assert {failure(answer) for answer in await asyncio.gather(*(post(pool) for _ in range(50)))} == {"not_sent"}
        await pool.close()

    run(scenario)


def test_a_server_that_accepts_and_says_nothing_is_certain(tmp_path: Path) -> None:
    server_context(tmp_path)

    async def scenario() -> None:
        silent = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        pool = Http2Pool(f"https://127.0.0.1:{port}", tls_context(str(tmp_path / "ca.pem")), request_timeout=300)
        assert failure(await post(pool)) == "not_sent"
        await pool.close()
        silent.close()

    run(scenario)


def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        raise AssertionError("a request got through")

    async def scenario() -> None:
        server_context(tmp_path / "other")
        async with served(tmp_path / "one", behave) as (pool, _):
            stranger = Http2Pool(f"https://127.0.0.1:{pool.port}", tls_context(str(tmp_path / "other" / "ca.pem")))
            answer = await post(stranger)
            assert isinstance(answer, Failure)
            assert answer.kind == "not_sent"
            assert "certificate" in answer.reason.lower()
            await stranger.close()

    run(scenario)


def test_a_server_without_http2_is_refused(tmp_path: Path) -> None:
    server_context(tmp_path)

    async def scenario() -> None:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        old.load_cert_chain(tmp_path / "server.pem")
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=old)
        port = server.sockets[0].getsockname()[1]
        pool = Http2Pool(f"https://127.0.0.1:{port}", tls_context(str(tmp_path / "ca.pem")))
        answer = await post(pool)
        assert isinstance(answer, Failure)
        assert (answer.kind, "HTTP/2" in answer.reason) == ("not_sent", True)
        await pool.close()
        server.close()

    run(scenario)


def test_an_idle_connection_is_not_trusted(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete:
            server.answer(stream)

    async def scenario() -> None:
        async with served(tmp_path, behave, idle=60) as (pool, opened):
            for _ in range(3):
                assert isinstance(await post(pool), Response)
            assert len(opened) == 1
            pool._connections[0]._heard_at -= 61  # As if nothing had been heard for so long.
            assert isinstance(await post(pool), Response)
            assert len(opened) == 2

    run(scenario)


def test_one_who_gives_up_waiting_does_not_take_a_place_with_him(tmp_path: Path) -> None:
    held: list[tuple[Server, int]] = []

    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete and not held:
            held.append((server, stream))
        elif complete:
            server.answer(stream)

    async def scenario() -> None:
        limit = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
        async with served(tmp_path, behave, limit, connections=1) as (pool, _):
            first = asyncio.ensure_future(post(pool))
            await soon(lambda: held)
            impatient, patient = asyncio.ensure_future(post(pool)), asyncio.ensure_future(post(pool))
            await asyncio.sleep(0)
            impatient.cancel()
            server, stream = held[0]
            server.answer(stream)
            server.flush()
            assert isinstance(await first, Response)
            assert isinstance(await patient, Response)

    run(scenario)


def test_a_cancelled_request_resets_its_stream(tmp_path: Path) -> None:
    def behave(server: Server, stream: int, complete: bool) -> None:
        if complete and stream != 1:
            server.answer(stream)

    async def scenario() -> None:
        async with served(tmp_path, behave) as (pool, opened):
            request = asyncio.ensure_future(post(pool))
            await soon(lambda: opened and opened[0].received.get(1))
            request.cancel()
            assert isinstance(await post(pool), Response)
            assert opened[0].resets == [1]

    run(scenario)
