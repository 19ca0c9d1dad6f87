"""API keys: who calls, for which tenant and sources, and what they may do.

The file is a JSON list; it holds no key, only SHA-256 hashes of keys, which are random and long.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from messages.codec import DecodeError, json_decoder
from messages.words import END, Identifier, Tenant

log = logging.getLogger(__name__)

Scope = Literal["events", "profiles", "inbox"]
ANY_SOURCE = "*"


class ApiKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One key: the tenant it belongs to, the sources it may speak for (``*``: every one), and its scopes."""

    name: Identifier
    hash: Annotated[str, Meta(pattern="^[0-9a-f]{64}" + END, description="SHA-256 of the key, in hexadecimal.")]
    tenant: Tenant
    sources: list[Identifier]
    scopes: list[Scope]

    def speaks_for(self, source: str) -> bool:
        """Whether events of ``source`` may come with this key."""
        return source in self.sources or ANY_SOURCE in self.sources


class KeysFileError(ValueError):
    """A keys file that cannot be used; the message names the file, the place and the fix."""


_decode = json_decoder(list[ApiKey])


def new_key() -> str:
    """A fresh random key."""
    return f"hk_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """What the keys file holds in place of ``key``."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(file: Path) -> dict[str, ApiKey]:
    """Read a keys file to a mapping by hash; KeysFileError where it cannot be used."""
    try:
        keys = _decode(file.read_bytes())
    except OSError as error:
        raise KeysFileError(f"{file}: {error.strerror}; `herald up` writes one, or mount your own") from None
    except DecodeError as error:
        raise KeysFileError(f"{file}: {error.path}: {error.reason}") from None
    found = {key.hash: key for key in keys}
    if len(found) != len(keys):
        raise KeysFileError(f"{file}: two entries have the same `hash`; give each its own key")
    return found


class KeyRing:
    """The keys of a file, read again when it has changed; a file that has become unusable changes nothing but the log."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = self._stamp()
        self._keys = read_keys(file)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def refresh(self) -> None:
        """Read the file again if it has changed since it was last looked at."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = read_keys(self._file)
        except KeysFileError as error:
            log.error("the API keys stay as they were: %s", error)
        else:
            log.info("%d API keys read again from %s", len(self._keys), self._file)

    def find(self, key: str) -> ApiKey | None:
        """The entry of a presented key, or None. The look-up is by hash: its time tells nothing about other keys."""
        return self._keys.get(hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest())
