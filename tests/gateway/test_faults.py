"""What the gateway does when Kafka, Redis, a client or it itself is in trouble: bounded times, clear answers, recovery."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from msgspec.structs import replace

from cli.stack.stack import Stack
from cli.stack.stack_settings import write_settings
from connectors.gateway.keys import hash_key
from connectors.inbox import InboxItem
from connectors.settings import ROOT, RedisSettings, Settings
from messages.profile import Read, decode_change
from messages.topics import CHANGES, EVENTS
from tests.conftest import RedisServer, free_settings
from tests.gateway.conftest import with_keys_in
from tests.gateway.gateway_process import ALL, KEYS, SHOP, Gateway, Topics, event
from tests.gateway.test_users import put_items
from tests.waiting import until

WITHIN = 1.5
"""Seconds that these gateways wait for Kafka."""


class Broker:
    """A broker of these tests' own, which can be frozen."""

    def __init__(self, stack: Stack, redis_server: RedisServer) -> None:
        self.settings = replace(stack.settings, redis=RedisSettings(url=redis_server.url))
        (program,) = [each for each in stack.status() if each.name == "kafka"]
        self._pids = [process.pid for process in [psutil.Process(program.pid), *psutil.Process(program.pid).children(True)]]

    def _signal(self, number: int) -> None:
        for pid in self._pids:
            os.kill(pid, number)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def broker(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    stack = Stack(free_settings(tmp_path_factory.mktemp("own-kafka")), ["kafka"])
    stack.up()
    broker = Broker(stack, redis_server)
    yield broker
    broker.thaw()
    stack.down()


def impatient(settings: Settings, directory: Path) -> Settings:
    settings = with_keys_in(settings, directory)
    return replace(settings, gateway=replace(settings.gateway, acknowledge_within=int(WITHIN * 1000)))


@pytest.fixture(scope="module")
def beside(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on the broker that can be frozen."""
    directory = tmp_path_factory.mktemp("beside")
    running = Gateway(impatient(broker.settings, directory), directory)
    yield running
    broker.thaw()
    running.kill()


def timed(call: Any) -> tuple[requests.Response, float]:
    before = time.monotonic()
    answer = call()
    return answer, time.monotonic() - before


def test_while_kafka_is_away_the_answer_is_503_in_bounded_time_and_then_all_is_well(
    beside: Gateway, broker: Broker, fresh: str
) -> None:
    beside.wait_until_well()
    broker.freeze()
    try:
        answer, seconds = timed(lambda: beside.send(event(f"{fresh}-1")))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert answer.json()["status"] == "unavailable"
        assert (answer.json()["id"], answer.json()["reason"]) == (f"{fresh}-1", "unacknowledged")
        assert "same id" in answer.json()["detail"]
        assert seconds < WITHIN + 5, "bounded, with room for a busy machine"

        answer, seconds = timed(lambda: beside.send([event(f"{fresh}-2"), {"id": "bad"}]))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert [each["status"] for each in answer.json()["results"]] == ["unavailable", "rejected"]
        assert answer.json()["results"][0]["reason"] == "unacknowledged"
        assert seconds < WITHIN + 5

        answer = beside.call("PUT", f"/v1/users/{fresh}", json={}, headers={"Idempotency-Key": f"c-{fresh}"})
        assert (answer.status_code, answer.json()["reason"]) == (503, "unacknowledged")
        assert f"Idempotency-Key: c-{fresh}" in answer.json()["detail"]

        answer, seconds = timed(lambda: beside.call("GET", "/healthz", key=None))
        assert (answer.status_code, answer.json()["redis"]) == (503, "ok")
        assert answer.json()["kafka"].startswith("unreachable")
        assert seconds < 10
    finally:
        broker.thaw()
    beside.wait_until_well()
    until(lambda: beside.send(event(f"{fresh}-1")).status_code == 202, what="the same id is accepted")
    topics = Topics(broker.settings.kafka, [*EVENTS.values(), CHANGES])
    assert {record.document["id"] for record in topics.with_text(f"{fresh}-1")} == {f"{fresh}-1"}
    topics.close()


def test_a_stop_waits_for_what_kafka_has_not_acknowledged(broker: Broker, tmp_path: Path, fresh: str) -> None:
    gateway = Gateway(with_keys_in(broker.settings, tmp_path), tmp_path)
    try:
        gateway.wait_until_well()
        body = json.dumps(event(fresh)).encode()
        with gateway.open() as connection:
            broker.freeze()
            connection.sendall(
                f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALL}\r\nContent-Type: application/json\r\n"
                f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            # The handler reads the body: the request is under way.
            assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
            connection.sendall(body)
            gateway.process.terminate()
            until(lambda: "Stopping worker" in gateway.log.read_text(), what="the stop has begun")
            broker.thaw()
            assert connection.recv(4096).startswith(b"HTTP/1.1 202 ")
        assert gateway.process.wait(30) == 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", gateway.port)) != 0
    finally:
        broker.thaw()
        gateway.kill()


def test_a_stop_is_bounded_while_kafka_is_away(broker: Broker, tmp_path: Path, fresh: str) -> None:
    gateway = Gateway(impatient(broker.settings, tmp_path), tmp_path)
    try:
        gateway.wait_until_well()
        broker.freeze()
        assert gateway.send(event(fresh)).status_code == 503
        assert gateway.stop(within=30) == 0
    finally:
        broker.thaw()
        gateway.kill()


def test_a_worker_does_not_outlive_its_main_process(gateway_settings: Settings, tmp_path: Path) -> None:
    gateway = Gateway(with_keys_in(gateway_settings, tmp_path), tmp_path)
    try:
        (worker,) = gateway.workers()
        gateway.process.kill()
        gateway.process.wait(10)
        until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, what="the worker ends")
    finally:
        gateway.kill()


def test_the_main_process_ends_with_its_worker(gateway_settings: Settings, tmp_path: Path) -> None:
    """A supervisor sees the one process only."""
    gateway = Gateway(with_keys_in(gateway_settings, tmp_path), tmp_path)
    try:
        (worker,) = gateway.workers()
        worker.kill()
        assert gateway.process.wait(30) != 0
    finally:
        gateway.kill()


def test_a_cancellation_or_a_reading_that_kafka_did_not_take_is_not_lost(
    beside: Gateway, broker: Broker, fresh: str
) -> None:
    """The users it did not reach are named; the item stays unread, so that reading it again tells of it again."""
    beside.wait_until_well()
    put_items(broker.settings, fresh, InboxItem(id=fresh, category="news", source="shop", event_id="e"))
    users = [f"u{number}" for number in range(1_500)]
    body = {"recipients": {"users": users}, "source": "shop", "event_id": "e"}
    reading = f"/v1/users/{fresh}/inbox/{fresh}/read"
    broker.freeze()
    try:
        answer, seconds = timed(lambda: beside.call("POST", "/v1/cancellations", json=body))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert (answer.json()["accepted"], answer.json()["unavailable"]) == (0, users)
        assert (answer.json()["reason"], answer.json()["id"] in answer.json()["detail"]) == ("unacknowledged", True)
        assert seconds < WITHIN + 5, "one slice is waited for, not each"

        answer = beside.call("POST", reading)
        assert (answer.status_code, answer.json()["reason"]) == (503, "unacknowledged")
        (item,) = beside.call("GET", f"/v1/users/{fresh}/inbox").json()["items"]
        assert "read_at" not in item
    finally:
        broker.thaw()
    until(lambda: beside.call("POST", reading).status_code == 200, what="it is read")
    topics = Topics(broker.settings.kafka, [CHANGES])
    try:
        (record, *_) = topics.with_text(f"read/{fresh}")
        assert decode_change(record.value) == Read(id=f"read/{fresh}", source="shop", event_id="e")
    finally:
        topics.close()
    until(lambda: beside.call("POST", "/v1/cancellations", json=body).status_code == 202, what="it is taken")


def test_a_start_while_kafka_and_redis_are_away_works_as_soon_as_they_do(broker: Broker, tmp_path: Path, fresh: str) -> None:
    (tmp_path / "stack").mkdir()
    stack = Stack(free_settings(tmp_path / "stack"), ["redis"])
    broker.freeze()
    gateway = None
    try:
        gateway = Gateway(replace(impatient(broker.settings, tmp_path), redis=stack.settings.redis), tmp_path)
        assert gateway.send(event(fresh)).status_code == 503
        for path in (f"/v1/users/{fresh}", f"/v1/users/{fresh}/decisions", f"/v1/users/{fresh}/inbox"):
            answer = gateway.call("GET", path)
            assert (answer.status_code, answer.json()["reason"]) == (503, "views_unavailable")
            assert answer.headers["Retry-After"] == "2"
        health = gateway.call("GET", "/healthz", key=None)
        assert health.status_code == 503
        words = health.json()
        assert words.pop("policies").startswith("not read yet")
        assert all(word.startswith("unreachable") for word in words.values())
        broker.thaw()
        stack.up()
        gateway.wait_until_well()
        assert gateway.call("GET", f"/v1/users/{fresh}/inbox").status_code == 200
    finally:
        broker.thaw()
        if gateway is not None:
            gateway.kill()
        stack.down()


def test_missing_topics_are_named(kafka: Any, redis_server: RedisServer, tmp_path: Path) -> None:
    settings = with_keys_in(free_settings(tmp_path), tmp_path)
    settings = replace(
        settings,
        kafka=replace(settings.kafka, bootstrap=kafka.bootstrap, prefix="absent."),
        redis=RedisSettings(url=redis_server.url),
    )
    gateway = Gateway(settings, tmp_path)
    try:
        health = gateway.call("GET", "/healthz", key=None)
        assert health.status_code == 503
        assert "changes, events.background, events.urgent" in health.json()["kafka"]
        assert "herald topics apply" in health.json()["kafka"]
    finally:
        gateway.kill()


@pytest.fixture(scope="module")
def narrow(gateway_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with small limits."""
    directory = tmp_path_factory.mktemp("narrow")
    settings = with_keys_in(gateway_settings, directory)
    limits = replace(settings.gateway, events_per_second=0.2, burst=5, read_within=500, max_body=4096)
    running = Gateway(replace(settings, gateway=limits), directory)
    running.wait_until_well()
    yield running
    running.kill()


def test_a_source_over_its_limit_is_told_when_to_come_back(narrow: Gateway, fresh: str) -> None:
    shop = {**event(fresh), "source": f"shop-{fresh}"}
    answer = narrow.send([{**shop, "id": f"{fresh}-{number}"} for number in range(8)])
    assert (answer.status_code, answer.json()["accepted"]) == (207, 5)
    assert [each.get("reason") for each in answer.json()["results"]] == [None] * 5 + ["rate_limited"] * 3
    assert {each["status"] for each in answer.json()["results"][5:]} == {"unavailable"}
    assert [each["id"] for each in answer.json()["results"]] == [f"{fresh}-{number}" for number in range(8)]
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    answer = narrow.send(shop)
    assert (answer.status_code, answer.json()["reason"], answer.json()["id"]) == (429, "rate_limited", fresh)
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    assert narrow.send([shop, shop]).status_code == 429
    assert narrow.send({**shop, "source": f"other-{fresh}"}).status_code == 202
    assert narrow.send({**event(fresh), "source": "shop"}, key=SHOP).status_code == 202
    until(lambda: narrow.send(shop).status_code == 202, what="the limit lets it through again")


def test_changes_have_a_limit_too(narrow: Gateway, fresh: str) -> None:
    statuses = [narrow.call("PUT", f"/v1/users/{fresh}", json={}).status_code for _ in range(7)]
    assert statuses[0] == 202
    assert 429 in statuses


def test_a_body_over_the_setting_is_refused(narrow: Gateway, fresh: str) -> None:
    answer = narrow.send(event(fresh, params={"text": "x" * 5_000}))
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_large")


def test_a_body_that_does_not_arrive_is_given_up(narrow: Gateway) -> None:
    with narrow.open() as connection:
        connection.sendall(
            f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALL}\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_headers_that_do_not_arrive_are_given_up(narrow: Gateway) -> None:
    with narrow.open() as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\n")
        connection.settimeout(20)
        assert connection.recv(4096)[:12] in (b"", b"HTTP/1.1 408")


def test_keys_are_read_again_when_their_file_changes(gateway_settings: Settings, tmp_path: Path, fresh: str) -> None:
    gateway = Gateway(with_keys_in(gateway_settings, tmp_path), tmp_path)
    gateway.wait_until_well()

    def write(text: str) -> None:
        scratch = gateway.keys_file.with_suffix(".new")
        scratch.write_text(text)
        scratch.replace(gateway.keys_file)

    def status(key: str) -> int:
        return gateway.send(event(fresh), key=key).status_code

    try:
        assert (status(ALL), status("new-key")) == (202, 401)
        write(json.dumps([{**KEYS[0], "hash": hash_key("new-key")}]))
        until(lambda: (status(ALL), status("new-key")) == (401, 202), what="the new key replaces the old one")
        write("[{")
        until(lambda: "the API keys stay as they were" in gateway.log.read_text(), what="the complaint")
        assert status("new-key") == 202
        write(json.dumps(KEYS))
        until(lambda: status(ALL) == 202, what="the mended file counts")
    finally:
        gateway.kill()


def start(settings: Settings, directory: Path) -> subprocess.CompletedProcess[str]:
    """A start that is to fail."""
    write_settings(settings, directory / "gateway.yaml")
    return subprocess.run(
        [sys.executable, "-m", "connectors.gateway", "--config", str(directory / "gateway.yaml")],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_port_that_is_taken_stops_the_start(gateway: Gateway, gateway_settings: Settings, tmp_path: Path) -> None:
    settings = with_keys_in(gateway_settings, tmp_path)
    Path(settings.gateway.keys_file).write_text(json.dumps(KEYS))
    ended = start(replace(settings, gateway=replace(settings.gateway, port=gateway.port)), tmp_path)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{gateway.port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{}", "$: Expected `array`"),
        (json.dumps([{**KEYS[0], "hash": "secret"}]), "$[0].hash"),
        (json.dumps([{**KEYS[0], "scopes": ["root"]}]), "$[0].scopes[0]"),
        (json.dumps([KEYS[0], KEYS[0]]), "the same `hash`"),
    ],
)
def test_a_keys_file_that_cannot_be_used_stops_the_start(
    gateway_settings: Settings, tmp_path: Path, content: str | None, message: str
) -> None:
    settings = with_keys_in(gateway_settings, tmp_path)
    if content is not None:
        Path(settings.gateway.keys_file).write_text(content)
    ended = start(settings, tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
