"""The handler of the decide operator: a bundle of inputs with their users' states in, what is to be done out.

A user's state is decoded and encoded once a bundle, however many inputs it has there. An input on which the core fails
is taken out and recorded, and the user's other inputs are decided again from the state as it was stored.
"""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from typing import Any

import msgspec

from messages.codec import DecodeError, encode_json
from messages.decision import DecisionRecord
from messages.event import Event, check_data, decode_event
from messages.policy import Policy
from messages.profile import decode_change, decode_profile
from messages.topics import COUNTS, DECISIONS, DELIVERIES, PROFILES, REJECTED, RejectedHeaders
from messages.words import Lane, Provider, split_user_key
from policy.core import Arrival, Change, Due, Item, Loaded, decide
from policy.identity import notification_id
from policy.overrides import InForce, lie_over
from policy.policies import Policies, compile_policies
from policy.profiles import ChangeRefused
from policy.state import Activity, UserState, split_part
from policy.step import BOUNDS, LEFT, Bound, Decided, Left
from udfs import state as stored
from udfs.bundle import (
    BACKGROUND,
    CHANGE,
    PROFILE,
    TIMER,
    URGENT,
    Entry,
    Slot,
    chunk,
    keyed_row,
    read_bundle,
    row,
    state_operation,
    timers,
    u32,
)

RETRY = 10 * 60_000
"""Milliseconds after which a timer is set again that fired for a user whose state cannot be read."""

CORE_FAILURES = "core_failures"

_EVENT_KINDS = (BACKGROUND, URGENT)


class Setup(msgspec.Struct):
    """What travels with the job: the packaged policies and the providers that have a sink."""

    policy: Policy
    providers: list[Provider]


encode_setup = msgspec.msgpack.Encoder().encode
_decode_setup = msgspec.msgpack.Decoder(Setup).decode


class Handler:
    """One a subtask; the operator calls it from one thread."""

    def __init__(self) -> None:
        self._providers: frozenset[Provider] = frozenset()
        self._force = InForce.of(None)
        self._policies: Policies | None = None
        self._policy_error = ""

    def configure(self, setup: bytes, subtask: int) -> str:
        """Take over what travelled with the job; called once, before anything else.

        Returns the counters that exist from the start, a line each: what an alert watches must be there at 0.
        """
        decoded = _decode_setup(setup)
        self._providers = frozenset(decoded.providers)
        self._force = InForce.of(decoded.policy)
        self._compile()
        # A bundle makes thousands of objects and no cycles. At the default threshold the collector would run several
        # times a bundle, and now and then through all that is imported: it took a third of the time here.
        gc.freeze()
        gc.set_threshold(100_000, 20, 100)
        return "\n".join([CORE_FAILURES, *map(_bound_hit, BOUNDS), *map(_deferred, LEFT)])

    def _compile(self) -> None:
        assert self._force.policy is not None
        effective = lie_over(self._force.policy, self._force.overrides)
        self._policies = compile_policies(effective.document, self._providers, effective.overrides, effective.patched)

    def policy(self, name: str, document: bytes) -> bool:
        """Take the set, or an override that lies over it, into force; False, and all stays as it is, where the document is
        not valid, or the set not newer.
        """
        try:
            self._force.take(name, bytes(document))
        except DecodeError as error:
            self._policy_error = str(error)
            return False
        self._compile()
        return True

    def policy_removed(self, name: str) -> None:
        """A tombstone on the policies topic: an override is lifted; without a set the packaged one is in force again."""
        self._force.take(name, None)
        self._compile()

    def policy_version(self) -> int:
        """The version of the set in force."""
        assert self._force.policy is not None
        return self._force.policy.version

    def policy_error(self) -> str:
        """Why the last policy was refused."""
        return self._policy_error

    def decide(self, now: int, data: bytes) -> bytes:
        """Decide a bundle at ``now`` (milliseconds); never raises for a bad input."""
        assert self._policies is not None
        slots, items = read_bundle(data)
        inputs: dict[int, list[Entry]] = {}
        for slot, entry in items:
            if slot in inputs:
                inputs[slot].append(entry)
            else:
                inputs[slot] = [entry]
        events: dict[tuple[str, int, int], Event] = {}
        touched, rows, counted = [], [], []
        for slot, entries in inputs.items():
            key = chunk(slots[slot].key.encode("utf-8", "surrogatepass"))
            user = _UserBundle(now, self._policies, slots[slot], entries, events, key)
            touched.append(u32(slot) + user.run())
            rows += user.rows
            counted += user.counts
        counters = [chunk(name.encode()) + u32(count) for name, count in Counter(counted).items()]
        return b"".join((u32(len(touched)), *touched, u32(len(rows)), *rows, u32(len(counters)), *counters))


class _UserBundle(msgspec.Struct):
    """The inputs of one user in one bundle; ``key`` is the user's, as a chunk, ``events`` what the bundle has decoded."""

    now: int
    policies: Policies
    slot: Slot
    entries: list[Entry]
    events: dict[tuple[str, int, int], Event]
    key: bytes
    rows: list[bytes] = []
    counts: list[str] = []

    def run(self) -> bytes:
        """Decide all inputs; returns the user's part of the answer, without its slot number."""
        failed: dict[int, Exception] = {}
        poisoned: dict[str, Exception] = {}
        while True:
            self.rows, self.counts = [], []
            try:
                state, before = self._load(poisoned)
            except Exception as error:  # unreadable state: nothing of this user can be decided, nothing is touched
                for entry in self.entries:
                    self._failed(entry, error)
                fired = any(entry.kind == TIMER for entry in self.entries)
                return b"\0\0" + u32(0) + timers(0, self.now + RETRY if fired else 0)
            culprit = self._decide_all(state, failed)
            if culprit is None:
                break
            position, failure = culprit
            if state.releasing is not None:
                key, item = state.releasing
                if self.slot.pending and key in self.slot.pending and key not in poisoned:
                    poisoned[key] = failure
                    continue
                # It was parked by an input of this very bundle.
                origins = [entry.origin for entry in self.entries]
                position = origins.index(item.origin) if item.origin in origins else position
            failed[position] = failure
        for position, failure in failed.items():
            self._failed(self.entries[position], failure)
        for key, failure in poisoned.items():
            self._failed_pending(key, failure)
        return self._changes(state, before)

    def _load(self, poisoned: dict[str, Exception]) -> tuple[UserState, int]:
        slot = self.slot
        state = UserState(
            *split_user_key(slot.key),
            None if slot.profile is None else stored.decode_profile(slot.profile),
            Activity() if slot.activity is None else stored.decode_activity(slot.activity),
        )
        if slot.pending:
            state.pending = {key: stored.decode_pending(item) for key, item in slot.pending.items()}
            for key in poisoned:
                state.done_waiting(key)
        before = state.activity.due
        return state, before

    def _decide_all(self, state: UserState, failed: dict[int, Exception]) -> tuple[int, Exception] | None:
        """Decide the inputs that have not failed before; returns the position and error of one that fails now."""
        emit_profile = False
        for position, entry in enumerate(self.entries):
            if position in failed:
                continue
            try:
                out = decide(self.now, self.policies, state, self._item(entry))
                emit_profile = emit_profile or (entry.kind == CHANGE and state.changed_profile)
                self._emit(out)
            except (DecodeError, ChangeRefused) as error:
                if state.releasing is not None:
                    return position, error
                self._refused(entry, error)
            except Exception as error:
                return position, error
        if emit_profile:
            self.rows.append(keyed_row(PROFILES, self.key, encode_json(state.profile)))
        return None

    def _item(self, entry: Entry) -> Item:
        kind = entry.kind
        if kind == TIMER:
            return Due()
        if kind == CHANGE:
            return Change(decode_change(entry.payload), (entry.partition, entry.offset), entry.timestamp)
        if kind == PROFILE:
            return Loaded(decode_profile(entry.payload))
        origin = (entry.topic, entry.partition, entry.offset)
        event = self.events.get(origin)
        if event is None:  # one event for many users is decoded once a bundle
            event = decode_event(entry.payload)
            check_data(event, len(entry.payload))
            self.events[origin] = event
        return Arrival(event, entry.payload, _lane(entry), entry.origin, entry.timestamp)

    def _emit(self, out: Decided) -> None:
        for delivery in out.deliveries:
            topic = DELIVERIES[delivery.provider, delivery.lane]
            self.rows.append(keyed_row(topic, self.key, encode_json(delivery)))
        for record in out.decisions:
            self._record(record)
        for count in out.counts:
            self.rows.append(row(COUNTS, None, encode_json(count)))
        for bound, times in out.bounds_hit.items():
            self.counts += [_bound_hit(bound)] * times
        for left, times in out.deferred.items():
            self.counts += [_deferred(left)] * times
        self.counts += ["budget_exempt"] * out.budget_exempt

    def _record(self, record: DecisionRecord) -> None:
        self.rows.append(keyed_row(DECISIONS, self.key, encode_json(record)))
        self.counts.append(
            f"decisions;lane={record.lane};class={record.category_class or 'none'};"
            f"outcome={record.outcome};reason={record.reason or 'none'}"
        )

    def _refused(self, entry: Entry, error: DecodeError | ChangeRefused) -> None:
        """A bad input: recorded with its bytes, and for an event the outcome of its notification."""
        if isinstance(error, ChangeRefused):
            self._reject(entry, error.reason, error.detail)
        elif entry.kind in _EVENT_KINDS:
            self._reject(entry, "invalid_event", error.reason, error.path)
            self._record(self._outcome(entry, "invalid_event", str(error)))
        else:
            self._reject(entry, "invalid_change", error.reason, error.path)

    def _failed(self, entry: Entry, error: Exception) -> None:
        """An input on which the core itself failed: recorded with the traceback's last line."""
        detail = _last_line(error)
        self.counts.append(CORE_FAILURES)
        self._reject(entry, "internal_error", detail)
        if entry.kind in _EVENT_KINDS:
            self._record(self._outcome(entry, "internal_error", detail))

    def _failed_pending(self, key: str, error: Exception) -> None:
        """A stored item on which the core failed when it released it: the end of its notification's decisions."""
        assert self.slot.pending is not None
        item = stored.decode_pending(self.slot.pending[key])
        topic, partition, offset = item.origin.rsplit("/", 2)
        kind = URGENT if item.lane == "urgent" else BACKGROUND
        entry = Entry(kind, topic, int(partition), int(offset), item.arrived_at, item.payload)
        detail = _last_line(error)
        self.counts.append(CORE_FAILURES)
        self._reject(entry, "internal_error", detail)
        record = self._outcome(entry, "internal_error", detail)
        record.notification_id, record.part = split_part(key)
        record.step, record.child = item.step + 1, item.child
        self._record(record)

    def _outcome(self, entry: Entry, reason: str, detail: str) -> DecisionRecord:
        """The record of a notification that could not be decided; what cannot be read of its event is empty."""
        tenant, _, user = self.slot.key.partition("/")
        event = _readable(entry.payload)
        data = event.get("data")
        data = data if isinstance(data, dict) else {}
        source, event_id = _text(event.get("source")), _text(event.get("id"))
        # Without an id of its own it is known by its place; no event has an empty source.
        identity = (source, event_id) if source and event_id else ("", entry.origin)
        return DecisionRecord(
            notification_id=notification_id(tenant, *identity, user),
            tenant=tenant,
            user=user,
            event_id=event_id,
            source=source,
            category=_text(data.get("category")),
            lane=_lane(entry),
            outcome="rejected",
            reason=reason,
            detail=_brief(detail),
            policy_version=self.policies.version,
            origin=entry.origin,
            arrived_at=entry.timestamp,
            decided_at=self.now,
            campaign=_text(data.get("campaign")) or None,
        )

    def _reject(self, entry: Entry, reason: str, detail: str, path: str = "$") -> None:
        headers = [
            (RejectedHeaders.STAGE, "change" if entry.kind in (CHANGE, PROFILE) else "decide"),
            (RejectedHeaders.REASON, reason),
            (RejectedHeaders.PATH, _brief(path)),
            (RejectedHeaders.DETAIL, _brief(detail)),
            (RejectedHeaders.TOPIC, entry.topic),
            (RejectedHeaders.PARTITION, str(entry.partition)),
            (RejectedHeaders.OFFSET, str(entry.offset)),
            (RejectedHeaders.KEY, self.slot.key),
        ]
        self.rows.append(row(REJECTED, None, entry.payload, headers))
        self.counts.append(f"rejected;reason={reason}")

    def _changes(self, state: UserState, before: int) -> bytes:
        if before and any(entry.kind == TIMER and entry.offset == before for entry in self.entries):
            before = 0  # it has fired: the same instant must be registered again to fire again
        pending = []
        for key in state.changed_pending:
            item = state.pending.get(key)
            if item is not None or (self.slot.pending and key in self.slot.pending):
                pending.append(chunk(key.encode()) + chunk(None if item is None else stored.encode_pending(item)))
        changed = state.changed_activity or bool(state.changed_pending)
        profile = stored.encode_profile(state.profile) if state.changed_profile and state.profile is not None else None
        activity = stored.encode_activity(state.activity, bool(state.pending)) if changed else None
        return b"".join(
            (
                state_operation(profile is not None, profile),
                state_operation(changed, activity),
                u32(len(pending)),
                *pending,
                timers(before, state.activity.due),
            )
        )


def _bound_hit(bound: Bound) -> str:
    return f"bounds_hit;bound={bound}"


def _deferred(what: Left) -> str:
    return f"deferred;change={what}"


def _lane(entry: Entry) -> Lane:
    return "urgent" if entry.kind == URGENT else "background"


def _last_line(error: Exception) -> str:
    """The last line of the traceback, and where it was raised."""
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({where[-1].filename.rpartition('/')[2]}:{where[-1].lineno})" if where else ""
    return traceback.format_exception_only(error)[-1].strip() + place


def _brief(text: str) -> str:
    """What a message quotes of a bad document may be as long as the document; a record must fit its topic."""
    return text if len(text) <= 512 else text[:511] + "…"


def _text(value: object) -> str:
    """A field of an event that is not valid: what is no text, or longer than any identifier, is as good as absent."""
    return value if isinstance(value, str) and len(value) <= 256 else ""


def _readable(payload: bytes) -> dict[str, Any]:
    try:
        event = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}
