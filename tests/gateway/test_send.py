"""``herald send`` and ``herald profile`` against a real gateway: they send what was asked, and errors say what to do."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from msgspec.structs import replace

from cli.main import main
from cli.stack.stack_settings import write_settings
from cli.stack.worker_programs import api_key_file
from connectors.settings import Settings
from connectors.view_store import ViewWriter
from messages.codec import encode_json
from messages.event import decode_event
from messages.policy import Pause
from messages.profile import Cancel, Profile, decode_change
from messages.topics import POLICIES
from tests.conftest import free_settings
from tests.gateway.gateway_process import ALL, Gateway, Topics
from tests.waiting import until


class Herald:
    """The command, as it is called beside a stack whose gateway is this one."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.file = directory / "herald.yaml"
        write_settings(replace(settings, stack=replace(settings.stack, directory=str(directory))), self.file)
        api_key_file(directory).write_text(ALL + "\n")

    def __call__(self, *arguments: str, given: str | None = None) -> Result:
        return CliRunner().invoke(main, ["--config", str(self.file), *arguments], input=given)


@pytest.fixture
def herald(gateway: Gateway, gateway_settings: Settings, tmp_path: Path) -> Herald:
    return Herald(replace(gateway_settings, gateway=replace(gateway_settings.gateway, port=gateway.port)), tmp_path)


def test_a_text_goes_to_a_user_and_the_command_says_how_to_follow_it(herald: Herald, written: Topics, fresh: str) -> None:
    result = herald("send", "--user", "ada", "--category", "news", "--text", "Hello", "--title", "Hi", "--id", fresh)
    assert result.exit_code == 0, result.output
    assert f"herald explain --user ada --event {fresh}" in result.output
    (record,) = written.with_text(fresh)
    sent = decode_event(record.value)
    assert (record.topic, record.key, sent.source) == ("events.background", b"default/ada", "herald-cli")
    assert set(sent.data.content or {}) == {"push", "web_push", "email", "sms", "in_app"}
    assert {(content.title, content.body) for content in (sent.data.content or {}).values()} == {("Hi", "Hello")}


def test_every_option_arrives(herald: Herald, written: Topics, fresh: str) -> None:
    before = datetime.now(UTC)
    result = herald(
        *("send", "--user", "ada", "--user", "default/b/1", "--category", "news", "--id", fresh, "--source", "shop"),
        *("--template", "shipped", "--param", "order=A-1", "--param", "count=3", "--priority", "urgent"),
        *("--channel", "push", "--channel", "sms", "--not-before", "10m", "--expires-at", "2030-01-01T00:00:00+01:00"),
        *("--collapse-key", "c", "--dedup-key", "d", "--throttle-key", "t", "--cancellation-key", "x"),
        *("--campaign", "spring", "--tag", "sport", "--tag", "weather", "--json"),
    )
    assert (result.exit_code, json.loads(result.stdout)) == (
        0,
        {"id": fresh, "source": "shop", "status": "accepted"},
    )
    (record,) = written.with_text(fresh)
    data = record.document["data"]
    sent = decode_event(record.value).data
    assert sent.not_before is not None
    assert 590 < (sent.not_before - before).total_seconds() < 660
    del data["not_before"]
    assert (record.topic, data) == (
        "events.urgent",
        {
            "recipients": {"users": ["ada", "b/1"]},
            "category": "news",
            "template": "shipped",
            "params": {"order": "A-1", "count": 3},
            "priority": "urgent",
            "channels": ["push", "sms"],
            "expires_at": "2030-01-01T00:00:00+01:00",
            "collapse_key": "c",
            "dedup_key": "d",
            "throttle_key": "t",
            "cancellation_key": "x",
            "campaign": "spring",
            "tags": ["sport", "weather"],
        },
    )


def test_an_event_that_is_held_is_said_to_be(herald: Herald, gateway_settings: Settings, fresh: str) -> None:
    pause = Pause(scope="campaign", name=fresh)
    producer = Producer({"bootstrap.servers": gateway_settings.kafka.bootstrap})
    producer.produce(gateway_settings.kafka.prefix + POLICIES, encode_json(pause), pause.key.encode())
    assert producer.flush(30) == 0

    def held() -> bool:
        result = herald("send", "--user", "ada", "--category", "news", "--text", "a", "--campaign", fresh)
        assert result.exit_code == 0, result.output
        return "is held in the quarantine (paused)" in result.output and "explain" not in result.output

    until(held, what="the pause is known to the gateway")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--user", "ada", "--category", "news"], 2, "one of --text and --template"),
        (["--user", "ada", "--category", "news", "--text", "a", "--template", "b"], 2, "one of --text and --template"),
        (["--user", "ada", "--category", "news", "--text", "a", "--param", "a=b"], 2, "--param belongs to --template"),
        (["--user", "ada", "--category", "news", "--template", "a", "--param", "b"], 2, "no NAME=VALUE"),
        (["--user", "ada", "--category", "news", "--template", "a", "--title", "b"], 2, "--title belongs to --text"),
        (["--user", "ada", "--category", "news", "--text", "a", "--not-before", "soon"], 2, "neither an instant such as"),
        (
            ["--user", "ada", "--category", "news", "--text", "a", "--not-before", "2026-01-01T00:00"],
            2,
            "neither an instant",
        ),
        (["--user", "acme/ada", "--category", "news", "--text", "a"], 1, "one of the tenant `default`"),
        (["--user", "ada", "--category", "x" * 257, "--text", "a"], 1, "$.data.category: "),
    ],
)
def test_what_cannot_be_sent_is_explained(herald: Herald, arguments: list[str], code: int, said: str) -> None:
    result = herald("send", *arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr


def test_without_a_stack_the_command_says_so(tmp_path: Path) -> None:
    herald = Herald(free_settings(tmp_path), tmp_path)
    result = herald("send", "--user", "ada", "--category", "news", "--text", "a")
    assert (result.exit_code, "does not answer" in result.stderr, "herald status" in result.stderr) == (1, True, True)
    api_key_file(tmp_path).unlink()
    result = herald("send", "--user", "ada", "--category", "news", "--text", "a")
    assert (result.exit_code, "`herald up` makes it" in result.stderr) == (1, True)


def command_of(written: Topics, user: str) -> Any:
    """The one command for the user."""
    (record,) = written.with_key(f"default/{user}")
    return record.document


def test_a_profile_is_set_and_shown(
    herald: Herald, gateway_settings: Settings, written: Topics, fresh: str, tmp_path: Path
) -> None:
    result = herald("profile", "show", "--user", fresh)
    assert (result.exit_code, "no profile of this user" in result.stderr) == (1, True)
    document = {"locale": "de", "quiet_hours": [{"start": "22:00", "end": "07:00"}]}
    (tmp_path / "profile.json").write_text(json.dumps(document))
    result = herald("profile", "set", "--user", fresh, str(tmp_path / "profile.json"), "--version", "7")
    assert result.exit_code == 0, result.output
    command = command_of(written, fresh)
    assert (command["kind"], command["profile"], command["version"]) == ("replace_profile", document, 7)
    store = redis.Redis.from_url(gateway_settings.redis.url)
    writer = ViewWriter(gateway_settings.kafka, gateway_settings.views)
    store.execute_command(*writer.profile(f"default/{fresh}".encode(), encode_json(Profile(version=3, locale="de"))))
    shown = herald("profile", "show", "--user", f"default/{fresh}")
    assert json.loads(shown.stdout) == {"v": 1, "version": 3, "locale": "de"}


def test_a_wrong_profile_is_refused_with_its_place(herald: Herald) -> None:
    result = herald("profile", "set", "--user", "ada", "-", given='{"country": "Germany"}')
    assert (result.exit_code, "$.country: " in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "windows"),
    [
        (["22:00-07:00"], [{"start": "22:00", "end": "07:00"}]),
        (["22:00-07:00 mon,tue"], [{"start": "22:00", "end": "07:00", "days": ["mon", "tue"]}]),
        (
            ["22:00-07:00", "mon,tue", "00:00-24:00", "sun"],
            [
                {"start": "22:00", "end": "07:00", "days": ["mon", "tue"]},
                {"start": "00:00", "end": "24:00", "days": ["sun"]},
            ],
        ),
        (["--none"], []),
    ],
)
def test_quiet_hours(herald: Herald, written: Topics, fresh: str, words: list[str], windows: list[Any]) -> None:
    result = herald("profile", "quiet-hours", "--user", fresh, *words)
    assert result.exit_code == 0, result.output
    assert command_of(written, fresh)["quiet_hours"] == windows


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "give windows such as"),
        (["22:00-07:00", "--none"], 2, "give windows such as"),
        (["mon"], 2, "`mon` is neither a time"),
        (["22:00-07:00", "monday"], 2, "`monday` is neither a time"),
        (["22:00-07:00", "mon", "tue"], 2, "`tue` is neither a time"),
        (["22-07"], 2, "`22-07` is neither a time"),
        (["22:00-24:30"], 1, "$[0].end: "),
    ],
)
def test_quiet_hours_that_are_none(herald: Herald, words: list[str], code: int, said: str) -> None:
    result = herald("profile", "quiet-hours", "--user", "ada", *words)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr


def test_a_consent_is_given_with_its_proof_and_withdrawn(herald: Herald, written: Topics, fresh: str) -> None:
    scope = ("--category", "news", "--channel", "sms")
    result = herald("profile", "consent", "--user", f"{fresh}-1", *scope, "--where", "shop", "--text-version", "3")
    assert result.exit_code == 0, result.output
    given = command_of(written, f"{fresh}-1")["consent"]
    assert given.pop("at") > 1_700_000_000_000
    assert given == {"category": "news", "channel": "sms", "where": "shop", "text_version": "3"}
    assert herald("profile", "consent", "--user", f"{fresh}-2", *scope, "--withdraw").exit_code == 0
    withdrawn = command_of(written, f"{fresh}-2")
    assert (withdrawn["kind"], withdrawn["category"], withdrawn["channel"]) == ("withdraw_consent", "news", "sms")
    result = herald("profile", "consent", "--user", fresh, *scope)
    assert (result.exit_code, "needs its proof" in result.stderr) == (2, True)


def test_what_waits_is_cancelled(herald: Herald, written: Topics, fresh: str) -> None:
    assert herald("profile", "cancel", "--user", fresh, "--event", "e-1").exit_code == 0
    command = command_of(written, fresh)
    assert decode_change(encode_json(command)) == Cancel(id=command["id"], source="herald-cli", event_id="e-1")
    result = herald("profile", "cancel", "--user", fresh)
    assert (result.exit_code, "one of --event and --key" in result.stderr) == (2, True)
