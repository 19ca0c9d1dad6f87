package io.herald.runtime;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.metrics.groups.OperatorMetricGroup;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.util.AbstractStreamOperatorTestHarness;
import org.apache.flink.streaming.util.KeyedTwoInputStreamOperatorTestHarness;
import org.apache.flink.types.Row;

/** The operator on Flink's harness, with a Python interpreter and the handler src/test/python/scripted.py. */
final class Decide implements AutoCloseable {
    static final int MAX_PARALLELISM = 16;
    static final String SETUP = "the setup";

    final KeyedTwoInputStreamOperatorTestHarness<String, Tuple3<String, Integer, byte[]>, Row, Row> harness;
    final Metrics metrics = new Metrics();
    private final List<Row> taken = new ArrayList<>();
    private long offset;

    private Decide(int maxItems, long maxMillis, int parallelism, int subtask) throws Exception {
        Configuration config = new Configuration();
        config.setString("python.execution-mode", "thread");
        config.setString("python.executable", System.getProperty("herald.python"));
        OperatorMetricGroup group = metrics.task().getOrAddOperator("decide");
        var operator = new BundledPythonOperator(config, "scripted", Utf8.bytes(SETUP), maxItems, maxMillis) {
            @Override
            public OperatorMetricGroup getMetricGroup() {
                return group;
            }
        };
        harness = new KeyedTwoInputStreamOperatorTestHarness<>(
                operator, new KeyedRow.ByKey(), null, Types.STRING, MAX_PARALLELISM, parallelism, subtask);
        harness.setup(OutputRow.TYPE.createSerializer(harness.getExecutionConfig().getSerializerConfig()));
    }

    static Decide start(int maxItems, long maxMillis) throws Exception {
        return restore(null, maxItems, maxMillis, 1, 0);
    }

    /** One of the subtasks that go on from a snapshot of a single one. */
    static Decide restore(OperatorSubtaskState state, int maxItems, long maxMillis, int parallelism, int subtask)
            throws Exception {
        Decide decide = new Decide(maxItems, maxMillis, parallelism, subtask);
        decide.harness.initializeState(state == null ? null : AbstractStreamOperatorTestHarness.repartitionOperatorState(
                state, MAX_PARALLELISM, 1, parallelism, subtask));
        decide.harness.open();
        return decide;
    }

    OperatorSubtaskState snapshot() throws Exception {
        harness.prepareSnapshotPreBarrier(1);
        return harness.snapshot(1, 1);
    }

    /** An item whose payload is a script, with single quotes for double ones; it arrives at its offset times ten. */
    void item(String key, int kind, String script) throws Exception {
        byte[] entry = KeyedRow.entry(kind, "events", 7, offset, offset * 10, Records.quoted(script));
        offset++;
        harness.processElement1(new StreamRecord<>(Tuple3.of(key, kind, entry)));
    }

    void background(String key, String script) throws Exception {
        item(key, KeyedRow.BACKGROUND, script);
    }

    void urgent(String key, String script) throws Exception {
        item(key, KeyedRow.URGENT, script);
    }

    void policy(String name, String document) throws Exception {
        harness.processElement2(new StreamRecord<>(Row.of("policies", 0, 5L, 1700L,
                name == null ? null : Utf8.bytes(name), document == null ? null : Utf8.bytes(document))));
    }

    /** Move the clock; what is due by then happens. */
    void clock(long millis) throws Exception {
        harness.setProcessingTime(millis);
    }

    /** Move the clock by single milliseconds. */
    void run(long until) throws Exception {
        for (long now = harness.getProcessingTime() + 1; now <= until; now++) {
            clock(now);
        }
    }

    /** The rows since the last call. */
    List<Row> rows() {
        List<Row> all = new ArrayList<>(harness.extractOutputValues());
        List<Row> rows = new ArrayList<>(all.subList(taken.size(), all.size()));
        taken.addAll(rows);
        return rows;
    }

    /** What the handler saw in each bundle since the last call. */
    List<JsonNode> bundles() throws Exception {
        List<JsonNode> bundles = new ArrayList<>();
        for (Row row : rows()) {
            if (row.getField(OutputRow.TOPIC).equals("seen")) {
                bundles.add(Records.json(Records.value(row)));
            }
        }
        return bundles;
    }

    /** The three states of a key, as JSON, as the handler sees them. */
    JsonNode states(String key) throws Exception {
        return look(key).get("slots").get(key);
    }

    /** What the handler sees in a bundle with one urgent item, which does nothing, of the key. */
    JsonNode look(String key) throws Exception {
        rows();
        urgent(key, "{}");
        return bundles().get(0);
    }

    @Override
    public void close() throws Exception {
        harness.close();
    }
}
