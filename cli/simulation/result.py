"""What two sets of policies make of the same input, counted side by side; sums only, so parts can be merged in any order."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from messages.decision import PENDING, DecisionRecord
from messages.words import CHANNELS
from policy.simulation import BILLION, Replayed

LISTED = 10
"""How many categories, users and ways are listed."""

_DIGEST = "digest/"


class Fate(msgspec.Struct):
    """What became of one notification: its last decision, and the channels on which any of its parts went out."""

    record: DecisionRecord
    channels: set[str] = msgspec.field(default_factory=set)

    @property
    def words(self) -> str:
        """The fate in a few words: ``sent on push``, ``suppressed: throttled``."""
        if self.record.outcome == "sent":
            return f"sent on {', '.join(channel for channel in CHANNELS if channel in self.channels)}"
        return f"{self.record.outcome}: {self.record.reason}"


def is_digest(record: DecisionRecord) -> bool:
    """Whether a decision is about a notification that the core made itself."""
    return record.origin.startswith(_DIGEST)


Counts = Counter[str]


def _counts() -> Any:
    return msgspec.field(default_factory=Counter)


class Tally(msgspec.Struct):
    """One side. Keys of ``outcomes``, ``digests`` and ``waits`` are ``outcome`` or ``outcome: reason``.

    ``outcomes`` has every notification that arrived once, by its last decision, ``digests`` every digest; ``waits`` every
    notification that waited, once for each cause. ``latency`` counts what was deferred and then sent, by the milliseconds
    from its arrival to its last decision, to three digits. ``cost`` is in billionths of the currency.
    """

    outcomes: Counts = _counts()
    digests: Counts = _counts()
    waits: Counts = _counts()
    pending: Counts = _counts()
    deliveries: Counts = _counts()
    cost: Counts = _counts()
    bounds: Counts = _counts()
    sent: Counts = _counts()
    delivered: Counts = _counts()
    latency: Counter[int] = _counts()
    refused: int = 0

    def take(self, replayed: Replayed) -> tuple[dict[str, Fate], int]:
        """Count what a user's inputs became; returns the fates of what arrived, by origin, and the deliveries."""
        fates: dict[str, Fate] = {}
        channels: dict[str, set[str]] = {}
        waited: set[tuple[str, str]] = set()
        deferred: set[tuple[str, str | None]] = set()
        deliveries = 0
        for judged in replayed.decisions:
            record = judged.record
            if not record.child:
                fates[record.origin] = Fate(record)
            if record.outcome in PENDING:
                waited.add((record.origin, _name(record)))
                if record.outcome == "deferred":
                    deferred.add((record.origin, record.part))
            elif record.outcome == "sent" and (record.origin, record.part) in deferred:
                self.latency[three_digits(record.decided_at - record.arrived_at)] += 1
            for channel, cost in judged.deliveries:
                self.deliveries[channel] += 1
                self.cost[channel] += cost
                channels.setdefault(record.origin, set()).add(channel)
            deliveries += len(judged.deliveries)
            self.delivered[record.category] += len(judged.deliveries)
        for origin, fate in fates.items():
            fate.channels = channels.get(origin, set())
            counts = self.digests if is_digest(fate.record) else self.outcomes
            counts[_name(fate.record)] += 1
            self.sent[fate.record.category] += fate.record.outcome == "sent"
        self.waits.update(name for _, name in waited)
        self.pending.update(replayed.waiting)
        self.bounds.update(replayed.bounds_hit)
        self.refused += replayed.refused
        return {origin: fate for origin, fate in fates.items() if not is_digest(fate.record)}, deliveries

    def merge(self, other: Tally) -> None:
        """Add what another part has counted."""
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, mine + theirs) if isinstance(mine, int) else mine.update(theirs)


def _name(record: DecisionRecord) -> str:
    return record.outcome if record.reason is None else f"{record.outcome}: {record.reason}"


def three_digits(value: int) -> int:
    """``value`` rounded to three significant digits."""
    unit: int = 10 ** max(0, len(str(abs(value))) - 3)
    return (value + unit // 2) // unit * unit


class UserChange(msgspec.Struct, frozen=True, order=True):
    """A user's deliveries on both sides; the largest change first, among equals by name."""

    rank: int
    user: str
    base: int
    candidate: int


class Comparison(msgspec.Struct):
    """Both sides, and what differs. ``ways`` counts by (base, candidate) the notifications that end otherwise; ``later``
    and ``earlier`` those whose end is the same at another time. ``most`` are the users whose deliveries change most.
    """

    base: Tally = msgspec.field(default_factory=Tally)
    candidate: Tally = msgspec.field(default_factory=Tally)
    ways: Counter[tuple[str, str]] = _counts()
    changed: Counts = _counts()
    notifications: int = 0
    later: int = 0
    earlier: int = 0
    more: int = 0
    fewer: int = 0
    same: int = 0
    most: list[UserChange] = []

    def take(self, user: str, base: Replayed, candidate: Replayed) -> None:
        """Count what a user's inputs became on both sides."""
        before, base_deliveries = self.base.take(base)
        after, candidate_deliveries = self.candidate.take(candidate)
        self.notifications += len(before)
        for origin, old in before.items():
            new = after[origin]
            if old.words != new.words:
                self.ways[old.words, new.words] += 1
                self.changed[old.record.category] += 1
            else:
                self.later += new.record.decided_at > old.record.decided_at
                self.earlier += new.record.decided_at < old.record.decided_at
        if not before:  # nothing but commands
            return
        change = candidate_deliveries - base_deliveries
        self.more += change > 0
        self.fewer += change < 0
        self.same += change == 0
        if change:
            self._keep([UserChange(-abs(change), user, base_deliveries, candidate_deliveries)])

    def merge(self, other: Comparison) -> None:
        """Add another part; no user is in both."""
        self.base.merge(other.base)
        self.candidate.merge(other.candidate)
        self.ways.update(other.ways)
        self.changed.update(other.changed)
        for name in ("notifications", "later", "earlier", "more", "fewer", "same"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._keep(other.most)

    def _keep(self, more: list[UserChange]) -> None:
        self.most = heapq.nsmallest(LISTED, [*self.most, *more])


class Row(msgspec.Struct, kw_only=True):
    """One figure on both sides. ``percent`` is None where the base has none of it; ``difference`` where they cannot be
    compared.
    """

    name: str
    base: float
    candidate: float
    difference: float | None
    percent: float | None

    @classmethod
    def of(cls, name: str, base: float, candidate: float, digits: int = 6) -> Row:
        """The figures with their difference."""
        difference = round(candidate - base, digits)
        percent = round(100 * difference / base, 1) if base else None
        return cls(name=name, base=base, candidate=candidate, difference=difference, percent=percent)


class CategoryRow(msgspec.Struct, kw_only=True):
    """A category: how many of its notifications end otherwise, what was sent of it, digests included, and delivered."""

    category: str
    changed: int
    sent: Row
    deliveries: Row


class Way(msgspec.Struct, kw_only=True):
    """How many notifications end as ``candidate`` that ended as ``base``."""

    base: str
    candidate: str
    notifications: int


class UserRow(msgspec.Struct, kw_only=True):
    """A user's deliveries on both sides."""

    user: str
    base: int
    candidate: int


class Result(msgspec.Struct, kw_only=True):
    """A comparison, ready to be shown: every list in a fixed order."""

    notifications: int
    otherwise: int
    later: int
    earlier: int
    outcomes: list[Row]
    waits: list[Row]
    pending: list[Row]
    digests: list[Row]
    deliveries: list[Row]
    cost: list[Row]
    latency: list[Row]
    bounds: list[Row]
    refused_commands: Row
    users: dict[str, int]
    ways: list[Way]
    categories: list[CategoryRow]
    most_changed_users: list[UserRow]


def result_of(found: Comparison, same_currency: bool) -> Result:
    """The figures of a comparison; costs in different currencies have no difference."""
    base, candidate = found.base, found.candidate
    cost = [
        Row.of(row.name, row.base / BILLION, row.candidate / BILLION, digits=9)
        for row in _with_sum(_rows(base.cost, candidate.cost, CHANNELS.index))
    ]
    if not same_currency:
        cost = [msgspec.structs.replace(row, difference=None, percent=None) for row in cost]
    return Result(
        notifications=found.notifications,
        otherwise=found.ways.total(),
        later=found.later,
        earlier=found.earlier,
        outcomes=_rows(base.outcomes, candidate.outcomes, _outcome_order),
        waits=_rows(base.waits, candidate.waits, _outcome_order),
        pending=_rows(base.pending, candidate.pending, str),
        digests=_rows(base.digests, candidate.digests, _outcome_order),
        deliveries=_with_sum(_rows(base.deliveries, candidate.deliveries, CHANNELS.index)),
        cost=cost,
        latency=[
            Row.of("deferred, then sent", base.latency.total(), candidate.latency.total()),
            *(
                Row.of(f"p{share}, ms", percentile(base.latency, share), percentile(candidate.latency, share))
                for share in (50, 99)
            ),
        ],
        bounds=_rows(base.bounds, candidate.bounds, str),
        refused_commands=Row.of("refused commands", base.refused, candidate.refused),
        users={
            "all": found.more + found.fewer + found.same,
            "more": found.more,
            "fewer": found.fewer,
            "same": found.same,
        },
        ways=[
            Way(base=old, candidate=new, notifications=number)
            for (old, new), number in sorted(found.ways.items(), key=lambda item: (-item[1], item[0]))[:LISTED]
        ],
        categories=_categories(found),
        most_changed_users=[
            UserRow(user=change.user, base=change.base, candidate=change.candidate) for change in found.most
        ],
    )


def percentile(counts: Mapping[int, int], share: int) -> int:
    """The smallest value that ``share`` percent are not above (nearest rank); 0 of nothing."""
    left = -(-sum(counts.values()) * share // 100)
    for value, number in sorted(counts.items()):
        left -= number
        if left <= 0:
            return value
    return 0


def _outcome_order(name: str) -> tuple[int, str]:
    order = ("sent", "suppressed", "rejected", *PENDING)
    return order.index(name.partition(":")[0]), name


def _rows(base: Mapping[str, int], candidate: Mapping[str, int], key: Callable[[str], Any]) -> list[Row]:
    return [Row.of(name, base.get(name, 0), candidate.get(name, 0)) for name in sorted({*base, *candidate}, key=key)]


def _with_sum(rows: Iterable[Row]) -> list[Row]:
    rows = list(rows)
    return [*rows, Row.of("all", sum(row.base for row in rows), sum(row.candidate for row in rows))]


def _categories(found: Comparison) -> list[CategoryRow]:
    base, candidate = found.base, found.candidate
    rows = [
        CategoryRow(
            category=name,
            changed=found.changed[name],
            sent=Row.of(name, base.sent[name], candidate.sent[name]),
            deliveries=Row.of(name, base.delivered[name], candidate.delivered[name]),
        )
        for name in {*base.delivered, *candidate.delivered}
    ]
    changed = [row for row in rows if row.changed or row.sent.difference or row.deliveries.difference]
    changed.sort(key=lambda row: (-row.changed, -abs(row.deliveries.difference or 0), row.category))
    return changed[:LISTED]
