"""Identities: the same after any replay and any release of Herald, and never the same for two things."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policy.core import decide
from policy.identity import delivery_id, identity_number, notification_id
from tests.policy.builders import NOW, arrival, category, event, policies, user

pieces = st.text(alphabet=st.sampled_from("ab:0123 /\x00é\ud800"), max_size=5)


def test_golden_identities_never_change() -> None:
    """Every hop drops a repeat by these; another value would send everything in flight again."""
    first = notification_id("default", "shop/orders", "order-1", "ada")
    assert first == "573a748fea2a62e185b2e77bba99ed67"  # printf 7:default11:shop/orders7:order-13:ada | b2sum -l 128
    assert notification_id("default", "é\U0001f600", "", "ada/b") == "060bbfd7cde672e13be928b20d7359ea"
    assert delivery_id(first, "push", "installation-1", 0) == "e969dbac88df300e750a6588d0fc8b31"
    assert delivery_id(first, "push", "installation-1", 1) == "2bcfabc22e316ab92f86bb3e63cf740c"
    assert identity_number(first) == bytes.fromhex("573a748fea2a62e1")


def test_a_golden_delivery_through_the_core() -> None:
    (delivery,) = decide(NOW, policies(news=category()), user(), arrival(event(1))).deliveries
    assert delivery.id == "0de6cf27dd5d92fd700c0fae28552867"


@given(st.tuples(pieces, pieces, pieces, pieces), st.tuples(pieces, pieces, pieces, pieces))
def test_different_notifications_have_different_ids(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (notification_id(*one) == notification_id(*other)) == (one == other)


@given(st.tuples(pieces, pieces, pieces, pieces), st.integers(0, 20), st.integers(0, 20))
def test_moving_a_border_between_two_parts_makes_another_identity(parts: tuple[str, ...], a: int, b: int) -> None:
    """The parts joined without their lengths would be the same text."""
    text = "".join(parts)
    first, second = sorted((a % (len(text) + 1), b % (len(text) + 1)))
    moved = (text[:first], text[first:second], text[second:], "")
    assert (notification_id(*moved) == notification_id(*parts)) == (moved == parts)


@given(pieces, pieces, pieces, st.integers(0, 12), pieces, pieces, st.integers(0, 12))
def test_different_deliveries_have_different_ids(
    notification: str, channel: str, endpoint: str, step: int, other_channel: str, other_endpoint: str, other_step: int
) -> None:
    same = (channel, endpoint, step) == (other_channel, other_endpoint, other_step)
    ids = (
        delivery_id(notification, channel, endpoint, step),
        delivery_id(notification, other_channel, other_endpoint, other_step),
    )
    assert (ids[0] == ids[1]) == same


def test_lengths_that_look_like_text_do_not_confuse() -> None:
    assert notification_id("a", "1:b", "c", "d") != notification_id("a1:b", "", "c", "d")
    assert notification_id("", "", "", "") != notification_id("0:", "", "", "")
