"""A second broker beside the stack's, under the same controller: it can be frozen while the first goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import closing
from pathlib import Path

from confluent_kafka.admin import AdminClient, ClusterMetadata
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from cli.stack.kafka_program import JARS
from connectors.settings import Settings
from tests.waiting import until

FIRST, SECOND = 1, 2
JAVA = ["java", "-Xmx256m", "-cp", f"{JARS}/*"]


class SecondBroker:
    """It runs inside the block, and holds what ``move`` brought to it; what it holds then goes back to the first."""

    def __init__(self, settings: Settings, port: int, directory: Path) -> None:
        self._settings = settings
        self._moved: set[str] = set()
        self._file = directory / "server.properties"
        self._log = directory / "log"
        controller = settings.stack.kafka_controller_port
        lines = {
            "process.roles": "broker",
            "node.id": SECOND,
            "controller.quorum.voters": f"{FIRST}@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": directory / "data",
        }
        self._file.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))

    def __enter__(self) -> SecondBroker:
        first = Path(self._settings.stack.directory) / "kafka" / "data" / "meta.properties"
        found = re.search(r"cluster\.id=(\S+)", first.read_text())
        assert found
        options = [f"--cluster-id={found[1]}", f"--config={self._file}"]
        subprocess.run([*JAVA, "kafka.tools.StorageTool", "format", *options], check=True, capture_output=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([*JAVA, "kafka.Kafka", str(self._file)], stdout=log, stderr=subprocess.STDOUT)
        try:
            until(lambda: SECOND in self._cluster().brokers, 120, f"a second broker; see {self._log}")
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.thaw()
        for topic in tuple(self._moved):
            self.move(topic, FIRST)
        self._process.terminate()
        self._process.wait(60)

    def move(self, topic: str, broker: int = SECOND) -> None:
        """Make ``broker`` the only one that holds ``topic`` (its name without prefix, of one partition)."""
        partition = TopicPartition(self._settings.kafka.prefix + topic, 0)

        def asked() -> bool:
            try:
                with closing(KafkaAdminClient(bootstrap_servers=self._settings.kafka.bootstrap)) as admin:
                    return bool(admin.alter_partition_reassignments({partition: [broker]}) == {partition: None})
            except KafkaError:
                # A broker is in the cluster a moment before it listens; the client asks any of them.
                return False

        # A broker that has just come back is refused for a moment.
        until(asked, 60)
        until(lambda: self._is_alone_with(broker, partition.topic), 60)
        self._moved ^= {topic}

    def freeze(self) -> None:
        """Stop it as a machine stops that still answers to its address."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def _cluster(self) -> ClusterMetadata:
        return AdminClient({"bootstrap.servers": self._settings.kafka.bootstrap, "log_level": 0}).list_topics(timeout=10)

    def _is_alone_with(self, broker: int, topic: str) -> bool:
        partition = self._cluster().topics[topic].partitions[0]
        return bool(partition.leader == broker and partition.replicas == [broker])
