"""Decision records and outcomes, told in sentences: what was decided for a user, why, and what became of it.

Pure: the history and the time are arguments. The sentences say what the records say and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from connectors.view_store import History
from messages.decision import PENDING, Bucket, DecisionRecord
from messages.delivery import Outcome
from policy.preferences import DEFAULT
from policy.reasons import REASONS

_SENT = "sent"

# What a word says of one channel; policy.reasons says it of the whole notification.
_CHANNEL_WORDS = {
    _SENT: "sent",
    "opted_out": "not wanted",
    "no_endpoint": "the user has no endpoint on it",
    "endpoint_suppressed": "every endpoint of the user on it is suppressed",
    "no_provider": "this deployment has no worker for the user's endpoints on it",
    "throttled": "the user's limit was reached",
}

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000))


class Story(msgspec.Struct, kw_only=True):
    """One notification: its decisions in order, and the sentences that tell them; an indented one details the one above."""

    notification_id: str
    event_id: str
    source: str
    title: str
    sentences: list[str]
    decisions: list[DecisionRecord]
    outcomes: dict[str, Outcome]


def stories(history: History, now: int) -> list[Story]:
    """The history's notifications, in the order of their first known decision; ``now`` in milliseconds."""
    by_notification: dict[str, list[DecisionRecord]] = {}
    for record in sorted(history.decisions, key=lambda record: (record.decided_at, record.step, record.child)):
        by_notification.setdefault(record.notification_id, []).append(record)
    return [_story(records, history.outcomes, now) for records in by_notification.values()]


def moment(milliseconds: int) -> str:
    """An instant as people read it, in UTC."""
    at = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03} UTC"


def span(milliseconds: int) -> str:
    """A duration in the largest unit that divides it: ``1 h``, ``90 s``, ``250 ms``."""
    for unit, size in _UNITS:
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size} {unit}"
    return f"{milliseconds} ms"


def _story(records: list[DecisionRecord], outcomes: dict[str, Outcome], now: int) -> Story:
    first = records[0]
    kind = first.category if first.category_class is None else f"{first.category}, {first.category_class}"
    sentences: list[str] = []
    if first.step > 0:
        sentences.append(f"Earlier decisions on it (steps 0 to {first.step - 1}) are no longer in the view.")
    for index, record in enumerate(records):
        sentences += _decision(record, records[index + 1 :], outcomes, now)
    ids = {delivery for record in records for delivery in record.deliveries}
    return Story(
        notification_id=first.notification_id,
        event_id=first.event_id,
        source=first.source,
        title=(
            f"Event {first.event_id} of {first.source} ({kind}) for {first.tenant}/{first.user} "
            f"arrived at {moment(first.arrived_at)} on the {first.lane} lane."
        ),
        sentences=sentences,
        decisions=records,
        outcomes={delivery: outcome for delivery, outcome in outcomes.items() if delivery in ids},
    )


def _decision(record: DecisionRecord, later: list[DecisionRecord], outcomes: dict[str, Outcome], now: int) -> Iterator[str]:
    basis = f"by policy version {record.policy_version}"
    basis += ", without a profile" if record.profile_version is None else f" on profile version {record.profile_version}"
    again = " again" if record.step else ""
    yield f"At {moment(record.decided_at)} it was decided{again}, {basis}: {_verdict(record)}"
    yield from (f"  {line}" for line in _channels(record))
    yield from (f"  {_delivery(delivery, outcomes.get(delivery))}" for delivery in record.deliveries)
    if record.outcome in PENDING and not any(_follows(record, each) for each in later):
        yield f"  {_still_pending(record, now)}"


def _follows(record: DecisionRecord, later: DecisionRecord) -> bool:
    """Whether ``later`` is the next decision on what ``record`` left pending; a child has a chain of its own."""
    return later.step > record.step and later.child == record.child


def _still_pending(record: DecisionRecord, now: int) -> str:
    if record.release_at is not None and record.release_at <= now:
        return "That time has passed; the decision that followed is not in the view, or not yet (it shows at a checkpoint)."
    return "Nothing was decided after that, as far as the view knows."


def _verdict(record: DecisionRecord) -> str:
    reason = "" if record.reason is None else f": {REASONS.get(record.reason, f'the reason is `{record.reason}`')}"
    detail = "" if record.detail is None else f" ({record.detail})"
    until = "" if record.release_at is None else f" until {moment(record.release_at)}"
    what = {
        "sent": f"{len(record.deliveries)} {'delivery' if len(record.deliveries) == 1 else 'deliveries'} went out",
        "suppressed": "it was not sent",
        "rejected": "it was rejected",
        "deferred": f"it waits{until}",
        "parked": f"it waits{until} at the latest",
    }[record.outcome]
    rest = f"on the remaining channels ({', '.join(_concerned(record))}) " if record.child else ""
    return f"{rest}{what}{reason}{detail}."


def _concerned(record: DecisionRecord) -> list[str]:
    """The channels that a record speaks of. A child's first record repeats what was said of those already sent."""
    if not record.child:
        return list(record.channels)
    if record.outcome in PENDING:
        return [channel for channel, word in record.channels.items() if word == record.reason]
    return [channel for channel, word in record.channels.items() if (word == _SENT) == (record.outcome == _SENT)]


def _channels(record: DecisionRecord) -> Iterator[str]:
    for channel in _concerned(record):
        word = record.channels[channel]
        text = _CHANNEL_WORDS.get(word, f"`{word}`")
        scope = record.scopes.get(channel)
        if scope == DEFAULT:
            text += "; the user chose nothing, and the category's default is to deny"
        elif scope is not None:
            text += f"; denied by the user's choice `{scope}`"
        yield f"{channel}: {text}{_tokens(channel, word, record.buckets)}."


def _tokens(channel: str, word: str, buckets: Iterable[Bucket]) -> str:
    """What the bucket of a channel held; its key ends with the channel."""
    for bucket in buckets:
        if bucket.key.rpartition("/")[2] == channel:
            taken = ", of which it took one" if word == _SENT else ""
            return (
                f"; the bucket `{bucket.key}` held {bucket.tokens:g} of {bucket.burst} tokens{taken} "
                f"(limit {bucket.limit} in {span(bucket.period)})"
            )
    return ""


def _delivery(delivery: str, outcome: Outcome | None) -> str:
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
        f"at {moment(outcome.at)}, after {attempts}{ambiguous}{repeat}."
    )
