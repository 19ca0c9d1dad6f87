"""Settings of a deployment: parse, resolve the environment, validate, freeze.

One YAML file (``flink-conf/herald.yaml`` by default, else the path in ``HERALD_CONFIG``). A value may be
``${NAME}`` or ``${NAME:-default}``, taken from the environment. Secrets are never in the file: it names the
environment variable or the mounted file that holds one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import Meta

from messages.codec import DecodeError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_FILE = ROOT / "flink-conf" / "herald.yaml"

Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(ge=1)]


class SettingsError(ValueError):
    """A settings file that cannot be used; the message names the file, the key and the fix."""


class _Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


class KafkaSettings(_Section, frozen=True):
    """The broker. ``prefix`` stands before every topic's name; ``transactional_prefix`` before transactional ids."""

    bootstrap: str = "127.0.0.1:9092"
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    partitions: Positive = 8
    replication: Positive = 1


class RedisSettings(_Section, frozen=True):
    """The store of views, claims and inboxes."""

    url: str = "redis://127.0.0.1:6379/0"


class JobSettings(_Section, frozen=True):
    """The notification_fanout job. Times are milliseconds.

    ``providers`` have a background sink each. ``parallelism`` is that of decide and of the sinks;
    ``background_source_parallelism`` that of the background source (0: the same).
    """

    rest: str = "http://127.0.0.1:8081"
    parallelism: Positive = 2
    background_source_parallelism: Annotated[int, Meta(ge=0)] = 0
    providers: list[str] = msgspec.field(default_factory=lambda: ["fcm", "inapp"])
    policies: str = "flink-conf/policies"
    bundle_items: Positive = 128
    bundle_millis: Positive = 10
    checkpoint_interval: Positive = 10_000
    group: str = "notification_fanout"


class GatewaySettings(_Section, frozen=True):
    """The HTTP gateway. Times are milliseconds, sizes bytes.

    ``keys_file`` holds hashed API keys; it is written by ``herald up`` or mounted. ``acknowledge_within`` bounds the
    wait for Kafka, ``read_within`` the wait for a request's body. ``events_per_second`` and ``burst`` are those of one
    API key and source. ``linger`` is how long the producer waits for company.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    workers: Positive = 1
    keys_file: str = "var/gateway-keys.json"
    acknowledge_within: Positive = 5_000
    read_within: Positive = 30_000
    max_body: Positive = 17 * 1024 * 1024
    events_per_second: Annotated[float, Meta(gt=0)] = 50_000
    burst: Positive = 100_000
    linger: Annotated[int, Meta(ge=0, le=100)] = 2


class AdapterSettings(_Section, frozen=True):
    """What every adapter worker shares. Times are milliseconds.

    ``in_flight`` is the most deliveries held at once, by lane. ``attempts`` counts those that the provider answered;
    ``backoff_base`` and ``backoff_cap`` bound the wait between them, ``retry_after_cap`` what a provider may ask for.
    ``claim_ttl`` is how long a delivery is known by its id. ``uncommitted`` bounds what one unfinished delivery may
    keep from being committed, and so what a crash repeats. ``session_timeout`` is how long the group waits for a dead
    worker. ``stop_within`` bounds the end after SIGTERM.
    """

    in_flight: dict[str, Positive] = msgspec.field(default_factory=lambda: {"urgent": 64, "background": 256})
    attempts: Positive = 5
    backoff_base: Positive = 1_000
    backoff_cap: Positive = 30_000
    retry_after_cap: Positive = 300_000
    claim_ttl: Annotated[int, Meta(ge=60_000)] = 3_600_000
    request_timeout: Positive = 10_000
    commit_interval: Positive = 500
    session_timeout: Annotated[int, Meta(ge=6_000)] = 10_000
    uncommitted: Positive = 50_000
    stop_within: Positive = 15_000

    def __post_init__(self) -> None:
        if self.in_flight.keys() != {"urgent", "background"}:
            raise ValueError("`in_flight` needs `urgent` and `background`, nothing else")


class InboxSettings(_Section, frozen=True):
    """In-app inboxes: at most ``items`` a user, each kept ``retention`` milliseconds unless it expires sooner."""

    items: Annotated[int, Meta(ge=1, le=5_000)] = 500
    retention: Positive = 30 * 86_400_000


class FcmSettings(_Section, frozen=True):
    """FCM HTTP v1. ``credentials_file`` is a service account's JSON, ``ca_file`` trusts a stand-in's certificate."""

    url: str = "https://fcm.googleapis.com"
    credentials_file: str = "var/fcm-credentials.json"
    ca_file: str | None = None


class ViewSettings(_Section, frozen=True):
    """The Redis views; ``ttl`` in milliseconds."""

    ttl: Positive = 86_400_000
    decisions_a_user: Positive = 200


class StackSettings(_Section, frozen=True):
    """The local stack: its directory and the ports that no other section names.

    ``metrics_port`` is the JobManager's; the TaskManagers have the ones after it. ``slots`` is a number a TaskManager:
    they share one Python interpreter, so more than one serves sources of a higher parallelism only.
    """

    directory: str = "var/stack"
    taskmanagers: Positive = 2
    slots: Positive = 1
    kafka_controller_port: Port = 9093
    flink_rpc_port: Port = 6123
    metrics_port: Port = 9249
    fcm_emulator_port: Port = 8443


class Settings(_Section, frozen=True):
    """All sections; each has working defaults for the local stack."""

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    job: JobSettings = JobSettings()
    gateway: GatewaySettings = GatewaySettings()
    adapters: AdapterSettings = AdapterSettings()
    inbox: InboxSettings = InboxSettings()
    fcm: FcmSettings = FcmSettings()
    views: ViewSettings = ViewSettings()
    stack: StackSettings = StackSettings()


_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _resolve(value: Any, environment: Mapping[str, str], path: str) -> Any:
    if isinstance(value, dict):
        return {key: _resolve(item, environment, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, environment, f"{path}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name in environment:
            return environment[name]
        if default is None:
            raise SettingsError(f"{path}: environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        return default

    text = _REFERENCE.sub(replaced, value)
    # What the environment gives is text; a whole-value reference may stand for a number or a truth value.
    return yaml.safe_load(text) if text != value and _REFERENCE.fullmatch(value) and text else text


def load_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read settings from ``file`` (else ``HERALD_CONFIG``, else the packaged file); SettingsError names file and key."""
    environment = os.environ if environment is None else environment
    if file is None:
        file = Path(environment.get("HERALD_CONFIG", DEFAULT_FILE))
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise SettingsError(f"{file}: no such file; name another with --config or HERALD_CONFIG") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: not YAML: {error}") from None
    try:
        return msgspec.convert(_resolve(document, environment, "$"), Settings)
    except SettingsError as error:
        raise SettingsError(f"{file}: {error}") from None
    except msgspec.ValidationError as error:
        problem = DecodeError.of(error)
        raise SettingsError(f"{file}: {problem.path}: {problem.reason}") from None
