"""``herald explain`` on records that the decision core made, from a real Redis: the sentences are true and exact."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from msgspec.structs import replace

from cli.explain import moment, span, stories
from cli.main import main
from cli.stack.stack_settings import write_settings
from connectors.settings import RedisSettings, Settings, ViewSettings
from connectors.view_store import History, ViewWriter
from messages.codec import encode_json
from messages.decision import DecisionRecord
from messages.delivery import Outcome
from messages.profile import Profile
from policy.core import Decided, decide
from policy.reasons import REASONS
from policy.state import UserState
from tests.conftest import RedisServer, free_settings, fresh_prefix
from tests.policy.builders import MINUTE, NOW, arrival, category, endpoint, event, fire, policies, throttle, user


def told(*decided: Decided, outcomes: list[Outcome] | None = None, now: int = NOW + MINUTE) -> list[str]:
    """The title and the sentences of the one notification in these steps."""
    records = [record for each in decided for record in each.decisions]
    (story,) = stories(History(decisions=records, outcomes={each.delivery_id: each for each in outcomes or []}), now)
    return [story.title, *story.sentences]


def outcome(record: DecisionRecord, **fields: Any) -> Outcome:
    """What an adapter reports of the record's first delivery."""
    defaults: dict[str, Any] = {"status": "accepted", "at": NOW + 80, "channel": "push", "provider": "fcm"}
    return Outcome(
        delivery_id=record.deliveries[0],
        tenant=record.tenant,
        user=record.user,
        event_id=record.event_id,
        source=record.source,
        category=record.category,
        lane=record.lane,
        endpoint_id="phone",
        **(defaults | fields),
    )


def decided(state: UserState, rules: Any, *, at: int = NOW, number: int = 1, **data: Any) -> Decided:
    return decide(at, rules, state, arrival(event(number, **data), at=NOW))


def test_a_plain_send() -> None:
    out = decided(user(), policies(version=4, news=category()))
    (record,) = out.decisions
    assert told(out, outcomes=[outcome(record)]) == [
        "Event event-1 of tests (news, transactional) for default/ada arrived at 2026-09-21 14:13:20.000 UTC "
        "on the background lane.",
        "At 2026-09-21 14:13:20.000 UTC it was decided, by policy version 4 on profile version 1: 1 delivery went out.",
        "  push: sent.",
        f"  Delivery {record.deliveries[0]} on push to endpoint phone: fcm accepted it at 2026-09-21 14:13:20.080 UTC, "
        "after 1 attempt.",
    ]


def test_a_delivery_without_an_outcome() -> None:
    out = decided(user(endpoint("a"), endpoint("b")), policies(news=category()))
    lines = told(out)
    assert lines[1].endswith("2 deliveries went out.")
    assert [line for line in lines if "no outcome is known, or not yet" in line] == lines[-2:]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"status": "dead", "status_code": 404, "error": "UNREGISTERED"},
            "fcm says that the endpoint will never work (404 UNREGISTERED) at 2026-09-21 14:13:20.080 UTC, after 1 attempt.",
        ),
        ({"status": "rejected", "status_code": 400}, "fcm rejected the message (400) at"),
        ({"status": "expired"}, "its time had passed before fcm accepted it at"),
        ({"status": "unknown", "attempts": 1, "ambiguous": 1}, "it was sent, and the answer of fcm was never seen at"),
        ({"status": "failed", "attempts": 5, "error": "UNAVAILABLE"}, "and no attempt is left (UNAVAILABLE)"),
        ({"attempts": 3, "ambiguous": 1}, "after 3 attempts, 1 of them with an ambiguous answer."),
        ({"repeat": True}, "after 1 attempt; reported again after a restart."),
    ],
)
def test_what_became_of_a_delivery(fields: dict[str, Any], said: str) -> None:
    out = decided(user(), policies(news=category()))
    assert said in told(out, outcomes=[outcome(out.decisions[0], **fields)])[-1]


def test_an_opt_out_names_the_choice() -> None:
    out = decided(user(preferences={"news/*": False}), policies(news=category("marketing")))
    assert told(out)[1:] == [
        "At 2026-09-21 14:13:20.000 UTC it was decided, by policy version 1 on profile version 1: it was not sent: "
        "the user does not want this category on any of its channels.",
        "  push: not wanted; denied by the user's choice `news/*`.",
    ]


def test_a_default_that_denies_is_no_choice_of_the_user() -> None:
    out = decided(user(), policies(news=category("marketing", default="deny")))
    assert told(out)[2] == "  push: not wanted; the user chose nothing, and the category's default is to deny."


def test_a_deferral_and_its_release() -> None:
    rules = policies(news=category(throttle=throttle(3, "1h", 5)))
    state = user()
    for number in range(5):
        decided(state, rules, number=number)
    waiting = decided(state, rules, number=9)
    (record,) = waiting.decisions
    assert told(waiting)[1:] == [
        f"At 2026-09-21 14:13:20.000 UTC it was decided, by policy version 1 on profile version 1: it waits until "
        f"{moment(record.release_at or 0)}: the user's limit for this category was reached.",
        "  push: the user's limit was reached; the bucket `news/push` held 0 of 5 tokens (limit 3 in 1 h).",
        "  Nothing was decided after that, as far as the view knows.",
    ]
    assert told(waiting, now=(record.release_at or 0) + 1)[-1].startswith("  That time has passed;")
    released = fire(rules, state)
    lines = told(waiting, released)
    assert not any("Nothing was decided" in line or "has passed" in line for line in lines)
    assert lines[3] == (
        f"At {moment(record.release_at or 0)} it was decided again, by policy version 1 on profile version 1: "
        "1 delivery went out."
    )
    assert lines[4] == "  push: sent; the bucket `news/push` held 1 of 5 tokens, of which it took one (limit 3 in 1 h)."


def test_some_channels_sent_and_the_others_later() -> None:
    rules = policies(news=category(channels=("push", "email", "sms"), throttle=throttle(1, "1h", 1)))
    state = user(endpoint(), endpoint("mail", "ses"))
    decided(state, rules, number=1, channels=["email"])
    both = decided(state, rules, number=2)
    lines = told(both)
    assert lines[1].endswith(": 1 delivery went out.")
    assert [line.split(":")[0] for line in lines[2:5]] == ["  push", "  email", "  sms"]
    child = next(record for record in both.decisions if record.child)
    assert lines[6].endswith(
        f": on the remaining channels (email) it waits until {moment(child.release_at or 0)}: "
        "the user's limit for this category was reached."
    )
    assert lines[7].startswith("  email: the user's limit was reached; the bucket `news/email` held 0 of 1 tokens")
    assert lines[8] == "  Nothing was decided after that, as far as the view knows."
    later = told(both, fire(rules, state))
    assert later[8].endswith(": on the remaining channels (email) 1 delivery went out.")
    assert later[9].startswith("  email: sent;")


def test_parked_and_given_up() -> None:
    rules = policies(news=category("marketing"))
    state = user(known=False)
    lines = told(decided(state, rules), fire(rules, state))
    assert lines[1] == (
        "At 2026-09-21 14:13:20.000 UTC it was decided, by policy version 1, without a profile: it waits until "
        "2026-09-21 14:13:50.000 UTC at the latest: no profile of this user was known yet, so it waits for one."
    )
    assert lines[2].endswith(
        "decided again, by policy version 1, without a profile: it was not sent: "
        "no profile of this user was known, and the category needs one."
    )


def test_earlier_decisions_that_the_view_forgot_are_said_to_be_missing() -> None:
    rules = policies(news=category("marketing"))
    state = user(known=False)
    decided(state, rules)
    assert told(fire(rules, state))[1] == "Earlier decisions on it (steps 0 to 0) are no longer in the view."


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_its_sentence(reason: str) -> None:
    out = decided(user(), policies(news=category()))
    record = replace(out.decisions[0], outcome="suppressed", reason=reason, deliveries=[])
    assert told(Decided(decisions=[record]))[1].endswith(f"it was not sent: {REASONS[reason]}.")


def test_a_reason_of_a_newer_version_is_shown_as_it_is() -> None:
    record = replace(decided(user(), policies(news=category())).decisions[0], outcome="rejected", reason="new", detail="so")
    assert told(Decided(decisions=[record]))[1].endswith("it was rejected: the reason is `new` (so).")


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(1, "1 ms"), (1_500, "1500 ms"), (90_000, "90 s"), (3_600_000, "1 h"), (86_400_000, "1 d"), (5_400_000, "90 min")],
)
def test_spans(milliseconds: int, text: str) -> None:
    assert span(milliseconds) == text


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Any) -> Settings:
    """Settings of a stack of its own keys, in ``herald.yaml``."""
    made = free_settings(tmp_path)
    made = replace(
        made,
        kafka=replace(made.kafka, prefix=fresh_prefix()),
        redis=RedisSettings(url=redis_server.url),
        views=ViewSettings(ttl=3_600_000, decisions_a_user=3),
    )
    write_settings(made, tmp_path / "herald.yaml")
    return made


def explain(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--config", f"{settings.stack.directory}/herald.yaml", "explain", *arguments])


def store(settings: Settings, key: str, out: Decided) -> None:
    client = redis.Redis.from_url(settings.redis.url)
    writer = ViewWriter(settings.kafka, settings.views)
    for record in out.decisions:
        client.execute_command(*writer.decision(key.encode(), encode_json(record)))
        if record.deliveries:
            client.execute_command(*writer.outcome(encode_json(outcome(record))))


def test_the_command_tells_what_the_views_hold(settings: Settings) -> None:
    rules = policies(news=category())
    state = user()
    for number in (1, 2, 1):
        store(settings, "default/ada", decided(state, rules, number=number, at=NOW + number))
    result = explain(settings, "--user", "ada")
    assert result.exit_code == 0, result.output
    assert result.output.count("Event event-") == 2
    assert "fcm accepted it" in result.output
    assert "this event had already been seen for this user" in result.output
    result = explain(settings, "--user", "default/ada", "--event", "event-2", "--json")
    document = json.loads(result.stdout)
    (notification,) = document["notifications"]
    assert (document["user"], notification["event_id"]) == ("ada", "event-2")
    (record,) = notification["decisions"]
    assert list(notification["outcomes"]) == record["deliveries"]
    assert notification["sentences"][0].startswith("At 2026-09-21 14:13:20.002 UTC it was decided")


def test_what_is_not_known_is_said_with_what_to_do(settings: Settings) -> None:
    result = explain(settings, "--user", "ada")
    assert result.exit_code == 1
    assert "nothing is known of default/ada" in result.stderr
    assert "the last 3 decisions of a user, for 1 h" in result.stderr
    assert "herald status" in result.stderr
    client = redis.Redis.from_url(settings.redis.url)
    writer = ViewWriter(settings.kafka, settings.views)
    client.execute_command(*writer.profile(b"default/ada", encode_json(Profile(version=2))))
    assert "though a profile is (version 2)" in explain(settings, "--user", "ada").stderr
    store(settings, "default/ada", decided(user(), policies(news=category())))
    result = explain(settings, "--user", "ada", "--event", "other")
    assert (result.exit_code, "no decision on event other" in result.stderr) == (1, True)
    assert explain(settings, "--user", "acme/ada").exit_code == 1


@pytest.mark.parametrize(("name", "message"), [("no tenant/ada", "write a user with a slash"), ("default/", "no user")])
def test_a_user_that_is_none_is_refused(settings: Settings, name: str, message: str) -> None:
    result = explain(settings, "--user", name)
    assert (result.exit_code, message in result.stderr) == (2, True)


def test_without_redis_the_command_says_so(settings: Settings, tmp_path: Any) -> None:
    write_settings(replace(settings, redis=free_settings(tmp_path).redis), tmp_path / "herald.yaml")
    result = explain(settings, "--user", "ada")
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert "herald status" in result.stderr
