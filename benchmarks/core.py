"""What the decision core costs by itself: no Flink, no Kafka, one process, one thread.

``python -m benchmarks.core`` prints a table and one line of JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import median, quantiles
from typing import Any

import msgspec

from messages.event import Event, EventData, decode_event
from messages.policy import Category, Policy, Throttle
from messages.profile import Endpoint, Profile
from policy.core import Arrival, decide
from policy.policies import compile_policies
from policy.state import Activity, UserState
from udfs import state as stored
from udfs.bundle import BACKGROUND
from udfs.fanout import Handler, Setup, encode_setup

NOW = 1_790_000_000_000
BUNDLE = 64
REMEMBERED = 16
"""Events that a user's dedup window holds already."""

POLICY = Policy(
    version=1,
    categories={
        "order_updates": Category(category_class="transactional", channels=["push"]),
        "chat": Category(category_class="transactional", channels=["push"], throttle=Throttle(limit=1_000_000, period="1s")),
    },
)
PROFILE = Profile(
    version=3,
    locale="en",
    endpoints=[Endpoint(id="installation-1", provider="fcm", address="t" * 160, app="shop", registered_at=NOW)],
    preferences={"promotions/*": False},
    applied=["c-1", "c-2", "c-3"],
    position=(0, 17),
)


def event(number: int, category: str = "order_updates") -> bytes:
    """An event of about 400 bytes, as it travels, without its recipients."""
    data = EventData(
        category=category,
        template="order_shipped",
        params={"order": f"A-{number:08d}", "carrier": "Northern Parcel", "window": "between nine and noon"},
        campaign="autumn",
    )
    at = datetime.fromtimestamp(NOW / 1000, UTC) - timedelta(seconds=1)
    return msgspec.json.encode(
        Event(specversion="1.0", id=f"order-{number:08d}", source="shop/orders", type="order.shipped", time=at, data=data)
    )


def activity() -> Activity:
    """A user who was told a few things before."""
    log = b"".join((NOW - 60_000 + n).to_bytes(6, "big") + ((7 << 58) + n).to_bytes(8, "big") for n in range(REMEMBERED))
    return Activity(identities=log)


def spread(samples: list[float]) -> dict[str, float]:
    """p50 and p99, rounded."""
    return {"p50": round(median(samples), 2), "p99": round(quantiles(samples, n=100)[98], 2)}


def timed(runs: int, prepare: Callable[[int], Callable[[], object]]) -> list[float]:
    """Microseconds of each run, the garbage collector included; what ``prepare`` does is not counted."""
    samples = []
    for run in range(runs):
        work = prepare(run)
        begin = time.perf_counter_ns()
        work()
        samples.append((time.perf_counter_ns() - begin) / 1000)
    return samples


def decide_samples(category: str, runs: int) -> list[float]:
    """Microseconds of ``decide`` for a plain send; the event and the state are decoded before."""
    policies = compile_policies(POLICY, frozenset({"fcm"}))
    payload = event(1, category)
    decoded = decode_event(payload)

    def prepare(run: int) -> Callable[[], object]:
        state = UserState("default", f"user-{run}", PROFILE, activity())
        arrival = Arrival(decoded, payload, "background", "events.background/0/1", NOW)

        def work() -> None:
            decide(NOW, policies, state, arrival)

        return work

    return timed(runs, prepare)


def bundle(first: int) -> bytes:
    """A bundle of plain sends, each to another user, as the operator writes it."""
    profile, seen = stored.encode_profile(PROFILE), stored.encode_activity(activity(), has_pending=False)
    slots = [(f"default/user-{first + slot}", profile, seen, None) for slot in range(BUNDLE)]
    entries = [
        (slot, (BACKGROUND, "events.background", 0, first + slot, NOW, event(first + slot))) for slot in range(BUNDLE)
    ]
    return msgspec.msgpack.encode((slots, entries))


def handler_samples(handler: Handler, runs: int) -> list[float]:
    """Microseconds a decision of the handler: decode bundle, states and events, decide, encode states and rows."""

    def prepare(run: int) -> Callable[[], object]:
        data = bundle(run * BUNDLE)
        return lambda: handler.decide(NOW, data)

    return [sample / BUNDLE for sample in timed(runs, prepare)]


def measure(runs: int = 20_000) -> dict[str, Any]:
    """Microseconds a decision, p50 and p99: ``decide_us`` for a plain send, ``decide_throttled_us`` with a token taken,
    and ``handler_us`` through the handler, ``bundle`` plain sends at a time."""
    handler = Handler()
    handler.configure(encode_setup(Setup(policy=POLICY, providers=["fcm"])), 0)  # it also sets up the garbage collector
    decide_samples("order_updates", runs // 10)  # warm up
    return {
        "decide_us": spread(decide_samples("order_updates", runs)),
        "decide_throttled_us": spread(decide_samples("chat", runs)),
        "handler_us": spread(handler_samples(handler, runs // 20)),
        "bundle": BUNDLE,
    }


def main() -> None:
    """Print the table and the JSON."""
    result = measure()
    print(f"{'microseconds a decision':<44}{'p50':>8}{'p99':>8}")
    for name, text in (
        ("decide_us", "decide, plain send"),
        ("decide_throttled_us", "decide, a token taken"),
        ("handler_us", f"handler, {BUNDLE} plain sends a bundle"),
    ):
        print(f"{text:<44}{result[name]['p50']:>8}{result[name]['p99']:>8}")
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
