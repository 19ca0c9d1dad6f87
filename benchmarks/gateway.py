"""How many events a second the gateway takes: real broker, real gateway, all on this machine, keep-alive connections.

``python -m benchmarks.gateway`` prints a table and writes the figures as JSON. The load comes from this process, so that
broker, gateway and load share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import psutil
import requests
import uvloop
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from cli.stack.stack import Stack
from cli.stack.stack_settings import with_free_ports, write_settings
from connectors.gateway.keys import hash_key, new_key
from connectors.settings import ROOT, Settings

BODIES = 200
"""Different request bodies, sent in turn; the gateway does not look for repeats."""


def event(number: int) -> dict[str, Any]:
    """A plain event of about 500 bytes for one of a million users."""
    return {
        "specversion": "1.0",
        "id": f"benchmark-{number}",
        "source": "benchmark",
        "type": "order.shipped",
        "time": "2026-01-01T00:00:00Z",
        "data": {
            "recipients": {"users": [f"user-{random.randrange(1_000_000)}"]},
            "category": "order_updates",
            "template": "order_shipped",
            "params": {
                "order": f"A-{number}",
                "carrier": "DHL",
                "items": [{"sku": "shirt", "count": 1}, {"sku": "socks", "count": 2}],
            },
            "dedup_key": f"order-{number}",
            "ttl": 3600,
            "campaign": "spring",
            "tags": ["orders"],
        },
    }


class Connection(asyncio.Protocol):
    """One keep-alive connection that always has one request under way, until ``until``."""

    def __init__(self, requests_: list[bytes], first: int, until: float, events: int, wanted: bytes) -> None:
        self._requests = requests_
        self._next = first
        self._until = until
        self._events = events
        self._wanted = wanted
        self._buffer = b""
        self._sent = 0.0
        self.events = 0
        self.seconds: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._next = (self._next + 1) % len(self._requests)
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._next])

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        now = time.perf_counter()
        if head[9:12] != self._wanted:
            self._fail(RuntimeError(f"the gateway answered {head!r} {body[:300]!r}"))
            return
        self._buffer = b""
        self.seconds.append(now - self._sent)
        self.events += self._events
        if now < self._until:
            self._send()
        elif not self.ended.done():
            self.ended.set_result(None)
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("the gateway closed the connection"))


async def load(port: int, key: str, size: int, connections: int, seconds: float) -> dict[str, float]:
    """Send batches of ``size`` (1: single events) over ``connections`` for ``seconds``; rates and latencies in ms."""
    made = []
    for number in range(BODIES):
        events = [event(number * size + index) for index in range(size)]
        body = json.dumps(events[0] if size == 1 else events, separators=(",", ":")).encode()
        head = (
            f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    opened = [
        await loop.create_connection(
            lambda index=index: Connection(made, index * 7, started + seconds, size, b"202"), "127.0.0.1", port
        )
        for index in range(connections)
    ]
    protocols = [protocol for _, protocol in opened]
    await asyncio.wait_for(asyncio.gather(*(protocol.ended for protocol in protocols)), seconds + 30)
    took = time.perf_counter() - started
    all_seconds = sorted(each for protocol in protocols for each in protocol.seconds)
    return {
        "events_per_second": round(sum(protocol.events for protocol in protocols) / took),
        "requests_per_second": round(len(all_seconds) / took),
        "p50_ms": round(1000 * all_seconds[len(all_seconds) // 2], 2),
        "p99_ms": round(1000 * all_seconds[int(len(all_seconds) * 0.99)], 2),
    }


def measure(settings: Settings, key: str, seconds: float) -> dict[str, dict[str, float]]:
    """Run every shape of load against a gateway process of its own; processor seconds are the gateway's."""
    file = Path(settings.stack.directory) / "gateway.yaml"
    write_settings(settings, file)
    process = subprocess.Popen(
        [sys.executable, "-m", "connectors.gateway", "--config", str(file)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        health = f"http://127.0.0.1:{settings.gateway.port}/healthz"
        deadline = time.monotonic() + 30
        while not _healthy(health):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"the gateway does not answer on {health}")
            time.sleep(0.1)
        figures = {}
        for name, size, connections in (
            ("single", 1, 64),
            ("single_one_connection", 1, 1),
            ("batches_of_100", 100, 16),
            ("batches_of_1000", 1000, 4),
        ):
            before = _processor_seconds(process.pid)
            figures[name] = uvloop.run(load(settings.gateway.port, key, size, connections, seconds))
            used = _processor_seconds(process.pid) - before
            events = figures[name]["events_per_second"] * seconds
            figures[name]["gateway_us_per_event"] = round(used / events * 1e6, 1)
        return figures
    finally:
        process.terminate()
        process.wait(30)


def _healthy(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def _processor_seconds(pid: int) -> float:
    main = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in [main, *main.children(recursive=True)])


def main() -> None:
    """Start a broker and a Redis, measure, print, write, stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="duration of each measurement")
    parser.add_argument("--output", type=Path, default=ROOT / "var" / "bench" / "gateway.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="herald-bench-") as directory:
        key = new_key()
        keys_file = Path(directory) / "keys.json"
        entry = {"name": "benchmark", "hash": hash_key(key), "tenant": "default", "sources": ["*"], "scopes": ["events"]}
        keys_file.write_text(json.dumps([entry]))
        settings = Settings()
        settings = with_free_ports(replace(settings, stack=replace(settings.stack, directory=directory)))
        stack = Stack(settings, ["kafka", "redis"])
        stack.up()
        try:
            gateway = replace(settings.gateway, keys_file=str(keys_file), events_per_second=10_000_000, burst=10_000_000)
            figures = measure(replace(settings, gateway=gateway), key, arguments.seconds)
        finally:
            stack.down()
    table = Table("load", *next(iter(figures.values())), title=f"gateway, {os.cpu_count()} cores shared by all")
    for name, row in figures.items():
        table.add_row(name, *(f"{value:,}" for value in row.values()))
    Console().print(table)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
