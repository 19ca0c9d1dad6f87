"""``herald explain`` on records that the decision core made, from a real Redis: the sentences are true and exact."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from msgspec.structs import replace

from cli.main import main
from cli.stack.stack_settings import write_settings
from connectors.explain import moment, span, stories, when
from connectors.settings import RedisSettings, Settings, ViewSettings
from connectors.view_store import History, ViewWriter
from messages.codec import encode_json
from messages.decision import DecisionRecord
from messages.delivery import Outcome
from messages.policy import BudgetExhausted, Cap, Category, Digest, OptIn, Policy, Price, Step, TenantDefaults
from messages.profile import Cancel, EndpointInput, Opened, PendingChange, Profile, ProfileInput, Read, ReplaceProfile
from messages.windows import Window
from policy.core import decide
from policy.policies import compile_policies
from policy.reasons import REASONS
from policy.state import UserState
from policy.step import Decided
from tests.conftest import RedisServer, free_settings, fresh_prefix
from tests.policy.builders import (
    ALL_PROVIDERS,
    HOUR,
    MINUTE,
    NOW,
    arrival,
    category,
    command,
    endpoint,
    event,
    fire,
    policies,
    throttle,
    user,
)


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
        "Event event-1 of tests (news, transactional) for default/ada arrived at 2026-09-21T14:13:20.000Z (1 min ago) "
        "on the background lane.",
        "At 2026-09-21T14:13:20.000Z (1 min ago) it was decided, by policy version 4 on profile version 1: "
        "1 delivery went out.",
        "  push: sent.",
        f"  Delivery {record.deliveries[0]} on push to endpoint phone: fcm accepted it at 2026-09-21T14:13:20.080Z "
        "(59 s ago), "
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
            "fcm says that the endpoint will never work (404 UNREGISTERED) at 2026-09-21T14:13:20.080Z "
            "(59 s ago), after 1 attempt.",
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
        "At 2026-09-21T14:13:20.000Z (1 min ago) it was decided, by policy version 1 on profile version 1: it was not sent: "
        "by the user's choices, or the defaults, it is allowed on none of its channels.",
        "  push: not allowed; denied by the user's choice `news/*`.",
    ]


def test_a_default_that_denies_is_no_choice_of_the_user() -> None:
    out = decided(user(), policies(news=category("marketing", default="deny")))
    assert told(out)[2] == "  push: not allowed; the user chose nothing, and the category's default is to deny."


def test_a_deferral_and_its_release() -> None:
    rules = policies(news=category(throttle=throttle(3, "1h", 5)))
    state = user()
    for number in range(5):
        decided(state, rules, number=number)
    waiting = decided(state, rules, number=9)
    (record,) = waiting.decisions
    assert told(waiting)[1:] == [
        "At 2026-09-21T14:13:20.000Z (1 min ago) it was decided, by policy version 1 on profile version 1: it waits until "
        "2026-09-21T14:33:20.000Z (in 19 min): the user's limit for this category was reached.",
        "  push: the user's limit was reached; the bucket `news/push` held 0 of 5 tokens (limit 3 in 1 h); "
        "it could go out at 2026-09-21T14:33:20.000Z (in 19 min) at the earliest.",
        "  Nothing was decided after that, as far as the view knows.",
    ]
    assert told(waiting, now=(record.release_at or 0) + 1)[-1].startswith("  That time has passed;")
    released = fire(rules, state)
    lines = told(waiting, released)
    assert not any("Nothing was decided" in line or "has passed" in line for line in lines)
    assert lines[3] == (
        "At 2026-09-21T14:33:20.000Z (in 19 min) it was decided again, by policy version 1 on profile version 1: "
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
        f": the rest of it waits until {moment(child.release_at or 0)} (in 59 min): "
        "the user's limit for this category was reached."
    )
    assert lines[7].startswith("  email: the user's limit was reached; the bucket `news/email` held 0 of 1 tokens")
    assert lines[8] == "  Nothing was decided after that, as far as the view knows."
    later = told(both, fire(rules, state))
    assert later[8].endswith(": of the rest, 1 delivery went out.")
    assert later[9].startswith("  email: sent;")


def test_parked_and_given_up() -> None:
    rules = policies(news=category("marketing"))
    state = user(known=False)
    lines = told(decided(state, rules), fire(rules, state))
    assert lines[1] == (
        "At 2026-09-21T14:13:20.000Z (1 min ago) it was decided, by policy version 1, without a profile: it waits until "
        "2026-09-21T14:13:50.000Z (30 s ago) at the latest: no profile of this user was known yet, so it waits for one."
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


def records_of(*decided: Decided) -> list[DecisionRecord]:
    return [record for each in decided for record in each.decisions]


def test_a_chain_is_told_in_its_order() -> None:
    """Arrived, parked, deferred by quiet hours, released, sent."""
    rules = policies(news=category("marketing"))
    state = user(known=False)
    profile = ProfileInput(
        endpoints=[EndpointInput(id="phone", provider="fcm", address="token")],
        quiet_hours=(Window(start="14:00", end="16:00"),),
    )
    parked = decided(state, rules)
    arrives = decide(NOW + 5_000, rules, state, command(ReplaceProfile(id="c", profile=profile), 0))
    released = fire(rules, state)
    lines = told(parked, arrives, released, now=NOW + 3 * HOUR)
    assert lines[1].endswith("so it waits for one.")
    assert lines[2:6] == [
        "At 2026-09-21T14:13:25.000Z (2 h 59 min ago) it was decided again, by policy version 1 on profile version 1: "
        "it waits until 2026-09-21T16:00:00.000Z (1 h 13 min ago): quiet hours of the user, or of the country, were on.",
        "  push: quiet hours of the user, or of the country, were on; "
        "it could go out at 2026-09-21T16:00:00.000Z (1 h 13 min ago) at the earliest.",
        "At 2026-09-21T16:00:00.000Z (1 h 13 min ago) it was decided again, by policy version 1 on profile version 1: "
        "1 delivery went out.",
        "  push: sent.",
    ]
    assert len(lines) == 7


def test_the_order_is_the_chain_s_whatever_order_the_records_are_read_in() -> None:
    rules = policies(news=ladder())
    state = user(endpoint(), endpoint("number", "twilio"))
    records = records_of(decided(state, rules), fire(rules, state))
    straight = stories(History(decisions=records, outcomes={}), NOW)
    assert stories(History(decisions=records[::-1], outcomes={}), NOW) == straight
    assert [record.outcome for record in straight[0].decisions] == ["sent", "escalating", "sent"]


def test_what_a_cap_let_pass_and_what_it_did_not() -> None:
    caps = {"daily": Cap(limit=1, window="day"), "tight": Cap(limit=2, window="12h", channels=["push"])}
    rules, state = policies(news=category("marketing"), caps=caps), user()
    assert told(decided(state, rules))[3:5] == [
        "  The cap `daily` had 0 of 1 taken in the user's day.",
        "  The cap `tight` had 0 of 2 taken in 12h.",
    ]
    lines = told(decided(state, rules, number=2))
    assert lines[1].endswith("it was not sent: a frequency cap of the user's was reached.")
    assert lines[2:] == [
        "  push: a frequency cap was reached; it could go out at 2026-09-22T00:00:00.000Z (in 9 h 45 min) at the earliest.",
        "  The cap `daily` had 1 of 1 taken in the user's day.",
    ]


@pytest.mark.parametrize(
    ("settings", "person", "said"),
    [
        ({"opt_in": [OptIn(channels=["push"])]}, {}, "it needs the user's consent, and none was given"),
        ({}, {"preferences": {"*/push": False}}, "denied by the user's choice `*/push`"),
        ({}, {"subscriptions": {"sport": False}}, "the user has left the topic `sport`"),
        ({}, {}, "the user chose nothing, and the tenant's default `news/*` is to deny"),
    ],
)
def test_the_scope_that_denied_is_told(settings: dict[str, Any], person: dict[str, Any], said: str) -> None:
    tenants = {"default": TenantDefaults(preferences={"news/*": False})}
    rules = policies(news=category("marketing", **settings), tenants=tenants)
    assert told(decided(user(**person), rules, tags=["sport"]))[2:] == [f"  push: not allowed; {said}."]


def test_a_category_may_have_the_name_of_another_scope() -> None:
    record = records_of(decided(user(), policies(news=category())))[0]
    record = replace(record, category="tenant", channels={"push": "opted_out"}, scopes={"push": "tenant/push"})
    assert told(Decided(decisions=[record]))[2] == "  push: not allowed; denied by the user's choice `tenant/push`."
    record = replace(record, scopes={"push": "fashion"})
    assert told(Decided(decisions=[record]))[2] == "  push: not allowed; denied by `fashion`."


def test_the_channels_that_were_not_chosen_or_too_dear() -> None:
    prices = {"sms": Price(default=0.05), "email": Price(default=0.001)}
    rules = policies(news=category(channels=("sms", "email"), choice="cheapest"), prices=prices)
    state = user(endpoint("number", "twilio"), endpoint("mail", "ses"))
    assert "  sms: another channel was chosen, for its cost or its time." in told(decided(state, rules))
    spent = BudgetExhausted(category="news", channel="push", day="2026-09-21")
    document = Policy(version=1, categories={"news": category()})
    out = decided(user(), compile_policies(document, ALL_PROVIDERS, [spent]))
    assert told(out)[1].endswith("it was not sent: the category's budget for the day was spent.")
    assert told(out)[2] == (
        "  push: the category's budget for the day was spent on it; "
        "it could go out at 2026-09-22T00:00:00.000Z (in 9 h 45 min) at the earliest."
    )


def test_an_override_over_the_policy_is_named() -> None:
    rules = compile_policies(Policy(version=1, categories={"news": category()}), ALL_PROVIDERS, (), ["news"])
    assert (
        "by policy version 1 with the override `category/news` over it on profile version 1"
        in told(decided(user(), rules))[1]
    )


def test_a_digest_and_what_went_into_it() -> None:
    rules = policies(news=category(digest=Digest(window="1h")))
    state = user()
    items = [decided(state, rules, number=number, at=NOW + number) for number in (1, 2)]
    opened = told(items[0])
    assert opened[1].endswith(": it waits in a digest until 2026-09-21T15:13:20.001Z (in 59 min) at the latest.")
    assert opened[2:] == ["  push: collected in a digest.", "  Nothing was decided after that, as far as the view knows."]
    records = records_of(*items, fire(rules, state))
    item, other, digest = stories(History(decisions=records, outcomes={}), NOW + 2 * HOUR)
    assert (item.event_id, other.event_id) == ("event-1", "event-2")
    assert item.sentences[2].endswith(f"it went into the digest {digest.event_id}.")
    assert (
        item.sentences[3]
        == "  At 2026-09-21T15:13:20.001Z (59 min 59 s ago) it was decided on the digest: 1 delivery went out."
    )
    assert digest.sentences[0] == (
        "It is a digest; as far as the view knows 2 notifications went into it: event-1, event-2."
    )
    assert digest.sentences[1].endswith(": 1 delivery went out.")
    # Asked for alone, both know of each other all the same.
    for story in (item, digest):
        assert stories(History(decisions=records, outcomes={}), NOW + 2 * HOUR, event=story.event_id) == [story]


def test_a_digest_whose_items_the_view_forgot_and_items_whose_digest_it_forgot() -> None:
    rules = policies(news=category(digest=Digest(window="1h", at=12)))
    state = user()
    collected = [decided(state, rules, number=number, at=NOW + number) for number in range(11)]
    records = records_of(decided(state, rules, number=11, at=NOW + 12))
    (digest,) = [record for record in records if record.source == "herald"]
    (story,) = stories(History(decisions=[digest], outcomes={}), NOW)
    assert story.sentences[0] == "It is a digest; what went into it is not in the view, or not yet."
    (story,) = stories(History(decisions=records, outcomes={}), NOW, event=digest.event_id)
    assert "12 notifications went into it: event-0, event-1," in story.sentences[0]
    assert story.sentences[0].endswith(", event-9 and 2 more.")
    alone = [record for record in records_of(*collected) + records if record.event_id == "event-1"]
    (story,) = stories(History(decisions=alone, outcomes={}), NOW)
    assert story.sentences[-1] == "  What became of the digest is not in the view, or not yet."


def test_a_part_that_a_digest_takes_has_a_chain_of_its_own() -> None:
    rules = policies(news=category(channels=("push", "email"), digest=Digest(window="1h", channels=["push"])))
    state = user(endpoint(), endpoint("mail", "ses"))
    both = decided(state, rules)
    lines = told(both)
    assert lines[5].endswith(": a part of it waits in a digest until 2026-09-21T15:13:20.000Z (in 59 min) at the latest.")
    assert lines[-1].startswith("  Nothing was decided after that")
    (story, _) = stories(History(decisions=records_of(both, fire(rules, state)), outcomes={}), NOW)
    assert story.sentences[-2].split(": ", 1)[1].startswith("a part of it went into the digest digest/")


def ladder() -> Category:
    steps = [Step(channels=["push"], wait="5m"), Step(channels=["sms"], wait="5m")]
    return category(channels=("push", "sms"), choice="escalation", steps=steps)


def test_a_ladder_and_its_steps() -> None:
    rules, state = policies(news=ladder()), user(endpoint(), endpoint("number", "twilio"))
    first = decided(state, rules)
    lines = told(first)
    assert lines[4].endswith(
        "it was decided, by policy version 1 on profile version 1: "
        "its ladder waits until 2026-09-21T14:18:20.000Z (in 4 min) for an answer, before step 2."
    )
    assert lines[5] == "  Nothing was decided after that, as far as the view knows."
    climbed = told(first, fire(rules, state))
    assert climbed[5].endswith(": on step 2 of its ladder 1 delivery went out.")
    assert climbed[6] == "  sms: sent."


@pytest.mark.parametrize(
    ("change", "ended"),
    [
        (Read(id="r", source="tests", event_id="event-1"), "its ladder ended: the user has read it."),
        (Opened(id="o", source="tests", event_id="event-1"), "its ladder ended: it was opened."),
        (Cancel(id="c", source="tests", event_id="event-1"), "its ladder ended: it was cancelled."),
    ],
)
def test_what_ends_a_ladder(change: PendingChange, ended: str) -> None:
    rules, state = policies(news=ladder()), user(endpoint(), endpoint("number", "twilio"))
    lines = told(decided(state, rules), decide(NOW + MINUTE, rules, state, command(change, 0)))
    assert lines[-1].split(": ", 1)[1] == ended
    assert not any("Nothing was decided" in line for line in lines)


def test_what_is_cancelled_or_superseded_says_so() -> None:
    rules = policies(news=category(throttle=throttle(1, "1h")))
    state = user()
    decided(state, rules, number=9)
    waits = decided(state, rules, collapse_key="k")
    newer = decide(NOW + 1, rules, state, arrival(event(2, at=NOW + 1, collapse_key="k"), at=NOW + 1))
    cancelled = decide(NOW + 2, rules, state, command(Cancel(id="c", source="tests", event_id="event-2"), 1))
    old, new = stories(History(decisions=records_of(waits, newer, cancelled), outcomes={}), NOW)
    assert old.sentences[-1].endswith(
        "it was not sent: a newer notification with the same collapse_key takes its place (event-2)."
    )
    assert new.sentences[-1].endswith("it was not sent: it was cancelled.")


def test_only_the_latest_notifications_where_a_limit_is_given() -> None:
    rules, state = policies(news=category()), user()
    records = records_of(*(decided(state, rules, number=number, at=NOW + number) for number in range(4)))
    found = stories(History(decisions=records, outcomes={}), NOW, limit=2)
    assert [story.event_id for story in found] == ["event-2", "event-3"]


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (0, "now"),
        (999, "now"),
        (-999, "now"),
        (1_000, "in 1 s"),
        (-61_000, "1 min 1 s ago"),
        (3_600_000, "in 1 h"),
        (-(2 * 86_400_000 + 3_600_000 + 59_000), "2 d 1 h ago"),
    ],
)
def test_instants_are_absolute_and_relative(distance: int, text: str) -> None:
    assert when(NOW + distance, NOW) == f"{moment(NOW + distance)} ({text})"


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
    assert explain(settings, "--user", "ada", "--limit", "1").output.count("Event event-") == 1
    assert "fcm accepted it" in result.output
    assert "this event had already been seen for this user" in result.output
    result = explain(settings, "--user", "default/ada", "--event", "event-2", "--json")
    document = json.loads(result.stdout)
    (notification,) = document["notifications"]
    assert (document["user"], notification["event_id"]) == ("ada", "event-2")
    (record,) = notification["decisions"]
    assert list(notification["outcomes"]) == record["deliveries"]
    assert notification["sentences"][0].startswith("At 2026-09-21T14:13:20.002Z (")


def test_what_is_not_known_is_said_with_what_to_do(settings: Settings) -> None:
    result = explain(settings, "--user", "ada")
    assert result.exit_code == 1
    assert "nothing is known of default/ada" in result.stderr
    assert "the last 3 decisions of a user, for 1 h or more" in result.stderr
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
