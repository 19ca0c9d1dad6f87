"""docs/policy.md says what the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

from messages.codec import encode_json
from messages.event import MAX_DATA_BYTES
from messages.policy import (
    Bounds,
    Cap,
    Category,
    CountryTable,
    Defaults,
    Digest,
    Policy,
    Price,
    Source,
    Step,
    TenantDefaults,
    Throttle,
    decode_policy,
)
from messages.profile import MAX_CONSENTS, MAX_ENDPOINTS, MAX_PREFERENCES, MAX_SUBSCRIPTIONS, MAX_WINDOWS
from policy.profiles import MAX_PROFILE_BYTES, REMEMBERED_COMMANDS
from policy.reasons import CHANGE_REASONS, REASONS
from policy.release import URGENT_FOR

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "policy.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def tables(section: str) -> list[dict[str, str]]:
    """The tables of a section whose first cell is code, each as first cell → last cell."""
    found = re.findall(r"^\|---.*?\n((?:\|.*\n)+)", SECTIONS[section], re.MULTILINE)
    return [dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", rows, re.MULTILINE)) for rows in found]


def test_the_tables_of_reasons_are_the_code_s() -> None:
    assert tables("Reasons") == [REASONS, CHANGE_REASONS]


def test_every_reason_is_used_and_every_reason_used_is_explained() -> None:
    """Words of the code that look like a reason, against the table; a reason that nothing can give is a lie."""
    used: set[str] = set()
    for path in (*(ROOT / "policy").glob("*.py"), ROOT / "udfs" / "fanout.py"):
        if path.name != "reasons.py":
            used |= {
                node.value
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    explained = set(REASONS) | set(CHANGE_REASONS)
    assert explained <= used
    given = set()
    for path in (*(ROOT / "policy").glob("*.py"), ROOT / "udfs" / "fanout.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                place = {"end": 2, "wait": 2, "ChangeRefused": 0, "_reject": 1, "_outcome": 1}.get(name)
                if place is not None and len(node.args) > place and isinstance(node.args[place], ast.Constant):
                    given.add(node.args[place].value)
    assert len(given) > 10
    assert given <= explained


def test_the_example_is_a_valid_document_that_names_every_key_and_the_defaults() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", SECTIONS["The policy document"], re.DOTALL)
    raw = yaml.safe_load(example)
    decode_policy(encode_json(raw))
    assert set(raw) | {"v"} == set(Policy.__struct_encode_fields__)
    assert set().union(*raw["categories"].values()) == set(Category.__struct_encode_fields__)
    assert set(raw["categories"]["tips"]["throttle"]) == set(Throttle.__struct_encode_fields__)
    smallest = decode_policy(b'{"version":1,"categories":{"a":{"class":"critical","channels":["push"]}}}')
    for key in ("identity_window", "cancel_window", "park"):
        assert getattr(smallest, key) == raw[key]
    for name, kind in (
        ("sources", Source),
        ("caps", Cap),
        ("countries", CountryTable),
        ("prices", Price),
        ("tenants", TenantDefaults),
    ):
        (only,) = raw[name].values()
        assert set(only) == set(kind.__struct_encode_fields__)
    assert set(raw["defaults"]) == set(Defaults.__struct_encode_fields__)
    assert set(raw["categories"]["tips"]["digest"]) == set(Digest.__struct_encode_fields__)
    assert Bounds(**raw["bounds"]) == smallest.bounds == Bounds()
    assert set(raw["bounds"]) == set(Bounds.__struct_encode_fields__)
    category = smallest.categories["a"]
    assert (category.max_age, category.dedup_window, category.deadline) == ("24h", "24h", "1h")
    assert (category.default, category.quiet_hours, category.choice) == ("allow", "defer", "all")
    assert Throttle(limit=1, period="1s").action == "defer"
    assert Cap(limit=1, window="day").action == "drop"
    assert Step(channels=["push"]).wait == "5m"


def test_the_numbers_in_the_text() -> None:
    bounds = SECTIONS["Bounds"]
    for line in (
        f"| {MAX_ENDPOINTS} endpoints |",
        f"| {MAX_PREFERENCES} preferences, {MAX_PROFILE_BYTES // 1024} KiB a profile |",
        f"| {MAX_SUBSCRIPTIONS} subscriptions, {MAX_CONSENTS} consents, {MAX_WINDOWS} quiet-hour windows |",
        f"| {REMEMBERED_COMMANDS} command ids a profile |",
        f"| {MAX_DATA_BYTES // 1024} KiB of an event's `data` |",
    ):
        assert line in bounds
    assert f"more than {URGENT_FOR // 60_000} minutes" in TEXT
