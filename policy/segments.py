"""How many SMS segments a text needs, by the alphabets of 3GPP TS 23.038 (6.2.1) and the sizes of TS 23.040 (9.2.3.24)."""

from __future__ import annotations

from collections.abc import Iterable

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")
_GSM = _BASIC | _EXTENSION

# 140 octets; six of them are the header of a concatenated message.
_SEPTETS, _SEPTETS_OF_MANY = 160, 153
_UNITS, _UNITS_OF_MANY = 70, 67


def segments(text: str) -> int:
    """The number of segments; 1 for an empty text.

    Septets where the GSM 7-bit default alphabet and its extension table (two septets each) have every character: 160, or
    153 a segment of several. UTF-16 code units otherwise: 70, or 67. Neither an escape pair nor a surrogate pair is split.
    """
    if _GSM.issuperset(text):
        return _segments([2 if character in _EXTENSION else 1 for character in text], _SEPTETS, _SEPTETS_OF_MANY)
    return _segments([2 if character > "\uffff" else 1 for character in text], _UNITS, _UNITS_OF_MANY)


def _segments(widths: list[int], alone: int, of_many: int) -> int:
    return 1 if sum(widths) <= alone else _packed(widths, of_many)


def _packed(widths: Iterable[int], size: int) -> int:
    count, room = 1, size
    for width in widths:
        if width > room:
            count, room = count + 1, size
        room -= width
    return count
