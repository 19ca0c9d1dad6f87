"""Policies as files: what is wrong in one is said with its file, line and key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import structs

from connectors.policy_files import PolicyFileError, load_policies, read_value
from connectors.settings import ROOT
from messages.policy import (
    Cap,
    CapFlags,
    Category,
    CountryTable,
    Digest,
    OptIn,
    Policy,
    Price,
    Quiet,
    Source,
    Step,
    TenantDefaults,
    Throttle,
)
from messages.words import CategoryClass

PACKAGED = ROOT / "flink-conf" / "policies"

DEFAULT = """\
version: 7
identity_window: 24h
caps:
  daily: {limit: 9, window: 24h}
"""
SHOP = """\
# What the shop tells.
categories:
  orders:
    class: transactional
    channels: [push, email]
    throttle:
      limit: 3
      period: 1h
  promotions:
    class: marketing
    channels:
      - push
      - sms
"""


def written(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
    return directory


def test_the_packaged_files_are_a_set() -> None:
    assert load_policies(PACKAGED).categories


def test_files_together_are_one_set(tmp_path: Path) -> None:
    more = "categories:\n  news: {class: marketing, channels: [push]}\ncaps:\n  sms: {limit: 1, window: day}\n"
    policy = load_policies(written(tmp_path, default=DEFAULT, shop=SHOP, more=more))
    assert policy.version == 7
    assert set(policy.categories) == {"orders", "promotions", "news"}
    assert set(policy.caps) == {"daily", "sms"}


@pytest.mark.parametrize("section", ["categories", "sources", "caps", "countries", "prices", "tenants"])
def test_every_section_may_be_spread_over_files_and_a_name_stands_in_one(tmp_path: Path, section: str) -> None:
    entries = {
        "categories": ("a", "{class: marketing, channels: [push]}"),
        "sources": ("shop", "{rate: 5}"),
        "caps": ("a", "{limit: 1, window: day}"),
        "countries": ("DE", "{time_zone: Europe/Berlin}"),
        "prices": ("sms", "{default: 0.1}"),
        "tenants": ("acme", "{preferences: {'tips/push': false}}"),
    }
    name, entry = entries[section]
    more = f"# A comment\n{section}:\n  {name}: {entry}\n"
    directory = written(tmp_path, default=DEFAULT, shop=SHOP, more=more)
    assert name in getattr(load_policies(directory), section)
    written(tmp_path, twice=f"{section}:\n\n  {name}: {entry}\n")
    with pytest.raises(PolicyFileError) as refused:
        load_policies(directory)
    assert str(refused.value) == f"{tmp_path}/twice.yaml:3: $.{section}.{name}: more.yaml:3 has it too; keep one"


def test_what_is_no_section_stands_in_one_file(tmp_path: Path) -> None:
    directory = written(tmp_path, default=DEFAULT, shop=SHOP, x="park: 5s\n", y="\npark: 5s\n")
    with pytest.raises(PolicyFileError, match=r"y\.yaml:2: \$\.park: x\.yaml:1 has it too; keep one$"):
        load_policies(directory)


WRONG: dict[str, tuple[str, str, int, str, str]] = {
    # name: (what is replaced in SHOP, by what, line, key, a part of the reason)
    "an unknown key": ("      limit: 3", "      limits: 3", 7, "$.categories.orders.throttle.limits", "unknown field"),
    "a missing key": ("      period: 1h\n", "", 6, "$.categories.orders.throttle", "`period`"),
    "no number": ("limit: 3", "limit: three", 7, "$.categories.orders.throttle.limit", "Expected `int`"),
    "out of range": ("limit: 3", "limit: 0", 7, "$.categories.orders.throttle.limit", ">= 1"),
    "no duration": ("1h", "1 hour", 8, "$.categories.orders.throttle.period", "regex"),
    "an unknown class": ("class: marketing", "class: spam", 10, "$.categories.promotions.class", "'spam'"),
    "a list's entry": ("- sms", "- fax", 13, "$.categories.promotions.channels[1]", "'fax'"),
    "a flow list's entry": ("[push, email]", "[push, fax]", 5, "$.categories.orders.channels[1]", "'fax'"),
    "a key of a mapping": (
        "class: marketing",
        "class: marketing\n    budgets:\n      push: 1\n      fax: 1",
        13,
        "$.categories.promotions.budgets.fax",
        "'fax'",
    ),
    "a value of a mapping": (
        "class: marketing",
        "class: marketing\n    budgets:\n      push: 1\n      sms: 0",
        13,
        "$.categories.promotions.budgets.sms",
        "> 0",
    ),
    "what does not fit together": (
        "class: marketing",
        "class: marketing\n    max_age: 2d",
        11,
        "$.categories.promotions.max_age",
        "`identity_window`",
    ),
    "a name with dots": (
        "  promotions:\n    class: marketing",
        "  promotions.all.throttle:\n    class: marketing\n    max_age: 2d",
        11,
        "$.categories.promotions.all.throttle.max_age",
        "`identity_window`",
    ),
    "what an action needs": (
        "      limit: 3",
        "      limit: 3\n      action: digest",
        8,
        "$.categories.orders.throttle.action",
        "needs a `digest`",
    ),
    "a key twice": ("      limit: 3", "      limit: 3\n      limit: 4", 8, "$.categories.orders.throttle.limit", "line 7"),
    "a name twice": ("  promotions:", "  orders:", 9, "$.categories.orders", "line 3"),
    "a name that is a number": ("  promotions:", "  5:", 2, "$.categories", "`5` on line 9"),
    "nothing in a category": ("  promotions:", "  nothing:\n  promotions:", 9, "$.categories.nothing", "Expected `object`"),
    "a section that is a list": ("# What", "caps: []\n# What", 1, "$.caps", "names"),
    "an unknown section": ("# What", "colours: {}\n# What", 1, "$.colours", "unknown field"),
    "an unknown country": ("# What", "countries:\n  AT: {}\n  de: {}\n# What", 3, "$.countries.de", "name"),
    "an unknown zone": ("# What", "countries:\n  AT: {time_zone: Mars}\n# What", 2, "$.countries.AT", "`Mars`"),
    "no YAML": ("class: marketing", "class: [marketing", 11, "$", "not YAML"),
    "a tab": ("    class: marketing", "\tclass: marketing", 10, "$", "not YAML"),
    "a control character": ("class: marketing", "class: \x07", 10, "$", "not YAML"),
    "a tag of Python": ("class: marketing", "class: !!python/object/apply:os.getcwd []", 10, "$", "not YAML"),
    "two documents": ("  promotions:", "---\npromotions:", 9, "$", "not YAML"),
    "a list within itself": ("[push, email]", "&all [*all]", 1, "$", "too deep"),
    "no text": (SHOP, "- a\n", 1, "$", "keys and values"),
    "an empty file": (SHOP, "", 1, "$", "keys and values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_error_names_file_line_and_key(tmp_path: Path, name: str) -> None:
    old, new, line, path, reason = WRONG[name]
    assert SHOP.count(old) == 1
    directory = written(tmp_path, default=DEFAULT, shop=SHOP.replace(old, new))
    with pytest.raises(PolicyFileError) as refused:
        load_policies(directory)
    assert str(refused.value).startswith(f"{tmp_path}/shop.yaml:{line}: {path}: "), str(refused.value)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    written(tmp_path, default=DEFAULT)
    (tmp_path / "shop.yaml").write_bytes(SHOP.encode().replace(b"marketing", b"\xff"))
    with pytest.raises(PolicyFileError, match=r"shop\.yaml:10: \$: not UTF-8$"):
        load_policies(tmp_path)


def test_what_the_set_lacks(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=re.escape(f"{tmp_path}: no policy file (*.yaml) there")):
        load_policies(tmp_path)
    with pytest.raises(PolicyFileError, match=r"shop\.yaml:1: \$: .*`version`"):
        load_policies(written(tmp_path, shop=SHOP))


def test_the_files_are_yaml_1_2(tmp_path: Path) -> None:
    """Norway is a country, ten at night a time, and a number with a zero before it the same number."""
    text = """
countries:
  NO:
    time_zone: Europe/Oslo
    marketing_sms:
      - {start: 20:00, end: 08:00}
bounds: {identities: 0100}
"""
    policy = load_policies(written(tmp_path, default=DEFAULT, shop=SHOP, more=text))
    (window,) = policy.countries["NO"].marketing_sms
    assert (window.start, window.end) == ("20:00", "08:00")
    assert policy.bounds.identities == 100


def test_json_is_a_policy_file(tmp_path: Path) -> None:
    document = {"version": 2, "categories": {"a": {"class": "marketing", "channels": ["push"]}}}
    assert load_policies(written(tmp_path, all=json.dumps(document))).version == 2


def test_values_are_read_as_in_a_file() -> None:
    texts = ["5", "1m", "[push, in_app]", "null", "", "0.5", "true", "no", "{limit: 1}", "22:00"]
    assert [read_value(text) for text in texts] == [
        *(5, "1m", ["push", "in_app"], None, None, 0.5, True, "no", {"limit": 1}, "22:00")
    ]
    with pytest.raises(ValueError, match="not YAML"):
        read_value("[push")


def test_the_packaged_set_shows_every_key_and_every_choice() -> None:
    """Who reads the example has seen all there is."""
    shown: dict[tuple[str, str], set[Any]] = {}

    def look(value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            written = msgspec.to_builtins(value)
            for field in structs.fields(value):
                own = getattr(value, field.name)
                if field.encode_name in written or own != field.default:
                    shown.setdefault((type(value).__name__, field.name), set()).add(repr(own))
                look(own)
        elif isinstance(value, dict):
            for part in value.values():
                look(part)
        elif isinstance(value, (list, tuple)):
            for part in value:
                look(part)

    look(load_policies(PACKAGED))
    kinds = (Policy, Category, Throttle, Cap, CapFlags, Digest, Step, OptIn, Source, CountryTable, Price, TenantDefaults)
    wanted = {(kind.__name__, field) for kind in kinds for field in kind.__struct_fields__}
    # What stays at its default is not written back, and `v` says nothing.
    assert wanted - shown.keys() <= {("Policy", "v"), ("Policy", "bounds")}
    for kind, field, values in (
        ("Category", "category_class", get_args(CategoryClass)),
        ("Category", "quiet_hours", [word for word in get_args(Quiet) if word != "defer"]),
        ("Category", "choice", ["cheapest", "escalation"]),
        ("Throttle", "action", ["digest", "drop"]),
        ("Cap", "action", ["digest", "defer"]),
    ):
        assert {repr(value) for value in values} <= shown[kind, field], field
