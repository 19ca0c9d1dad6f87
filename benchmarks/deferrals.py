"""Many deferrals that are due at one instant: what that does to the urgent lane, and what they take while they wait.

``python -m benchmarks.deferrals [--due 600000] [--waiting 1000000]`` writes ``var/bench/deferrals.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from rich.table import Table

from benchmarks.fanout import FULL, Bench, Plan, console
from cli.synthetic import event, user_name
from connectors.settings import ROOT
from messages.topics import DECISIONS, EVENTS

REPORT = ROOT / "var" / "bench" / "deferrals.json"
BEFORE = 30.0
"""Seconds of urgent traffic before the instant, to compare with."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--due", type=int, default=600_000, help="deferrals due at one instant")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="deferrals in all; the others are due a day later")
    parser.add_argument("--loading", type=float, default=150.0, help="seconds until the instant, for all to be deferred")
    flags = parser.parse_args()
    plan = msgspec.structs.replace(FULL, users=flags.waiting)
    with Bench(plan) as bench:
        figures = measure(bench, plan, flags.due, flags.waiting, flags.loading)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    table = Table("figure", "value", box=None)
    for name, value in figures.items():
        table.add_row(name, str(value))
    console.print(table)


def measure(bench: Bench, plan: Plan, due: int, waiting: int, loading: float) -> dict[str, Any]:
    """All figures of the report; milliseconds and megabytes."""
    population = bench.users(waiting)
    at = datetime.now(UTC) + timedelta(seconds=loading)
    bench.produce(population.settings, EVENTS["background"], _events(due, waiting, at))
    with bench.running(population) as running, closing(running.counter(DECISIONS)) as deferred:
        while deferred.total() < waiting:
            if datetime.now(UTC) > at:
                raise RuntimeError(f"only {deferred.total():,} of {waiting:,} were deferred in time: more --loading")
            time.sleep(1)
        held = running.largest_mb()
        time.sleep(max(0.0, at.timestamp() - time.time() - BEFORE))
        quiet = running.trickle(at.timestamp() - time.time() - 1)()
        began = time.monotonic()
        urgent = running.trickle(60.0)()
        while deferred.total() < waiting + due:
            time.sleep(0.5)
        return {
            "deferred": waiting,
            "due_at_once": due,
            "taskmanager_mb_while_waiting": round(held),
            "taskmanager_mb": round(running.largest_mb()),
            "urgent_before_ms": quiet,
            "urgent_while_released_ms": urgent,
            "released_a_second": round(due / max(60.0, time.monotonic() - began)),
        }


def _events(due: int, waiting: int, at: datetime) -> Iterator[tuple[None, bytes]]:
    now = datetime.now(UTC)
    for number in range(waiting):
        release = at if number < due else at + timedelta(days=1)
        extra = {"not_before": release.isoformat()}
        yield None, event(f"later-{number}", [user_name(number)], "chat", now, channels=["push"], **extra)


if __name__ == "__main__":
    main()
