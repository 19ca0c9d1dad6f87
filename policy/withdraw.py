"""Commands on what waits: cancel, and what ends or advances a ladder."""

from __future__ import annotations

from messages.event import Event, decode_event
from messages.profile import Cancel, Failed, Opened, PendingChange, Read, Stalled
from policy import digests, seen
from policy.identity import notification_id
from policy.release import taken_up
from policy.state import Pending, part_key, parts_of
from policy.step import Step


def withdraw(step: Step, command: PendingChange, at: int) -> None:
    """Apply a command that was given at ``at`` (milliseconds). Applied again it does nothing more."""
    match command:
        case Cancel():
            _cancel(step, command, at)
        case Read():
            _end_ladder(step, command.source, command.event_id, "read")
        case Opened():
            if not command.machine:
                _end_ladder(step, command.source, command.event_id, "open")
        case Failed() | Stalled():
            _advance(step, command)


def was_cancelled(step: Step, event: Event) -> bool:
    """Whether a cancel came before the event that it is about, at most ``cancel_window`` ago."""
    log = step.state.activity.cancels
    horizon = step.now - step.policies.cancel_window
    numbers = [_number(event.source, "event", event.id)]
    if event.data.cancellation_key is not None:
        numbers.append(_number(event.source, "key", event.data.cancellation_key))
    return any((at := seen.find(log, number)) != -1 and seen.instant(log, at) >= horizon for number in numbers)


def _number(source: str, kind: str, name: str) -> bytes:
    return seen.number(f"{kind}/{len(source)}:{source}{name}")


def _cancel(step: Step, command: Cancel, at: int) -> None:
    """End what waits of the event or with the key, and remember it: it may have come first."""
    state, policies = step.state, step.policies
    horizon = step.now - policies.cancel_window
    kind, name = ("event", command.event_id) if command.event_id is not None else ("key", command.cancellation_key)
    if at >= horizon:
        number = _number(command.source, kind, name or "")
        log = state.activity.cancels
        state.activity.cancels, forgotten = seen.remember(
            log, seen.find(log, number), number, at, horizon, policies.bounds.cancels
        )
        state.changed_activity = True
        step.out.hit("cancels", forgotten)
    if command.event_id is not None:
        identity = notification_id(state.tenant, command.source, command.event_id, state.user)
        found = parts_of(state.pending, identity)
    else:
        found = [waits for waits, item in state.pending.items() if item.cancellation_key == command.cancellation_key]
    for waiting in found:
        item = state.pending[waiting]
        event = decode_event(item.payload)
        # Of what came later than it is remembered for it says nothing, also where it is replayed.
        if event.source == command.source and item.arrived_at - at <= policies.cancel_window:
            _end(step, waiting, item, event, None)


def _end_ladder(step: Step, source: str, event_id: str, detail: str) -> None:
    key = part_key(notification_id(step.state.tenant, source, event_id, step.state.user), "ladder")
    item = step.state.pending.get(key)
    if item is not None:
        _end(step, key, item, decode_event(item.payload), detail)


def _end(step: Step, key: str, item: Pending, event: Event, detail: str | None) -> None:
    step.state.done_waiting(key)
    if item.kind == "deferred":
        step.count("cancelled")
    elif item.kind == "collected":
        digests.taken_out(step, item)
    step.end(taken_up(step, key, item, event), "suppressed", "cancelled", detail=detail)


def _advance(step: Step, command: Failed | Stalled) -> None:
    """A delivery of a ladder's last step has failed; where none is left, the next step is due."""
    state = step.state
    key = part_key(notification_id(state.tenant, command.source, command.event_id, state.user), "ladder")
    item = state.pending.get(key)
    if item is None or item.kind != "escalating" or command.delivery_id not in item.outstanding:
        return
    item.outstanding = tuple(name for name in item.outstanding if name != command.delivery_id)
    if not item.outstanding:
        item.release_at = min(item.release_at, step.now)
    state.wait(key, item)
