"""The fan-out job, topic to topic through a real cluster, beside the same graph without Python.

``python -m benchmarks.fanout [--quick]`` writes ``var/bench/fanout.json`` and prints a table. Method: docs/performance.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import psutil
from confluent_kafka import Producer
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from benchmarks import core
from cli.job_control import JobControl
from cli.stack.program import get_json
from cli.stack.stack import Stack
from cli.stack.stack_settings import absolute, with_free_ports, write_settings
from cli.synthetic import event, user_name
from connectors import topics
from connectors.log_positions import end_offsets, wait_until_read
from connectors.settings import ROOT, Settings
from messages.topics import CHANGES, COUNTS, DECISIONS, DELIVERIES, EVENTS, PARTITIONER
from messages.words import LANES

REPORT = ROOT / "var" / "bench" / "fanout.json"
POLICIES = Path(__file__).parent / "policies"
PASS_THROUGH = "benchmarks.passthrough"
WIDE = 16
"""Parallelism of the background source in the run that asks what more channels in front of decide cost the urgent lane."""

console = Console(highlight=False)


class Plan(msgspec.Struct, kw_only=True):
    """How long is measured: ``seconds`` a run, ``runs`` of the main configuration, ``short`` seconds of every other.

    ``warm_up`` are the seconds before: every run has TaskManagers of its own, whose JVMs compile for about a minute.
    """

    seconds: float
    runs: int
    short: float
    warm_up: float
    users: int
    urgent_rate: float = 60.0
    highest_rate: int = 28_000


QUICK = Plan(seconds=20, runs=1, short=20, warm_up=20, users=100_000)
FULL = Plan(seconds=180, runs=3, short=45, warm_up=60, users=1_000_000)


class Run(msgspec.Struct):
    """One measured run: decisions a second, the urgent lane beside it, and the largest TaskManager in MB."""

    rate: float
    cores: float
    taskmanager_mb: float
    urgent: dict[str, float] | None = None


class Population(msgspec.Struct):
    """Users whose profiles are in a savepoint, with a backlog of events behind it that every run reads anew."""

    settings: Settings
    users: int
    savepoint: str


class Bench:
    """A stack of its own, and what is measured on it."""

    def __init__(self, plan: Plan, slots: int = 1, partitions: int = 8, policies: Path = POLICIES) -> None:
        directory = absolute("var/bench/stack")
        settings = Settings()
        stack = replace(settings.stack, directory=str(directory), slots=slots)
        kafka = replace(settings.kafka, partitions=partitions)
        job = replace(settings.job, policies=str(policies))
        settings = with_free_ports(replace(settings, stack=stack, kafka=kafka, job=job))
        Stack(settings).down()
        shutil.rmtree(directory, ignore_errors=True)
        self.stack = Stack(settings, ["kafka", "flink"], create_topics=False)
        self.settings = self.stack.settings
        self._plan = plan

    def __enter__(self) -> Bench:
        self.stack.up()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.down()

    def users(self, users: int, name: str = "") -> Population:
        """Load ``users`` profiles under topics of their own."""
        prefix = f"{users}{name}."
        settings = replace(self.settings, kafka=replace(self.settings.kafka, prefix=prefix))
        topics.create_missing(settings.kafka)
        self.produce(settings, CHANGES, ((f"default/{user_name(n)}", _profile(n)) for n in range(users)))
        control = self._control(settings)
        control.start()
        wait_until_read(settings.kafka, prefix + settings.job.group, end_offsets(settings.kafka, CHANGES), 900)
        return Population(settings, users, control.stop())

    def population(self, users: int, seconds: float, large_events: bool = False) -> Population:
        """Load ``users`` profiles, and write a backlog for a run of ``seconds``."""
        population = self.users(users, "-large" if large_events else "")
        number = int((seconds + self._plan.warm_up) * self._plan.highest_rate)
        self.produce(population.settings, EVENTS["background"], _backlog(number, users, large_events))
        console.print(f"{users:,} users are loaded, {number:,} events wait")
        return population

    @contextmanager
    def running(
        self,
        population: Population,
        parallelism: int = 2,
        module: str | None = None,
        options: dict[str, str] | None = None,
    ) -> Iterator[Running]:
        """The job, from the population's savepoint; it is cancelled at the end."""
        _forget(population.settings)
        control = self._control(population.settings)
        more: dict[str, Any] = {"module": module} if module else {}
        control.start(population.savepoint, parallelism=parallelism, options=options or {}, **more)
        if parallelism > 1:
            _check_apart(control)
        yield Running(population, self._plan, [psutil.Process(record.pid) for record in self._taskmanagers()])
        control.cancel()

    def run(
        self,
        population: Population,
        seconds: float,
        parallelism: int = 2,
        urgent: bool = False,
        module: str | None = None,
        options: dict[str, str] | None = None,
        warm_up: float | None = None,
    ) -> Run:
        """Start from the population's savepoint, measure for ``seconds`` in the middle of the backlog, and end the job."""
        with (
            self.running(population, parallelism, module, options) as running,
            closing(running.counter(DECISIONS)) as counter,
        ):
            time.sleep(self._plan.warm_up if warm_up is None else warm_up)
            trickle = running.trickle(seconds) if urgent else None
            busy = running.cpu_seconds()
            first, began = counter.total(), time.monotonic()
            largest = 0.0
            while time.monotonic() - began < seconds:
                time.sleep(min(1.0, seconds))
                largest = max(largest, running.largest_mb())
            last, ended = counter.total(), time.monotonic()
            cores = (running.cpu_seconds() - busy) / (ended - began)
            latency = None if trickle is None else trickle()
        run = Run((last - first) / (ended - began), cores, largest, latency)
        console.print(f"  {run.rate:,.0f} a second on {parallelism}, {cores:.2f} cores of TaskManagers; urgent {latency}")
        return run

    def _control(self, settings: Settings) -> JobControl:
        # The job reads its settings from the stack's file: topics' prefix included.
        write_settings(settings, self.stack.file)
        return JobControl(settings)

    def _taskmanagers(self) -> list[Any]:
        names = [f"taskmanager-{number + 1}" for number in range(self.settings.stack.taskmanagers)]
        return [record for name in names if (record := self.stack.record(name)) is not None]

    def produce(self, settings: Settings, topic: str, records: Iterator[tuple[str | None, bytes]]) -> None:
        """Write records; RuntimeError where the broker did not take all."""
        producer = Producer(
            {
                "bootstrap.servers": settings.kafka.bootstrap,
                "partitioner": PARTITIONER,
                "acks": "all",
                "linger.ms": 50,
                "batch.size": 500_000,
                "queue.buffering.max.messages": 200_000,
            }
        )
        for number, (key, value) in enumerate(records):
            while True:
                try:
                    producer.produce(settings.kafka.prefix + topic, key=key, value=value)
                    break
                except BufferError:
                    producer.poll(0.1)
            if number % 1000 == 0:
                producer.poll(0)
        if producer.flush(120):
            raise RuntimeError(f"the broker did not take all records of {topic}")


class Running:
    """A running job, and what can be seen of it."""

    def __init__(self, population: Population, plan: Plan, processes: list[psutil.Process]) -> None:
        self._population = population
        self._plan = plan
        self._processes = processes

    def counter(self, topic: str) -> EndOffsets:
        """Counts the records of a topic."""
        return EndOffsets(self._population.settings, topic)

    def largest_mb(self) -> float:
        """Resident memory of the largest TaskManager, in MB."""
        return max(process.memory_info().rss / 1e6 for process in self._processes)

    def cpu_seconds(self) -> float:
        """CPU time of all TaskManagers so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def trickle(self, seconds: float) -> Callable[[], dict[str, float]]:
        """Send urgent events for ``seconds``; what is returned waits for the end, and gives the latencies."""
        kafka = self._population.settings.kafka
        arguments = [kafka.bootstrap, kafka.prefix, str(self._population.users), str(self._plan.urgent_rate), str(seconds)]
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.urgent", *arguments], stdout=subprocess.PIPE, cwd=ROOT)

        def latencies() -> dict[str, float]:
            out, _ = process.communicate(timeout=seconds + 120)
            return msgspec.json.decode(out, type=dict[str, float])

        return latencies


class EndOffsets:
    """How many records a topic has taken; a transaction's marker counts too, one a partition and checkpoint."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._consumer = KafkaConsumer(bootstrap_servers=settings.kafka.bootstrap)
        name = settings.kafka.prefix + topic
        self._partitions = [TopicPartition(name, number) for number in self._consumer.partitions_for_topic(name)]

    def total(self) -> int:
        """The sum over the partitions."""
        return sum(self._consumer.end_offsets(self._partitions).values())

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def _forget(settings: Settings) -> None:
    """Remove what a run left: its outputs, which would fill the disk, and the offsets that its group committed.

    A savepoint holds no position in a partition that was not read yet: there the group's offset would count.
    """
    prefix = settings.kafka.prefix
    with closing(KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)) as admin:
        outputs = {prefix + name for name in (DECISIONS, COUNTS, *(DELIVERIES["fcm", lane] for lane in LANES))}
        admin.delete_topics(sorted(outputs & set(admin.list_topics())))
        group = prefix + settings.job.group
        if group in {found["group_id"] for found in admin.list_groups()}:
            admin.delete_groups([group])
    topics.create_missing(settings.kafka)


def _check_apart(control: JobControl) -> None:
    """Raise where a TaskManager has two subtasks of decide, or of what stands in for it: they would share an interpreter."""
    job = f"{control.url}/jobs/{control.running()}"
    # The one task that the urgent sink is chained to.
    vertex = next(vertex["id"] for vertex in get_json(job)["vertices"] if "urgent deliveries" in vertex["name"])
    places = [subtask["taskmanager-id"] for subtask in get_json(f"{job}/vertices/{vertex}")["subtasks"]]
    if len(set(places)) < len(places):
        raise RuntimeError(f"subtasks of decide are together: {places}")


def _profile(number: int) -> bytes:
    address = f"{random.Random(number).getrandbits(560):0140x}"
    return (
        f'{{"kind":"replace_profile","id":"b{number}","profile":{{"time_zone":"Europe/Berlin","locale":"en",'
        f'"endpoints":[{{"id":"device-{number}","provider":"fcm","address":"{address}"}}],'
        f'"preferences":[{{"category":"promotions","allow":false}}]}}}}'
    ).encode()


def _backlog(number: int, users: int, large_events: bool) -> Iterator[tuple[None, bytes]]:
    """Events for uniformly chosen users, spliced from one template: encoding each would take longer than deciding it."""
    chance = random.Random(7)
    now = datetime.now(UTC)
    template = event("@ID@", ["@USER@"], "chat", now, "autumn", channels=["push"])
    run = str(time.time_ns())
    before, between, after, end = _pieces(template)
    for position in range(number):
        user = user_name(chance.randrange(users)).encode()
        yield None, b"%s%s-%d%s%s%s%s%s" % (before, run.encode(), position, between, user, after, user, end)
        if large_events and position % 150_000 == 75_000:
            names = [user_name(chance.randrange(users)) for _ in range(10_000)]
            yield None, event(f"large-{run}-{position}", names, "chat", now, channels=["push"])


def _pieces(template: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    before, rest = template.split(b"@ID@", 1)
    rest = rest.replace(b"@ID@", b"")  # in the text
    between, after, *more = rest.split(b"@USER@")
    return before, between, after, b"".join(more)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs on fewer users: to see that it works")
    plan = QUICK if parser.parse_args().quick else FULL
    with Bench(plan) as bench:
        figures = measure(bench, plan)
    with Bench(plan, policies=ROOT / "flink-conf" / "policies") as bench:
        figures["example_policies"] = measure_example(bench, plan)
    # Eight slots a TaskManager: only so are there sixteen. Flink gives each of the two one subtask of decide.
    with Bench(plan, slots=WIDE // 2, partitions=WIDE) as bench:
        figures["urgent_by_source_parallelism_ms"] = measure_wide(bench, plan)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    console.print(_table(figures))
    console.print(f"{REPORT}")


def measure(bench: Bench, plan: Plan) -> dict[str, Any]:
    """All figures of the report."""
    large = bench.population(plan.users, plan.seconds)
    runs = [bench.run(large, plan.seconds, urgent=True) for _ in range(plan.runs)]
    # It would be through the backlog before a longer warm-up ended.
    bound = bench.run(large, plan.short / 3, module=PASS_THROUGH, warm_up=plan.warm_up / 3)
    single = bench.run(large, plan.short, parallelism=1)
    cold = bench.run(large, plan.short, options={"state.backend.rocksdb.memory.fixed-per-slot": "32mb"})
    small = bench.population(10_000, plan.short)
    few = bench.run(small, plan.short, urgent=True)
    crowd = bench.run(bench.population(10_000, plan.short, large_events=True), plan.short, urgent=True)
    rate = median(run.rate for run in runs)
    middle = min(runs, key=lambda run: abs(run.rate - rate))
    urgent = sorted((run.urgent for run in runs if run.urgent), key=lambda found: found["p99"])[len(runs) // 2]
    return {
        "decisions_per_second": round(rate),
        "decisions_per_second_per_core": round(rate / middle.cores),
        "passthrough_per_second": round(bound.rate),
        "ratio_to_passthrough": round(rate / bound.rate, 3),
        "urgent_ms": urgent,
        "scaling": {"1": round(single.rate), "2": round(rate)},
        "users": {"10000": round(few.rate), str(plan.users): round(rate)},
        "small_cache": {"rate": round(cold.rate), "cache_mb_a_slot": 32},
        "urgent_beside_large_events_ms": crowd.urgent,
        "urgent_without_large_events_ms": few.urgent,
        "taskmanager_mb": round(max(run.taskmanager_mb for run in runs)),
        "decide_us": core.measure()["decide_us"],
        "runs": [msgspec.to_builtins(run) for run in runs],
    }


def measure_example(bench: Bench, plan: Plan) -> dict[str, Any]:
    """The rate, and urgent latency beside it, with every rule of the example policies configured."""
    run = bench.run(bench.population(plan.users, plan.short * 2), plan.short * 2, urgent=True)
    return {"rate": round(run.rate), "urgent_ms": run.urgent}


def measure_wide(bench: Bench, plan: Plan) -> dict[str, Any]:
    """Urgent latency beside a background source of parallelism 2 and of WIDE."""
    population = bench.population(10_000, plan.short)
    found = {}
    for parallelism in (2, WIDE):
        job = replace(population.settings.job, background_source_parallelism=parallelism)
        chosen = replace(population, settings=replace(population.settings, job=job))
        found[str(parallelism)] = bench.run(chosen, plan.short, urgent=True).urgent
    return found


def _table(figures: dict[str, Any]) -> Table:
    table = Table("figure", "value", box=None)
    for name, value in figures.items():
        if name != "runs":
            table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    return table


if __name__ == "__main__":
    main()
