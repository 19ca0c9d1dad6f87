"""The emulator refuses what FCM refuses: a stand-in that takes everything would prove nothing."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
import requests
from msgspec.structs import replace

from connectors.adapters.channel import Failure, Response
from connectors.adapters.fcm import SCOPE
from connectors.adapters.http2 import Http2Pool, tls_context
from connectors.adapters.oauth import Credentials, TokenSource, assertion, load_credentials
from emulators.fcm import MAX_PAYLOAD, Book, Latency, Message, account, decode_request
from tests.adapters.harness import FcmEmulator

REFUSED = {
    "no target": ({}, "message"),
    "two targets": ({"token": "t", "topic": "news"}, "message"),
    "an unknown field": ({"token": "t", "colour": "red"}, "message"),
    "data that is not text": ({"token": "t", "data": {"n": 1}}, "message.data"),
    "a reserved key": ({"token": "t", "data": {"google.x": "1"}}, "message"),
    "a ttl without its unit": ({"token": "t", "android": {"ttl": "60"}}, "message.android.ttl"),
    "a ttl of five weeks": ({"token": "t", "android": {"ttl": "3024000s"}}, "message.android"),
    "a negative ttl": ({"token": "t", "android": {"ttl": "-1s"}}, "message.android.ttl"),
    "an unknown priority": ({"token": "t", "android": {"priority": "URGENT"}}, "message.android.priority"),
    "both kinds of android": ({"token": "t", "android": {}, "androidV2": {}}, "message"),
    "an empty token": ({"token": ""}, "message.token"),
    "too many bytes": ({"token": "t", "data": {"k": "x" * MAX_PAYLOAD}}, "message"),
    "a long apns-collapse-id": ({"token": "t", "apns": {"headers": {"apns-collapse-id": "x" * 65}}}, "message.apns"),
}

TAKEN = {
    "the least": {"token": "t"},
    "an installation": {"fid": "i"},
    "camel case": {"token": "t", "android": {"collapseKey": "a", "directBootOk": True}},
    "snake case": {"token": "t", "android": {"collapse_key": "a", "direct_boot_ok": True}},
    "the other android": {"token": "t", "androidV2": {"anything": {"goesHere": 1}}},
    "a fraction of a second": {"token": "t", "android": {"ttl": "3.5s"}},
    "exactly the limit": {"token": "t", "data": {"k": "x" * (MAX_PAYLOAD - 1)}},
}


async def post(pool: Http2Pool, path: str, body: bytes, token: str | None = None) -> Response:
    headers = [(b"content-type", b"application/json")]
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    answer = await pool.request(b"POST", path.encode(), headers, body)
    assert isinstance(answer, Response), answer
    return answer


def call(fcm: FcmEmulator, scenario: Any) -> Any:
    async def scene() -> Any:
        pool = Http2Pool(fcm.url, tls_context(str(fcm.directory / "ca.pem")))
        try:
            async with asyncio.timeout(30):
                return await scenario(pool, load_credentials(fcm.directory / "credentials.json"))
        finally:
            await pool.close()

    return asyncio.run(scene())


def send(fcm: FcmEmulator, message: dict[str, Any]) -> Response:
    async def scenario(pool: Http2Pool, credentials: Credentials) -> Response:
        token = await TokenSource(credentials, SCOPE, pool).token()
        assert isinstance(token, str)
        path = f"/v1/projects/{credentials.project_id}/messages:send"
        return await post(pool, path, json.dumps({"message": message}).encode(), token)

    answer: Response = call(fcm, scenario)
    return answer


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_message_is_refused_with_the_field(fcm: FcmEmulator, name: str) -> None:
    message, field = REFUSED[name]
    answer = send(fcm, message)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["status"]) == (400, "INVALID_ARGUMENT")
    assert error["details"][0]["fieldViolations"][0]["field"] == field
    assert fcm.stats()["accepted"] == 0


@pytest.mark.parametrize("name", TAKEN)
def test_a_valid_message_is_taken(fcm: FcmEmulator, name: str) -> None:
    answer = send(fcm, TAKEN[name])
    assert answer.status == 200
    assert json.loads(answer.body)["name"].startswith("projects/emulated-project/messages/")
    assert fcm.stats()["accepted"] == 1


def test_bodies_that_are_not_json() -> None:
    for body in (b"", b"{", b"[]", b'{"message": 5}'):
        with pytest.raises(msgspec.MsgspecError):
            decode_request(body)


@pytest.mark.parametrize("wrong", ["no token", "another token", "another project"])
def test_who_may_not_send(fcm: FcmEmulator, wrong: str) -> None:
    async def scenario(pool: Http2Pool, credentials: Credentials) -> Response:
        token = await TokenSource(credentials, SCOPE, pool).token()
        assert isinstance(token, str)
        project = "other" if wrong == "another project" else credentials.project_id
        given = {"no token": None, "another token": "x" + token}.get(wrong, token)
        return await post(pool, f"/v1/projects/{project}/messages:send", b'{"message":{"token":"t"}}', given)

    answer: Response = call(fcm, scenario)
    assert answer.status == (404 if wrong == "another project" else 401)
    assert fcm.stats()["accepted"] == 0


NOW = int(time.time())


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody@else"},
        {"aud": "https://example.org/token"},
        {"exp": NOW - 60, "iat": NOW - 120},
        {"exp": NOW + 7_200},
        {"scope": "https://www.googleapis.com/auth/drive"},
        {"iat": None},
        {"key": "another"},
        {"kid": "another"},
        {"alg": "none"},
    ],
)
def test_an_assertion_that_is_not_right_gets_no_token(fcm: FcmEmulator, tmp_path: Path, changes: dict[str, Any]) -> None:
    async def scenario(pool: Http2Pool, credentials: Credentials) -> tuple[int, int]:
        good = assertion(credentials, SCOPE, NOW)
        claims = jwt.decode(good, options={"verify_signature": False})
        claims |= {name: value for name, value in changes.items() if name in ("iss", "aud", "exp", "iat", "scope")}
        key = credentials.private_key
        if "key" in changes:
            key = account(tmp_path, 1).private_key
        headers = {"kid": changes.get("kid", credentials.private_key_id)}
        bad = (
            jwt.encode(claims, None, algorithm="none", headers=headers)
            if changes.get("alg") == "none"
            else jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm="RS256", headers=headers)
        )
        form = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion="
        return (
            (await post(pool, "/token", (form + good).encode())).status,
            (await post(pool, "/token", (form + bad).encode())).status,
        )

    assert call(fcm, scenario) == (200, 400)


def test_one_exchange_serves_all_who_ask_at_once(fcm: FcmEmulator) -> None:
    async def scenario(pool: Http2Pool, credentials: Credentials) -> set[str | Failure]:
        source = TokenSource(credentials, SCOPE, pool)
        tokens = set(await asyncio.gather(*(source.token() for _ in range(100))))
        source.reject("another")
        tokens.add(await source.token())
        assert len(tokens) == 1
        source.reject(str(next(iter(tokens))))
        tokens.add(await source.token())
        return tokens

    assert len(call(fcm, scenario)) == 2
    assert fcm.stats()["grants"] == 2


def test_files_are_private_and_kept_over_a_restart(fcm: FcmEmulator) -> None:
    files = [fcm.directory / name for name in ("ca.pem", "server.pem", "credentials.json")]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    before = [file.read_bytes() for file in files]
    fcm.stop()
    fcm.start()
    assert [file.read_bytes() for file in files] == before
    assert send(fcm, {"token": "t"}).status == 200


def test_counts_duplicates_and_tells_collapsed_ones_apart(fcm: FcmEmulator) -> None:
    plain = {"token": "t", "data": {"delivery_id": "a"}}
    for message in (
        plain,
        plain,
        {"token": "t", "data": {"delivery_id": "b"}, "android": {"collapse_key": "b"}},
        {"token": "t", "data": {"delivery_id": "b"}, "android": {"collapse_key": "b"}},
        {"token": "t", "data": {"delivery_id": "c"}, "android": {"collapse_key": "score"}},
        {"token": "t", "data": {"delivery_id": "c"}, "android": {"collapse_key": "score"}},
    ):
        assert send(fcm, message).status == 200
    stats = fcm.stats()
    assert (stats["accepted"], stats["distinct"], stats["duplicates"], stats["collapsed"]) == (6, 3, 2, 1)
    assert stats["duplicate_ids"] == ["a", "c"]
    assert [message["delivery_id"] for message in fcm.messages()] == ["a", "a", "b", "b", "c", "c"]


def test_faults_are_checked(fcm: FcmEmulator) -> None:
    for wrong in (
        {"rates": {"EXPLODE": 1}},
        {"rates": {"INTERNAL": 2}},
        {"latency": 5},
        {"latency_ms": {"median": 5, "p99": 1}},
    ):
        answer = requests.post(f"{fcm.url}/admin/faults", json=wrong, verify=str(fcm.directory / "ca.pem"), timeout=10)
        assert answer.status_code == 400, wrong


def test_latency_has_the_quantiles_it_says() -> None:
    latency = Latency(median=50, p99=400)
    drawn = sorted(latency.draw() for _ in range(20_000))
    assert 0.047 < drawn[10_000] < 0.053
    assert 0.3 < drawn[19_800] < 0.55
    assert Latency(median=50, p99=50).draw() == 0.05


def test_half_a_million_messages_can_be_read() -> None:
    book = Book()
    message = Message(token="t", data={"delivery_id": "x" * 32})
    for number in range(500_000):
        book.accept(replace(message, data={"delivery_id": f"{number:032}"}), number, None)
    count = last = 0
    for chunk in book.lines():
        count += chunk.count(b"\n")
        last = len(chunk)
    assert (count, book.stats()["distinct"]) == (500_000, 500_000)
    assert last < 2_000_000, "it comes in pieces"
