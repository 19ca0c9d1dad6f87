"""Decoding of everything that travels on a topic: one error type, which names the place in the document.

Types that outsiders write forbid unknown fields; types that only Herald's own components write ignore them, so that
a newer component may add a field before an older one knows it. Those carry their version as ``v``; it changes only
where an older component could not read them, which then says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")

encode_json: Callable[[object], bytes] = msgspec.json.Encoder().encode


class DecodeError(ValueError):
    """Bytes that are not the document they should be: ``reason`` says why, ``path`` is the JSON path (``$`` is the root)."""

    def __init__(self, reason: str, path: str = "$") -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason
        self.path = path

    @classmethod
    def of(cls, error: Exception) -> DecodeError:
        """Take reason and path out of an error of msgspec or of Unicode decoding."""
        if isinstance(error, DecodeError):
            return error
        if isinstance(error, UnicodeDecodeError):
            return cls(f"invalid UTF-8 at byte {error.start}")
        text = str(error)
        # The last one is msgspec's own; an earlier one is text of the document that the message quotes.
        reason, _, place = text.rpartition(" - at `")
        path = place.removeprefix("key` in `").removesuffix("`")
        return cls(reason, path) if path.startswith("$") else cls(text)


def json_decoder(kind: type[T]) -> Callable[[bytes], T]:
    """Return a function that decodes one JSON document to ``kind``; it raises DecodeError for anything else."""
    decode = msgspec.json.Decoder(kind).decode

    def decoded(data: bytes) -> T:
        try:
            return decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError.of(error) from None

    return decoded
