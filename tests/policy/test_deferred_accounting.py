"""What is deferred is accounted for: entered = released + expired + cancelled + superseded + what still waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from messages.policy import Bounds, Cap, Pause, Step
from messages.profile import Cancel
from policy.core import decide
from policy.policies import Policies
from policy.state import UserState
from policy.step import LEFT
from tests.policy.builders import (
    HOUR,
    NOW,
    SECOND,
    arrival,
    category,
    command,
    endpoint,
    event,
    fire,
    policies,
    throttle,
    user,
    window,
)


def rules_of(*pauses: Pause) -> Policies:
    """Every cause of a deferral: throttle, cap, quiet hours, not_before, pause; on wholes, rests and ladders."""
    return policies(
        bounds=Bounds(pending_items=8),
        caps={"any": Cap(limit=4, window="30s", action="defer")},
        overrides=pauses,
        news=category(channels=("push", "in_app"), throttle=throttle(1, "9s", burst=1)),
        alarm=category(
            channels=("push", "email"),
            choice="escalation",
            steps=[Step(channels=["push"], wait="10s"), Step(channels=["email"])],
            throttle=throttle(1, "20s", burst=1),
        ),
    )


PLAIN, PAUSED = rules_of(), rules_of(Pause(scope="category", name="news"))
happenings = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "arrive", "fire", "cancel", "pause", "lift"]),
        st.integers(0, 12_000),
        st.sampled_from(["news", "alarm"]),
        st.sampled_from([None, None, 1, 15 * SECOND]),
        st.sampled_from([None, None, 5 * SECOND, 40 * SECOND]),
        st.sampled_from([None, None, "k"]),
    ),
    max_size=40,
)


@given(happenings, st.booleans())
def test_entered_is_released_and_expired_and_cancelled_and_superseded_and_what_still_waits(
    what: list[tuple[str, int, str, int | None, int | None, str | None]], sleeps: bool
) -> None:
    state: UserState = user(
        endpoint(), endpoint("e", "ses"), quiet_hours=(window("14:14", "14:15"),) if sleeps else (), time_zone="UTC"
    )
    account: Counter[str] = Counter()
    records: Counter[str] = Counter()
    rules, now = PLAIN, NOW

    def balance(out: Any) -> None:
        account.update(out.deferred)
        records.update(record.outcome for record in out.decisions)
        waits = sum(item.kind == "deferred" for item in state.pending.values())
        assert account["entered"] == sum(account[name] for name in LEFT if name != "entered") + waits
        assert account["entered"] == records["deferred"], "each has a record, and each record is one"

    for number, (happens, step, kind, not_before, expires, collapse_key) in enumerate(what):
        now += step
        match happens:
            case "arrive":
                data: dict[str, Any] = {
                    "not_before": not_before and now + not_before,
                    "expires_at": expires and now + expires,
                    "collapse_key": collapse_key,
                    "cancellation_key": collapse_key,
                }
                balance(decide(now, rules, state, arrival(event(number, kind, now, **data), now)))
            case "fire":
                while state.activity.due and state.activity.due <= now:
                    balance(fire(rules, state))
            case "cancel":
                change = Cancel(id=f"c{number}", source="tests", cancellation_key="k")
                balance(decide(now, rules, state, command(change, number, at=now - HOUR)))
            case "pause":
                rules = PAUSED
            case "lift":
                rules = PLAIN
    rules = PLAIN
    while state.activity.due:
        balance(fire(rules, state))
    assert state.pending == {}


def test_each_way_out_is_counted_by_its_name() -> None:
    rules = policies(news=category())
    state = user()
    waits: dict[str, Any] = {"not_before": NOW + HOUR, "collapse_key": "c"}

    def arrives(number: int, at: int = NOW, **data: Any) -> dict[Any, int]:
        return decide(NOW, rules, state, arrival(event(number, at=at, **data))).deferred

    assert arrives(1, **waits) == {"entered": 1}
    assert arrives(2, at=NOW + 1, collapse_key="c") == {"superseded": 1}
    assert arrives(3, **waits) == {"entered": 1}
    cancelled = decide(NOW, rules, state, command(Cancel(id="c", source="tests", event_id="event-3"), 0))
    assert cancelled.deferred == {"cancelled": 1}
    assert arrives(4, expires_at=NOW + 1, **waits) == {"entered": 1}
    assert fire(rules, state).deferred == {"expired": 1}
    assert arrives(5, **waits) == {"entered": 1}
    assert fire(rules, state).deferred == {"released": 1}
