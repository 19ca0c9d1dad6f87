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
from msgspec.structs import replace

from messages.event import Event, EventData, decode_event
from messages.policy import Cap, CapFlags, Category, Digest, OptIn, Policy, Step, Throttle
from messages.profile import Consent, Endpoint, Profile
from messages.windows import Window
from policy.core import Arrival, decide
from policy.policies import compile_policies
from policy.state import Activity, BucketState, DigestState, UserState
from udfs import state as stored
from udfs.bundle import BACKGROUND
from udfs.fanout import Handler, Setup, encode_setup

NOW = 1_790_000_000_000
BUNDLE = 64
REMEMBERED = 16
"""Events that a user's dedup window holds already."""

SEND, TOKEN, FULL, WAITS, NIGHT, ITEM, CLOSE, RUNG = (
    "a plain send",
    "a send, with a token taken",
    "a send past every rule",
    "throttled, deferred",
    "quiet hours, deferred",
    "taken by a digest",
    "a digest of 20 closed",
    "the first rung of a ladder",
)
TITLES = {
    "decide_us": SEND,
    "decide_throttled_us": TOKEN,
    "decide_every_rule_us": FULL,
    "decide_deferred_us": WAITS,
    "decide_quiet_us": NIGHT,
    "decide_digest_us": ITEM,
    "decide_digest_close_us": CLOSE,
    "decide_ladder_us": RUNG,
}
POLICY = Policy(
    version=1,
    wake_up_spread="15m",
    caps={
        "a_day": Cap(limit=200, window="24h"),
        "push_a_day": Cap(limit=100, window="day", channels=["push"]),
        "marketing": Cap(limit=3, window="week", classes=["marketing"]),
        "sales": Cap(limit=3, window="7d", tags=["sale"]),
    },
    categories={
        "order_updates": Category(
            category_class="transactional", channels=["push"], caps=CapFlags(obeys=False, counts=False)
        ),
        "chat": Category(
            category_class="transactional",
            channels=["push"],
            caps=CapFlags(obeys=False, counts=False),
            throttle=Throttle(limit=1_000_000, period="1s"),
        ),
        "everything": Category(
            category_class="transactional",
            channels=["push"],
            opt_in=[OptIn(channels=["push"], countries=["DE"])],
            throttle=Throttle(limit=1_000_000, period="1s"),
            budgets={"push": 10},
        ),
        "narrow": Category(category_class="transactional", channels=["push"], throttle=Throttle(limit=1, period="1h")),
        "social": Category(category_class="transactional", channels=["push"], digest=Digest(window="1h", at=20)),
        "alert": Category(
            category_class="critical",
            channels=["push", "sms"],
            choice="escalation",
            steps=[Step(channels=["push"]), Step(channels=["sms"])],
        ),
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
_QUIET = {
    SEND: (),
    # 2026-09-21, 16:13 in Berlin
    FULL: (Window(start="22:00", end="07:00"), Window(start="12:00", end="13:00", days=("sat", "sun"))),
    NIGHT: (Window(start="15:00", end="18:00"), Window(start="22:00", end="07:00")),
}


def profile(of: str) -> Profile:
    """The user of a case."""
    if of == SEND:
        return PROFILE
    return replace(
        PROFILE,
        country="DE",
        time_zone="Europe/Berlin",
        quiet_hours=_QUIET[of],
        subscriptions={"football": True},
        consents={"everything/push": Consent(at=NOW, where="app", text_version="1")},
    )


def event(number: int, category: str = "order_updates", **more: Any) -> bytes:
    """An event of about 400 bytes, as it travels, without its recipients."""
    data = EventData(
        category=category,
        template="order_shipped",
        params={"order": f"A-{number:08d}", "carrier": "Northern Parcel", "window": "between nine and noon"},
        campaign="autumn",
        **more,
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


def decide_samples(case: str, runs: int) -> list[float]:
    """Microseconds of ``decide`` for a case; events and states are decoded before."""
    category, who, more, before = {
        SEND: ("order_updates", SEND, {}, 0),
        TOKEN: ("chat", SEND, {}, 0),
        FULL: ("everything", FULL, {"dedup_key": "k", "collapse_key": "c", "tags": ["football"]}, 5),
        WAITS: ("narrow", FULL, {}, 1),
        NIGHT: ("everything", NIGHT, {}, 5),
        ITEM: ("social", FULL, {}, 5),
        CLOSE: ("social", FULL, {}, 19),
        RUNG: ("alert", FULL, {}, 0),
    }[case]
    policies = compile_policies(POLICY, frozenset({"fcm", "twilio"}))
    arrivals = [_arrival(event(number, category, **more)) for number in range(before + 1)]
    earlier = [_arrival(event(1_000 + number, category)) for number in range(before)]

    def prepare(run: int) -> Callable[[], object]:
        state = UserState("default", f"user-{run}", profile(who), activity())
        for arrival in earlier:
            decide(NOW - 3_600_000 if case not in (WAITS, ITEM, CLOSE) else NOW - 1_000, policies, state, arrival)
        return lambda: decide(NOW, policies, state, arrivals[0])

    return timed(runs, prepare)


def _arrival(payload: bytes) -> Arrival:
    return Arrival(decode_event(payload), payload, "background", "events.background/0/1", NOW)


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


def state_bytes() -> dict[str, int]:
    """Bytes of a user's encoded state: typical (3 endpoints, 7 preferences, 20 recent events, 5 buckets, 5 caps), and at its
    bounds.
    """
    address = "t" * 142
    typical = Profile(
        version=12,
        country="DE",
        time_zone="Europe/Berlin",
        locale="de-DE",
        endpoints=[
            Endpoint(id=f"{number:032x}", provider="fcm", address=address, app="shop", registered_at=NOW)
            for number in range(3)
        ],
        preferences={f"category_{number}/push": number % 2 == 0 for number in range(7)},
        quiet_hours=(Window(start="22:00", end="07:00"),),
        position=(17, 123_456_789),
    )

    def counted(events: int, buckets: int, caps: int, units: int, others: int) -> Activity:
        log = bytes(14)
        return Activity(
            identities=log * events,
            buckets={f"category_{number}/push": BucketState(59_999, NOW, 60_000) for number in range(buckets)},
            caps={f"cap_{number}": NOW.to_bytes(6, "big") * units for number in range(caps)},
            contents=log * others,
            cancels=log * (others // 2),
            digests={f"category_{number}": DigestState(NOW, NOW, 3) for number in range(others // 4)},
        )

    sizes = {"profile, typical": len(stored.encode_profile(typical))}
    for name, one in (
        ("activity, typical", counted(20, 5, 5, 3, 0)),
        ("activity, busy", counted(200, 15, 10, 20, 10)),
        ("activity, at its bounds", counted(512, 64, 64, 1_000, 128)),
    ):
        sizes[name] = len(stored.encode_activity(one, False) or b"")
    return sizes


def measure(runs: int = 10_000) -> dict[str, Any]:
    """Microseconds a decision, p50 and p99, by case (``decide_us`` is a plain send); ``handler_us`` through the handler,
    ``bundle`` plain sends at a time; ``state_bytes``.
    """
    handler = Handler()
    handler.configure(encode_setup(Setup(policy=POLICY, providers=["fcm"])), 0)  # it also sets up the garbage collector
    decide_samples(SEND, runs // 10)  # warm up
    cases = {name: spread(decide_samples(case, runs if case != CLOSE else runs // 10)) for name, case in TITLES.items()}
    return cases | {
        "handler_us": spread(handler_samples(handler, runs // 10)),
        "bundle": BUNDLE,
        "state_bytes": state_bytes(),
    }


def main() -> None:
    """Print the table and the JSON."""
    result = measure()
    print(f"{'microseconds a decision':<44}{'p50':>8}{'p99':>8}")
    titles = {name: f"decide: {title}" for name, title in TITLES.items()}
    for name, text in (titles | {"handler_us": f"handler, {BUNDLE} plain sends a bundle"}).items():
        print(f"{text:<44}{result[name]['p50']:>8}{result[name]['p99']:>8}")
    for name, size in result["state_bytes"].items():
        print(f"{name:<44}{size:>8} bytes")
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
