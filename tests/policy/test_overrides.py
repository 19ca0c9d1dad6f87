"""Overrides over the set: the merge patch as its standard has it, and one bad override among good ones."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from messages.codec import DecodeError, encode_json
from messages.policy import BudgetExhausted, CategoryPatch, Override, Pause, decode_override, decode_policy
from policy.overrides import check_name, lie_over, merge_patch

# RFC 7396, appendix A: original, patch, result.
EXAMPLES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

SET = decode_policy(
    json.dumps(
        {
            "version": 3,
            "categories": {
                "chat": {
                    "class": "transactional",
                    "channels": ["push", "in_app"],
                    "throttle": {"limit": 20, "period": "1m", "burst": 5},
                },
                "tips": {"class": "marketing", "channels": ["push"]},
            },
        }
    ).encode()
)


def patch(name: str, **changes: Any) -> Override:
    return decode_override(json.dumps({"kind": "category", "name": name, "patch": changes}).encode())


def by_key(*overrides: Override) -> dict[str, Override]:
    return {override.key: override for override in overrides}


@pytest.mark.parametrize(("target", "changes", "result"), EXAMPLES)
def test_the_examples_of_the_standard(target: Any, changes: Any, result: Any) -> None:
    before = copy.deepcopy((target, changes))
    assert merge_patch(target, changes) == result
    assert (target, changes) == before


def test_without_overrides_the_set_is_in_force_as_it_is() -> None:
    effective = lie_over(SET, {})
    assert effective.document is SET
    assert (effective.overrides, effective.patched, effective.ignored) == ((), (), {})


def test_a_patch_changes_what_it_names_and_nothing_else() -> None:
    effective = lie_over(SET, by_key(patch("chat", throttle={"limit": 5, "burst": None})))
    chat = effective.document.categories["chat"]
    assert chat.throttle is not None
    assert (chat.throttle.limit, chat.throttle.period, chat.throttle.burst) == (5, "1m", None)
    assert chat.channels == ["push", "in_app"]
    assert effective.document.categories["tips"] == SET.categories["tips"]
    assert effective.document.version == SET.version
    assert effective.patched == ("chat",)
    assert SET.categories["chat"].throttle is not None
    assert SET.categories["chat"].throttle.limit == 20


def test_a_null_takes_a_key_back_to_its_default() -> None:
    effective = lie_over(SET, by_key(patch("chat", throttle=None)))
    assert effective.document.categories["chat"].throttle is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"throttle": {"limit": 0}}, "$.throttle.limit"),
        ({"colour": "red"}, "`colour`"),
        ({"class": None}, "`class`"),
        ({"channels": []}, "$.channels"),
        ({"quiet_hours": "digest"}, "needs a `digest`"),
        ({"max_age": "25h"}, "`identity_window`"),
    ],
)
def test_a_patch_that_makes_the_set_invalid_is_ignored_and_the_others_apply(changes: dict[str, Any], said: str) -> None:
    good, bad = patch("tips", default="deny"), patch("chat", **changes)
    effective = lie_over(SET, by_key(bad, good))
    assert said in effective.ignored[bad.key]
    assert list(effective.ignored) == [bad.key]
    assert effective.document.categories["chat"] == SET.categories["chat"]
    assert effective.document.categories["tips"].default == "deny"
    assert effective.overrides == (good,)
    assert effective.patched == ("tips",)


def test_a_patch_of_no_category_is_ignored() -> None:
    effective = lie_over(SET, by_key(patch("fax", default="deny")))
    assert "`fax`" in effective.ignored["category/fax"]
    assert effective.document is SET


def test_a_patch_nested_too_deep_is_ignored() -> None:
    changes = b'{"kind": "category", "name": "chat", "patch": {"throttle": ' + b'{"a": ' * 900 + b"1" + b"}" * 902
    effective = lie_over(SET, by_key(decode_override(changes)))
    assert list(effective.ignored) == ["category/chat"]


def test_all_that_is_in_force_is_listed_by_key() -> None:
    pause = Pause(scope="campaign", name="spring")
    spent = BudgetExhausted(category="tips", channel="push", day="2026-03-01")
    change = patch("chat", throttle=None)
    effective = lie_over(SET, by_key(pause, spent, change))
    assert effective.overrides == (spent, change, pause)
    assert not effective.ignored


def test_the_patched_set_is_a_valid_document() -> None:
    effective = lie_over(SET, by_key(patch("chat", max_age="1h"), patch("tips", caps={"obeys": False})))
    assert decode_policy(encode_json(effective.document)) == effective.document


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (Pause(scope="source", name="shop/eu"), "pause/source/shop/eu"),
        (BudgetExhausted(category="tips", channel="sms", day="2026-03-01"), "budget/tips/sms"),
        (CategoryPatch(name="chat", patch={}), "category/chat"),
    ],
)
def test_an_override_stands_under_its_own_key_only(override: Override, key: str) -> None:
    check_name(key, override)
    with pytest.raises(DecodeError, match=f"`{key}`, not `elsewhere`"):
        check_name("elsewhere", override)
