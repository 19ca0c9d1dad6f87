"""The notification_fanout job: events and profile changes in, decisions and deliveries out. Wiring only.

    policies ════╦═══════════════════╗
    urgent     ─ expand ─┐           ║     ┌─▶ deliveries urgent (at least once)
    background ─ expand ─┼─ keyBy ─ decide ┼─▶ deliveries of each provider, decisions, profiles (exactly once)
    changes    ─ read ───┤                 │
                         └────────────────▶ counts, rejected, quarantined (exactly once)

Run by ``flink run -pym jobs.notification_fanout``; ``herald job`` does that for a local stack.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec
from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway

from connectors.log_positions import has_records
from connectors.policy_feed import read_documents
from connectors.policy_files import PolicyFileError, load_policies
from connectors.policy_log import PolicyLogError
from connectors.settings import JobSettings, Settings, SettingsError, load_settings
from jobs.flink import constant, descriptors, kafka, runtime, side_output, strings, union
from messages.codec import encode_json
from messages.policy import Policy
from messages.topics import CHANGES, COUNTS, DECISIONS, DELIVERIES, EVENTS, POLICIES, PROFILES, QUARANTINED, REJECTED
from messages.words import LANES
from udfs.fanout import Setup, encode_setup

NAME = "notification_fanout"
HANDLER = "udfs.fanout"

EVENT_INPUT, CHANGE_INPUT, PROFILE_INPUT = "events", "changes", "profiles"
INPUTS = (EVENT_INPUT, CHANGE_INPUT)
"""What a full job reads, beside the policies; a bootstrap reads profiles alone, then changes alone."""

URGENT_SINK = "urgent deliveries"
OUTPUTS = "outputs"
SINK_PROPERTIES = {
    "acks": "all",
    # All sinks share the way out of decide: none may hold the others up for long.
    "max.block.ms": "10000",
    "request.timeout.ms": "10000",
    "delivery.timeout.ms": "30000",
    # A rejected record is an event as large as the broker takes, and headers.
    "max.request.size": "2097152",
    # The broker allows 15 minutes; Flink's default asks for more.
    "transaction.timeout.ms": "600000",
}
# Nobody sees a record before its checkpoint: it may as well wait for company. The broker and the producer do their work by
# the batch.
EXACTLY_ONCE = {"linger.ms": "100", "batch.size": "131072"}
URGENT = {"linger.ms": "1"}

PATIENT = 50
"""Milliseconds that a network buffer of the background may wait to be filled; those of the urgent lane wait for 5."""
AT_ONCE = 0
"""Urgent records do not wait between being read and being expanded, which a second input keeps out of one task."""


def configuration(job: JobSettings) -> Configuration:
    """What belongs to the job and not to the cluster."""
    config = Configuration()
    for key, value in {
        "python.execution-mode": "thread",
        "pipeline.name": NAME,
        "pipeline.object-reuse": "true",
        "pipeline.max-parallelism": "1024",  # fixed for ever by the first savepoint
        "parallelism.default": str(job.parallelism),
        "execution.buffer-timeout.interval": "5 ms",
        "execution.checkpointing.interval": f"{job.checkpoint_interval} ms",
        "execution.checkpointing.min-pause": f"{job.checkpoint_interval // 2} ms",
        "execution.checkpointing.unaligned.enabled": "true",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "state.backend.type": "rocksdb",
        "execution.checkpointing.incremental": "true",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "30 s",
    }.items():
        config.set_string(key, value)
    return config


class Graph:
    """The streams of the job on one environment."""

    def __init__(self, environment: StreamExecutionEnvironment, settings: Settings) -> None:
        self._java = environment._j_stream_execution_environment
        self._kafka = settings.kafka
        self._job = settings.job

    def read(self, topic: str, always_from_start: bool = False) -> Any:
        """The records of a topic, from the group's committed offsets, else from the start."""
        initializers = kafka().source.enumerator.initializer.OffsetsInitializer
        reset = get_gateway().jvm.org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.OffsetResetStrategy
        start = initializers.earliest() if always_from_start else initializers.committedOffsets(reset.EARLIEST)
        source = (
            kafka()
            .source.KafkaSource.builder()
            .setBootstrapServers(self._kafka.bootstrap)
            .setTopics(strings([self._kafka.prefix + topic]))
            .setGroupId(self._kafka.prefix + self._job.group)
            .setStartingOffsets(start)
            .setProperty("isolation.level", "read_committed")
            .setDeserializer(runtime("RecordReader"))
            .build()
        )
        none = get_gateway().jvm.org.apache.flink.api.common.eventtime.WatermarkStrategy.noWatermarks()
        return self._java.fromSource(source, none, f"read {topic}").uid(f"read {topic}")

    def policies(self) -> Any:
        """The policies topic, for all who follow it."""
        return self.read(POLICIES, always_from_start=True).setParallelism(1)

    def expand(self, lane: str, policies: Any, documents: bytes) -> Any:
        """One row a user of the events of a lane; counts, and what is rejected or held whole, leave by side outputs.

        ``documents`` is what ``guard_documents`` makes: the rules to begin with.
        """
        records = self.read(EVENTS[lane])
        if lane == "background" and self._job.background_source_parallelism:
            records.setParallelism(self._job.background_source_parallelism)
        name = f"expand {EVENTS[lane]}"
        kind = constant("KeyedRow", lane.upper())
        broadcast = policies.broadcast(descriptors(constant("ExpandRecipients", "POLICIES")))
        expand = runtime("ExpandRecipients", kind, bytearray(documents))
        expanded = records.connect(broadcast).process(expand).name(name).uid(name)
        if lane == "background":
            records.setBufferTimeout(PATIENT)
            expanded.setBufferTimeout(PATIENT)
        else:
            records.setBufferTimeout(AT_ONCE)
        return expanded.setParallelism(records.getParallelism())

    def commands(self, topic: str) -> Any:
        """One row a record of a topic that is keyed by user already."""
        kind = constant("KeyedRow", "PROFILE" if topic == PROFILES else "CHANGE")
        # A user's history begins at the topic's start; the profile knows which of its commands it has seen.
        records = self.read(topic, always_from_start=True)
        return records.process(runtime("KeyedChange", kind, "change")).name(f"key {topic}").uid(f"key {topic}")

    def decide(self, inputs: list[Any], policies: Any, policy: Policy) -> Any:
        """The keyed operator. Nothing stands between the union of the inputs and keyBy: each lane keeps its own channel."""
        job = self._job
        setup = encode_setup(Setup(policy, job.providers))
        operator = runtime(
            "BundledPythonOperator",
            get_gateway().jvm.org.apache.flink.configuration.Configuration(),
            HANDLER,
            bytearray(setup),
            job.bundle_items,
            get_gateway().jvm.Long(job.bundle_millis),
        )
        return (
            union(*inputs)
            .keyBy(runtime("KeyedRow$ByKey"))
            .connect(policies.broadcast())
            .transform("decide", constant("OutputRow", "TYPE"), operator)
            .uid("decide")
        )

    def write(self, rows: Any, name: str, exactly_once: bool = True) -> None:
        """A sink, in the task of the rows; what leaves exactly once becomes visible at a checkpoint."""
        guarantee = get_gateway().jvm.org.apache.flink.connector.base.DeliveryGuarantee
        builder = (
            kafka()
            .sink.KafkaSink.builder()
            .setBootstrapServers(self._kafka.bootstrap)
            .setRecordSerializer(runtime("RecordWriter", self._kafka.prefix))
            .setDeliveryGuarantee(guarantee.EXACTLY_ONCE if exactly_once else guarantee.AT_LEAST_ONCE)
            .setTransactionalIdPrefix(f"{self._kafka.prefix}{NAME}-{name.replace(' ', '-')}")
        )
        for key, value in (SINK_PROPERTIES | (EXACTLY_ONCE if exactly_once else URGENT)).items():
            builder.setProperty(key, value)
        rows.sinkTo(builder.build()).name(name).uid(f"write {name}")

    def route(self, rows: Any, routes: dict[str, str], name: str) -> Any:
        """Rows by the topic they name; one that has no route is an error."""
        text = ";".join(f"{topic}={output}" for topic, output in routes.items())
        return rows.process(runtime("RouteByTopic", text)).name(name).uid(name)


def exactly_once_sinks(providers: list[str]) -> dict[str, str]:
    """Topic → sink of all that leaves exactly once: background deliveries have a sink a provider."""
    found = {topic: topic for topic in (DECISIONS, PROFILES, COUNTS, REJECTED, QUARANTINED)}
    return found | {DELIVERIES[provider, "background"]: f"{provider} deliveries" for provider in providers}


def guard_documents(policy: Policy, known: dict[str, bytes]) -> bytes:
    """What the expand step begins with: the packaged set, and the documents on the policies topic at the submission.

    A job without a savepoint, or from one of a bootstrap, has no rules of its own yet, and may be past the topic's records.
    """
    return encode_json({"packaged": policy, "known": {name: msgspec.Raw(document) for name, document in known.items()}})


def build(
    graph: Graph, providers: list[str], policy: Policy, inputs: tuple[str, ...], known: dict[str, bytes] | None = None
) -> None:
    """Wire the whole graph; ``known`` are the documents on the policies topic now."""
    policies = graph.policies()
    documents = guard_documents(policy, known or {})
    expanded = [graph.expand(lane, policies, documents) for lane in LANES] if EVENT_INPUT in inputs else []
    keyed = expanded + [
        graph.commands(topic) for name, topic in ((CHANGE_INPUT, CHANGES), (PROFILE_INPUT, PROFILES)) if name in inputs
    ]
    sinks = exactly_once_sinks(providers)
    urgent = {DELIVERIES[provider, "urgent"]: URGENT_SINK for provider in providers}
    decided = graph.route(graph.decide(keyed, policies, policy), urgent | dict.fromkeys(sinks, OUTPUTS), "route urgent")
    decided.setBufferTimeout(PATIENT)  # the urgent sink is in the same task
    graph.write(decided.getSideOutput(side_output(URGENT_SINK)), URGENT_SINK, exactly_once=False)
    # A task of their own: at a checkpoint each sink waits for the broker, and the urgent lane need not wait with them.
    beside = [stream.getSideOutput(side_output(topic)) for stream in keyed for topic in (COUNTS, REJECTED)]
    beside += [stream.getSideOutput(side_output(QUARANTINED)) for stream in expanded]
    rows = union(decided.getSideOutput(side_output(OUTPUTS)), *beside)
    routed = graph.route(rows, sinks, "route").startNewChain()
    for sink in dict.fromkeys(sinks.values()):
        graph.write(routed.getSideOutput(side_output(sink)), sink)


def arguments() -> argparse.ArgumentParser:
    """The flags of the job; each overrides a setting."""
    parser = argparse.ArgumentParser(prog=NAME, description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", type=Path, help="settings file (default: HERALD_CONFIG, else flink-conf/herald.yaml)")
    parser.add_argument("--policies", help="directory of the packaged policies")
    parser.add_argument("--parallelism", type=int)
    parser.add_argument("--inputs", default=",".join(INPUTS), help="what to read: events, changes, profiles")
    return parser


def main(argv: list[str], graph: type[Graph] = Graph) -> None:
    """Read settings and policies, refuse what must not start, and run the graph."""
    flags = arguments().parse_args(argv)
    try:
        settings = load_settings(flags.config)
        chosen = {name: getattr(flags, name) for name in ("policies", "parallelism") if getattr(flags, name) is not None}
        settings = msgspec.structs.replace(settings, job=msgspec.structs.replace(settings.job, **chosen))
        policy = load_policies(Path(settings.job.policies))
        known = read_documents(settings.kafka).raw
    except (SettingsError, PolicyFileError, PolicyLogError) as error:
        sys.exit(f"{NAME}: {error}")
    inputs = tuple(flags.inputs.split(","))
    if not set(inputs) <= {EVENT_INPUT, CHANGE_INPUT, PROFILE_INPUT}:
        sys.exit(f"{NAME}: --inputs {flags.inputs}: choose from events, changes, profiles")
    environment = StreamExecutionEnvironment.get_execution_environment(configuration(settings.job))
    refuse_to_forget(environment, settings, inputs)
    build(graph(environment, settings), settings.job.providers, policy, inputs, known)
    environment.execute(NAME)


def refuse_to_forget(environment: StreamExecutionEnvironment, settings: Settings, inputs: tuple[str, ...]) -> None:
    """Exit where the job would decide without the profiles that are known: they hold opt-outs."""
    restored = environment._j_stream_execution_environment.getConfiguration().toMap().get("execution.state-recovery.path")
    if EVENT_INPUT in inputs and not restored and has_records(settings.kafka, PROFILES):
        sys.exit(
            f"{NAME}: topic `{settings.kafka.prefix}{PROFILES}` holds profiles and the job has no savepoint: it "
            "would decide as if nobody had opted out. Start it from a savepoint (flink run -s), or load the profiles "
            "first (herald job bootstrap)."
        )


if __name__ == "__main__":
    main(sys.argv[1:])
