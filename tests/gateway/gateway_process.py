"""A real gateway process, a client that holds every answer against the served OpenAPI document, and a reader of topics."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import psutil
import referencing
import requests
from kafka import KafkaConsumer, TopicPartition
from referencing.jsonschema import DRAFT202012

from cli.stack.stack_settings import write_settings
from connectors.gateway.keys import hash_key
from connectors.settings import ROOT, KafkaSettings, Settings
from tests.waiting import until

ALL = "key-of-the-default-tenant-for-everything"
SHOP = "key-of-acme-for-the-shop"
PROFILES = "key-for-profiles-only"
INBOX = "key-for-inboxes-only"

KEYS = [
    {
        "name": "all",
        "hash": hash_key(ALL),
        "tenant": "default",
        "sources": ["*"],
        "scopes": ["events", "profiles", "inbox"],
    },
    {"name": "shop", "hash": hash_key(SHOP), "tenant": "acme", "sources": ["shop"], "scopes": ["events"]},
    {"name": "profiles", "hash": hash_key(PROFILES), "tenant": "acme", "sources": [], "scopes": ["profiles"]},
    {"name": "inbox", "hash": hash_key(INBOX), "tenant": "default", "sources": [], "scopes": ["inbox"]},
]


def event(id: str, user: str | list[str] = "user-1", **data: Any) -> dict[str, Any]:
    """A valid event; ``data`` replaces fields of its data."""
    return {
        "specversion": "1.0",
        "id": id,
        "source": "shop",
        "type": "order.shipped",
        "time": "2026-01-01T00:00:00Z",
        "data": {
            "recipients": {"users": [user] if isinstance(user, str) else user},
            "category": "order_updates",
            "template": "order_shipped",
            **data,
        },
    }


class Described:
    """The gateway's own OpenAPI document, as a judge of its answers."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._resource = referencing.Resource.from_contents(document, default_specification=DRAFT202012)
        self._registry = referencing.Registry().with_resource("urn:openapi", self._resource)
        self._paths = {
            path: re.compile("^" + re.sub(r"\\\{[^/]+\\\}", "[^/]+", re.escape(path)) + "$") for path in document["paths"]
        }

    def validator(self, schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
        """A validator of a schema of the document."""
        absolute = json.loads(json.dumps(schema).replace('"#/components', '"urn:openapi#/components'))
        return jsonschema.Draft202012Validator(absolute, registry=self._registry)

    def check(self, method: str, path: str, answer: requests.Response) -> None:
        """Fail where the answer's status or body is not what the document says of this operation."""
        found = [described for described, pattern in self._paths.items() if pattern.match(path)]
        operations = [self.document["paths"][each].get(method.lower()) for each in found]
        operation = next(filter(None, operations), None)
        if operation is None:
            assert answer.status_code in (404, 405), f"{method} {path} is not described: {answer.status_code}"
            return
        responses = operation["responses"]
        assert str(answer.status_code) in responses, f"{method} {path}: {answer.status_code} is not described"
        schema = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
        assert answer.headers["content-type"] == "application/json"
        self.validator(schema).validate(answer.json())


class Gateway:
    """``python -m connectors.gateway`` with settings of its own; started when made."""

    def __init__(self, settings: Settings, directory: Path, *, keys: list[dict[str, Any]] = KEYS) -> None:
        self.keys_file = directory / "gateway-keys.json"
        self.keys_file.write_text(json.dumps(keys))
        self.log = directory / "gateway.log"
        self.port = settings.gateway.port
        self.url = f"http://127.0.0.1:{self.port}"
        file = directory / "gateway.yaml"
        write_settings(settings, file)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "connectors.gateway", "--config", str(file)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            until(self._listens, what="the gateway listens")
            self.described = Described(self._session().get(f"{self.url}/schema/openapi.json", timeout=10).json())
        except BaseException:
            self.kill()
            raise

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        return session

    def call(
        self, method: str, path: str, *, key: str | None = ALL, timeout: float = 30, **options: Any
    ) -> requests.Response:
        """One request; its answer is held against the OpenAPI document."""
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        headers |= options.pop("headers", {})
        answer = self._session().request(method, self.url + path, headers=headers, timeout=timeout, **options)
        self.described.check(method, path.partition("?")[0], answer)
        return answer

    def send(self, body: Any, *, key: str | None = ALL, **options: Any) -> requests.Response:
        """POST /v1/events; bytes go as they are, anything else as JSON."""
        headers = {"Content-Type": "application/json"} | options.pop("headers", {})
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("POST", "/v1/events", key=key, data=data, headers=headers, **options)

    def wait_until_well(self) -> None:
        """Until all that it needs answers, and Kafka takes its events."""
        until(lambda: self.call("GET", "/healthz", key=None).status_code == 200, what="healthy")
        until(lambda: self.send(event("well")).status_code == 202, what="accepted")

    def open(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def workers(self) -> list[psutil.Process]:
        """The serving processes."""
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if "resource_tracker" not in " ".join(child.cmdline())
        ]

    def stop(self, within: float = 30) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(within)

    def kill(self) -> None:
        """The end of a test: nothing may stay."""
        if self.process.poll() is None:
            processes = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
            for process in processes:
                if process.is_running():
                    process.kill()
        self.process.wait(10)


class Record(NamedTuple):
    topic: str
    partition: int
    key: bytes | None
    value: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.value)


class Topics:
    """Everything on some topics, read by a client that the gateway does not use."""

    def __init__(self, kafka: KafkaSettings, names: Iterable[str]) -> None:
        self._prefix = kafka.prefix
        self._consumer = KafkaConsumer(
            bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
        )
        self._consumer.assign(
            [TopicPartition(kafka.prefix + name, number) for name in names for number in range(kafka.partitions)]
        )
        self._read: list[Record] = []

    def close(self) -> None:
        self._consumer.close()

    def _poll(self) -> None:
        for records in self._consumer.poll(timeout_ms=100).values():
            for record in records:
                name = record.topic.removeprefix(self._prefix)
                self._read.append(Record(name, record.partition, record.key, record.value))

    def with_text(self, text: str, count: int = 1) -> list[Record]:
        """The records whose value holds ``text``, once there are at least ``count``."""

        def found() -> list[Record] | None:
            self._poll()
            matching = [record for record in self._read if text.encode() in record.value]
            return matching if len(matching) >= count else None

        return until(found, what=f"{count} records with {text}")

    def with_key(self, key: str) -> list[Record]:
        """The records with this key, once there is one."""

        def found() -> list[Record]:
            self._poll()
            return [record for record in self._read if record.key == key.encode()]

        return until(found, what=f"a record with the key {key}")

    def has(self, text: str) -> bool:
        """Whether a record up to the present ends of the topics holds ``text``."""
        ends = self._consumer.end_offsets(self._consumer.assignment())
        until(lambda: self._poll() or all(self._consumer.position(each) >= end for each, end in ends.items()))
        return any(text.encode() in record.value for record in self._read)
