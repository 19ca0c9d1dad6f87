"""Events and changes of every kind, good and bad, all in one run: each has exactly one outcome, and the job goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from cli.synthetic import event
from connectors.conservation import Report
from messages.decision import DecisionRecord
from messages.profile import decode_profile
from messages.topics import CHANGES, EVENTS, PROFILES
from tests.flink.cluster import CROWD, PATIENCE, Cluster, command
from tests.flink.log import Origin, Record
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

BACKGROUND, URGENT = EVENTS["background"], EVENTS["urgent"]
LONGEST_ID = 256
SENT = [("sent", None)]
INVALID = [("rejected", "invalid_event")]


class Case(NamedTuple):
    """A record to send, and all that may come of it: ``rejected`` are (stage, reason, path), ``decided`` is by user."""

    name: str
    value: bytes | None
    rejected: Sequence[tuple[str, str, str]] = ()
    decided: Mapping[str, list[tuple[str, str | None]]] = MappingProxyType({})
    topic: str = BACKGROUND
    key: str | bytes | None = None


def good(name: str, *users: str, category: str = "orders", **more: Any) -> bytes:
    return event(name, list(users), category, datetime.now(UTC), **more)


def changed(value: bytes, *path: str, to: object) -> bytes:
    """The event with what is at ``path`` replaced."""
    document = json.loads(value)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return json.dumps(document).encode()


def users_are(name: str, users: object) -> bytes:
    return changed(good(name, "nobody"), "data", "recipients", "users", to=users)


def text(length: int) -> dict[str, Any]:
    return {"push": {"body": "x" * length}}


def unreadable(reason: str, path: str = "$") -> list[tuple[str, str, str]]:
    return [("read", reason, path)]


def refused(reason: str, path: str = "$", times: int = 1) -> list[tuple[str, str, str]]:
    return [("decide", reason, path)] * times


def not_applied(reason: str, path: str = "$") -> list[tuple[str, str, str]]:
    return [("change", reason, path)]


def replaced(identity: str, **profile: Any) -> bytes:
    return json.dumps({"kind": "replace_profile", "id": identity, "profile": profile}).encode()


USERS_PATH = "$.data.recipients.users"

EVENT_CASES = [
    # Nobody's: the event itself cannot be read.
    Case("cut short", b'{"specversion": "1.0", "id": ', unreadable("malformed_json", "$.id")),
    Case("no JSON at all", b"hello", unreadable("malformed_json")),
    Case("trailing garbage", good("t", "ann") + b" and more", unreadable("trailing_data")),
    Case("two documents", good("t1", "ann") + good("t2", "ann"), unreadable("trailing_data")),
    Case("a list", b"[1, 2, 3]", unreadable("not_an_object")),
    Case("a number", b"5", unreadable("not_an_object")),
    Case("a field twice", b'{"id": "a", "id": "b", ' + good("f", "ann")[1:], unreadable("duplicate_field", "$.id")),
    Case("no bytes", b"", unreadable("empty_value")),
    Case("a tombstone", None, unreadable("empty_value")),
    Case("not UTF-8", good("u", "ann").replace(b'"ann"', b'"\xff\xfe"', 1), unreadable("invalid_utf8")),
    Case("too deep", b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", unreadable("limit_exceeded", "$.a" + "[0]" * 100)),
    Case("larger than an event may be", good("big", "ann", content=text(3_000_000)), unreadable("event_too_large")),
    Case("a tenant with a slash", changed(good("s", "ann"), "tenant", to="a/b"), unreadable("invalid_tenant", "$.tenant")),
    Case("users no list", users_are("n", "ann"), unreadable("invalid_recipients", USERS_PATH)),
    Case("a user that is a number", users_are("n", ["ann", 5]), unreadable("invalid_recipients", f"{USERS_PATH}[1]")),
    Case("a user that is an object", users_are("o", [{"x": 1}]), unreadable("invalid_recipients", f"{USERS_PATH}[0]")),
    Case("a user that is a list", users_are("l", [["ann"]]), unreadable("invalid_recipients", f"{USERS_PATH}[0]")),
    Case("a user that is null", users_are("0", [None]), unreadable("invalid_recipients", f"{USERS_PATH}[0]")),
    Case("a user without a name", users_are("e", [""]), unreadable("invalid_recipients", f"{USERS_PATH}[0]")),
    Case("a user's name too long", users_are("g", ["x" * 257]), unreadable("invalid_recipients", f"{USERS_PATH}[0]")),
    Case("no recipients", users_are("m", []), unreadable("no_recipients", "$.data.recipients")),
    Case(
        "an audience",
        changed(good("a", "ann"), "data", "recipients", "topics", to=["football"]),
        unreadable("recipients_topics_unsupported", "$.data.recipients.topics"),
    ),
    # Somebody's: each recipient has an outcome.
    Case(
        "an unknown field",
        changed(good("x", "ann"), "data", "colour", to="red"),
        refused("invalid_event", "$.data"),
        {"ann": INVALID},
    ),
    Case(
        "an unknown field, for two",
        changed(good("x2", "ann", "bob"), "colour", to="red"),
        refused("invalid_event", times=2),
        {"ann": INVALID, "bob": INVALID},
    ),
    Case(
        "no instant",
        changed(good("y", "ann"), "time", to="yesterday"),
        refused("invalid_event", "$.time"),
        {"ann": INVALID},
    ),
    Case(
        "a category that is a number",
        changed(good("c", "ann"), "data", "category", to=7),
        refused("invalid_event", "$.data.category"),
        {"ann": INVALID},
    ),
    Case("1 MB", good("mb", "ann", content=text(1_000_000)), refused("invalid_event", "$.data"), {"ann": INVALID}),
    Case("a category nobody knows", good("k", "ann", category="gossip"), [], {"ann": [("rejected", "unknown_category")]}),
    Case("400 kB", good("kb", "ann", content=text(400_000)), [], {"ann": SENT}),
    Case("a user named twice", good("r", "bob", "ann", "bob"), [], {"ann": SENT, "bob": SENT}),
    Case("names of all sorts", good("z", "zoë", "o'neil/2", "李"), [], {"zoë": SENT, "o'neil/2": SENT, "李": SENT}),
    Case("the longest name", good("w", "w" * LONGEST_ID), [], {"w" * LONGEST_ID: SENT}),
    Case("who does not want it", good("v", "mute", category="news"), [], {"mute": [("suppressed", "opted_out")]}),
    Case("who must get it all the same", good("q", "mute", category="codes"), [], {"mute": SENT}, topic=URGENT),
    Case("10,000 recipients", good("crowd", *CROWD), [], dict.fromkeys(CROWD, SENT)),
]

CHANGE_CASES = [
    Case("without a key", command("a"), not_applied("missing_key"), topic=CHANGES),
    Case("a key without a tenant", command("b"), not_applied("invalid_key"), topic=CHANGES, key="ann"),
    Case("a key that is not UTF-8", command("c"), not_applied("invalid_key"), topic=CHANGES, key=b"default/\xff"),
    Case("no command", None, not_applied("empty_value"), topic=CHANGES, key="default/ann"),
    Case("no JSON", b"{", not_applied("invalid_change"), topic=CHANGES, key="default/ann"),
    Case(
        "an unknown kind", b'{"kind":"forget","id":"1"}', not_applied("invalid_change", "$.kind"), {}, CHANGES, "default/ann"
    ),
    Case(
        "an unknown time zone",
        replaced("zone", time_zone="Europe/Atlantis"),
        not_applied("invalid_change", "$.profile"),
        topic=CHANGES,
        key="default/ann",
    ),
    Case(
        "a profile larger than one may be",
        replaced(
            "large",
            endpoints=[{"id": f"d{number}", "provider": "fcm", "address": "x" * 4096} for number in range(64)],
            preferences=[{"category": f"c{number}", "allow": True} for number in range(512)],
        ),
        not_applied("profile_too_large"),
        topic=CHANGES,
        key="default/ann",
    ),
    Case(
        "a command larger than one may be",
        command("huge", locale="e" * 3_000_000),
        not_applied("change_too_large"),
        topic=CHANGES,
        key="default/ann",
    ),
]

CASES = EVENT_CASES + CHANGE_CASES


class Arrived(NamedTuple):
    """What came of the run: where each case's record lies, and what the job said of the others."""

    cluster: Cluster
    job: str
    origins: dict[str, Origin]
    parked: dict[str, Origin]
    report: Report


@pytest.fixture(scope="module")
def arrived(cluster: Cluster, crowd: list[str]) -> Arrived:
    """All cases, sent to one run and waited for."""
    control = cluster.running()
    known = ["ann", "bob", "zoë", "o'neil/2", "李", "w" * LONGEST_ID]
    cluster.know(known)
    cluster.know(["mute"], {"category": "news", "allow": False}, {"category": "codes", "allow": False})
    parked = dict(zip(("early", "never"), cluster.notify("background", "orders", ["early", "never"], "park"), strict=True))
    parked["nobody"] = cluster.notify("background", "news", ["nobody"], "park")[0]
    # Its profile comes while it waits.
    until(lambda: cluster.soon.refresh().outcomes("early"), PATIENCE)
    cluster.know(["early"])
    origins = {case.name: cluster.sender.send(case.topic, [(case.key, case.value)])[0] for case in CASES}
    report = cluster.balanced()
    until(lambda: all(cluster.log.refresh().rejected(origins[case.name]) for case in CHANGE_CASES), PATIENCE)
    return Arrived(cluster, control.running() or "", origins, parked, report)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_arrival_has_its_outcomes_and_no_other(arrived: Arrived, case: Case) -> None:
    log, origin = arrived.cluster.log, arrived.origins[case.name]
    found: dict[str, list[tuple[str, str | None]]] = {}
    for user, records in log.decisions.items():
        if any(record.origin == str(origin) for record in records):
            found[user] = log.outcomes(user, origin)
    assert found == case.decided
    rejected = log.rejected(origin)
    assert [said(record) for record in rejected] == list(case.rejected)
    # Of a larger one 1 MiB is kept. Of several recipients' event each has a copy without the list: its key says whose.
    original = (case.value or b"")[: 1 << 20].replace(b'["ann", "bob"]', b"[]")
    assert {record.value for record in rejected} <= {original}


def said(record: Record) -> tuple[str, str, str]:
    return record.headers["stage"], record.headers["reason"], record.headers["path"]


def test_what_is_sent_leaves_once_an_endpoint_whole(arrived: Arrived) -> None:
    log = arrived.cluster.log
    large = [delivery for delivery in log.deliveries["ann"] if delivery.event_id == "kb"]
    assert [(delivery.provider, len((delivery.content and delivery.content.body) or "")) for delivery in large] == [
        ("fcm", 400_000)
    ]
    crowd = [delivery for user in CROWD for delivery in log.deliveries[user] if delivery.event_id == "crowd"]
    assert Counter(delivery.provider for delivery in crowd) == {"fcm": len(CROWD), "inapp": len(CROWD)}
    assert len({delivery.id for delivery in crowd}) == 2 * len(CROWD)


def test_an_unknown_user_waits_for_the_profile_or_for_the_end_of_the_time(arrived: Arrived) -> None:
    log = arrived.cluster.log
    assert log.outcomes("early", arrived.parked["early"]) == [("parked", "parking"), ("sent", None)]
    assert {delivery.provider for delivery in log.deliveries["early"]} == {"fcm", "inapp"}
    # Of a stranger's endpoints there is the inbox; what is marketing ends.
    assert log.outcomes("never", arrived.parked["never"]) == [("parked", "parking"), ("sent", None)]
    assert {delivery.provider for delivery in log.deliveries["never"]} == {"inapp"}
    assert log.outcomes("nobody", arrived.parked["nobody"]) == [("parked", "parking"), ("suppressed", "unknown_user")]
    waited = {user: log.decisions[user][1].decided_at - log.decisions[user][0].decided_at for user in arrived.parked}
    assert waited["early"] < 10_000 <= min(waited["never"], waited["nobody"])


def test_profiles_are_written_as_the_commands_made_them(arrived: Arrived) -> None:
    written = [record for record in arrived.cluster.log.records[PROFILES] if record.key == "default/mute"]
    assert [decode_profile(record.value).preferences for record in written] == [{"news/*": False, "codes/*": False}]
    # What was refused changed nothing.
    assert len([record for record in arrived.cluster.log.records[PROFILES] if record.key == "default/ann"]) == 1


def test_everything_is_accounted_for_and_the_job_never_failed(arrived: Arrived) -> None:
    cluster = arrived.cluster
    assert arrived.report.unreadable == sum(stage == "read" for case in CASES for stage, _, _ in case.rejected)
    assert (arrived.report.difference, arrived.report.doubled) == (0, 0)
    assert cluster.failures(arrived.job) == []
    steps = Counter((record.notification_id, record.step) for record in every_decision(cluster))
    assert max(steps.values()) == 1


def every_decision(cluster: Cluster) -> list[DecisionRecord]:
    return [record for records in cluster.log.decisions.values() for record in records]
