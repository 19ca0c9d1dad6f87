"""The demo's cast and flood, run through the decision core: the demo cannot promise what the core does not do."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from cli.demo import cast
from cli.demo.cast import CAST, LASTS, Cue, Member
from cli.synthetic import background_events, profile_commands
from connectors.policy_files import load_policies
from connectors.settings import ROOT, JobSettings
from messages.event import milliseconds
from messages.policy import Override, Policy
from messages.profile import Read, decode_change
from messages.words import Lane, split_user_key
from policy.core import Change
from policy.overrides import lie_over
from policy.reasons import REASONS
from policy.simulation import Input, Invalid, Replayed, arrived, expand, replay, side_of
from policy.source_guard import SourceBucket, judge_event, source_rules

PROVIDERS: Any = frozenset(JobSettings().providers)
SUBTASKS = 2
"""Subtasks of the expand step: each has its share of a source's rate."""

RELEASED = 30
"""Seconds after which an operator releases what is held."""

LOADED = timedelta(seconds=20)
"""How long before the beginning the profiles are made."""

BEGINNINGS = [
    datetime(2026, 11, 24, 13, 0, 20, tzinfo=UTC),
    datetime(2026, 11, 24, 13, 0, 59, 999_000, tzinfo=UTC),
    datetime(2026, 12, 31, 22, 59, 40, tzinfo=UTC),
    datetime(2026, 3, 29, 0, 59, 30, tzinfo=UTC),  # clocks go forward in Europe at 01:00
]


@pytest.fixture(scope="module")
def packaged() -> Policy:
    return load_policies(ROOT / JobSettings().policies)


def over(packaged: Policy, now: datetime) -> dict[str, Override]:
    return {override.key: override for override in cast.overrides(now, packaged.defaults.time_zone)}


class Stage:
    """One member's script in virtual time: what the expand step, the core and the operator of the quarantine make of it."""

    def __init__(self, packaged: Policy, begin: datetime) -> None:
        self.begin = begin
        lying = over(packaged, begin - LOADED)
        effective = lie_over(packaged, lying)
        self.rules = source_rules(effective.document, effective.overrides)
        self.side = side_of(packaged, lying, PROVIDERS)

    def play(self, member: Member) -> tuple[set[str], Replayed]:
        """The reasons recorded, of notifications and of channels, and what came of it all."""
        inputs = [
            Input(milliseconds(self.begin - LOADED), Change(decode_change(value), (0, place), milliseconds(self.begin)))
            for place, (key, value) in enumerate(cast.profile_commands(self.begin - LOADED))
            if key == f"default/{member.user}"
        ]
        held: set[str] = set()
        buckets: dict[tuple[str, Lane], SourceBucket | None] = {}
        for place, cue in enumerate(cast.cues(member, self.begin)):
            match cue:
                case cast.EventCue():
                    inputs.append(self._event(cue, place, held, buckets))
                case cast.CommandCue():
                    inputs.append(self._command(decode_change(cue.payload), cue.after, place))
                case cast.ReadCue():
                    read = Read(id="read", source=cue.source, event_id=cue.event_id)
                    inputs.append(self._command(read, cue.after, place))
        inputs.sort(key=lambda given: given.at)
        until = milliseconds(self.begin + timedelta(seconds=LASTS))
        result = replay(self.side, "default", member.user, None, inputs, until)
        records = [judged.record for judged in result.decisions]
        found = {record.reason or record.outcome for record in records}
        return held | found | {word for record in records for word in record.channels.values()}, result

    def _command(self, change: Any, after: int, place: int) -> Input:
        at = milliseconds(self.begin + timedelta(seconds=after))
        return Input(at, Change(change, (1, place), at))

    def _event(self, cue: cast.EventCue, place: int, held: set[str], buckets: dict[Any, SourceBucket | None]) -> Input:
        at = milliseconds(self.begin)
        event = msgspec.json.decode(cue.payload)
        source, data = event["source"], event["data"]
        bucket = buckets.get((source, cue.lane))
        verdict = judge_event(self.rules, source, data["category"], data.get("campaign"), bucket, at, SUBTASKS)
        if verdict.charged is not None:
            buckets[source, cue.lane] = verdict.charged
        if verdict.ruling in ("paused", "source_quarantined"):
            held.add(verdict.ruling)
            at += RELEASED * 1000
        expanded = expand(cue.payload)
        assert expanded is not None
        return Input(at, arrived(expanded[2], cue.lane, f"events.{cue.lane}/0/{place}", at))


@pytest.mark.parametrize("begin", BEGINNINGS, ids=lambda at: f"{at:%m-%dT%H:%M:%S}")
@pytest.mark.parametrize("member", CAST, ids=lambda member: member.user)
def test_a_member_of_the_cast_keeps_exactly_what_is_promised(packaged: Policy, member: Member, begin: datetime) -> None:
    found, result = Stage(packaged, begin).play(member)
    assert found == set(member.reasons)
    assert not result.waiting
    assert not result.refused


def test_every_reason_but_a_defect_is_provoked_and_no_other() -> None:
    provoked = {reason for member in CAST for reason in member.reasons}
    assert provoked == set(REASONS) - {"internal_error"} | {"sent"}


def test_nobody_plays_twice() -> None:
    assert len({member.user for member in CAST}) == len(CAST)


def test_whose_stories_are_told_are_of_the_cast() -> None:
    assert set(cast.TOLD) <= {member.user for member in CAST}


def test_every_override_is_in_force(packaged: Policy) -> None:
    effective = lie_over(packaged, over(packaged, BEGINNINGS[0]))
    assert not effective.ignored
    assert set(effective.patched) == set(cast.TUNING)


def test_only_the_member_that_tells_of_it_uses_what_is_paused(packaged: Policy) -> None:
    rules = Stage(packaged, BEGINNINGS[0]).rules
    users: dict[str, set[str]] = defaultdict(set)
    for member in CAST:
        for cue in _events(cast.cues(member, BEGINNINGS[0])):
            event = msgspec.json.decode(cue.payload)
            ruling = judge_event(rules, event["source"], event["data"]["category"], None, None, 0, SUBTASKS).ruling
            users[ruling].add(member.user)
    assert users["paused"] == {"boris"}
    assert users["category_not_allowed"] == {"dora"}


def _events(cues: list[Cue]) -> list[cast.EventCue]:
    return [cue for cue in cues if isinstance(cue, cast.EventCue)]


@pytest.mark.parametrize("hour", range(0, 24, 3))
def test_nothing_of_the_flood_waits_for_a_morning(packaged: Policy, hour: int) -> None:
    begin = datetime(2026, 11, 28, hour, 30, tzinfo=UTC)
    at = milliseconds(begin)
    side = side_of(packaged, over(packaged, begin), PROVIDERS)
    inputs: dict[str, list[Input]] = defaultdict(list)
    for place, (key, value) in enumerate(profile_commands(400)):
        inputs[key].append(Input(at - 1, Change(decode_change(value), (0, place), at - 1)))
    malformed = refused = 0
    for place, synthetic in enumerate(background_events(3_000, 400, begin)):
        malformed += synthetic.malformed
        expanded = expand(synthetic.payload)
        if expanded is None:
            refused += 1
            continue
        tenant, users, payload = expanded
        item = arrived(payload, "background", f"events.background/0/{place}", at)
        refused += isinstance(item, Invalid)
        for user in users:
            inputs[f"{tenant}/{user}"].append(Input(at, item))
    assert malformed == refused
    reasons: dict[str, int] = defaultdict(int)
    for key, given in inputs.items():
        result = replay(side, *split_user_key(key), None, given, at + LASTS * 1000)
        assert not result.waiting, key
        for judged in result.decisions:
            reasons[judged.record.reason or "sent"] += 1
            for word in judged.record.channels.values():
                reasons[word] += 1
    assert "internal_error" not in reasons
    # Not only the cast meets the rules.
    assert {"quiet_hours", "digested", "throttled", "superseded", "duplicate_content", "capped"} < set(reasons)
