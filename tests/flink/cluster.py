"""A real cluster for the tests, the job on it, and what they ask of both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import count, cycle, islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import requests
from confluent_kafka import KafkaException
from msgspec.structs import replace

from cli.job_control import JobControl
from cli.stack.stack import Stack
from cli.stack.stack_settings import write_settings
from cli.synthetic import event
from connectors.conservation import Reader, Report, now_ms
from connectors.log_positions import end_offsets, wait_until_read
from connectors.settings import ROOT, KafkaSettings, Settings
from messages.decision import DecisionRecord
from messages.policy import POLICY_SET
from messages.topics import CHANGES, EVENTS, POLICIES, PROFILES
from messages.words import Lane
from tests.conftest import fresh_prefix
from tests.flink.log import Origin, Sender, View
from tests.waiting import until

PARTITIONS = 4
CHECKPOINT_INTERVAL = 2_000
PATIENCE = 180
"""Seconds to wait for what takes a few on a machine that has nothing else to do."""


CROWD = [f"crowd-{number}" for number in range(10_000)]
HUSHED = "hushed"
HUSH = {"category": "news", "allow": False}


def policy(version: int, **categories: dict[str, Any]) -> dict[str, Any]:
    """A policy document: ``codes`` are critical, ``orders`` plain, ``news`` marketing, ``tips`` one in 20 s."""
    known: dict[str, dict[str, Any]] = {
        "codes": {"class": "critical", "channels": ["push", "in_app"], "max_age": "10m"},
        "orders": {"class": "transactional", "channels": ["push", "in_app"]},
        "news": {"class": "marketing", "channels": ["push", "in_app"]},
        "tips": {
            "class": "transactional",
            "channels": ["push"],
            "throttle": {"limit": 1, "period": "20s", "burst": 1},
        },
    }
    return {"version": version, "park": "10s", "categories": known | categories}


def command(identity: str, *preferences: dict[str, Any], **more: Any) -> bytes:
    """A command that gives a user one device and the preferences named."""
    device = {"id": "phone", "provider": "fcm", "address": f"token-of-{identity}"}
    profile = {"endpoints": [device], "preferences": list(preferences)} | more
    return json.dumps({"kind": "replace_profile", "id": identity, "profile": profile}).encode()


def events(batch: str, category: str, users: Iterable[str], **more: Any) -> list[tuple[None, bytes]]:
    """An event for each user, ready to be sent; its id is ``batch``, the user and the position."""
    time = datetime.now(UTC)
    return [(None, event(f"{batch}-{user}-{number}", [user], category, time, **more)) for number, user in enumerate(users)]


class Cluster:
    """Kafka and Flink with two TaskManagers, running. ``log`` is what left the job for good, ``soon`` what may yet."""

    def __init__(self, settings: Settings) -> None:
        kafka = replace(settings.kafka, prefix=fresh_prefix(), partitions=PARTITIONS)
        job = replace(settings.job, checkpoint_interval=CHECKPOINT_INTERVAL, policies=settings.stack.directory)
        self.directory = Path(settings.stack.directory)
        self._numbers = count()
        self.stack = Stack(replace(settings, kafka=kafka, job=job), ["kafka", "flink"])
        self.settings = self.stack.settings
        self.stack.up()
        try:
            self.sender = Sender(kafka)
            self.log = View(kafka)
            self.soon = View(kafka, committed=False)
            self._balance = Reader(kafka)
        except BaseException:
            self.stack.down()
            raise

    def close(self) -> None:
        """Stop everything."""
        for client in (self.log, self.soon, self._balance):
            client.close()
        self.stack.down()

    def start(
        self,
        savepoint: str | None = None,
        *,
        policies: dict[str, Any] | None = None,
        providers: list[str] | None = None,
        root: Path = ROOT,
        **more: Any,
    ) -> JobControl:
        """Start the job with ``policies`` packaged and code from ``root``; returns what controls it."""
        control = self.control(policies or policy(1), providers or self.settings.job.providers, root)
        control.start(savepoint, **more)
        return control

    def control(self, policies: dict[str, Any], providers: list[str], root: Path = ROOT) -> JobControl:
        """The control of a job with these settings, which are the stack's from here on."""
        packaged = self.directory / f"policies-{policies['version']}"
        packaged.mkdir(exist_ok=True)
        (packaged / "default.yaml").write_text(json.dumps(policies))
        settings = replace(self.settings, job=replace(self.settings.job, policies=str(packaged), providers=providers))
        write_settings(settings, self.stack.file)
        return JobControl(settings, root=root)

    def running(self) -> JobControl:
        """The control of the job that runs; where none does, one is started from what the one before left."""
        control = JobControl(self.settings)
        if control.running() is None:
            return self.start(control.latest() if control.profiles_exist() else None)
        return control

    def know(self, users: Iterable[str], *preferences: dict[str, Any], **more: Any) -> None:
        """Give users a profile, and wait until the job has committed all of them."""
        keys = {f"default/{user}" for user in users}
        self.sender.send(CHANGES, [(key, command(f"know-{next(self._numbers)}", *preferences, **more)) for key in keys])

        def unknown() -> set[str]:
            return keys - {record.key or "" for record in self.log.refresh().records[PROFILES]}

        until(lambda: not unknown(), PATIENCE, f"profiles of {len(keys)} users")

    def notify(self, lane: Lane, category: str, users: Iterable[str], batch: str, **more: Any) -> list[Origin]:
        """Send an event for each user; see ``events``."""
        return self.sender.send(EVENTS[lane], events(batch, category, users, **more))

    def balanced(self, seconds: float = PATIENCE) -> Report:
        """The balance, once all that was sent is read, nothing is missing and nothing waits; fails with it otherwise."""
        kafka = self.settings.kafka
        for topic in (*EVENTS.values(), CHANGES):
            wait_until_read(kafka, kafka.prefix + self.settings.job.group, end_offsets(kafka, topic), seconds)

        def balance() -> Report:
            self._balance.read()
            return self._balance.ledger.report(now_ms())

        def settled() -> Report | None:
            try:
                report = balance()
            except KafkaException:  # the broker has just come back
                return None
            return report if report.difference == 0 and not report.pending else None

        try:
            return until(settled, seconds)
        except AssertionError:
            raise AssertionError(f"no balance within {seconds} s: {balance()}") from None

    def publish(self, document: dict[str, Any]) -> Origin:
        """Send a policy document."""
        return self.sender.send(POLICIES, [(POLICY_SET, json.dumps(document).encode())])[0]

    def policy_version(self, user: str) -> int:
        """The version of the policy by which a new event for ``user`` is decided."""
        origin = self.notify("background", "orders", [user], f"version-{next(self._numbers)}")[0]

        def decided() -> list[DecisionRecord]:
            return [record for record in self.soon.refresh().decisions[user] if record.origin == str(origin)]

        return until(decided, PATIENCE)[0].policy_version

    def assert_delivered_once(self) -> None:
        """Every delivery that a decision names has left: in the background exactly once, an urgent one at least."""
        self.log.refresh()
        named = Counter(
            (record.lane, id) for user in self.log.decisions.values() for record in user for id in record.deliveries
        )
        left = Counter((delivery.lane, delivery.id) for user in self.log.deliveries.values() for delivery in user)
        twice = {place for place, times in named.items() if times > 1}
        assert twice == set(), [
            record
            for user in self.log.decisions.values()
            for record in user
            if twice & {(record.lane, id) for id in record.deliveries}
        ]
        assert named.keys() - left.keys() == set()
        doubled = {place for place, times in left.items() if times > 1 and place[0] == "background"}
        assert doubled == set()
        assert {place for place in left if place[0] == "background"} <= named.keys()

    def failures(self, job: str) -> list[str]:
        """What made the job restart since it was submitted."""
        answer = requests.get(f"{self.settings.job.rest}/jobs/{job}/exceptions", timeout=30).json()
        return [entry["stacktrace"] for entry in answer["exceptionHistory"]["entries"]]


class Traffic:
    """Events that go on until the block is left: ``size`` of them every now and then, to users in turn."""

    def __init__(
        self, cluster: Cluster, lane: Lane, category: str, users: list[str], batch: str, size: int = 20, **more: Any
    ) -> None:
        self.origins: list[Origin] = []
        self._stop = Event()
        self._failure: BaseException | None = None
        self._thread = Thread(
            target=self._run, args=(cluster.settings.kafka, lane, category, cycle(users), batch, size, more)
        )

    def _run(
        self,
        kafka: KafkaSettings,
        lane: Lane,
        category: str,
        users: Iterator[str],
        batch: str,
        size: int,
        more: dict[str, Any],
    ) -> None:
        sender = Sender(kafka)
        try:
            for number in count():
                values = events(f"{batch}-{number}", category, islice(users, size), **more)
                self.origins += sender.send(EVENTS[lane], values)
                if self._stop.wait(0.05):
                    return
        except BaseException as error:
            self._failure = error

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
