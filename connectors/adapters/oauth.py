"""Access tokens for a Google service account: an RS256 JWT exchanged at ``token_uri`` (RFC 7523), cached, renewed early."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode, urlsplit

import jwt
import msgspec

from connectors.adapters.channel import Failure
from connectors.adapters.http2 import Http2Pool
from messages.codec import DecodeError, json_decoder

LIFETIME = 3600
"""Seconds an assertion asks for; Google allows one hour at most."""

_RENEW_AT = 0.8
"""The share of a token's life after which a new one is fetched, in the background; the old one serves meanwhile."""

_FETCH_AGAIN = 1.0
"""Seconds between a failed early renewal and the next."""


class Credentials(msgspec.Struct, frozen=True):
    """The parts of a service account's key file that are needed."""

    type: Literal["service_account"]
    project_id: str
    private_key_id: str
    private_key: str
    client_email: str
    token_uri: str

    def __repr__(self) -> str:
        """Without the key: a log or traceback may show this."""
        return f"Credentials({self.client_email})"


class CredentialsError(ValueError):
    """A key file that cannot be used; the message names file and field, never a value."""


class _Grant(msgspec.Struct):
    access_token: str
    expires_in: int


class _Refusal(msgspec.Struct):
    error: str = "unknown"


_decode_credentials = json_decoder(Credentials)
_decode_grant = json_decoder(_Grant)
_decode_refusal = json_decoder(_Refusal)


def load_credentials(file: Path) -> Credentials:
    """Read a service account's key file; CredentialsError says what is missing."""
    try:
        credentials = _decode_credentials(file.read_bytes())
        jwt.get_algorithm_by_name("RS256").prepare_key(credentials.private_key)
    except OSError as error:
        raise CredentialsError(f"{file}: {error.strerror}; set `fcm.credentials_file` to a service account's key") from None
    except DecodeError as error:
        raise CredentialsError(f"{file}: {error.path}: {error.reason}") from None
    except (jwt.InvalidKeyError, ValueError, TypeError):
        raise CredentialsError(f"{file}: $.private_key: not an RSA private key in PEM form") from None
    return credentials


def assertion(credentials: Credentials, scope: str, now: int) -> str:
    """The signed JWT that is exchanged for a token; ``now`` in seconds."""
    claims = {
        "iss": credentials.client_email,
        "scope": scope,
        "aud": credentials.token_uri,
        "iat": now,
        "exp": now + LIFETIME,
    }
    return jwt.encode(claims, credentials.private_key, algorithm="RS256", headers={"kid": credentials.private_key_id})


class TokenSource:
    """One account's token. However many ask, one exchange is under way at a time. Times are seconds."""

    def __init__(
        self, credentials: Credentials, scope: str, pool: Http2Pool, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._credentials = credentials
        self._scope = scope
        self._pool = pool
        self._clock = clock
        self._path = (urlsplit(credentials.token_uri).path or "/").encode()
        self._token: str | None = None
        self._renew_at = 0.0
        self._expires_at = 0.0
        self._exchange: asyncio.Task[str | Failure] | None = None

    def cached(self) -> str | None:
        """A token that has not expired, if there is one; late in its life a new one is begun to be fetched."""
        now = self._clock()
        if self._token is None or now >= self._expires_at:
            return None
        if now >= self._renew_at:
            self._begin()
        return self._token

    async def token(self) -> str | Failure:
        """A token that has not expired, or why there is none."""
        cached = self.cached()
        return cached if cached is not None else await asyncio.shield(self._begin())

    def reject(self, token: str) -> None:
        """The provider refused this token: do not hand it out again."""
        if token == self._token:
            self._token = None

    async def close(self) -> None:
        """Drop an exchange under way."""
        if self._exchange is not None:
            self._exchange.cancel()
            await asyncio.gather(self._exchange, return_exceptions=True)

    def _begin(self) -> asyncio.Task[str | Failure]:
        if self._exchange is None or self._exchange.done():
            self._exchange = asyncio.get_running_loop().create_task(self._fetch())
        return self._exchange

    async def _fetch(self) -> str | Failure:
        now = self._clock()
        self._renew_at = now + _FETCH_AGAIN
        body = urlencode(
            {
                "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
                "assertion": assertion(self._credentials, self._scope, int(now)),
            }
        ).encode()
        headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        answer = await self._pool.request(b"POST", self._path, headers, body)
        if isinstance(answer, Failure):
            # Exchanging again is harmless: no token exchange is ambiguous.
            return Failure(kind="not_sent", reason=f"token exchange: {answer.reason}")
        if answer.status == 200:
            try:
                grant = _decode_grant(answer.body)
            except DecodeError as error:
                return Failure(kind="not_sent", reason=f"token exchange: {error.path}: {error.reason}")
            self._token = grant.access_token
            self._expires_at = now + grant.expires_in
            self._renew_at = now + grant.expires_in * _RENEW_AT
            return grant.access_token
        if answer.status == 429 or answer.status >= 500:
            return Failure(kind="not_sent", reason=f"token exchange: status {answer.status}")
        try:
            error_code = _decode_refusal(answer.body).error
        except DecodeError:
            error_code = "unknown"
        return Failure(kind="credentials", reason=f"token exchange: {answer.status} {error_code[:64]}")
