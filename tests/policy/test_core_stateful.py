"""The whole core for one user under random events, repeats, commands, clocks, policies and restarts.

Nothing here knows how the core works: it keeps every record and delivery that ever came out and checks the promises on
them. The timer is the operator's: one, moved where a decision moves it, never early, sometimes late.
"""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from messages.codec import encode_json
from messages.decision import PENDING, DecisionRecord
from messages.policy import Bounds
from messages.profile import (
    EndpointInput,
    Preference,
    Profile,
    ProfileInput,
    RemoveEndpoint,
    ReplaceProfile,
    SetPreferences,
    SuppressEndpoint,
    UnsuppressEndpoint,
)
from policy.core import REST, Arrival, Change, Decided, Due, Item, Loaded, decide
from policy.policies import Policies
from policy.profiles import ChangeRefused
from policy.state import UserState
from tests.policy.builders import NOW, add_endpoint, arrival, category, command, event, policies, throttle
from udfs import state as stored

BACK_AT_MOST = 400_000
"""Milliseconds that the clock goes back in all; max_age leaves the dedup window as much room."""

PROVIDERS = frozenset({"fcm", "inapp"})
KINDS = ("code", "chat", "offers", "tips")


def rules_of(version: int, bounds: Bounds | None = None, **changed: object) -> Policies:
    """A policy of four categories, some of them changed."""
    categories = {
        "code": category("critical", ("push", "in_app"), max_age="600s"),
        "chat": category(channels=("push", "in_app", "email"), max_age="600s", throttle=throttle(2, "10s", burst=2)),
        "offers": category("marketing", ("push",), max_age="300s", throttle=throttle(1, "7s", burst=3, action="drop")),
        "tips": category("marketing", ("in_app", "push"), max_age="600s", throttle=throttle(3, "10s", burst=1)),
    }
    chosen = {name: value for name, value in (categories | changed).items() if value is not None}
    return policies(version, bounds, PROVIDERS, identity_window="1000s", park="20s", **chosen)


POLICIES = (
    rules_of(1),
    rules_of(2, tips=None, chat=category(channels=("push", "in_app"), max_age="600s", throttle=throttle(1, "3s", burst=4))),
    rules_of(3, Bounds(pending_items=3), chat=category(max_age="600s", throttle=throttle(1, "30s", burst=1))),
    rules_of(4, offers=category("marketing", ("in_app", "push"), max_age="300s", throttle=throttle(9, "1s", burst=9))),
)

# Mostly plain, so that a run gets far: a rule that refuses ends the story.
only_on = st.sampled_from([None] * 6 + [["push"], ["in_app"], ["in_app", "push"], ["email"], []])
kinds = st.sampled_from(["chat"] * 5 + ["tips", "tips", "offers", "code", "nothing"])
ages = st.sampled_from([0] * 9 + [-10_000, 350_000, 599_000, 700_000])
delays = st.sampled_from([None] * 9 + [-1, 1, 4_000, 40_000])
expiries = st.sampled_from([None] * 9 + [0, 1, 3_000, 30_000])
keys = st.sampled_from([None, None, None, "k"])
choices = st.builds(
    Preference,
    category=st.sampled_from(["*", *KINDS]),
    channel=st.sampled_from(["*", "push", "in_app"]),
    allow=st.sampled_from([True, True, False]),
)
endpoints = st.builds(
    EndpointInput,
    id=st.sampled_from(["phone", "tablet", "inbox", "mail"]),
    provider=st.sampled_from(["fcm", "inapp", "ses"]),
    address=st.sampled_from(["first", "second"]),
)


class Core(RuleBasedStateMachine):
    """One user's notifications, from the first to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.gone_back = 0
        self.rules = POLICIES[0]
        self.state = UserState("default", "ada")
        self.timer = 0
        self.arrivals = 0
        self.offset = 0
        self.sent_before: dict[int, Arrival] = {}
        self.commands: list[Change] = []
        self.records: dict[tuple[str, str], list[DecisionRecord]] = defaultdict(list)
        self.delivery_ids: set[str] = set()
        # What is left in a bucket, in tokens: (left after the last emission, when that was).
        self.tokens: dict[str, tuple[Fraction, int]] = {}

    # What happens

    @initialize(known=st.sampled_from([True, True, True, False]))
    def start(self, known: bool) -> None:
        if known:
            self.decide(command(add_endpoint(0), 0))

    @rule(
        numbers=st.lists(st.integers(0, 400), min_size=1, max_size=5),
        kind=kinds,
        age=ages,
        not_before=delays,
        expires=expiries,
        channels=only_on,
        key=keys,
        lane=st.sampled_from(["urgent", "background"]),
    )
    def events_arrive(
        self,
        numbers: list[int],
        kind: str,
        age: int,
        not_before: int | None,
        expires: int | None,
        channels: list[str] | None,
        key: str | None,
        lane: str,
    ) -> None:
        data = {
            "not_before": None if not_before is None else self.now + not_before,
            "expires_at": None if expires is None else self.now + expires,
            "channels": channels,
            "throttle_key": key,
        }
        for number in numbers:
            if number not in self.sent_before:
                self.sent_before[number] = arrival(event(number, kind, self.now - age, **data), self.now, lane=lane)
            self.repeat(number)

    @precondition(lambda self: self.sent_before)
    @rule(data=st.data())
    def event_is_repeated(self, data: st.DataObject) -> None:
        self.repeat(data.draw(st.sampled_from(sorted(self.sent_before))))

    @rule(new=st.lists(choices, min_size=1, max_size=3))
    def preferences_are_set(self, new: list[Preference]) -> None:
        self.change(SetPreferences(id=f"c{len(self.commands)}", preferences=new))

    @rule(new=endpoints, what=st.sampled_from(["add", "remove", "suppress", "unsuppress", "replace"]))
    def endpoints_change(self, new: EndpointInput, what: str) -> None:
        identity = f"c{len(self.commands)}"
        match what:
            case "add":
                self.change(add_endpoint(len(self.commands), new.id, new.provider, new.address))
            case "remove":
                self.change(RemoveEndpoint(id=identity, endpoint_id=new.id))
            case "suppress":
                self.change(SuppressEndpoint(id=identity, endpoint_id=new.id, reason="stop"))
            case "unsuppress":
                self.change(UnsuppressEndpoint(id=identity, endpoint_id=new.id))
            case "replace":
                profile = ProfileInput(endpoints=[new])
                self.change(ReplaceProfile(id=identity, profile=profile, version=len(self.commands) % 5))

    @precondition(lambda self: self.commands)
    @rule(data=st.data())
    def a_command_is_replayed(self, data: st.DataObject) -> None:
        before = encode_json(self.state.profile)
        change = data.draw(st.sampled_from(self.commands))
        applied = self.state.profile is not None and self.state.profile.position >= change.position
        self.decide(change)
        assert not applied or encode_json(self.state.profile) == before

    @rule(version=st.integers(0, 3))
    def a_profile_is_read_back(self, version: int) -> None:
        self.decide(Loaded(Profile(version=version, position=(0, 0))))

    @rule(policy=st.sampled_from(POLICIES))
    def the_policy_changes(self, policy: Policies) -> None:
        self.rules = policy

    @rule(step=st.sampled_from([1, 100, 1_000, 3_333, 5_000, 20_000, 400_000, 1_100_000]))
    def time_passes_and_timers_fire_when_due(self, step: int) -> None:
        until = self.now + step
        while self.timer and self.timer <= until:
            self.now = max(self.now, self.timer)
            self.timer_fires()
        self.now = until

    @rule(step=st.integers(0, 30_000))
    def time_passes_and_timers_are_late(self, step: int) -> None:
        self.now += step

    @precondition(lambda self: self.gone_back < BACK_AT_MOST)
    @rule(step=st.integers(1, 60_000))
    def the_clock_goes_back(self, step: int) -> None:
        self.gone_back += step
        self.now -= step

    @rule()
    def a_timer_fires_for_nothing(self) -> None:
        if self.timer > self.now:
            before = self.state.activity.due
            assert self.decide(Due()).decisions == []
            assert self.state.activity.due == before

    @rule()
    def the_job_restarts(self) -> None:
        old = self.state
        new = UserState(old.tenant, old.user)
        if old.profile is not None:
            new.profile = stored.decode_profile(stored.encode_profile(old.profile))
        activity = stored.encode_activity(old.activity, bool(old.pending))
        assert activity is None or activity[0] == bool(old.pending)
        if activity is not None:
            new.activity = stored.decode_activity(activity)
        for key, item in old.pending.items():
            new.pending[key] = stored.decode_pending(stored.encode_pending(item))
        assert (new.profile, new.activity, new.pending) == (old.profile, old.activity, old.pending)
        self.state = new

    # How it is done

    def repeat(self, number: int) -> None:
        """That event arrives, at an offset of its own."""
        self.offset += 1
        self.arrivals += 1
        first = self.sent_before[number]
        self.decide(Arrival(first.event, first.payload, first.lane, f"events/0/{self.offset}", self.now))

    def change(self, change: object) -> None:
        self.commands.append(command(change, 1 + len(self.commands)))
        self.decide(self.commands[-1])

    def timer_fires(self) -> None:
        self.timer = 0
        self.decide(Due())

    def decide(self, item: Item) -> Decided:
        """One step of the core, and everything that must be true of it."""
        state, now = self.state, self.now
        waiting = {key.removesuffix(REST): held.sequence for key, held in state.pending.items()}
        before = self.encoded()
        try:
            out = decide(now, self.rules, state, item)
        except ChangeRefused:
            assert self.encoded() == before, "a refused command changed the state"
            return Decided()
        self.timer = state.activity.due
        self.check_timer()
        self.check_deliveries(out)
        self.check_order(out, waiting)
        for record in out.decisions:
            self.records[record.notification_id, record.origin].append(record)
        self.check_conservation()
        return out

    def encoded(self) -> tuple[object, ...]:
        state = self.state
        return (
            state.profile and stored.encode_profile(state.profile),
            stored.encode_activity(state.activity, bool(state.pending)),
            {key: stored.encode_pending(item) for key, item in state.pending.items()},
        )

    # What is true after every step

    def check_timer(self) -> None:
        releases = [item.release_at for item in self.state.pending.values()]
        assert self.timer == min(releases, default=0)
        assert self.timer == 0 or self.timer > self.now

    def check_deliveries(self, out: Decided) -> None:
        ids = [delivery.id for delivery in out.deliveries]
        assert ids == [name for record in out.decisions for name in record.deliveries]
        assert len(set(ids)) == len(ids)
        assert not self.delivery_ids & set(ids), "a delivery was emitted twice"
        self.delivery_ids |= set(ids)
        for delivery in out.deliveries:
            assert delivery.expires_at is None or self.now < delivery.expires_at
            assert delivery.provider in PROVIDERS

    def check_order(self, out: Decided, waiting: dict[str, int]) -> None:
        """No bucket gives more than it has, and what came earlier is served earlier."""
        served: dict[str, list[str]] = defaultdict(list)
        for record in out.decisions:
            if record.outcome != "sent":
                continue
            rule_now = self.rules.categories[record.category].throttle
            for bucket in record.buckets:
                if record.channels[bucket.key.rpartition("/")[2]] == "sent":
                    assert rule_now is not None
                    burst, rate = Fraction(rule_now.burst), Fraction(rule_now.limit, rule_now.period)
                    left, last = self.tokens.get(bucket.key, (burst, self.now))
                    left = min(burst, left + rate * max(0, self.now - last))
                    assert left >= 1, f"{bucket.key} was charged with {left} tokens in it"
                    self.tokens[bucket.key] = left - 1, self.now
                    if rule_now.defer:
                        served[bucket.key].append(record.notification_id)
        for bucket_name, order in served.items():
            # In the order of arrival; what arrives now comes last.
            places = [waiting.get(name, math.inf) for name in order]
            assert places == sorted(places), "served in another order than they came"
            for held in self.state.pending.values():
                assert bucket_name not in held.buckets or held.sequence > max(places), "one that came earlier still waits"

    def check_conservation(self) -> None:
        ended, pending = 0, 0
        for chain in self.records.values():
            last = [record for record in chain if not record.child][-1]
            pending += last.outcome in PENDING
            ended += last.outcome in ("sent", "suppressed", "rejected")
        assert len(self.records) == self.arrivals == ended + pending
        assert pending == sum(not item.child for item in self.state.pending.values())

    # The end

    def teardown(self) -> None:
        """Nothing more comes: timers alone bring everything to its end, in a bounded number of steps."""
        steps = 0
        while self.timer:
            self.now = max(self.now, self.timer)
            self.timer_fires()
            steps += 1
            assert steps < 2_000
        assert self.state.pending == {}
        assert self.state.activity.due == 0
        for chain in self.records.values():
            self.check_chain(chain)

    @staticmethod
    def check_chain(chain: list[DecisionRecord]) -> None:
        """Deferred = released + expired + …: a pending record is followed by its end or by the next pending one."""
        own = [record for record in chain if not record.child]
        assert [record.step for record in own] == list(range(len(own)))
        assert all(record.outcome in PENDING for record in own[:-1])
        assert own[-1].outcome not in PENDING
        # A child begins where its notification was sent and goes on from there, one pending record a step.
        waiting = [record.step for record in chain if record.outcome in PENDING]
        assert len(set(waiting)) == len(waiting)
        decided = {record.step for record in chain}
        assert decided == set(range(max(decided) + 1))
        assert all(step + 1 in decided for step in waiting)
        assert max(decided) not in waiting
        children = [record for record in chain if record.child]
        assert not children or (own[-1].outcome == "sent" and children[0].step == own[-1].step)
        for record in chain:
            assert record.outcome not in PENDING or record.release_at > record.decided_at  # type: ignore[operator]
            assert record.outcome == "sent" or record.reason


Core.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestCore = Core.TestCase
