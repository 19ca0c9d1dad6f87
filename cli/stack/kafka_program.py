"""Kafka on the stack: one node that is broker and controller (KRaft), from the jars in var/lib/kafka."""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cli.stack.program import Probe, Program, StackError
from cli.stack.stack_settings import port_of
from connectors.settings import ROOT, Settings

JARS = ROOT / "var" / "lib" / "kafka"

_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c - %m%n
"""


def kafka_program(settings: Settings, directory: Path) -> Program:
    """The broker at ``settings.kafka.bootstrap``, its data under ``directory``/kafka."""
    home = directory / "kafka"
    port = port_of(settings.kafka.bootstrap)
    java = ["java", "-Xmx512m", f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}", "-cp", f"{JARS}/*"]

    def prepare() -> None:
        if not JARS.is_dir():
            raise StackError(f"no Kafka in {JARS}: run `make jars`")
        home.mkdir(parents=True, exist_ok=True)
        (home / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
        (home / "server.properties").write_text(_properties(settings, port, home / "data"), encoding="utf-8")
        _format(java, home)

    return Program(
        name="kafka",
        command=[*java, "kafka.Kafka", str(home / "server.properties")],
        ready=_ready(settings.kafka.bootstrap),
        prepare=prepare,
        ports=(port, settings.stack.kafka_controller_port),
        url=settings.kafka.bootstrap,
        start_within=120,
        stop_within=30,
    )


def _properties(settings: Settings, port: int, data: Path) -> str:
    controller = settings.stack.kafka_controller_port
    lines = {
        "process.roles": "broker,controller",
        "node.id": 1,
        # Named here and not recorded in the data, so that another port on the same data is no other quorum.
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": data,
        # A misspelt topic is an error; the registry says which there are.
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 8,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _format(java: list[str], home: Path) -> None:
    """Give an empty data directory its cluster id, once. Data without the mark is of a formatting that did not end."""
    mark = home / "formatted"
    if mark.exists():
        return
    shutil.rmtree(home / "data", ignore_errors=True)
    # With the equals sign, for an id may begin with a dash.
    options = [f"--cluster-id={_cluster_id()}", f"--config={home / 'server.properties'}"]
    command = [*java, "kafka.tools.StorageTool", "format", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the stack's own command
    if run.returncode:
        raise StackError(f"Kafka could not format {home / 'data'}:\n{run.stdout}{run.stderr}".rstrip())
    mark.touch()


def _cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _ready(bootstrap: str) -> Probe:
    def probe() -> str | None:
        try:
            brokers = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=2).brokers
        except KafkaException as error:
            return f"no metadata from {bootstrap} ({error.args[0].str()})"
        return None if brokers else f"{bootstrap} names no broker"

    return probe
