"""The handler through its wire: many users in a bundle, and what one failing input may cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import policy.emission
from messages.codec import encode_json
from messages.decision import PENDING, DecisionRecord
from messages.policy import Bounds, Policy, Throttle
from messages.profile import Preference, Profile, RemoveEndpoint, ReplaceProfile, SetPreferences, decode_profile
from policy.identity import notification_id
from tests.policy.builders import HOUR, NOW, SECOND, add_endpoint, category, event
from tests.udfs.wire import BACKGROUND, CHANGE, PROFILE, TIMER, URGENT, Answer, Input, Operator
from udfs import state as stored
from udfs.fanout import RETRY

ADA, BOB, EVE = "default/ada", "default/bob", "other/ada"

POLICY = Policy(
    version=7,
    bounds=Bounds(pending_items=8),
    categories={
        "news": category(channels=("push", "in_app")),
        "chat": category(throttle=Throttle(limit=1, period="10s", burst=1)),
        "offers": category("marketing"),
    },
)


def operator(*known: str) -> Operator:
    """An operator with a phone for each of these users."""
    made = Operator(POLICY)
    for number, key in enumerate(known):
        made.run(NOW - HOUR, made.input(key, CHANGE, add_endpoint(number)))
    return made


@contextmanager
def failing(*marked: tuple[int, str]) -> Iterator[None]:
    """The core fails whenever it emits one of these (event, user): late, with the user's state already changed."""
    bad = set()
    for number, key in marked:
        tenant, _, user = key.partition("/")
        bad.add(notification_id(tenant, "tests", f"event-{number}", user))
    honest = policy.emission.delivery_id

    def delivery_id(notification: str, channel: str, endpoint: str, step: int) -> str:
        if notification in bad:
            raise ZeroDivisionError("a defect of the core")
        return honest(notification, channel, endpoint, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy.emission, "delivery_id", delivery_id)
        yield


def of_user(answer: Answer, key: str) -> list[tuple[str, Any]]:
    """A user's rows in their order, but for what became of inputs on which the core failed."""
    rows = [(row.topic, msgspec.json.decode(row.value)) for row in answer.rows if row.key == key.encode()]
    return [(topic, value) for topic, value in rows if value.get("reason") != "internal_error"]


# A bundle


def test_a_plain_send_on_the_wire() -> None:
    made = operator(ADA)
    answer = made.run(NOW, made.input(ADA, URGENT, event(1), NOW - 5))
    (push, in_app) = answer.deliveries()
    assert [row.topic for row in answer.rows] == ["deliveries.fcm.urgent", "deliveries.inapp.urgent", "decisions"]
    assert {row.key for row in answer.rows} == {ADA.encode()}
    assert (push.endpoint.address, in_app.endpoint.address) == ("address-of-phone", "ada")
    assert (push.arrived_at, push.decided_at, push.policy_version) == (NOW - 5, NOW, 7)
    (record,) = answer.decisions()
    assert (record.outcome, record.origin, record.lane) == ("sent", f"events.urgent/0/{made.offset}", "urgent")
    assert answer.counters == {"decisions;lane=urgent;class=transactional;outcome=sent;reason=none": 1}
    (touched,) = answer.touched
    assert (touched.profile[0], touched.activity[0], touched.pending) == (0, 2, [])
    assert (touched.before, touched.due) == (0, 0)


kinds = st.sampled_from(["news", "chat", "chat", "offers", "nothing"])
events = st.builds(event, st.integers(0, 5), kinds, not_before=st.sampled_from([None, None, NOW + HOUR]))
commands = st.one_of(
    st.builds(add_endpoint, st.integers(0, 9), st.sampled_from(["phone", "tablet"])),
    st.builds(
        SetPreferences,
        id=st.sampled_from(["p1", "p2"]),
        preferences=st.builds(lambda allow: [Preference(category="news", allow=allow)], st.booleans()),
    ),
    st.builds(RemoveEndpoint, id=st.sampled_from(["r1", "r2"]), endpoint_id=st.just("phone")),
)
garbage = st.sampled_from([b"", b"{", b'{"id":"x"}'])
users = st.sampled_from([ADA, BOB, EVE])
inputs = st.lists(
    st.one_of(
        st.tuples(users, st.sampled_from([BACKGROUND, URGENT]), st.one_of(events, events, events, garbage)),
        st.tuples(users, st.just(CHANGE), st.one_of(commands, commands, commands, garbage)),
    ),
    max_size=14,
)


@given(inputs, inputs)
def test_a_bundle_decides_as_its_inputs_would_alone(before: list[Any], items: list[Any]) -> None:
    together, alone = operator(ADA, BOB), operator(ADA, BOB)
    for one in (together, alone):
        one.run(NOW - SECOND, *(one.input(*item) for item in before))
    answer = together.run(NOW, *(together.input(*item) for item in items))
    singles = [alone.run(NOW, alone.input(*item)) for item in items]
    for key in (ADA, BOB, EVE):
        expected = [row for single in singles for row in of_user(single, key)]
        profiles = [row for row in expected if row[0] == "profiles"]
        # A profile is emitted once a bundle, after everything else, as it then is.
        assert of_user(answer, key) == [row for row in expected if row[0] != "profiles"] + profiles[-1:]
    # Rejected records have no key: they are in the order of users, then of inputs.
    rejected = [row for single in singles for row in single.rejected()]
    assert sorted(map(str, answer.rejected())) == sorted(map(str, rejected))
    assert together.states() == alone.states()


def origin(one: Input) -> str:
    """The place of an event, as its records have it."""
    return f"{'events.urgent' if one.kind == URGENT else 'events.background'}/0/{one.offset}"


@given(inputs, inputs, st.sets(st.tuples(st.integers(0, 5), users), min_size=1, max_size=4))
def test_a_failing_input_costs_itself_alone(before: list[Any], items: list[Any], bad: set[tuple[int, str]]) -> None:
    """The bundle decides as it would without what failed: the same rows, the same states."""
    broken, clean = operator(ADA, BOB), operator(ADA, BOB)
    for one in (broken, clean):
        one.run(NOW - SECOND, *(one.input(*item) for item in before))
    bundle = [broken.input(*item) for item in items]
    with failing(*bad):
        answer = broken.run(NOW, *bundle)
    failed = {record.origin: record for record in answer.decisions() if record.reason == "internal_error"}
    here = {origin(one) for one in bundle if one.kind != CHANGE}
    for place, record in failed.items():
        assert record.step == (0 if place in here else 1)
        if place not in here:  # it had been stored
            del clean.pending[f"{record.tenant}/{record.user}"][record.notification_id]
    expected = clean.run(NOW, *(one for one in bundle if one.kind == CHANGE or origin(one) not in failed))
    for key in (ADA, BOB, EVE):
        assert of_user(answer, key) == of_user(expected, key)
    assert broken.states() == clean.states()
    assert answer.counters.get("core_failures", 0) == len(failed)
    assert len(answer.rejected()) == len(expected.rejected()) + len(failed)


def test_what_is_recorded_of_a_failure() -> None:
    made = operator(ADA)
    bad = event(1, "chat", campaign="autumn")
    with failing((1, ADA)):
        answer = made.run(NOW, made.input(ADA, URGENT, bad, NOW - 3))
    (record,) = answer.decisions()
    assert (record.outcome, record.reason, record.event_id, record.category) == (
        "rejected",
        "internal_error",
        "event-1",
        "chat",
    )
    assert (record.arrived_at, record.decided_at, record.campaign, record.lane) == (NOW - 3, NOW, "autumn", "urgent")
    assert record.notification_id == notification_id("default", "tests", "event-1", "ada")
    assert record.detail is not None
    assert record.detail.startswith("ZeroDivisionError: a defect of the core (test_handler.py:")
    (rejected,) = answer.rejected()
    assert rejected["value"] == encode_json(bad)
    assert (rejected["stage"], rejected["reason"], rejected["source_topic"]) == ("decide", "internal_error", "events.urgent")
    assert (rejected["source_offset"], rejected["source_key"]) == (str(made.offset), ADA)
    # Nothing of it is remembered: mended, the same event goes out.
    assert [d.event_id for d in made.run(NOW, made.input(ADA, BACKGROUND, bad)).deliveries()] == ["event-1"]


def chain(answers: list[Answer], event_id: str) -> list[DecisionRecord]:
    """All records of an event."""
    return [record for answer in answers for record in answer.decisions() if record.event_id == event_id]


def test_a_stored_item_on_which_the_core_fails_costs_neither_the_others_nor_its_timer() -> None:
    made = operator(ADA)
    waiting = [made.input(ADA, BACKGROUND, event(number, not_before=NOW + SECOND)) for number in range(3)]
    answers = [made.run(NOW, *waiting)]
    with failing((1, ADA)):
        answers.append(made.fire(NOW + SECOND))
    assert [d.event_id for d in answers[-1].deliveries()] == ["event-0", "event-0", "event-2", "event-2"]
    first, last = chain(answers, "event-1")
    assert (first.outcome, first.step) == ("deferred", 0)
    assert (last.outcome, last.reason, last.step, last.child) == ("rejected", "internal_error", 1, False)
    assert (last.notification_id, last.origin) == (first.notification_id, first.origin)
    assert (made.pending[ADA], made.timers) == ({}, set())


def test_a_stored_item_that_nobody_can_read_any_more_ends_under_its_own_id() -> None:
    """Its bytes were an event once; the notification's records must still end."""
    made = operator(ADA)
    answers = [made.run(NOW, made.input(ADA, BACKGROUND, event(1, not_before=NOW + SECOND)))]
    ((key, data),) = made.pending[ADA].items()
    item = stored.decode_pending(data)
    item.payload = b'{"an event": "of another time"}'
    made.pending[ADA][key] = stored.encode_pending(item)
    answers.append(made.fire(NOW + SECOND))
    (record,) = answers[-1].decisions()
    assert (record.notification_id, record.outcome, record.reason, record.step) == (key, "rejected", "internal_error", 1)
    assert answers[-1].rejected()[0]["value"] == item.payload
    assert (made.pending[ADA], made.timers) == ({}, set())


def test_an_item_parked_and_released_in_one_bundle_on_which_the_core_fails() -> None:
    """It was neither stored, nor is it the input being decided: blamed on the wrong one, the bundle would never end."""
    made = operator()
    with failing((1, EVE)):
        answer = made.run(
            NOW,
            made.input(EVE, BACKGROUND, event(0)),
            made.input(EVE, BACKGROUND, event(1)),
            made.input(EVE, CHANGE, add_endpoint(1)),
            made.input(EVE, BACKGROUND, event(2)),
        )
    assert {d.event_id for d in answer.deliveries()} == {"event-0", "event-2"}
    assert [record.reason for record in chain([answer], "event-1")] == ["internal_error"]
    assert made.pending[EVE] == {}
    assert EVE in made.profile


def test_a_stored_item_that_fails_and_arrives_again_in_the_same_bundle() -> None:
    """Its identity was forgotten, so it is parked anew under the same id; that one fails as an arrival."""
    made = Operator(Policy(version=1, bounds=Bounds(identities=1), categories={"news": category(channels=("in_app",))}))
    made.run(NOW, made.input(EVE, BACKGROUND, event(1)))
    ((_, at),) = made.timers
    with failing((1, EVE)):
        answer = made.run(
            at,
            Input(EVE, TIMER, b"", at),
            made.input(EVE, BACKGROUND, event(2)),
            made.input(EVE, BACKGROUND, event(1)),
            made.input(EVE, CHANGE, add_endpoint(1)),
        )
    assert [(r.reason, r.step) for r in chain([answer], "event-1")] == [("internal_error", 0), ("internal_error", 1)]
    assert [d.event_id for d in answer.deliveries()] == ["event-2"]
    assert made.pending[EVE] == {}


def test_a_failing_arrival_over_a_stored_item_that_fails_too() -> None:
    """Nothing of the user is decided at all, and still what is stored agrees with itself."""
    made = operator(ADA)
    made.run(NOW, made.input(ADA, BACKGROUND, event(1, not_before=NOW + SECOND)))
    with failing((1, ADA), (2, ADA)):
        answer = made.run(NOW + SECOND, made.input(ADA, BACKGROUND, event(2)))
    assert {(record.event_id, record.reason) for record in answer.decisions()} == {
        ("event-1", "internal_error"),
        ("event-2", "internal_error"),
    }
    assert made.pending[ADA] == {}
    made.fire(NOW + SECOND)
    assert made.timers == set()


def test_a_bundle_of_nothing_but_failures() -> None:
    made = operator(ADA)
    with failing(*((number, ADA) for number in range(64))):
        answer = made.run(NOW, *(made.input(ADA, BACKGROUND, event(number)) for number in range(64)))
    assert [record.reason for record in answer.decisions()] == ["internal_error"] * 64
    assert answer.counters["core_failures"] == 64
    assert ADA not in made.activity


# State that cannot be read


@pytest.mark.parametrize("which", ["profile", "activity", "pending"])
@pytest.mark.parametrize("damage", [b"", b"\x01", b"\x01\xff\xff", b"\x01\x01\xc1", b"\x01\x01\x90"])
def test_unreadable_state_costs_only_its_user_and_is_left_as_it_is(which: str, damage: bytes) -> None:
    made = operator(ADA, BOB)
    made.run(NOW, made.input(ADA, BACKGROUND, event(0, not_before=NOW + SECOND)))
    healthy = made.states()
    if which == "pending":
        ((key, _),) = made.pending[ADA].items()
        made.pending[ADA][key] = damage[1:]
    else:
        getattr(made, which)[ADA] = b"\x01" + damage if which == "activity" else damage
    before = made.states()
    answer = made.run(
        NOW,
        made.input(ADA, BACKGROUND, event(1)),
        made.input(BOB, BACKGROUND, event(1)),
        made.input(ADA, CHANGE, add_endpoint(9, "tablet")),
    )
    assert [(r.user, r.outcome) for r in answer.decisions()] == [("ada", "rejected"), ("bob", "sent")]
    assert {r["source_key"]: r["reason"] for r in answer.rejected()} == {ADA: "internal_error"}
    assert len(answer.rejected()) == 2
    assert [part[ADA] for part in made.states()[:3]] == [part[ADA] for part in before[:3]]
    # The timer fires meanwhile; with the right version of the code back, what waits goes out all the same.
    made.fire(NOW + SECOND)
    assert made.timers == {(ADA, NOW + SECOND + RETRY)}
    made.profile[ADA], made.activity[ADA], made.pending[ADA] = (part[ADA] for part in healthy[:3])
    assert {d.event_id for d in made.fire(NOW + SECOND + RETRY).deliveries()} == {"event-0"}
    assert made.timers == set()


# Timers


def test_a_timer_that_fires_for_nothing() -> None:
    made = operator(ADA)
    before = made.states()
    for key in (ADA, "default/nobody"):
        answer = made.run(NOW, Input(key, TIMER, b"", NOW))
        assert (answer.rows, answer.counters) == ([], {})
        assert answer.touched[0][1:] == ((0, None), (0, None), [], 0, 0)
    assert made.states() == before


def test_a_fired_timer_is_set_again_for_the_same_instant() -> None:
    """A clock that went back between the timer and the bundle: nothing is due, and the timer is gone."""
    made = operator(ADA)
    made.run(NOW, made.input(ADA, BACKGROUND, event(1, not_before=NOW + SECOND)))
    answer = made.run(NOW, Input(ADA, TIMER, b"", NOW + SECOND))
    assert (answer.touched[0].before, answer.touched[0].due) == (0, NOW + SECOND)
    assert answer.rows == []


def test_a_timer_that_was_not_the_fired_one_is_moved_and_not_left_behind() -> None:
    made = operator(ADA)
    made.run(NOW, made.input(ADA, BACKGROUND, event(1, not_before=NOW + HOUR)))
    assert made.timers == {(ADA, NOW + HOUR)}
    made.run(NOW, made.input(ADA, BACKGROUND, event(2, not_before=NOW + SECOND)))
    assert made.timers == {(ADA, NOW + SECOND)}
    # A stale one fires beside it: the one that is set stays set.
    made.run(NOW, Input(ADA, TIMER, b"", NOW - 5))
    assert made.timers == {(ADA, NOW + SECOND)}
    # A stale one fires, and the one that is set is moved in the same bundle: it is not left behind either.
    made.run(NOW, Input(ADA, TIMER, b"", NOW - 5), made.input(ADA, BACKGROUND, event(3, not_before=NOW + 1)))
    assert made.timers == {(ADA, NOW + 1)}
    made.fire(NOW + 1)
    assert made.timers == {(ADA, NOW + SECOND)}
    made.fire(NOW + SECOND)
    assert made.timers == {(ADA, NOW + HOUR)}
    made.fire(NOW + HOUR)
    assert (made.timers, made.pending[ADA]) == (set(), {})


def test_an_arrival_and_the_timer_in_one_bundle_in_either_order() -> None:
    for arrival_first in (True, False):
        made = operator(ADA)
        made.run(NOW, *(made.input(ADA, BACKGROUND, event(number, "chat")) for number in range(2)))
        ((_, at),) = made.timers
        made.timers.clear()
        bundle = [made.input(ADA, BACKGROUND, event(9, "chat")), Input(ADA, TIMER, b"", at)]
        answer = made.run(at, *(bundle if arrival_first else bundle[::-1]))
        assert [d.event_id for d in answer.deliveries()] == ["event-1"]
        assert made.timers == {(ADA, at + 10 * SECOND)}
        assert {d.event_id for d in made.fire(at + 10 * SECOND).deliveries()} == {"event-9"}
        assert (made.timers, made.pending[ADA]) == (set(), {})


def test_many_timers_in_one_bundle() -> None:
    keys = [f"default/user-{number}" for number in range(300)]
    made = operator(*keys)
    made.run(NOW, *(made.input(key, BACKGROUND, event(1, not_before=NOW + 1)) for key in keys))
    answer = made.fire(NOW + HOUR)
    assert {d.user for d in answer.deliveries()} == {key.partition("/")[2] for key in keys}
    assert made.timers == set()


def test_conservation_over_bundles() -> None:
    """Each arrival ends in exactly one outcome, wherever it waited on the way."""
    made = operator(ADA)
    answers = []
    for step in range(12):
        bundle = [made.input(key, BACKGROUND, event(f"{step}-{n}", "chat")) for key in (ADA, EVE) for n in range(3)]
        answers.append(made.run(NOW + step * SECOND, *bundle))
        answers.append(made.fire(NOW + step * SECOND + 500))
    while made.timers:
        answers.append(made.fire(max(at for _, at in made.timers)))
    records = [record for answer in answers for record in answer.decisions() if not record.child]
    ended = [(record.origin, record.user) for record in records if record.outcome not in PENDING]
    assert len(ended) == len(set(ended)) == 12 * 6
    assert all(entries == {} for entries in made.pending.values())


# Profiles


def test_a_profile_is_emitted_once_a_bundle_and_only_where_a_command_changed_it() -> None:
    made = operator()
    many = [made.input(ADA, CHANGE, add_endpoint(number, f"e{number}")) for number in range(5)]
    answer = made.run(NOW, *many)
    (row,) = answer.on("profiles")
    assert row.key == ADA.encode()
    assert row.value is not None
    assert decode_profile(row.value) == stored.decode_profile(made.profile[ADA])
    assert len(decode_profile(row.value).endpoints) == 5
    assert made.run(NOW, *many).rows == []
    refused = ReplaceProfile(id="x", version=1, profile={})  # type: ignore[arg-type]
    assert len(made.run(NOW, made.input(ADA, CHANGE, refused)).on("profiles")) == 1
    refused.id = "y"
    again = made.run(NOW, made.input(ADA, CHANGE, refused))
    assert again.on("profiles") == []
    assert [(r["stage"], r["reason"]) for r in again.rejected()] == [("change", "old_version")]


def test_a_profile_read_back_is_not_emitted_again() -> None:
    made = operator()
    profile = Profile(version=4, locale="de")
    assert made.run(NOW, made.input(ADA, PROFILE, profile)).rows == []
    assert stored.decode_profile(made.profile[ADA]) == profile
    assert made.run(NOW, made.input(ADA, PROFILE, Profile(version=3))).touched[0].profile == (0, None)


def test_a_command_that_no_longer_fits_a_replay_of_the_topic_is_not_applied_twice() -> None:
    """kill -9, and the commands after the checkpoint come again: the profile is what it would be without."""
    made = operator()
    log = [made.input(ADA, CHANGE, add_endpoint(number, f"e{number % 3}", address=f"a{number}")) for number in range(9)]
    made.run(NOW, *log)
    after = made.states()
    assert made.run(NOW + HOUR, *log[2:]).rows == []
    assert made.states() == after
