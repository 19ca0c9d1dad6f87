"""SMS segments at every boundary, and against an encoder that writes the segments out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.segments import segments

# Row by row as in 3GPP TS 23.038, 6.2.1; the place 0x1B is the escape.
DEFAULT_ALPHABET = (
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ"
    " !\"#¤%&'()*+,-./"
    "0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNO"
    "PQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmno"
    "pqrstuvwxyzäöñüà"
)
EXTENSION_TABLE = {
    0x0A: "\f",
    0x14: "^",
    0x28: "{",
    0x29: "}",
    0x2F: "\\",
    0x3C: "[",
    0x3D: "~",
    0x3E: "]",
    0x40: "|",
    0x65: "€",
}
ESCAPE = 0x1B


def encode(text: str) -> list[bytes]:
    """Each character of the text as septets, a byte each, or all of them as UTF-16."""
    table = {character: bytes([place]) for place, character in enumerate(DEFAULT_ALPHABET) if place != ESCAPE}
    table |= {character: bytes([ESCAPE, place]) for place, character in EXTENSION_TABLE.items()}
    try:
        return [table[character] for character in text]
    except KeyError:
        return [character.encode("utf-16-be") for character in text]


def written_out(text: str) -> list[bytes]:
    """The segments' user data."""
    parts = encode(text)
    seven_bits = all(
        character in DEFAULT_ALPHABET.replace("\x1b", "") + "".join(EXTENSION_TABLE.values()) for character in text
    )
    alone, of_many = (160, 153) if seven_bits else (140, 134)
    if len(b"".join(parts)) <= alone:
        return [b"".join(parts)]
    out = [b""]
    for part in parts:
        if len(out[-1] + part) > of_many:
            out.append(b"")
        out[-1] += part
    return out


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("a", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("a" * 459, 3),
        ("a" * 460, 4),
        # An extended character is two septets.
        ("€" * 80, 1),
        ("€" * 80 + "a", 2),
        ("a" * 158 + "€", 1),
        ("a" * 159 + "€", 2),
        # 153 is odd: a segment holds 76 pairs, and its last septet stays empty.
        ("€" * 152, 2),
        ("€" * 153, 3),
        ("a" + "€" * 152, 2),
        ("a" * 152 + "€" + "a" * 151, 2),
        ("a" * 152 + "€" + "a" * 152, 3),
        ("a" * 151 + "€" + "a" * 153, 2),
        # One character that the alphabet does not have, and all are UCS-2.
        ("ç" * 70, 1),
        ("ç" * 71, 2),
        ("a" * 69 + "ç", 1),
        ("a" * 70 + "ç", 2),
        ("ж" * 134, 2),
        ("ж" * 135, 3),
        ("ж" * 201, 3),
        ("ж" * 202, 4),
        ("`" * 71, 2),
        ("\t" * 71, 2),
        # Outside the basic plane a character is two code units, and 67 is odd.
        ("🎉" * 35, 1),
        ("🎉" * 36, 2),
        ("a" * 69 + "🎉", 2),
        ("🎉" * 66, 2),
        ("🎉" * 67, 3),
        ("a" * 66 + "🎉" + "a" * 65, 2),
        ("a" * 66 + "🎉" + "a" * 66, 3),
        ("\uffff" * 70, 1),
        # An accent of its own is no letter of the alphabet, as the letter with it is.
        ("é" * 160, 1),
        ("e\u0301" * 35, 1),
        ("e\u0301" * 36, 2),
    ],
)
def test_known_texts_at_every_boundary(text: str, count: int) -> None:
    assert segments(text) == count


@pytest.mark.parametrize("character", DEFAULT_ALPHABET.replace("\x1b", ""))
def test_a_character_of_the_default_alphabet_is_one_septet(character: str) -> None:
    assert [segments(character * 160), segments(character * 161)] == [1, 2]


@pytest.mark.parametrize("character", EXTENSION_TABLE.values())
def test_a_character_of_the_extension_table_is_two_septets(character: str) -> None:
    assert [segments(character * 80), segments(character * 80 + "a")] == [1, 2]


def test_the_escape_itself_is_no_character() -> None:
    assert segments("a" * 70 + "\x1b") == 2


@given(st.text(st.sampled_from("ab€^à@"), max_size=700) | st.text(st.sampled_from("aж🎉ç€"), max_size=400) | st.text())
def test_as_many_as_an_encoder_writes(text: str) -> None:
    assert segments(text) == len(written_out(text))


def test_half_of_a_surrogate_pair_is_a_code_unit() -> None:
    assert [segments("\ud83c" * 70), segments("\ud83c" * 71)] == [1, 2]
