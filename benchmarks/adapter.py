"""How many deliveries one adapter worker carries: ``python -m benchmarks.adapter``, about a minute.

Real Kafka and Redis, the FCM emulator answering after 50 ms, one worker with its default settings, a backlog on the
background lane and a trickle of 100 a second on the urgent one, whose way from Kafka to the provider is timed. Beside
it, in the same run and against the same emulator, the bare transport: the same requests from a loop without Kafka,
Redis or claims. What the worker does beyond sending is the difference in CPU a delivery.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import requests
import uvloop
from confluent_kafka import Producer
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from cli.stack.stack import Stack
from cli.stack.stack_settings import local_settings, with_free_ports, write_settings
from connectors.adapters.channel import Failure
from connectors.adapters.fcm import Fcm, build, classify
from connectors.adapters.http2 import Http2Pool, tls_context
from connectors.adapters.oauth import load_credentials
from connectors.settings import Settings
from messages.codec import encode_json
from messages.delivery import Delivery, Target
from messages.event import Content
from messages.topics import PARTITIONER, deliveries
from messages.words import user_key

LATENCY_MS = 50


def delivery(number: int) -> Delivery:
    """A delivery of ordinary size to one of 100,000 users."""
    now = time.time_ns() // 1_000_000
    user = f"user-{number % 100_000}"
    return Delivery(
        id=uuid.uuid4().hex,
        tenant="default",
        user=user,
        event_id=f"event-{number}",
        source="bench",
        category="news",
        category_class="marketing",
        lane="background",
        channel="push",
        provider="fcm",
        endpoint=Target(id=f"endpoint-{user}", address=f"{user}:{'x' * 140}", registered_at=now),
        content=Content(title="A parcel is on its way", body="It arrives tomorrow between ten and twelve o'clock."),
        expires_at=now + 3_600_000,
        arrived_at=now,
        decided_at=now,
        policy_version=1,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


async def bare(settings: Settings, seconds: float, concurrency: int) -> dict[str, float]:
    """Requests a second of the transport alone, and the CPU that they cost in this process."""
    credentials = load_credentials(Path(settings.fcm.credentials_file))
    tls = tls_context(settings.fcm.ca_file)
    fcm = Fcm(credentials, Http2Pool(settings.fcm.url, tls), Http2Pool(settings.fcm.url, tls, connections=1))
    prepared = [delivery(number) for number in range(1_000)]
    sent = 0
    until = time.monotonic() + seconds

    async def sender(offset: int) -> None:
        nonlocal sent
        number = offset
        while time.monotonic() < until:
            each = prepared[number % len(prepared)]
            number += 1
            content = each.content
            assert content is not None
            answer = await fcm.send(build(each, content, time.time_ns() // 1_000_000))
            if isinstance(answer, Failure) or classify(answer).outcome != "accepted":
                raise SystemExit(f"the bare transport was refused: {answer}")
            sent += 1

    began, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(sender(offset) for offset in range(concurrency)))
    took, used = time.monotonic() - began, time.process_time() - cpu
    await fcm.close()
    return {"per_second": sent / took, "cpu_share": used / took, "cpu_us_each": used / sent * 1e6}


def produce(settings: Settings, count: int) -> None:
    """Put a backlog on the background lane."""
    producer = Producer(
        {"bootstrap.servers": settings.kafka.bootstrap, "partitioner": PARTITIONER, "queue.buffering.max.messages": 500_000}
    )
    topic = settings.kafka.prefix + deliveries("fcm", "background")
    for number in range(count):
        each = delivery(number)
        producer.produce(topic, key=user_key(each.tenant, each.user), value=encode_json(each))
        if number % 10_000 == 0:
            producer.poll(0)
    producer.flush()


class Trickle(threading.Thread):
    """Urgent deliveries, ``rate`` a second until ``stop``; each is known by the time it was meant to be sent at."""

    def __init__(self, settings: Settings, rate: int = 100) -> None:
        super().__init__(daemon=True)
        self.meant: dict[str, float] = {}
        self._settings = settings
        self._period = 1 / rate
        self._stopped = threading.Event()

    def run(self) -> None:
        producer = Producer(
            {"bootstrap.servers": self._settings.kafka.bootstrap, "partitioner": PARTITIONER, "linger.ms": 0}
        )
        topic = self._settings.kafka.prefix + deliveries("fcm", "urgent")
        due = time.time()
        while not self._stopped.wait(max(due - time.time(), 0)):
            each = replace(delivery(len(self.meant)), lane="urgent")
            self.meant[each.id] = due
            producer.produce(topic, key=user_key(each.tenant, each.user), value=encode_json(each))
            producer.poll(0)
            due += self._period
        producer.flush()

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def latencies(self, messages: list[dict[str, Any]]) -> dict[str, float]:
        """Milliseconds from the intended send to the arrival at the provider."""
        taken = sorted(
            message["received_at"] - self.meant[message["delivery_id"]] * 1000
            for message in messages
            if message["delivery_id"] in self.meant
        )
        return {"samples": len(taken), "p50": taken[len(taken) // 2], "p99": taken[len(taken) * 99 // 100]}


class Emulator:
    """The emulator's process and its admin door."""

    def __init__(self, settings: Settings) -> None:
        directory = Path(settings.fcm.credentials_file).parent
        directory.mkdir(parents=True, exist_ok=True)
        port = settings.stack.fcm_emulator_port
        command = [sys.executable, "-m", "emulators.fcm", "--port", str(port), "--directory", str(directory)]
        self.process = subprocess.Popen(command)
        self._ca = directory / "ca.pem"
        self._url = settings.fcm.url
        deadline = time.monotonic() + 20
        while not self._healthy():
            if time.monotonic() > deadline:
                raise SystemExit("the emulator does not answer")
            time.sleep(0.1)

    def _healthy(self) -> bool:
        try:
            return self._ca.exists() and requests.get(f"{self._url}/healthz", verify=str(self._ca), timeout=2).ok
        except requests.RequestException:
            return False

    def stats(self) -> Any:
        return requests.get(f"{self._url}/admin/stats", verify=str(self._ca), timeout=10).json()

    def messages(self) -> list[dict[str, Any]]:
        answer = requests.get(f"{self._url}/admin/messages", verify=str(self._ca), timeout=60)
        return [json.loads(line) for line in answer.content.splitlines()]

    def faults(self, **faults: Any) -> None:
        requests.post(f"{self._url}/admin/faults", json=faults, verify=str(self._ca), timeout=10).raise_for_status()


def measure(settings: Settings, emulator: Emulator, seconds: float, directory: Path) -> dict[str, Any]:
    """Deliveries a second of one worker, counted at the emulator after a warm-up, and its CPU."""
    file = directory / "herald.yaml"
    write_settings(settings, file)
    command = [sys.executable, "-m", "connectors.adapters", "--provider", "fcm", "--config", str(file)]
    process = subprocess.Popen(command, stderr=(directory / "worker.log").open("w"))
    worker, other = psutil.Process(process.pid), psutil.Process(emulator.process.pid)
    try:
        start = emulator.stats()["accepted"]
        deadline = time.monotonic() + 30
        while emulator.stats()["accepted"] < start + 5_000:
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"the worker does not send: {(directory / 'worker.log').read_text()}")
            time.sleep(0.1)

        def used(of: psutil.Process) -> float:
            times = of.cpu_times()
            return float(times.user + times.system)

        trickle = Trickle(settings)
        trickle.start()
        before, began = emulator.stats()["accepted"], time.monotonic()
        cpu, emulator_cpu = used(worker), used(other)
        time.sleep(seconds)
        stats, took = emulator.stats(), time.monotonic() - began
        cpu, emulator_cpu = used(worker) - cpu, used(other) - emulator_cpu
        sent = stats["accepted"] - before
        trickle.stop()
        resident = worker.memory_info().rss / 2**20
    finally:
        process.terminate()
        process.wait(30)
    return {
        "per_second": sent / took,
        "cpu_share": cpu / took,
        "cpu_us_each": cpu / sent * 1e6,
        "emulator_cpu_share": emulator_cpu / took,
        "resident_mb": resident,
        "duplicates": stats["duplicates"],
        "urgent_ms": trickle.latencies(emulator.messages()),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapter")
    parser.add_argument("--seconds", type=float, default=10, help="of each of the two measurements")
    parser.add_argument("--backlog", type=int, default=100_000, help="deliveries on the background lane")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON (else to the standard output)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="herald-bench-") as name:
        directory = Path(name)
        free = with_free_ports(Settings())
        settings = local_settings(replace(free, stack=replace(free.stack, directory=str(directory / "stack"))))
        stack = Stack(settings, ["kafka", "redis"])
        stack.up()
        emulator = None
        try:
            emulator = Emulator(settings)
            emulator.faults(latency_ms=LATENCY_MS)
            produce(settings, options.backlog)
            in_flight = settings.adapters.in_flight["background"]
            transport = uvloop.run(bare(settings, options.seconds, in_flight))
            emulator.process.terminate()
            emulator.process.wait(10)
            emulator = Emulator(settings)
            emulator.faults(latency_ms=LATENCY_MS)
            worker = measure(settings, emulator, options.seconds, directory)
        finally:
            if emulator is not None:
                emulator.process.terminate()
                emulator.process.wait(10)
            stack.down()
    figures = {"latency_ms": LATENCY_MS, "in_flight": in_flight, "worker": worker, "bare_transport": transport}
    text = json.dumps(figures, indent=2)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    table = Table(title=f"One process, {in_flight} in flight, provider answers after {LATENCY_MS} ms")
    for column in ("", "per second", "CPU (of one core)", "µs CPU each"):
        table.add_column(column, justify="right")
    for label, row in (("worker", worker), ("bare transport", transport)):
        table.add_row(label, f"{row['per_second']:,.0f}", f"{row['cpu_share']:.0%}", f"{row['cpu_us_each']:.0f}")
    urgent = worker["urgent_ms"]
    table.caption = f"urgent beside it, Kafka to provider: p50 {urgent['p50']:.0f} ms, p99 {urgent['p99']:.0f} ms"
    Console(stderr=True).print(table)
    print(text)


if __name__ == "__main__":
    main()
