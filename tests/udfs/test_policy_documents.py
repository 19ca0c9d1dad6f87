"""Policy documents that arrive at a running job, and the race of the packaged one with a restored one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from messages.policy import POLICY_SET, Policy, Throttle
from tests.policy.builders import NOW, add_endpoint, category, event
from tests.udfs.wire import BACKGROUND, CHANGE, Operator

ADA = "default/ada"
PACKAGED = Policy(version=5, categories={"news": category()})


def document(version: Any = 6, **fields: Any) -> bytes:
    """A valid document, with fields replaced."""
    whole = {"version": version, "categories": {"news": {"class": "marketing", "channels": ["push"]}}}
    return json.dumps({name: value for name, value in (whole | fields).items() if value is not None}).encode()


def news(**fields: Any) -> bytes:
    """A document whose one category has fields replaced."""
    return document(categories={"news": {"class": "marketing", "channels": ["push"]} | fields})


@pytest.fixture
def made() -> Operator:
    """An operator with the packaged policy and a known user."""
    made = Operator(PACKAGED)
    made.run(NOW, made.input(ADA, CHANGE, add_endpoint(1)))
    return made


def in_force(made: Operator) -> tuple[int, str | None]:
    """The version and the class that the next decision is taken by."""
    number = made.offset + 1
    (record,) = made.run(NOW, made.input(ADA, BACKGROUND, event(number))).decisions()
    return record.policy_version, record.category_class


BAD: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "$"),
    "no JSON": (b"version: 6", "$"),
    "trailing garbage": (document() + b"}", "$"),
    "a list": (b"[]", "$"),
    "nested 10,000 deep": (b'{"version": ' + b"[" * 10_000, "$.version"),
    "no version": (document(None), "$"),
    "a version that is text": (document("6"), "$.version"),
    "version 0": (document(0), "$.version"),
    "another format": (document(v=2), "$.v"),
    "an unknown field": (document(colour="red"), "$"),
    "no categories": (document(categories={}), "$.categories"),
    "an unknown class": (news(**{"class": "spam"}), "$.categories[...].class"),
    "no channels": (news(channels=[]), "$.categories[...].channels"),
    "an unknown channel": (news(channels=["fax"]), "$.categories[...].channels[0]"),
    "an unknown field of a category": (news(colour="red"), "$.categories[...]"),
    "a duration without a unit": (news(max_age="60"), "$.categories[...].max_age"),
    "a duration of nothing": (news(max_age="0s"), "$.categories[...].max_age"),
    "max_age longer than the identity window": (news(max_age="25h"), "$"),
    "a throttle of nothing": (news(throttle={"limit": 0, "period": "1s"}), "$.categories[...].throttle.limit"),
    "a throttle of a thousand years": (news(throttle={"limit": 1, "period": "367d"}), "$.categories[...].throttle"),
    "a bound of nothing": (document(bounds={"identities": 0}), "$.bounds.identities"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_document_is_refused_and_the_old_one_stays(made: Operator, name: str) -> None:
    data, path = BAD[name]
    assert made.handler.policy(POLICY_SET, data) is False
    assert made.handler.policy_error().startswith(path + ": ")
    assert in_force(made) == (5, "transactional")


def test_a_newer_document_is_in_force_at_once(made: Operator) -> None:
    assert made.handler.policy(POLICY_SET, document(6)) is True
    assert in_force(made) == (6, "marketing")


def test_an_older_one_and_another_one_of_the_same_version_are_refused(made: Operator) -> None:
    for version in (4, 5):
        assert made.handler.policy(POLICY_SET, document(version)) is False
        assert "version" in made.handler.policy_error()
        assert str(version) in made.handler.policy_error()
    assert in_force(made) == (5, "transactional")


def test_the_same_document_again_is_no_error(made: Operator) -> None:
    assert made.handler.policy(POLICY_SET, document(6)) is True
    assert made.handler.policy(POLICY_SET, document(6)) is True
    assert in_force(made)[0] == 6


def test_another_name_is_refused(made: Operator) -> None:
    assert made.handler.policy("policy", document(6)) is False
    assert POLICY_SET in made.handler.policy_error()
    assert in_force(made)[0] == 5


def patch_of(**changes: object) -> bytes:
    """A patch of the category `news`, as it lies on the topic."""
    return msgspec.json.encode({"kind": "category", "name": "news", "patch": changes})


def test_an_override_lies_over_the_set_and_over_the_next_one_until_it_is_lifted(made: Operator) -> None:
    assert made.handler.policy("category/news", patch_of(**{"class": "critical"})) is True
    assert in_force(made) == (5, "critical")
    assert made.handler.policy(POLICY_SET, document(6)) is True
    assert in_force(made) == (6, "critical")
    made.handler.policy_removed("category/news")
    assert in_force(made)[0] == 6
    assert in_force(made)[1] != "critical"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("category/news", b'{"kind":"category","name":"news","patch":{"class":"loud"}}', "class"),
        ("category/news", b'{"kind":"category","name":"news","patch":{"max_age":"48h"}}', "identity_window"),
        ("category/none", b'{"kind":"category","name":"none","patch":{}}', "no category"),
        ("category/other", b'{"kind":"category","name":"news","patch":{}}', "category/news"),
        ("pause/source/x", b'{"kind":"pause","scope":"source","name":"x","more":1}', "more"),
        ("pause/source/x", b"no json", "malformed"),
    ],
)
def test_an_override_that_does_not_fit_is_refused_with_the_reason(made: Operator, name: str, value: bytes, why: str) -> None:
    assert made.handler.policy(name, value) is False
    assert why in made.handler.policy_error()
    assert in_force(made) == (5, "transactional")


def test_a_tombstone_brings_the_packaged_one_back_and_any_newer_one_may_follow(made: Operator) -> None:
    made.handler.policy(POLICY_SET, document(7))
    made.handler.policy_removed("another name")
    assert in_force(made)[0] == 7
    made.handler.policy_removed(POLICY_SET)
    assert in_force(made) == (5, "transactional")
    assert made.handler.policy(POLICY_SET, document(6)) is True
    assert in_force(made)[0] == 6


@pytest.mark.parametrize(("restored", "winner"), [(4, 5), (5, 5), (6, 6)])
def test_the_higher_of_the_packaged_and_the_restored_wins(restored: int, winner: int) -> None:
    """A job that starts from a savepoint is configured with what was packaged, then given what was stored."""
    made = Operator(PACKAGED)
    made.handler.policy(POLICY_SET, document(restored))
    made.run(NOW, made.input(ADA, CHANGE, add_endpoint(1)))
    assert in_force(made)[0] == winner


def test_a_document_as_java_hands_it_over(made: Operator) -> None:
    """A byte array comes as something that is like bytes, not as bytes."""
    assert made.handler.policy(POLICY_SET, memoryview(document(6))) is True  # type: ignore[arg-type]
    assert in_force(made)[0] == 6


def test_the_largest_bucket_that_a_valid_document_allows_can_be_stored() -> None:
    throttle = Throttle(limit=1_000_000, period="366d", burst=1_000_000)
    made = Operator(Policy(version=1, categories={"news": category(throttle=throttle)}))
    made.run(NOW, made.input(ADA, CHANGE, add_endpoint(1)))
    for number in range(2):
        assert len(made.run(NOW + number, made.input(ADA, BACKGROUND, event(number))).deliveries()) == 1
