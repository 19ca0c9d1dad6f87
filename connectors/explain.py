"""Decision records and outcomes, told in sentences: what was decided for a user, why, and what became of it.

Pure: the history and the time are arguments. The sentences say what the records say and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from connectors.view_store import History
from messages.decision import PENDING, Bucket, CapCount, DecisionRecord
from messages.delivery import Outcome
from messages.profile import ANY
from messages.words import CHANNELS
from policy.digests import SOURCE as DIGESTS
from policy.preferences import DEFAULT, OPT_IN, TENANT, TOPIC
from policy.reasons import REASONS

_SENT = "sent"
_LISTED = 10

# What a word says of one channel; policy.reasons says it of the whole notification.
_CHANNEL_WORDS = {
    _SENT: "sent",
    "opted_out": "not allowed",
    "no_endpoint": "the user has no endpoint on it",
    "endpoint_suppressed": "every endpoint of the user on it is suppressed",
    "no_provider": "this deployment has no worker for the user's endpoints on it",
    "quiet_hours": "quiet hours of the user, or of the country, were on",
    "digest": "collected in a digest",
    "throttled": "the user's limit was reached",
    "capped": "a frequency cap was reached",
    "over_budget": "the category's budget for the day was spent on it",
    "not_chosen": "another channel was chosen, for its cost or its time",
    "superseded": "a newer notification has the same collapse_key",
}

# A part of a notification that goes its own way, as the subject of a sentence.
_PARTS = {
    "rest": "the rest of it",
    "digest": "a part of it",
    "ladder": "its ladder",
}

# Why a ladder ended, by the detail of its cancellation.
_ANSWERS = {"read": "the user has read it", "open": "it was opened"}

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000))
_CALENDAR = {"day": "the user's day", "week": "the user's week"}


class Story(msgspec.Struct, kw_only=True):
    """One notification: its decisions in order, and the sentences that tell them; an indented one details the one above."""

    notification_id: str
    event_id: str
    source: str
    title: str
    sentences: list[str]
    decisions: list[DecisionRecord]
    outcomes: dict[str, Outcome]


class Explanation(msgspec.Struct, kw_only=True):
    """What is known of a user's notifications, in the order of their first known decision."""

    tenant: str
    user: str
    notifications: list[Story]


def stories(history: History, now: int, *, event: str | None = None, limit: int | None = None) -> list[Story]:
    """The history's notifications, in the order of their first known decision; ``now`` in milliseconds.

    Only those of the event id ``event``, and only the ``limit`` latest, where these are given.
    """
    by_notification: dict[str, list[DecisionRecord]] = {}
    digests: dict[str, _Digest] = {}
    for record in sorted(history.decisions, key=_place):
        by_notification.setdefault(record.notification_id, []).append(record)
        if _is_digest(record) and not record.child:
            digests.setdefault(record.event_id, _Digest()).last = record
        if record.reason == "digested" and record.detail is not None:
            digests.setdefault(record.detail, _Digest()).items.append(record.event_id)
    chosen = [records for records in by_notification.values() if event is None or records[0].event_id == event]
    if limit is not None:
        chosen = chosen[-limit:]
    return [_story(records, history.outcomes, digests, now) for records in chosen]


def _place(record: DecisionRecord) -> tuple[int, int, int, bool, bool]:
    """Where a record belongs; of one instant what was sent comes before what then waits."""
    return record.decided_at, record.arrived_at, record.step, record.child, record.outcome in PENDING


def moment(milliseconds: int) -> str:
    """An instant in UTC, ISO 8601."""
    at = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03}Z"


def when(milliseconds: int, now: int) -> str:
    """An instant in UTC, and how far it is from ``now``, cut off after the second unit: ``… (in 2 h 5 min)``."""
    distance = abs(milliseconds - now)
    parts = []
    for unit, size in _UNITS:
        if distance >= size:
            parts.append(f"{distance // size} {unit}")
            distance %= size
    if not parts:
        return f"{moment(milliseconds)} (now)"
    text = " ".join(parts[:2])
    return f"{moment(milliseconds)} ({text} ago)" if milliseconds < now else f"{moment(milliseconds)} (in {text})"


def span(milliseconds: int) -> str:
    """A duration in the largest unit that divides it: ``1 h``, ``90 s``, ``250 ms``."""
    for unit, size in _UNITS:
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size} {unit}"
    return f"{milliseconds} ms"


class _Digest(msgspec.Struct):
    """What the history knows of one digest: its own last decision, and the events that went into it."""

    last: DecisionRecord | None = None
    items: list[str] = []


def _story(records: list[DecisionRecord], outcomes: dict[str, Outcome], digests: dict[str, _Digest], now: int) -> Story:
    first = records[0]
    kind = first.category if first.category_class is None else f"{first.category}, {first.category_class}"
    sentences: list[str] = []
    if _is_digest(first):
        sentences.append(_contents(digests[first.event_id].items if first.event_id in digests else []))
    if first.step > 0:
        sentences.append(f"Earlier decisions on it (steps 0 to {first.step - 1}) are no longer in the view.")
    for index, record in enumerate(records):
        sentences += _decision(record, records[index + 1 :], outcomes, now)
        if record.reason == "digested" and record.detail is not None:
            sentences.append(f"  {_digest(digests[record.detail].last, now)}")
    ids = {delivery for record in records for delivery in record.deliveries}
    return Story(
        notification_id=first.notification_id,
        event_id=first.event_id,
        source=first.source,
        title=(
            f"Event {first.event_id} of {first.source} ({kind}) for {first.tenant}/{first.user} "
            f"arrived at {when(first.arrived_at, now)} on the {first.lane} lane."
        ),
        sentences=sentences,
        decisions=records,
        outcomes={delivery: outcome for delivery, outcome in outcomes.items() if delivery in ids},
    )


def _is_digest(record: DecisionRecord) -> bool:
    return record.source == DIGESTS and record.event_id.startswith("digest/")


def _contents(items: list[str]) -> str:
    """What a digest stands for; an item whose record the view has lost is not counted, and that is said."""
    if not items:
        return "It is a digest; what went into it is not in the view, or not yet."
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    things = "1 notification" if len(items) == 1 else f"{len(items)} notifications"
    return f"It is a digest; as far as the view knows {things} went into it: {', '.join(items[:_LISTED])}{more}."


def _digest(last: DecisionRecord | None, now: int) -> str:
    if last is None:
        return "What became of the digest is not in the view, or not yet."
    return f"At {when(last.decided_at, now)} it was decided on the digest: {_verdict(last, now)}"


def _decision(record: DecisionRecord, later: list[DecisionRecord], outcomes: dict[str, Outcome], now: int) -> Iterator[str]:
    basis = f"by policy version {record.policy_version}"
    basis += "" if record.override is None else f" with the override `{record.override}` over it"
    basis += ", without a profile" if record.profile_version is None else f" on profile version {record.profile_version}"
    again = " again" if record.step else ""
    yield f"At {when(record.decided_at, now)} it was decided{again}, {basis}: {_verdict(record, now)}"
    yield from (f"  {line}" for line in _channels(record, now))
    if not (record.child and record.outcome in PENDING):
        yield from (f"  {_cap(cap)}" for cap in record.caps)
    yield from (f"  {_delivery(delivery, outcomes.get(delivery), now)}" for delivery in record.deliveries)
    if record.outcome in PENDING and not any(_follows(record, each) for each in later):
        yield f"  {_still_pending(record, now)}"


def _follows(record: DecisionRecord, later: DecisionRecord) -> bool:
    """Whether ``later`` is the next decision on what ``record`` left pending; a part has a chain of its own."""
    return later.step > record.step and (later.child, later.part) == (record.child, record.part)


def _still_pending(record: DecisionRecord, now: int) -> str:
    if record.release_at is not None and record.release_at <= now:
        return "That time has passed; the decision that followed is not in the view, or not yet (it shows at a checkpoint)."
    return "Nothing was decided after that, as far as the view knows."


def _verdict(record: DecisionRecord, now: int) -> str:
    # Older records have no `part`: their children are the rest.
    part = (record.part or "rest") if record.child else None
    subject = "it" if part is None else _PARTS.get(part, f"its part `{part}`")
    until = "" if record.release_at is None else f" until {when(record.release_at, now)}"
    rung = f"on step {record.rung + 1} of its ladder " if record.rung else ""
    match record.outcome:
        case "sent":
            number = f"{len(record.deliveries)} {'delivery' if len(record.deliveries) == 1 else 'deliveries'} went out"
            return f"{'of the rest, ' if part == 'rest' else ''}{rung}{number}{_why(record)}."
        case "escalating":
            return f"its ladder waits{until} for an answer, before step {record.rung + 1}{_why(record, 'escalation')}."
        case "collected":
            return f"{subject} waits in a digest{until} at the latest{_why(record, 'digest')}."
        case "deferred":
            what = f"{subject} waits{until}"
        case "parked":
            what = f"{subject} waits{until} at the latest"
        case "suppressed" if record.reason == "digested" and record.detail is not None:
            return f"{subject} went into the digest {record.detail}."
        case "suppressed":
            what = f"{subject} ended" if part == "ladder" else f"{subject} was not sent"
        case "rejected":
            what = f"{subject} was rejected"
    return f"{'' if part == 'ladder' else rung}{what}{_why(record)}."


def _why(record: DecisionRecord, said: str | None = None) -> str:
    """The reason and its detail; nothing of the reason ``said`` already."""
    answer = _ANSWERS.get(record.detail or "") if record.reason == "cancelled" else None
    if answer is not None:
        return f": {answer}"
    detail = "" if record.detail is None else f" ({record.detail})"
    if record.reason is None or record.reason == said:
        return detail
    return f": {REASONS.get(record.reason, f'the reason is `{record.reason}`')}{detail}"


def _concerned(record: DecisionRecord) -> list[str]:
    """The channels that a record speaks of. A part's first record repeats what was said of those already sent."""
    channels = {channel: record.channels[channel] for channel in CHANNELS if channel in record.channels}
    if not record.child:
        return list(channels)
    if record.outcome not in PENDING:
        return [channel for channel, word in channels.items() if (word == _SENT) == (record.outcome == _SENT)]
    return [channel for channel, word in channels.items() if word == record.reason]


def _channels(record: DecisionRecord, now: int) -> Iterator[str]:
    for channel in _concerned(record):
        word = record.channels[channel]
        text = _CHANNEL_WORDS.get(word, f"`{word}`")
        scope = record.scopes.get(channel)
        denied = "" if scope is None else f"; {_denial(scope, record.category, channel)}"
        # What a digest takes goes out with the digest, whenever the channel would have been free.
        retry_at = None if word == "digest" else record.retry_at.get(channel)
        retry = "" if retry_at is None else f"; it could go out at {when(retry_at, now)} at the earliest"
        yield f"{channel}: {text}{denied}{_tokens(channel, word, record.buckets)}{retry}."


def _denial(scope: str, category: str, channel: str) -> str:
    """Which choice denied a channel. The user's own scopes are looked at first: a category may have any name."""
    if scope in (f"{own}/{on}" for own in (category, ANY) for on in (channel, ANY)):
        return f"denied by the user's choice `{scope}`"
    if scope == OPT_IN:
        return "it needs the user's consent, and none was given"
    if scope.startswith(TOPIC):
        return f"the user has left the topic `{scope.removeprefix(TOPIC)}`"
    if scope.startswith(f"{TENANT}/"):
        return f"the user chose nothing, and the tenant's default `{scope.removeprefix(f'{TENANT}/')}` is to deny"
    if scope == DEFAULT:
        return "the user chose nothing, and the category's default is to deny"
    return f"denied by `{scope}`"


def _tokens(channel: str, word: str, buckets: list[Bucket]) -> str:
    """What the bucket of a channel held; its key ends with the channel."""
    for bucket in buckets:
        if bucket.key.rpartition("/")[2] == channel:
            taken = ", of which it took one" if word == _SENT else ""
            return (
                f"; the bucket `{bucket.key}` held {bucket.tokens:g} of {bucket.burst} tokens{taken} "
                f"(limit {bucket.limit} in {span(bucket.period)})"
            )
    return ""


def _cap(cap: CapCount) -> str:
    window = _CALENDAR.get(cap.window, cap.window)
    return f"The cap `{cap.name}` had {cap.taken} of {cap.limit} taken in {window}."


def _delivery(delivery: str, outcome: Outcome | None, now: int) -> str:
    if outcome is None:
        return f"Delivery {delivery}: no outcome is known, or not yet."
    attempts = f"{outcome.attempts} {'attempt' if outcome.attempts == 1 else 'attempts'}"
    what = {
        "accepted": f"{outcome.provider} accepted it",
        "dead": f"{outcome.provider} says that the endpoint will never work",
        "rejected": f"{outcome.provider} rejected the message",
        "expired": f"its time had passed before {outcome.provider} accepted it",
        "unknown": f"it was sent, and the answer of {outcome.provider} was never seen",
        "failed": f"{outcome.provider} did not accept it, and no attempt is left",
    }[outcome.status]
    words = [str(word) for word in (outcome.status_code, outcome.error) if word is not None]
    said = f" ({' '.join(words)})" if words else ""
    ambiguous = f", {outcome.ambiguous} of them with an ambiguous answer" if outcome.ambiguous else ""
    repeat = "; reported again after a restart" if outcome.repeat else ""
    return (
        f"Delivery {delivery} on {outcome.channel} to endpoint {outcome.endpoint_id}: {what}{said} "
        f"at {when(outcome.at, now)}, after {attempts}{ambiguous}{repeat}."
    )
