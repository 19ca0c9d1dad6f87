"""The demo: a stack of its own, synthetic users, a flood with one-time codes beside it, a cast that meets every rule
(cli/demo/cast.py), and the account of it all.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import redis
import redis.asyncio
import requests
from confluent_kafka import Consumer, TopicPartition
from msgspec.structs import replace

from cli.demo.cast import CAST
from cli.demo.producing import Record, produce
from cli.demo.stage import Stage
from cli.demo.watch import Percentiles, Watch
from cli.job_control import JobControl
from cli.stack.stack import Stack
from cli.stack.stack_settings import absolute, with_free_ports
from cli.stack.worker_programs import api_key_file
from cli.synthetic import background_events, event, profile_commands, user_name
from connectors.conservation import Reader, Report
from connectors.explain import Story, stories
from connectors.log_positions import end_offsets, wait_until_read
from connectors.settings import ROOT, Settings
from connectors.view_store import ViewReader
from messages.decision import PENDING
from messages.topics import CHANGES, EVENTS, REJECTED, RejectedHeaders
from messages.words import DEFAULT_TENANT
from policy.reasons import REASONS

REPORT = ROOT / "var" / "demo" / "report.json"
CODES_A_SECOND = 50

DEFECT = "internal_error"
"""The one reason that must not be seen; every other one must."""

REFUSED = "category_not_allowed"
"""The reason of what is refused before anything is decided: only `rejected` tells of it."""

ON_CHANNELS = "not_chosen"
"""The one reason that a whole notification never has: what was chosen in its place goes out or waits."""

_PATIENCE = 30.0
"""Seconds for which a balance that does not come out even may still do so, when everything else has ended."""

Say = Callable[[str], None]


class ProviderCount(msgspec.Struct):
    """What a provider's own books say."""

    accepted: int
    duplicates: int


class DemoReport(msgspec.Struct, kw_only=True):
    """What came of it. ``outcomes`` maps a reason, ``sent`` for a plain send, to notifications; ``pending_reasons`` to how
    often one was recorded on the way, of what waited or was held; ``channel_reasons`` to how often it was a channel's.
    ``cast`` has the reasons recorded for each of the cast.
    """

    users: int
    events: int
    urgent_events: int
    cast_events: int
    outcomes: dict[str, int]
    pending_reasons: dict[str, int]
    channel_reasons: dict[str, int]
    cast: dict[str, list[str]]
    providers: dict[str, ProviderCount]
    deliveries: int
    delivery_outcomes: dict[str, int]
    latency_ms: dict[str, Percentiles]
    malformed: int
    rejected: int
    conservation_difference: int
    seconds: float
    failures: list[str]


class Progress(msgspec.Struct):
    """What is shown while it runs."""

    phase: str = "starting"
    sent: int = 0
    codes: int = 0
    decided: int = 0
    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    reasons: set[str] = msgspec.field(default_factory=set)
    deliveries: int = 0
    accepted: Counter[str] = msgspec.field(default_factory=Counter)


class Demo:
    """One run. ``progress`` is updated as it goes; ``say`` takes a line where a phase ends."""

    def __init__(self, settings: Settings, users: int, events: int, say: Say) -> None:
        directory = absolute("var/demo/stack")
        self.settings = with_free_ports(replace(settings, stack=replace(settings.stack, directory=str(directory))))
        self.stack = Stack(self.settings, say=say)
        self.settings = self.stack.settings
        self.progress = Progress()
        self._users = users
        self._events = events
        self._say = say
        self._job = JobControl(self.settings, say=say)

    def up(self) -> None:
        """A fresh stack with the job on it; what a run before left is removed."""
        previous = Stack(self.settings, say=self._say)
        previous.down()
        shutil.rmtree(self.stack.directory, ignore_errors=True)
        self.stack.up()
        self.progress.phase = "starting the job"
        self._job.start()

    def run(self) -> DemoReport:
        """Send everything, wait until all of it has ended, and write the account to ``REPORT``."""
        self.progress.phase = "loading profiles"
        self._load_profiles()
        stage = Stage(self.settings, self._say)
        stage.prepare()
        began = time.monotonic()
        watch = Watch(self.settings.kafka)
        self.progress.phase = "events"
        stage.begin()
        try:
            with _OneTimeCodes(self.settings, self._users, self.progress) as codes:
                malformed = self._flood() + stage.malformed
                self._say(f"{self._events:,} events are in the log after {time.monotonic() - began:.0f} s")
                conservation = self._drain(watch, codes, stage)
        finally:
            stage.stop()
        seconds = time.monotonic() - began
        report = self._report(watch, conservation, stage, codes.sent, malformed, seconds)
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
        return report

    def told(self, user: str) -> list[Story]:
        """A user's notifications in sentences, as ``herald explain`` has them, once the views have their end."""
        deadline = time.monotonic() + 20
        while True:
            found = asyncio.run(self._stories(user))
            ended = bool(found) and all(story.decisions[-1].outcome not in PENDING for story in found)
            if ended or time.monotonic() > deadline:
                return found
            time.sleep(0.5)

    async def _stories(self, user: str) -> list[Story]:
        client = redis.asyncio.Redis.from_url(self.settings.redis.url, socket_timeout=10)
        try:
            history = await ViewReader(client, self.settings.kafka).history(DEFAULT_TENANT, user)
            return stories(history, _now())
        finally:
            await client.aclose()

    def _load_profiles(self) -> None:
        def loaded() -> None:
            self.progress.sent += 1

        kafka = self.settings.kafka
        produce(kafka, ((CHANGES, key, value) for key, value in profile_commands(self._users)), loaded)
        wait_until_read(kafka, kafka.prefix + self.settings.job.group, end_offsets(kafka, CHANGES), 300)
        self._say(f"{self._users:,} profiles are loaded")
        self.progress.sent = 0

    def _flood(self) -> int:
        malformed = 0

        def records() -> Iterable[Record]:
            nonlocal malformed
            for synthetic in background_events(self._events, self._users, datetime.now(UTC)):
                malformed += synthetic.malformed
                yield EVENTS["background"], None, synthetic.payload

        def sent() -> None:
            self.progress.sent += 1

        produce(self.settings.kafka, records(), sent)
        return malformed

    def _drain(self, watch: Watch, codes: _OneTimeCodes, stage: Stage, seconds: float = 1200) -> Report:
        """Wait until every notification has ended and every delivery is reported; the codes stop with the background."""
        reader = Reader(self.settings.kafka)
        deadline = time.monotonic() + seconds
        even_by = None
        try:
            while True:
                watch.read()
                reader.read()
                stage.check()
                report = reader.ledger.report(_now())
                progress = self.progress
                progress.deliveries, progress.accepted = watch.decided, watch.accepted
                progress.decided = sum(cohort.decided for cohort in report.cohorts)
                progress.outcomes = Counter(_by_reason(report))
                progress.reasons = {*progress.outcomes, *watch.pending, *stage.reasons(), *watch.channels} & REASONS.keys()
                calm = stage.finished and not (report.pending or watch.waiting or report.outcomes.get("quarantined"))
                if codes.running:
                    background = self._events + stage.events["background"]
                    if calm and watch.events["background"] >= background and not watch.open_in("background"):
                        codes.stop()
                        progress.phase = "the last ones"
                elif calm and watch.events["urgent"] >= codes.sent + stage.events["urgent"] and watch.complete():
                    even_by = even_by or time.monotonic() + _PATIENCE
                    if not report.difference or time.monotonic() > even_by:
                        return report
                if time.monotonic() > deadline:
                    self._say(f"not all had ended after {seconds:.0f} s: the report tells what is missing")
                    return report
                time.sleep(1)
        finally:
            reader.close()
            watch.close()

    def _report(self, watch: Watch, balance: Report, stage: Stage, codes: int, malformed: int, seconds: float) -> DemoReport:
        providers = {"fcm": self._fcm_books(), "inapp": self._inbox_books()}
        outcomes, pending = _by_reason(balance), watch.pending + stage.reasons()
        recorded = {user: set(reasons) for user, reasons in watch.recorded.items()}
        for user, reason in stage.held.values():
            recorded.setdefault(user, set()).add(reason)
        rejected = self._rejected()
        refused = [user for user, reason in rejected if reason == REFUSED]
        for user in refused:
            recorded.setdefault(user, set()).add(REFUSED)
        if refused:
            outcomes[REFUSED] = len(refused)
        seen = {*outcomes, *pending, *({ON_CHANNELS} & watch.channels.keys())}
        self.progress.reasons = seen & REASONS.keys()
        failures = failures_of(seen, recorded)
        if balance.difference:
            failures.append(f"conservation: {balance.difference} notifications are not accounted for")
        failures += [f"{name}: {books.duplicates} duplicates" for name, books in providers.items() if books.duplicates]
        if len(rejected) - len(refused) != malformed:
            failures.append(f"{malformed} malformed events were sent, {len(rejected) - len(refused)} are in rejected")
        for name, books in providers.items():
            reported = watch.accepted[name]
            if books.accepted != reported:
                failures.append(f"{name} accepted {books.accepted}, the outcomes say {reported}")
        if not watch.complete():
            failures.append(f"{len(watch.open)} deliveries have no outcome")
        return DemoReport(
            users=self._users,
            events=self._events,
            urgent_events=codes,
            cast_events=stage.cast_events,
            outcomes=outcomes,
            pending_reasons=dict(pending.most_common()),
            channel_reasons=dict(watch.channels.most_common()),
            cast={member.user: sorted(recorded.get(member.user, ())) for member in CAST},
            providers=providers,
            deliveries=watch.decided,
            delivery_outcomes=dict(watch.statuses),
            latency_ms=watch.latencies(self._received()),
            malformed=malformed,
            rejected=len(rejected) - len(refused),
            conservation_difference=balance.difference,
            seconds=round(seconds, 1),
            failures=failures,
        )

    def _emulator(self, path: str) -> requests.Response:
        fcm = self.settings.fcm
        answer = requests.get(f"{fcm.url}{path}", verify=fcm.ca_file or True, timeout=60)
        answer.raise_for_status()
        return answer

    def _fcm_books(self) -> ProviderCount:
        stats = self._emulator("/admin/stats").json()
        return ProviderCount(stats["accepted"], stats["duplicates"])

    def _received(self) -> dict[str, int]:
        lines = self._emulator("/admin/messages").content.splitlines()
        messages = [msgspec.json.decode(line) for line in lines]
        return {message["delivery_id"]: message["received_at"] for message in reversed(messages)}

    def _inbox_books(self) -> ProviderCount:
        client = redis.Redis.from_url(self.settings.redis.url)
        items = 0
        pattern = f"*{self.settings.kafka.prefix}inbox:*:order"
        keys = list(client.scan_iter(match=pattern, count=5000))
        for start in range(0, len(keys), 1000):
            pipeline = client.pipeline(transaction=False)
            for key in keys[start : start + 1000]:
                pipeline.zcard(key)
            items += sum(pipeline.execute())
        # An inbox holds an item once, whatever was written: a second one cannot appear.
        return ProviderCount(items, 0)

    def _rejected(self) -> list[tuple[str, str]]:
        """Rejected events, as they lie on the topic: the user of the record's key, where it had one, and the reason."""
        found = []
        for message in _read_all(self.settings, REJECTED):
            headers = {name: value.decode() for name, value in message.headers() or []}
            if headers.get(RejectedHeaders.STAGE) in ("read", "decide"):
                key = headers.get(RejectedHeaders.KEY, "")
                found.append((key.partition("/")[2], headers[RejectedHeaders.REASON]))
        return found


def failures_of(seen: Container[str], recorded: Mapping[str, set[str]]) -> list[str]:
    """Reasons that were not seen, a defect that was, and what of the cast did not come as its table says."""
    failures = [f"the reason {reason} was not seen" for reason in REASONS if reason != DEFECT and reason not in seen]
    if DEFECT in seen:
        failures.append(f"{DEFECT}: the decision core failed on something; `rejected` says on what")
    for member in CAST:
        missing = [reason for reason in member.reasons if reason not in recorded.get(member.user, ())]
        if missing:
            failures.append(f"{member.user} was to meet {', '.join(missing)}: {member.story}")
    return failures


class _OneTimeCodes:
    """A trickle of urgent events through the gateway, beside whatever else goes on."""

    def __init__(self, settings: Settings, users: int, progress: Progress) -> None:
        self.sent = 0
        self.running = False
        self._users = users
        self._progress = progress
        self._url = f"http://127.0.0.1:{settings.gateway.port}/v1/events"
        self._key = api_key_file(Path(settings.stack.directory)).read_text().strip()
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _OneTimeCodes:
        self.running = True
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the trickle; raises what went wrong in it."""
        self._ended.set()
        self._thread.join(30)
        self.running = False
        if self._failure is not None:
            raise RuntimeError(f"the gateway did not take a one-time code: {self._failure}") from self._failure

    def _run(self) -> None:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self._key}"
        session.headers["Content-Type"] = "application/json"
        began = time.monotonic()
        run = int(time.time())
        try:
            while not self._ended.wait(max(0.0, began + self.sent / CODES_A_SECOND - time.monotonic())):
                user = user_name(self.sent * 7919 % self._users)
                code = event(f"code-{run}-{self.sent}", [user], "one_time_code", datetime.now(UTC), priority="urgent")
                answer = session.post(self._url, data=code, timeout=30)
                if answer.status_code == 503 and not self._ended.is_set():
                    continue  # Kafka has not acknowledged: the same event again is harmless
                if answer.status_code != 202:
                    raise RuntimeError(f"{answer.status_code} {answer.text[:200]}")
                self.sent += 1
                self._progress.codes = self.sent
        except Exception as error:
            self._failure = error


def _read_all(settings: Settings, topic: str) -> Iterable[Any]:
    """Every committed record that ``topic`` holds now."""
    name = settings.kafka.prefix + topic
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka.bootstrap, "group.id": "demo", "isolation.level": "read_committed"}
    )
    try:
        for partition in consumer.list_topics(name, timeout=10).topics[name].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=10)
            place = TopicPartition(name, partition, low)
            consumer.assign([place])
            position = low
            while position < high:
                yield from consumer.consume(5000, timeout=0.3)
                reached = consumer.position([place])[0].offset
                position = max(position, reached)
    finally:
        consumer.close()


def _by_reason(report: Report) -> dict[str, int]:
    found: Counter[str] = Counter()
    for outcome, reasons in report.outcomes.items():
        for reason, number in reasons.items():
            found["sent" if outcome == "sent" else reason] += number
    return dict(found.most_common())


def _now() -> int:
    return time.time_ns() // 1_000_000
