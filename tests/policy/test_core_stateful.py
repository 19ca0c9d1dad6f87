"""The whole core for one user under random events, repeats, commands, clocks, policies and restarts.

Nothing here knows how the core works: it keeps every record and delivery that ever came out and checks the promises on
them. The timer is the operator's: one, moved where a decision moves it, never early, sometimes late.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from messages.codec import encode_json
from messages.decision import PENDING, DecisionRecord
from messages.delivery import Delivery
from messages.policy import (
    Bounds,
    BudgetExhausted,
    Cap,
    Category,
    CountryTable,
    Digest,
    OptIn,
    Override,
    Pause,
    Price,
    Step,
    Throttle,
)
from messages.profile import (
    Cancel,
    ConsentInput,
    EndpointInput,
    Failed,
    GiveConsent,
    Opened,
    PendingChange,
    Preference,
    Profile,
    ProfileChange,
    ProfileInput,
    Read,
    RemoveEndpoint,
    ReplaceProfile,
    SetPreferences,
    SetQuietHours,
    Stalled,
    Subscribe,
    SuppressEndpoint,
    UnsuppressEndpoint,
    WithdrawConsent,
)
from messages.windows import WEEKDAYS, Window
from policy.core import Arrival, Change, Due, Item, Loaded, decide
from policy.identity import notification_id
from policy.policies import Policies
from policy.profiles import ChangeRefused
from policy.state import UserState, part_key
from policy.step import Decided
from tests.policy.builders import NOW, add_endpoint, arrival, category, command, event, instant, policies, throttle, window
from udfs import state as stored

BACK_AT_MOST = 400_000
"""Milliseconds that the clock goes back in all; max_age leaves the dedup window as much room."""

PROVIDERS = frozenset({"fcm", "inapp", "ses", "twilio"})
CAPS = {
    "any": Cap(limit=3, window="40s", action="defer", classes=["transactional", "marketing"]),
    "push": Cap(limit=4, window="60s", channels=["push"]),
    "mail": Cap(limit=2, window="30s", channels=["email", "sms"], action="digest"),
    "daily": Cap(limit=9, window="day", tags=["t"], action="defer"),
}
FRANCE = CountryTable(time_zone="Europe/Paris", marketing_sms=(window("16:15", "16:25"),))  # 14:15 UTC
CATEGORIES = {
    "code": category("critical", ("push", "in_app"), max_age="600s"),
    "chat": category(channels=("push", "in_app", "email"), max_age="600s", throttle=throttle(2, "10s", burst=2)),
    "offers": category(
        "marketing",
        ("sms", "push"),
        max_age="300s",
        opt_in=[OptIn(channels=["sms"], countries=["FR"])],
        quiet_hours="drop",
        throttle=throttle(1, "7s", burst=3, action="drop"),
    ),
    "tips": category(
        "marketing", ("push", "sms"), max_age="600s", quiet_hours="in_app", throttle=throttle(3, "10s", burst=1)
    ),
    "news": category(
        channels=("push", "in_app", "email"),
        max_age="600s",
        quiet_hours="digest",
        digest=Digest(window="10s", sliding=True, maximum="25s", at=4, leading=True, channels=["push", "email"]),
        throttle=Throttle(limit=1, period="5s", burst=2, action="digest"),
    ),
    "feed": category(
        "marketing", ("in_app", "email"), max_age="600s", digest=Digest(window="15s", by="collapse_key", channels=["email"])
    ),
    "bill": category(
        channels=("push", "email", "sms"), max_age="600s", choice="cheapest", deadline="40s", throttle=throttle(1, "20s")
    ),
    "alarm": category(
        channels=("push", "in_app", "sms", "email"),
        max_age="600s",
        choice="escalation",
        steps=[Step(channels=["push", "in_app"], wait="20s"), Step(channels=["sms", "email"], wait="30s")],
        throttle=throttle(1, "15s", burst=2),
    ),
}
TODAY = "2026-09-21"


def rules_of(
    version: int, bounds: Bounds | None = None, overrides: tuple[Override, ...] = (), **changed: Category | None
) -> Policies:
    """A policy of all categories, some of them changed or left out."""
    chosen: dict[str, Any] = {name: value for name, value in (CATEGORIES | changed).items() if value is not None}
    return policies(
        version,
        bounds,
        PROVIDERS,
        overrides,
        identity_window="1000s",
        cancel_window="300s",
        park="20s",
        wake_up_spread="90s",
        caps=CAPS,
        countries={"FR": FRANCE},
        prices={"email": Price(default=0.1, latency="5s"), "push": Price(default=0.2), "sms": Price(default=0.3)},
        **chosen,
    )


PLAIN = rules_of(1)
POLICIES = (
    PLAIN,
    rules_of(2, tips=None, chat=category(channels=("push", "in_app"), max_age="600s", throttle=throttle(1, "3s", burst=4))),
    rules_of(3, Bounds(pending_items=3, digests=1), chat=category(max_age="600s", throttle=throttle(1, "30s", burst=1))),
    rules_of(
        4,
        news=category(channels=("push", "in_app"), max_age="600s"),
        offers=category("marketing", ("in_app", "push"), max_age="300s"),
    ),
    rules_of(5, None, (Pause(scope="category", name="chat"), BudgetExhausted(category="bill", channel="email", day=TODAY))),
    rules_of(6, None, (Pause(scope="source", name="tests"), BudgetExhausted(category="alarm", channel="sms", day=TODAY))),
    rules_of(7, feed=category("marketing", ("in_app", "email"), max_age="600s", digest=Digest(window="40s", at=2))),
)

# Mostly plain, so that a run gets far: a rule that refuses ends the story.
only_on = st.sampled_from([None] * 8 + [["push"], ["in_app"], ["email"], ["sms", "email"], []])
kinds = st.sampled_from(
    ["chat", "chat", "tips", "offers", "code", "news", "news", "feed", "bill", "alarm", "alarm", "nothing"]
)
ages = st.sampled_from([0] * 9 + [-10_000, 350_000, 599_000, 700_000])
delays = st.sampled_from([None] * 9 + [-1, 1, 4_000, 40_000])
expiries = st.sampled_from([None] * 9 + [0, 1, 3_000, 30_000])
keys = st.sampled_from([None, None, None, "k"])
choices = st.builds(
    Preference,
    category=st.sampled_from(["*", *CATEGORIES]),
    channel=st.sampled_from(["*", "push", "in_app", "email"]),
    allow=st.sampled_from([True, True, False]),
)
endpoints = st.builds(
    EndpointInput,
    id=st.sampled_from(["phone", "tablet", "inbox", "mail", "number"]),
    provider=st.sampled_from(["fcm", "inapp", "ses", "twilio"]),
    address=st.sampled_from(["first", "second"]),
)
nights = st.sampled_from(
    [
        (),
        (),
        (window("14:15", "14:18"),),
        (window("14:16", "14:30", "mon"), window("14:10", "14:12")),
        (window("19:50", "14:14"),),
        (window("23:20", "23:30", "mon", "tue"), window("00:00", "00:01")),
        (window("00:00", "24:00"),),
    ]
)


def is_asleep(windows: tuple[Window, ...], zone: str, now: int) -> bool:
    """Whether the wall clock reads a minute of one of the windows, each looked at by itself."""
    wall = datetime.fromtimestamp(now / 1000, ZoneInfo(zone))
    reads = wall.strftime("%H:%M")
    today, yesterday = (WEEKDAYS[(wall - timedelta(days=back)).weekday()] for back in (0, 1))
    for each in windows:
        if each.start <= each.end:
            if today in each.days and each.start <= reads < each.end:
                return True
        elif (today in each.days and reads >= each.start) or (yesterday in each.days and reads < each.end):
            return True
    return False


class Core(RuleBasedStateMachine):
    """One user's notifications, from the first to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.gone_back = 0
        self.rules = PLAIN
        self.state = UserState("default", "ada")
        self.timer = 0
        self.offset = 0
        self.counted = 0
        self.sent_before: dict[int, Arrival] = {}
        self.commands: list[Change] = []
        self.records: dict[tuple[str, str], list[DecisionRecord]] = defaultdict(list)
        self.deliveries: dict[str, Delivery] = {}
        self.shown: set[tuple[str, str, str]] = set()
        self.deferred: Counter[str] = Counter()
        # What is left in a bucket, in tokens: (left after the last emission, when that was).
        self.tokens: dict[str, tuple[Fraction, int]] = {}
        self.units: dict[str, list[int]] = defaultdict(list)

    # What happens

    @initialize(known=st.sampled_from([True, True, True, False]), windows=nights, policy=st.sampled_from(POLICIES))
    def start(self, known: bool, windows: tuple[Window, ...], policy: Policies) -> None:
        self.rules = policy
        if known:
            self.change(SetQuietHours(id=self.name(), quiet_hours=windows))
            addresses = {"phone": "fcm", "mail": "ses", "number": "twilio"}
            for number, (name, provider) in enumerate(addresses.items()):
                self.change(add_endpoint(number, name, provider))

    @rule(
        numbers=st.lists(st.integers(0, 400), min_size=1, max_size=5),
        kind=kinds,
        age=ages,
        not_before=delays,
        expires=expiries,
        channels=only_on,
        named=st.tuples(keys, keys, keys, keys, keys, keys),
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
        named: tuple[str | None, ...],
        lane: str,
    ) -> None:
        throttled, collapsed, cancelled, content, tag, campaign = named
        data = {
            "not_before": None if not_before is None else self.now + not_before,
            "expires_at": None if expires is None else self.now + expires,
            "channels": channels,
            "throttle_key": throttled,
            "collapse_key": collapsed,
            "cancellation_key": cancelled,
            "dedup_key": content,
            "tags": tag and ["t"],
            "campaign": campaign,
        }
        for number in numbers:
            if number not in self.sent_before:
                self.sent_before[number] = arrival(event(number, kind, self.now - age, **data), self.now, lane=lane)
            self.repeat(number)

    @rule(kind=st.sampled_from(list(CATEGORIES)), many=st.integers(1, 5), later=st.sampled_from([0, 1, 2_000, 7_000]))
    def plain_events_arrive(self, kind: str, many: int, later: int) -> None:
        for _ in range(many):
            self.now += later
            number = 1_000 + self.offset
            self.sent_before[number] = arrival(event(number, kind, self.now), self.now)
            self.repeat(number)

    @rule(kind=st.sampled_from(["alarm", "alarm", "bill", "news"]), later=st.sampled_from([1, 5_000, 21_000, 60_000]))
    def one_arrives_and_time_passes(self, kind: str, later: int) -> None:
        self.plain_events_arrive(kind, 1, 0)
        self.time_passes_and_timers_fire_when_due(later)

    @precondition(lambda self: self.sent_before)
    @rule(data=st.data())
    def event_is_repeated(self, data: st.DataObject) -> None:
        self.repeat(data.draw(st.sampled_from(sorted(self.sent_before))))

    @rule(new=st.lists(choices, min_size=1, max_size=3))
    def preferences_are_set(self, new: list[Preference]) -> None:
        self.change(SetPreferences(id=self.name(), preferences=new))

    @rule(new=endpoints, what=st.sampled_from(["add", "add", "remove", "suppress", "unsuppress"]))
    def endpoints_change(self, new: EndpointInput, what: str) -> None:
        match what:
            case "add":
                self.change(add_endpoint(len(self.commands), new.id, new.provider, new.address))
            case "remove":
                self.change(RemoveEndpoint(id=self.name(), endpoint_id=new.id))
            case "suppress":
                self.change(SuppressEndpoint(id=self.name(), endpoint_id=new.id, reason="stop"))
            case "unsuppress":
                self.change(UnsuppressEndpoint(id=self.name(), endpoint_id=new.id))

    @rule(
        new=endpoints,
        windows=nights,
        zone=st.sampled_from([None, "Asia/Tokyo", "Asia/Kolkata"]),
        country=st.sampled_from([None, "FR"]),
    )
    def the_profile_is_replaced(
        self, new: EndpointInput, windows: tuple[Window, ...], zone: str | None, country: str | None
    ) -> None:
        phone = EndpointInput(id="phone", provider="fcm", address="a")
        profile = ProfileInput(
            endpoints=[phone, new] if new.id != "phone" else [new], quiet_hours=windows, time_zone=zone, country=country
        )
        self.change(ReplaceProfile(id=self.name(), profile=profile, version=len(self.commands) // 2))

    @rule(windows=nights)
    def quiet_hours_are_set(self, windows: tuple[Window, ...]) -> None:
        self.change(SetQuietHours(id=self.name(), quiet_hours=windows))

    @rule(given=st.booleans(), topic=st.sampled_from([None, True, False]))
    def consents_and_topics_change(self, given: bool, topic: bool | None) -> None:
        if topic is not None:
            self.change(Subscribe(id=self.name(), topic="t", subscribed=topic))
        elif given:
            self.change(GiveConsent(id=self.name(), consent=ConsentInput(at=0, where="web", text_version="1")))
        else:
            self.change(WithdrawConsent(id=self.name()))

    @rule(number=st.integers(0, 400), by_key=st.booleans(), ago=st.sampled_from([0, 0, 1_000, 299_000, 400_000]))
    def something_is_cancelled(self, number: int, by_key: bool, ago: int) -> None:
        known = sorted(self.sent_before) or [number]
        event_id = f"event-{known[number % len(known)]}"
        what: dict[str, str] = {"cancellation_key": "k"} if by_key else {"event_id": event_id}
        self.change(Cancel(id=self.name(), source="tests", **what), given_at=self.now - ago)
        if ago:
            return
        assert not by_key or not any(item.cancellation_key for item in self.state.pending.values())
        identity = notification_id("default", "tests", event_id, "ada")
        assert by_key or not any(key.startswith(identity) for key in self.state.pending)

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data(), what=st.sampled_from(["read", "open", "machine", "failed", "failed", "failed", "stalled"]))
    def an_answer_comes(self, data: st.DataObject, what: str) -> None:
        about = self.deliveries[data.draw(st.sampled_from(sorted(self.deliveries)[-20:]))]
        names: dict[str, Any] = {"id": self.name(), "source": about.source, "event_id": about.event_id}
        answer: PendingChange
        match what:
            case "read":
                answer = Read(**names)
            case "open" | "machine":
                answer = Opened(**names, machine=what == "machine")
            case "failed":
                answer = Failed(**names, delivery_id=about.id)
            case _:
                answer = Stalled(**names, delivery_id=about.id)
        self.change(answer)
        if what in ("read", "open"):
            identity = notification_id("default", about.source, about.event_id, "ada")
            assert part_key(identity, "ladder") not in self.state.pending

    @precondition(lambda self: self.commands)
    @rule(data=st.data())
    def a_command_is_replayed(self, data: st.DataObject) -> None:
        before = encode_json(self.state.profile)
        change = data.draw(st.sampled_from(self.commands))
        profile = self.state.profile
        of_profile = not isinstance(change.change, PendingChange)
        applied = not of_profile or (
            profile is not None and profile.position is not None and profile.position >= change.position
        )
        self.decide(change)
        assert not applied or encode_json(self.state.profile) == before

    @rule(version=st.integers(0, 3))
    def a_profile_is_read_back(self, version: int) -> None:
        self.decide(Loaded(Profile(version=version, position=(0, 0))))

    @rule(policy=st.sampled_from(POLICIES))
    def the_policy_changes(self, policy: Policies) -> None:
        self.rules = policy

    @rule(step=st.sampled_from([1, 100, 1_000, 3_333, 5_000, 20_000, 60_000, 400_000, 1_100_000]))
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

    def name(self) -> str:
        """The id of the next command."""
        return f"c{len(self.commands)}"

    def repeat(self, number: int) -> None:
        """That event arrives, at an offset of its own."""
        self.offset += 1
        self.counted += 1
        first = self.sent_before[number]
        self.decide(Arrival(first.event, first.payload, first.lane, f"events/0/{self.offset}", self.now))

    def change(self, change: ProfileChange | PendingChange, given_at: int | None = None) -> None:
        self.commands.append(command(change, 1 + len(self.commands), at=self.now if given_at is None else given_at))
        self.decide(self.commands[-1])

    def timer_fires(self) -> None:
        self.timer = 0
        self.decide(Due())

    def decide(self, item: Item) -> Decided:
        """One step of the core, and everything that must be true of it."""
        state, now = self.state, self.now
        waiting = {key: held.sequence for key, held in state.pending.items()}
        before = self.encoded()
        try:
            out = decide(now, self.rules, state, item)
        except ChangeRefused:
            assert self.encoded() == before, "a refused command changed the state"
            return Decided()
        self.timer = state.activity.due
        self.counted += sum(count.recipients for count in out.counts)
        self.deferred.update(out.deferred)
        self.check_timer()
        self.check_deliveries(out)
        self.check_order(out, waiting)
        for record in out.decisions:
            if record.outcome == "sent":
                self.check_caps(record)
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
        """There is one timer, the earliest of all, and nothing waits that no timer will find."""
        pending, digests = self.state.pending.values(), self.state.activity.digests
        due = [item.release_at for item in pending if item.kind != "collected"]
        due += [digests[item.digest or ""].close_at for item in pending if item.kind == "collected"]
        assert self.timer == min(due, default=0)
        assert self.timer == 0 or self.timer > self.now
        collected = Counter(item.digest for item in pending if item.kind == "collected")
        assert {key: digest.items for key, digest in digests.items() if digest.items} == collected

    def check_deliveries(self, out: Decided) -> None:
        sent = [(record.notification_id, name) for record in out.decisions for name in record.deliveries]
        assert [name for _, name in sent] == [delivery.id for delivery in out.deliveries]
        for (identity, name), delivery in zip(sent, out.deliveries, strict=True):
            assert name not in self.deliveries, "a delivery was emitted twice"
            self.deliveries[name] = delivery
            place = identity, delivery.channel, delivery.endpoint.id
            assert place not in self.shown, "a user sees a notification twice"
            self.shown.add(place)
            assert delivery.expires_at is None or self.now < delivery.expires_at
            assert delivery.provider in PROVIDERS
            if delivery.category_class != "critical":
                self.check_wanted(delivery)

    def check_wanted(self, delivery: Delivery) -> None:
        """Nothing goes out in quiet hours unless it may, against an opt-out, or without money or consent."""
        profile = self.state.profile or Profile()
        kind, channel = delivery.category, delivery.channel
        table = FRANCE if profile.country == "FR" else CountryTable()
        zone = profile.time_zone or table.time_zone or "UTC"
        forbidden = table.marketing_sms if (channel, delivery.category_class) == ("sms", "marketing") else ()
        if channel != "in_app":
            assert not is_asleep((*profile.quiet_hours, *forbidden), zone, self.now), "somebody was woken up"
        scopes = {f"{a}/{b}" for a in (kind, "*") for b in (channel, "*")}
        assert not any(choice is False for scope, choice in profile.preferences.items() if scope in scopes)
        if (kind, channel, profile.country) == ("offers", "sms", "FR") and self.rules.categories["offers"].opt_in:
            assert scopes & set(profile.consents)
        if (kind, channel) in {(spent[0], spent[1]) for spent in self.rules.exhausted}:
            assert instant(self.now).date().isoformat() != TODAY
        assert any(endpoint.id == delivery.endpoint.id and not endpoint.suppressed for endpoint in profile.endpoints) or (
            delivery.endpoint.id == "inbox" and channel == "in_app"
        )

    def check_caps(self, record: DecisionRecord) -> None:
        """No cap lets out more than its limit, against a full log."""
        number = record.event_id.removeprefix("event-")
        tags = self.sent_before[int(number)].event.data.tags or [] if number.isdigit() else []
        going = [channel for channel, word in record.channels.items() if word == "sent"]
        profile = self.state.profile or Profile()
        zone = profile.time_zone or ("Europe/Paris" if profile.country == "FR" else "UTC")
        today = datetime.fromtimestamp(self.now / 1000, ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
        for name, cap in CAPS.items():
            if (cap.tags and not set(tags) & set(cap.tags)) or (cap.classes and record.category_class not in cap.classes):
                continue
            since = self.now - int(cap.window[:-1]) * 1000 if cap.window != "day" else int(today.timestamp()) * 1000 - 1
            units = len([channel for channel in going if not cap.channels or channel in cap.channels])
            if not cap.channels:  # what went out of it before has counted
                units = 0 if record.child else 1
            inside = sum(at > since for at in self.units[name])
            assert not units or record.category_class == "critical" or inside + units <= cap.limit, f"cap {name}"
            self.units[name] += [self.now] * units

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
                    if rule_now.action == "defer":
                        served[bucket.key].append(part_key(record.notification_id, record.part, record.rung))
        for bucket_name, order in served.items():
            # In the order of arrival; what arrives now comes last.
            places = [waiting.get(name, math.inf) for name in order]
            assert places == sorted(places), "served in another order than they came"
            for held in self.state.pending.values():
                assert bucket_name not in held.queues or held.sequence > max(places), "one that came earlier still waits"

    def check_conservation(self) -> None:
        ended: Counter[str] = Counter()
        for chain in self.records.values():
            ended[[record for record in chain if not record.child][-1].outcome] += 1
        pending = Counter(item.kind for item in self.state.pending.values() if not item.child)
        assert {name: ended[name] for name in PENDING if ended[name]} == pending
        assert len(self.records) == self.counted == ended.total()
        waiting = sum(item.kind == "deferred" for item in self.state.pending.values())
        left = sum(self.deferred[name] for name in ("released", "expired", "cancelled", "superseded"))
        assert self.deferred["entered"] == left + waiting

    # The end

    def teardown(self) -> None:
        """Nothing more comes, pauses are lifted: timers alone bring everything to its end, in a bounded number of steps."""
        self.rules = PLAIN
        steps = 0
        while self.timer:
            self.now = max(self.now, self.timer)
            self.timer_fires()
            steps += 1
            assert steps < 2_000
        assert self.state.pending == {}
        assert self.state.activity.due == 0
        assert not any(digest.items for digest in self.state.activity.digests.values())
        for chain in self.records.values():
            self.check_chain(chain)

    @staticmethod
    def check_chain(chain: list[DecisionRecord]) -> None:
        """A pending record is followed by its end or by the next pending one."""
        own = [record for record in chain if not record.child]
        assert [record.step for record in own] == list(range(len(own)))
        assert all(record.outcome in PENDING for record in own[:-1])
        assert own[-1].outcome not in PENDING
        decided = {record.step for record in chain}
        assert decided == set(range(max(decided) + 1))
        for record in chain:
            if record.outcome in PENDING:
                assert record.step + 1 in decided
                assert record.release_at is not None
                assert record.release_at > record.decided_at
            assert record.outcome == "sent" or record.reason
        # A part begins where its notification was decided, and goes on from there.
        assert all(record.step >= own[0].step for record in chain if record.child)


Core.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestCore = Core.TestCase
