"""``herald policy`` on a real broker: what is put into force, overridden, refused and brought back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from msgspec import structs

from cli.stack.stack_settings import write_settings
from connectors.policy_files import load_policies
from connectors.policy_log import PolicyLogError, publish, read_records
from connectors.settings import ROOT, JobSettings, KafkaSettings, Settings
from messages.codec import encode_json
from messages.policy import POLICY_SET, Policy, decode_policy
from messages.topics import POLICIES
from tests.conftest import Kafka, fresh_prefix
from tests.flink.log import create_topic
from tests.herald import herald

PACKAGED = """\
version: 3
categories:
  chat:
    class: transactional
    channels: [push, in_app]
    throttle: {limit: 20, period: 1m, burst: 20}
  tips:
    class: marketing
    channels: [push]
"""


class Commands:
    """``herald policy`` with settings of its own; ``packaged`` and ``files`` are directories of policies."""

    def __init__(self, kafka: KafkaSettings, directory: Path) -> None:
        self.kafka = kafka
        self.packaged = directory / "packaged"
        self.files = directory / "files"
        for place in (self.packaged, self.files):
            place.mkdir()
            (place / "default.yaml").write_text(PACKAGED)
        self._config = directory / "herald.yaml"
        write_settings(Settings(kafka=kafka, job=JobSettings(policies=str(self.packaged))), self._config)

    def run(self, *arguments: str) -> Result:
        return herald("--config", str(self._config), "policy", *arguments)

    def good(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.output

    def bad(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.output
        return result.output

    def edit(self, old: str, new: str) -> None:
        file = self.files / "default.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def written(self) -> list[tuple[str, bytes | None]]:
        return [(record.key, record.value) for record in read_records(self.kafka)]

    def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.good("show", "--json"))
        return shown

    def history(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = json.loads(self.good("history", "--json"))
        return entries


@pytest.fixture
def commands(kafka: Kafka, tmp_path: Path) -> Commands:
    settings = KafkaSettings(bootstrap=kafka.bootstrap, prefix=fresh_prefix())
    create_topic(settings, POLICIES)
    return Commands(settings, tmp_path)


def test_validate_shows_the_set_or_the_place_of_the_error(commands: Commands) -> None:
    said = commands.good("validate", str(commands.files))
    assert "chat" in said
    assert "2 categories" in said
    assert json.loads(commands.good("validate", str(commands.files), "--json"))["version"] == 3
    commands.edit("limit: 20", "limit: 0")
    assert f"{commands.files}/default.yaml:6: $.categories.chat.throttle.limit: " in commands.bad(
        "validate", str(commands.files)
    )
    assert "default.yaml:6" in commands.bad("apply", str(commands.files), "--no-wait")
    assert commands.written() == []


def test_the_packaged_files_are_valid() -> None:
    result = herald("policy", "validate", str(ROOT / "flink-conf" / "policies"))
    assert result.exit_code == 0, result.output


def test_apply_takes_the_next_free_version_and_writes_one_record(commands: Commands) -> None:
    commands.edit("limit: 20", "limit: 5")
    said = commands.good("apply", str(commands.files), "--no-wait")
    assert "goes out as 4" in said
    assert "categories.chat.throttle.limit" in said
    ((key, value),) = commands.written()
    assert key == POLICY_SET
    assert decode_policy(value or b"") == structs.replace(load_policies(commands.files), version=4)
    assert "Nothing to do" in commands.good("apply", str(commands.files), "--no-wait")
    assert len(commands.written()) == 1


def test_a_version_that_is_not_above_is_refused_where_one_wants_it_so(commands: Commands) -> None:
    commands.edit("limit: 20", "limit: 5")
    assert "version: 4" in commands.bad("apply", str(commands.files), "--no-bump", "--no-wait")
    assert commands.written() == []
    commands.edit("version: 3", "version: 9")
    assert "goes out" not in commands.good("apply", str(commands.files), "--no-bump", "--no-wait")
    assert commands.shown()["document"]["version"] == 9


def test_the_packaged_files_edited_in_place_go_out_as_a_new_version(commands: Commands) -> None:
    """They do not say any more what the running job was packaged with."""
    assert "goes out as 4" in commands.good("apply", str(commands.packaged), "--no-wait")
    assert "Nothing to do" in commands.good("apply", str(commands.packaged), "--no-wait")


def test_diff_names_key_old_and_new(commands: Commands) -> None:
    assert "No difference" in commands.good("diff", str(commands.files))
    commands.edit("limit: 20", "limit: 5")
    commands.edit("class: marketing", "class: marketing\n    default: deny")
    expected = [
        {"key": "categories.chat.throttle.limit", "old": 20, "new": 5},
        {"key": "categories.tips.default", "old": None, "new": "deny"},
    ]
    assert json.loads(commands.bad("diff", str(commands.files), "--json")) == expected
    (line,) = (line for line in commands.bad("diff", str(commands.files)).splitlines() if "throttle" in line)
    assert line.split() == ["categories.chat.throttle.limit", "20", "5"]
    commands.good("apply", str(commands.files), "--no-wait")
    assert json.loads(commands.bad("diff", "3", "4", "--json")) == expected
    assert [(entry["old"], entry["new"]) for entry in json.loads(commands.bad("diff", "3", "--json"))] == [
        (5, 20),
        ("deny", None),
    ]
    assert "never in force; there are 3, 4" in commands.bad("diff", "7")
    assert "no such directory" in commands.bad("diff", "elsewhere")


def test_rollback_puts_the_old_content_under_a_new_version(commands: Commands) -> None:
    for limit in (5, 6):
        commands.edit("limit: 20" if limit == 5 else "limit: 5", f"limit: {limit}")
        commands.good("apply", str(commands.files), "--no-wait")
    assert "goes out as 6" in commands.good("rollback", "4", "--no-wait")
    assert commands.shown()["document"]["version"] == 6
    assert commands.shown()["document"]["categories"]["chat"]["throttle"]["limit"] == 5
    assert "Nothing to do" in commands.good("rollback", "4", "--no-wait")
    assert "there are 3, 4, 5, 6" in commands.bad("rollback", "8", "--no-wait")


def test_an_override_is_added_to_replaced_and_removed(commands: Commands) -> None:
    said = commands.good("override", "set-category", "chat", "throttle.limit=5", "throttle.period=2m")
    assert "throttle.limit = 5" in said
    ((key, value),) = commands.written()
    assert key == "category/chat"
    assert json.loads(value or b"") == {
        "kind": "category",
        "name": "chat",
        "patch": {"throttle": {"limit": 5, "period": "2m"}},
    }
    commands.good("override", "set-category", "chat", "channels=[push]", "throttle.burst=null")
    chat = commands.shown()["document"]["categories"]["chat"]
    assert chat["throttle"] == {"limit": 5, "period": "2m"}
    assert chat["channels"] == ["push"]
    commands.good("override", "set-category", "--replace", "chat", "default=deny")
    chat = commands.shown()["document"]["categories"]["chat"]
    assert chat["throttle"]["limit"] == 20
    assert chat["default"] == "deny"
    commands.good("override", "remove", "category/chat")
    assert commands.written()[-1] == ("category/chat", None)
    assert commands.shown()["overrides"] == {}
    assert "there is no override `category/chat`" in commands.bad("override", "remove", "category/chat")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fax", "default=deny"), "no category `fax`"),
        (("chat", "throttle.limit=0"), "$.throttle.limit"),
        (("chat", "colour=red"), "`colour`"),
        (("chat", "max_age=25h"), "`identity_window`"),
    ],
)
def test_an_override_that_would_be_ignored_is_refused(commands: Commands, arguments: tuple[str, ...], said: str) -> None:
    assert said in commands.bad("override", "set-category", *arguments)
    assert commands.written() == []


@pytest.mark.parametrize("change", ["throttle.limit", "=5", "channels=[push"])
def test_a_change_of_another_form_is_refused(commands: Commands, change: str) -> None:
    assert commands.run("override", "set-category", "chat", change).exit_code == 2
    assert commands.written() == []


def test_show_is_a_policy_file_with_what_is_overridden_marked(commands: Commands, tmp_path: Path) -> None:
    commands.good("override", "set-category", "chat", "throttle.limit=5", "throttle.burst=null")
    shown = commands.good("show")
    assert "# category/chat: throttle.limit = 5, throttle.burst = null" in shown
    assert "limit: 5  # overridden; the set says 20" in shown
    assert "# burst: 20  # overridden: not in force" in shown
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "all.yaml").write_text(shown)
    assert (
        load_policies(tmp_path / "shown").categories["chat"]
        == decode_policy(encode_json(commands.shown()["document"])).categories["chat"]
    )


def test_an_override_that_a_new_set_leaves_without_effect_is_told(commands: Commands) -> None:
    commands.good("override", "set-category", "tips", "default=deny")
    commands.edit("  tips:", "  hints:")
    assert "category/tips does not fit this set" in commands.good("apply", str(commands.files), "--no-wait")
    assert "category/tips" in commands.shown()["ignored"]
    assert "IS IGNORED: the set has no category `tips`" in commands.good("show")


def test_history_tells_all_that_happened_also_what_was_refused(commands: Commands) -> None:
    commands.edit("limit: 20", "limit: 5")
    commands.good("apply", str(commands.files), "--no-wait")
    commands.good("override", "set-category", "tips", "default=deny")
    # As others may write it.
    other = structs.replace(load_policies(commands.packaged), version=2)
    publish(commands.kafka, POLICY_SET, encode_json(other))
    publish(commands.kafka, "category/elsewhere", b'{"kind": "category", "name": "tips", "patch": {}}')
    publish(commands.kafka, "pause/campaign/spring", b'{"kind": "pause", "scope": "campaign", "name": "spring"}')
    commands.good("override", "remove", "category/tips")
    entries = commands.history()
    assert [(entry["key"], entry["version"], entry["refused"] is None) for entry in entries] == [
        ("policies", 4, True),
        ("category/tips", None, True),
        ("policies", 2, False),
        ("category/elsewhere", None, False),
        ("pause/campaign/spring", None, True),
        ("category/tips", None, True),
    ]
    assert {"key": "categories.chat.throttle.limit", "old": 20, "new": 5} in entries[0]["differences"]
    assert "not above 4" in entries[2]["refused"]
    assert "`category/tips`" in entries[3]["refused"]
    table = commands.good("history")
    assert "categories.chat.throttle.limit 20 → 5" in table
    assert "campaign spring is paused" in table
    assert "removed" in table
    assert len(commands.good("history", "--limit", "1").splitlines()) == 2


def test_a_set_taken_off_the_topic_leaves_the_packaged_one(commands: Commands) -> None:
    commands.edit("limit: 20", "limit: 5")
    commands.good("apply", str(commands.files), "--no-wait")
    publish(commands.kafka, POLICY_SET, None)
    assert commands.shown()["document"]["version"] == 3
    assert "the packaged set is in force again" in commands.good("history")
    # A number stands for one content only, whatever is in force.
    assert "goes out as 5" in commands.good("apply", str(commands.files), "--no-wait")


def test_packaged_files_that_are_being_edited_do_not_hide_what_is_in_force(commands: Commands) -> None:
    commands.edit("limit: 20", "limit: 5")
    commands.good("apply", str(commands.files), "--no-wait")
    (commands.packaged / "default.yaml").write_text("version: [")
    result = commands.run("history")
    assert result.exit_code == 0
    assert "default.yaml:1" in result.stderr
    commands.good("override", "set-category", "chat", "throttle.limit=7")
    assert "limit: 7" in commands.good("show")


def test_errors_say_what_to_do(kafka: Kafka, tmp_path: Path) -> None:
    away = KafkaSettings(bootstrap=kafka.bootstrap, prefix=fresh_prefix())
    with pytest.raises(PolicyLogError, match="herald topics apply"):
        read_records(away)
    commands = Commands(away, tmp_path)
    assert "herald topics apply" in commands.bad("history")


def test_a_set_that_no_record_holds_is_refused(commands: Commands) -> None:
    document = load_policies(commands.packaged)
    large: Policy = structs.replace(
        document, version=9, tenants={f"t{number}": {"preferences": {"x" * 250: True}} for number in range(5_000)}
    )
    with pytest.raises(PolicyLogError, match="large"):
        publish(commands.kafka, POLICY_SET, encode_json(large))
    assert commands.written() == []
