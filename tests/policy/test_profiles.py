"""Commands on a profile: in any order, repeated and replayed, against a plain model; what a suppression survives."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.codec import encode_json
from messages.profile import (
    MAX_CONSENTS,
    MAX_ENDPOINTS,
    MAX_PREFERENCES,
    MAX_SUBSCRIPTIONS,
    AddEndpoint,
    Consent,
    ConsentInput,
    Endpoint,
    EndpointInput,
    GiveConsent,
    Preference,
    Profile,
    ProfileChange,
    ProfileInput,
    RemoveEndpoint,
    ReplaceProfile,
    SetPreferences,
    SetQuietHours,
    Subscribe,
    SuppressEndpoint,
    UnsuppressEndpoint,
    WithdrawConsent,
)
from messages.windows import Window
from policy.core import Loaded, decide
from policy.profiles import MAX_PROFILE_BYTES, REMEMBERED_COMMANDS, ChangeRefused, change_profile
from tests.policy.builders import NOW, add_endpoint, arrival, category, command, endpoint, event, policies, user, verdict

ids = st.sampled_from(["phone", "tablet", "number"])
addresses = st.sampled_from(["first", "second"])
inputs = st.builds(EndpointInput, id=ids, provider=st.sampled_from(["fcm", "twilio"]), address=addresses)
choices = st.builds(
    Preference,
    category=st.sampled_from(["*", "news"]),
    channel=st.sampled_from(["*", "push"]),
    allow=st.booleans(),
)
consents = st.builds(
    ConsentInput,
    category=st.sampled_from(["*", "news"]),
    channel=st.sampled_from(["*", "sms"]),
    at=st.integers(0, 3),
    where=st.just("web"),
    text_version=st.sampled_from(["1", "2"]),
)
windows = st.lists(st.builds(Window, start=st.just("22:00"), end=st.sampled_from(["06:00", "24:00"])), max_size=2).map(tuple)
topics = st.sampled_from(["sport", "weather"])
whole = st.builds(
    ProfileInput,
    country=st.sampled_from([None, "DE"]),
    endpoints=st.lists(inputs, max_size=3, unique_by=lambda one: one.id),
    preferences=st.lists(choices, max_size=3),
    quiet_hours=windows,
    subscriptions=st.dictionaries(topics, st.booleans()),
    consents=st.lists(consents, max_size=3),
)
numbers = st.sampled_from([f"command-{number}" for number in range(12)])
commands = st.one_of(
    st.builds(ReplaceProfile, id=numbers, profile=whole, version=st.one_of(st.none(), st.integers(0, 5))),
    st.builds(SetPreferences, id=numbers, preferences=st.lists(choices, min_size=1, max_size=3)),
    st.builds(AddEndpoint, id=numbers, endpoint=inputs),
    st.builds(RemoveEndpoint, id=numbers, endpoint_id=ids),
    st.builds(
        SuppressEndpoint,
        id=numbers,
        endpoint_id=ids,
        reason=st.sampled_from(["stop", "bounce"]),
        registered_before=st.one_of(st.none(), st.integers(NOW - 5, NOW + 20)),
    ),
    st.builds(UnsuppressEndpoint, id=numbers, endpoint_id=ids),
    st.builds(SetQuietHours, id=numbers, quiet_hours=windows),
    st.builds(Subscribe, id=numbers, topic=topics, subscribed=st.booleans()),
    st.builds(GiveConsent, id=numbers, consent=consents),
    st.builds(WithdrawConsent, id=numbers, category=st.sampled_from(["*", "news"]), channel=st.sampled_from(["*", "sms"])),
)


class Model:
    """What a profile is, in dictionaries: endpoint id → [provider, address, registered, suppressed]."""

    def __init__(self) -> None:
        self.country: str | None = None
        self.endpoints: dict[str, list[Any]] = {}
        self.preferences: dict[str, bool] = {}
        self.quiet_hours: list[tuple[str, str]] = []
        self.subscriptions: dict[str, bool] = {}
        self.consents: dict[str, tuple[int, str, str]] = {}
        self.replaced_with: int | None = None
        self.done: list[str] = []
        self.version = 0

    def register(self, now: int, new: EndpointInput) -> list[Any]:
        known = self.endpoints.get(new.id)
        if known and known[:2] == [new.provider, new.address]:
            return known
        return [new.provider, new.address, now, None]

    def apply(self, now: int, change: ProfileChange) -> None:
        old = isinstance(change, ReplaceProfile) and None not in (change.version, self.replaced_with)
        if change.id in self.done or (old and change.version <= self.replaced_with):
            return
        self.change(now, change)
        self.version += 1
        self.done = [*self.done, change.id][-REMEMBERED_COMMANDS:]

    def change(self, now: int, change: ProfileChange) -> None:
        match change:
            case AddEndpoint() | RemoveEndpoint() | SuppressEndpoint() | UnsuppressEndpoint():
                self.change_endpoint(now, change)
            case ReplaceProfile(profile=new, version=version):
                self.replaced_with = self.replaced_with if version is None else version
                kept = {name: known for name, known in self.endpoints.items() if known[3]}
                self.endpoints = kept | {one.id: self.register(now, one) for one in new.endpoints}
                self.preferences = {f"{one.category}/{one.channel}": one.allow for one in new.preferences}
                self.country = new.country
                self.quiet_hours = [(one.start, one.end) for one in new.quiet_hours]
                self.subscriptions = dict(new.subscriptions)
                self.consents = {}
                for consent in new.consents:
                    self.consent(consent)
            case SetPreferences(preferences=new):
                for one in new:
                    self.preferences[f"{one.category}/{one.channel}"] = one.allow
            case SetQuietHours(quiet_hours=new):
                self.quiet_hours = [(one.start, one.end) for one in new]
            case Subscribe(topic=topic, subscribed=subscribed):
                self.subscriptions[topic] = subscribed
            case GiveConsent(consent=consent):
                self.consent(consent)
            case WithdrawConsent(category=kind, channel=channel):
                self.consents.pop(f"{kind}/{channel}", None)

    def change_endpoint(self, now: int, change: ProfileChange) -> None:
        match change:
            case AddEndpoint(endpoint=new):
                self.endpoints[new.id] = self.register(now, new)
            case RemoveEndpoint(endpoint_id=name):
                if name in self.endpoints and not self.endpoints[name][3]:
                    del self.endpoints[name]
            case SuppressEndpoint(endpoint_id=name, reason=reason, registered_before=guard):
                if name in self.endpoints and (guard is None or self.endpoints[name][2] < guard):
                    self.endpoints[name][3] = reason
            case UnsuppressEndpoint(endpoint_id=name):
                if name in self.endpoints:
                    self.endpoints[name][3] = None

    def consent(self, new: ConsentInput) -> None:
        self.consents[f"{new.category}/{new.channel}"] = new.at, new.where, new.text_version


def applied(now: int, profile: Profile | None, change: ProfileChange, position: tuple[int, int]) -> Profile | None:
    """As the core does it: a repeat and a refused command leave the profile as it was."""
    before = encode_json(profile)
    try:
        changed = change_profile(now, profile, change, position)
    except ChangeRefused:
        changed = None
    assert encode_json(profile) == before, "the profile given was changed"
    return profile if changed is None else changed


@given(st.lists(commands, max_size=25))
def test_any_sequence_is_what_the_model_says(log: list[ProfileChange]) -> None:
    profile, model = None, Model()
    for offset, change in enumerate(log):
        profile = applied(NOW + offset, profile, change, (0, offset))
        model.apply(NOW + offset, change)
    profile = profile or Profile()
    assert profile.country == model.country
    assert {one.id: [one.provider, one.address, one.registered_at, one.suppressed] for one in profile.endpoints} == (
        model.endpoints
    )
    assert len(profile.endpoints) == len(model.endpoints)
    assert profile.preferences == model.preferences
    assert [(one.start, one.end) for one in profile.quiet_hours] == model.quiet_hours
    assert profile.subscriptions == model.subscriptions
    assert {scope: (one.at, one.where, one.text_version) for scope, one in profile.consents.items()} == model.consents
    assert (profile.version, profile.applied) == (model.version, model.done)


@given(st.lists(commands, min_size=1, max_size=20), st.data())
def test_a_replay_from_any_earlier_place_changes_nothing(log: list[ProfileChange], data: st.DataObject) -> None:
    """A redelivery of the topic after a failure: the same commands at the same positions, again up to where it was."""
    profile = None
    last = -1
    for offset, change in enumerate(log):
        after = applied(NOW, profile, change, (3, offset))
        last = offset if after is not profile else last
        profile = after
    start = data.draw(st.integers(0, len(log) - 1))
    for offset in range(start, last + 1):
        assert change_profile(NOW + 99, profile, log[offset], (3, offset)) is None


def test_a_replay_is_known_by_its_position_long_after_its_id_was_forgotten() -> None:
    log = [add_endpoint(number, address=f"a{number}") for number in range(3 * REMEMBERED_COMMANDS)]
    profile = None
    for offset, change in enumerate(log):
        profile = change_profile(NOW, profile, change, (3, offset))
    for offset, change in enumerate(log):
        assert change_profile(NOW, profile, change, (3, offset)) is None


def test_positions_of_another_partition_say_nothing() -> None:
    """A topic that was made anew, with another number of partitions, starts from small offsets again."""
    profile = change_profile(NOW, None, add_endpoint(1), (0, 100))
    assert change_profile(NOW, profile, add_endpoint(2), (1, 5)) is not None


@given(st.lists(commands, min_size=1, max_size=20), st.data())
def test_a_producers_repeat_of_a_recent_command_changes_nothing(log: list[ProfileChange], data: st.DataObject) -> None:
    """The same command id at a new position, whatever came between, as long as its id is remembered."""
    profile = None
    for offset, change in enumerate(log):
        profile = applied(NOW, profile, change, (0, offset))
    if profile is None:
        return
    repeated = data.draw(st.sampled_from(profile.applied))
    change = next(one for one in log if one.id == repeated)
    assert change_profile(NOW + 99, profile, change, (0, len(log))) is None
    assert change_profile(NOW + 99, profile, change, (1, 0)) is None


@given(st.lists(commands, max_size=25))
def test_only_a_new_address_or_unsuppress_lifts_a_suppression(log: list[ProfileChange]) -> None:
    profile = Profile(endpoints=[endpoint("number", "twilio", address="first", suppressed="stop")])
    for offset, change in enumerate(log):
        profile = applied(NOW, profile, change, (0, offset)) or profile
        match change:
            case UnsuppressEndpoint(endpoint_id="number"):
                return
            case AddEndpoint(endpoint=EndpointInput(id="number")) | ReplaceProfile():
                changed = next(one for one in profile.endpoints if one.id == "number")
                if (changed.provider, changed.address) != ("twilio", "first"):
                    return
        (number,) = [one for one in profile.endpoints if one.id == "number"]
        assert number.suppressed


@pytest.mark.parametrize(("registered_at", "stays_usable"), [(NOW - 1, False), (NOW, True), (NOW + 1, True)])
def test_a_late_report_of_a_dead_token_spares_a_reinstall(registered_at: int, stays_usable: bool) -> None:
    profile = Profile(endpoints=[endpoint(registered_at=registered_at)])
    report = SuppressEndpoint(id="c", endpoint_id="phone", reason="unregistered", registered_before=NOW)
    changed = change_profile(NOW, profile, report, (0, 0))
    assert changed is not None
    assert (changed.endpoints[0].suppressed is None) == stays_usable


def test_the_same_token_again_is_not_a_new_registration() -> None:
    """Else a client that registers at every start would bring every dead token back to life."""
    profile = Profile(endpoints=[endpoint(address="t", registered_at=5, suppressed="unregistered")])
    again = change_profile(NOW, profile, add_endpoint(1, address="t"), (0, 0))
    assert again is not None
    assert (again.endpoints[0].registered_at, again.endpoints[0].suppressed) == (5, "unregistered")
    fresh = change_profile(NOW, again, add_endpoint(2, address="u"), (0, 1))
    assert fresh is not None
    assert (fresh.endpoints[0].registered_at, fresh.endpoints[0].suppressed) == (NOW, None)


def test_a_full_replacement_keeps_a_stop_and_is_refused_where_there_is_no_room_for_both() -> None:
    stopped = Profile(endpoints=[endpoint("number", "twilio", suppressed="stop")])
    many = [EndpointInput(id=f"e{number}", provider="ses", address="a") for number in range(MAX_ENDPOINTS)]
    fits = change_profile(NOW, stopped, ReplaceProfile(id="c", profile=ProfileInput(endpoints=many[1:])), (0, 0))
    assert fits is not None
    assert [one.id for one in fits.endpoints if one.suppressed] == ["number"]
    assert len(fits.endpoints) == MAX_ENDPOINTS
    with pytest.raises(ChangeRefused, match="too_many_endpoints"):
        change_profile(NOW, stopped, ReplaceProfile(id="c", profile=ProfileInput(endpoints=many)), (0, 0))


def test_years_of_reinstalls_do_not_fill_a_profile_for_ever() -> None:
    profile: Profile | None = Profile(endpoints=[endpoint("number", "twilio", suppressed="stop")])
    for number in range(3 * MAX_ENDPOINTS):
        name = f"installation-{number}"
        for offset, change in enumerate(
            (add_endpoint(number, name), SuppressEndpoint(id=f"dead-{number}", endpoint_id=name, reason="unregistered"))
        ):
            profile = change_profile(NOW + number, profile, change, (0, 2 * number + offset))
            assert profile is not None
    assert profile is not None
    kept = [one.id for one in profile.endpoints]
    assert kept == ["number", *(f"installation-{n}" for n in range(2 * MAX_ENDPOINTS + 1, 3 * MAX_ENDPOINTS))]


def test_the_bounds_of_endpoints_and_preferences() -> None:
    full = Profile(endpoints=[endpoint(f"e{number}", "ses") for number in range(MAX_ENDPOINTS)])
    with pytest.raises(ChangeRefused, match="too_many_endpoints"):
        change_profile(NOW, full, add_endpoint(1, "one-more"), (0, 0))
    assert change_profile(NOW, full, add_endpoint(1, "e0", "ses", "another address"), (0, 0)) is not None
    chosen = Profile(preferences={f"c{number}/*": True for number in range(MAX_PREFERENCES)})
    with pytest.raises(ChangeRefused, match="too_many_preferences"):
        change_profile(NOW, chosen, SetPreferences(id="c", preferences=[Preference(category="x", allow=True)]), (0, 0))
    assert change_profile(NOW, chosen, SetPreferences(id="c", preferences=[Preference(category="c0", allow=False)]), (0, 0))


def proof(category: str = "news", channel: str = "sms", **fields: Any) -> ConsentInput:
    return ConsentInput(category=category, channel=channel, **({"at": 1, "where": "web", "text_version": "1"} | fields))


def test_the_bounds_of_subscriptions_and_consents() -> None:
    subscribed = Profile(subscriptions={f"t{number}": True for number in range(MAX_SUBSCRIPTIONS)})
    for wanted in (True, False):
        with pytest.raises(ChangeRefused, match="too_many_subscriptions"):
            change_profile(NOW, subscribed, Subscribe(id="c", topic="one-more", subscribed=wanted), (0, 0))
    left = change_profile(NOW, subscribed, Subscribe(id="c", topic="t0", subscribed=False), (0, 0))
    assert left is not None
    assert left.subscriptions["t0"] is False
    agreed = Profile(consents={f"c{n}/sms": Consent(at=1, where="web", text_version="1") for n in range(MAX_CONSENTS)})
    with pytest.raises(ChangeRefused, match="too_many_consents"):
        change_profile(NOW, agreed, GiveConsent(id="c", consent=proof("one-more")), (0, 0))
    again = change_profile(NOW, agreed, GiveConsent(id="c", consent=proof("c0", at=2)), (0, 0))
    assert again is not None
    assert (len(again.consents), again.consents["c0/sms"].at) == (MAX_CONSENTS, 2)


def test_a_consent_is_withdrawn_at_the_scope_that_it_was_given_for() -> None:
    profile: Profile | None = None
    for number, consent in enumerate((proof("news", "sms"), proof("*", "sms"), proof("*", "*"))):
        profile = change_profile(NOW, profile, GiveConsent(id=f"g{number}", consent=consent), (0, number))
    withdrawn = change_profile(NOW, profile, WithdrawConsent(id="w", channel="sms"), (0, 3))
    assert withdrawn is not None
    assert set(withdrawn.consents) == {"news/sms", "*/*"}
    unknown = change_profile(NOW, withdrawn, WithdrawConsent(id="v", category="other"), (0, 4))
    assert unknown is not None
    assert set(unknown.consents) == {"news/sms", "*/*"}


def test_a_replacement_replaces_quiet_hours_subscriptions_and_consents() -> None:
    consent = Consent(at=1, where="web", text_version="1")
    full = Profile(
        quiet_hours=(Window(start="22:00", end="06:00"),), subscriptions={"sport": True}, consents={"news/sms": consent}
    )
    empty = change_profile(NOW, full, ReplaceProfile(id="c", profile=ProfileInput()), (0, 0))
    assert empty is not None
    assert (empty.quiet_hours, empty.subscriptions, empty.consents) == ((), {}, {})


def test_a_profile_has_a_bound_in_bytes_that_never_stops_a_suppression() -> None:
    profile = Profile(endpoints=[endpoint("number", "twilio")])
    profile.endpoints[0].address += "x" * (MAX_PROFILE_BYTES - len(encode_json(profile)))
    for change in (
        add_endpoint(1),
        SetPreferences(id="c", preferences=[Preference(allow=False)]),
        SetQuietHours(id="c", quiet_hours=(Window(start="22:00", end="06:00"),)),
        Subscribe(id="c", topic="sport"),
        Subscribe(id="c", topic="sport", subscribed=False),
        GiveConsent(id="c", consent=proof()),
        ReplaceProfile(
            id="c",
            profile=ProfileInput(
                endpoints=[EndpointInput(id=f"e{n}", provider="ses", address="\U0001f4f1" * 4_096) for n in range(17)]
            ),
        ),
    ):
        with pytest.raises(ChangeRefused, match="profile_too_large"):
            change_profile(NOW, profile, change, (0, 0))
    stopped = change_profile(NOW, profile, SuppressEndpoint(id="c", endpoint_id="number", reason="stop"), (0, 0))
    assert stopped is not None
    assert stopped.endpoints[0].suppressed == "stop"


def test_a_profile_at_its_bound_takes_back_what_it_gave() -> None:
    """Leaving a topic makes a profile one byte larger; clearing quiet hours leaves it larger than it may be."""
    profile = Profile(
        endpoints=[endpoint("number", "twilio")],
        subscriptions={"sport": True},
        quiet_hours=(Window(start="22:00", end="06:00"),),
        consents={"news/sms": Consent(at=1, where="web", text_version="1")},
    )
    profile.endpoints[0].address += "x" * (MAX_PROFILE_BYTES + 100 - len(encode_json(profile)))
    left = change_profile(NOW, profile, Subscribe(id="c", topic="sport", subscribed=False), (0, 0))
    assert left is not None
    assert left.subscriptions == {"sport": False}
    loud = change_profile(NOW, profile, SetQuietHours(id="c", quiet_hours=()), (0, 0))
    assert loud is not None
    assert loud.quiet_hours == ()
    withdrawn = change_profile(NOW, profile, WithdrawConsent(id="c", category="news", channel="sms"), (0, 0))
    assert withdrawn is not None
    assert withdrawn.consents == {}


@pytest.mark.parametrize(("version", "refused"), [(4, True), (5, True), (6, False), (None, False)])
def test_an_older_version_of_a_replacement_is_refused_and_changes_nothing(version: int | None, refused: bool) -> None:
    rules, state = policies(news=category()), user()
    decide(NOW, rules, state, command(ReplaceProfile(id="a", profile=ProfileInput(), version=5), 0))
    replacement = command(ReplaceProfile(id="b", profile=ProfileInput(country="DE"), version=version), 1)
    before = encode_json(state.profile)
    if refused:
        with pytest.raises(ChangeRefused, match="old_version"):
            decide(NOW, rules, state, replacement)
        assert encode_json(state.profile) == before
    else:
        decide(NOW, rules, state, replacement)
        assert state.profile is not None
        assert (state.profile.country, state.profile.replaced_with) == ("DE", version or 5)


def test_a_command_for_an_unknown_user_makes_the_user_known() -> None:
    rules, state = policies(news=category()), user(known=False)
    decide(NOW, rules, state, command(add_endpoint(1), 0))
    assert verdict(decide(NOW, rules, state, arrival(event()))) == ("sent", None)


def test_a_golden_sequence() -> None:
    """What a profile looks like on its topic after every kind of command; readers of the topic depend on it."""
    log: list[ProfileChange] = [
        ReplaceProfile(
            id="c1",
            version=3,
            profile=ProfileInput(
                country="DE",
                time_zone="Europe/Berlin",
                locale="de-DE",
                endpoints=[
                    EndpointInput(id="phone", provider="fcm", address="token-1", app="shop"),
                    EndpointInput(id="number", provider="twilio", address="+491700000000"),
                ],
                preferences=[Preference(category="promotions", allow=False)],
            ),
        ),
        AddEndpoint(id="c2", endpoint=EndpointInput(id="phone", provider="fcm", address="token-2")),
        SuppressEndpoint(id="c3", endpoint_id="number", reason="stop"),
        RemoveEndpoint(id="c4", endpoint_id="number"),
        SetPreferences(id="c5", preferences=[Preference(channel="sms", allow=False), Preference(allow=True)]),
        AddEndpoint(id="c6", endpoint=EndpointInput(id="mail", provider="ses", address="ada@example.com")),
        RemoveEndpoint(id="c7", endpoint_id="mail"),
        RemoveEndpoint(id="c8", endpoint_id="never-was"),
        SetQuietHours(id="c9", quiet_hours=(Window(start="22:00", end="06:00", days=("fri", "sat")),)),
        Subscribe(id="c10", topic="sport"),
        Subscribe(id="c11", topic="weather", subscribed=False),
        GiveConsent(id="c12", consent=proof("promotions", "sms")),
        GiveConsent(id="c13", consent=proof("promotions", "email")),
        WithdrawConsent(id="c14", category="promotions", channel="email"),
    ]
    profile = None
    for offset, change in enumerate(log):
        profile = change_profile(NOW + offset, profile, change, (2, 40 + offset))
    assert msgspec.json.decode(encode_json(profile)) == {
        "v": 1,
        "version": 14,
        "country": "DE",
        "time_zone": "Europe/Berlin",
        "locale": "de-DE",
        "endpoints": [
            {
                "id": "number",
                "provider": "twilio",
                "address": "+491700000000",
                "registered_at": NOW,
                "suppressed": "stop",
            },
            {"id": "phone", "provider": "fcm", "address": "token-2", "registered_at": NOW + 1},
        ],
        "preferences": {"promotions/*": False, "*/sms": False, "*/*": True},
        "quiet_hours": [{"start": "22:00", "end": "06:00", "days": ["fri", "sat"]}],
        "subscriptions": {"sport": True, "weather": False},
        "consents": {"promotions/sms": {"at": 1, "where": "web", "text_version": "1"}},
        "replaced_with": 3,
        "applied": [f"c{number}" for number in range(1, 15)],
        "position": [2, 53],
    }


def test_a_read_back_profile_never_replaces_a_newer_one() -> None:
    rules, state = policies(news=category()), user(endpoint("new"))
    assert state.profile is not None
    old, newer = Profile(version=0, endpoints=[Endpoint(id="o", provider="fcm", address="o")]), Profile(version=2)
    decide(NOW, rules, state, Loaded(old))
    assert state.profile.endpoints[0].id == "new"
    decide(NOW, rules, state, Loaded(newer))
    assert state.profile.endpoints == []
