package io.herald.runtime;

import static io.herald.runtime.Records.quoted;

import java.util.List;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.runtime.operators.testutils.MockEnvironment;
import org.apache.flink.streaming.api.operators.TwoInputStreamOperator;
import org.apache.flink.streaming.api.operators.co.CoBroadcastWithNonKeyedOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.util.AbstractStreamOperatorTestHarness;
import org.apache.flink.types.Row;

/** ExpandRecipients on Flink's operator harness; events on input 1, policies on input 2. */
final class Expand extends AbstractStreamOperatorTestHarness<Tuple3<String, Integer, byte[]>> {
    /** A packaged set without sources. */
    static final byte[] UNGUARDED = quoted("{'packaged': {'version': 1, 'categories': {'c': {}}}, 'known': {}}");

    Expand(int kind, byte[] documents, MockEnvironment environment) throws Exception {
        super(operator(kind, documents), environment);
    }

    Expand(int kind, byte[] documents, int subtasks) throws Exception {
        super(operator(kind, documents), 128, subtasks, 0);
    }

    private static CoBroadcastWithNonKeyedOperator<Row, Row, Tuple3<String, Integer, byte[]>> operator(
            int kind, byte[] documents) {
        return new CoBroadcastWithNonKeyedOperator<>(
                new ExpandRecipients(kind, documents), List.of(ExpandRecipients.POLICIES));
    }

    static Expand opened(int kind) throws Exception {
        return restored(kind, UNGUARDED, 1, null);
    }

    /** Opened with a state, null for a job that begins. */
    static Expand restored(int kind, byte[] documents, int subtasks, OperatorSubtaskState state) throws Exception {
        Expand harness = new Expand(kind, documents, subtasks);
        harness.setup(KeyedRow.TYPE.createSerializer(harness.getExecutionConfig().getSerializerConfig()));
        if (state != null) {
            harness.initializeState(state);
        }
        harness.open();
        return harness;
    }

    void processElement(StreamRecord<Row> record) throws Exception {
        inputs().processElement1(record);
    }

    @SuppressWarnings("unchecked")
    private TwoInputStreamOperator<Row, Row, Tuple3<String, Integer, byte[]>> inputs() {
        return (TwoInputStreamOperator<Row, Row, Tuple3<String, Integer, byte[]>>) operator;
    }

    /** A record of the policies topic; a null document is a tombstone. */
    void policy(String name, String document) throws Exception {
        policy(name == null ? null : Utf8.bytes(name), document == null ? null : quoted(document));
    }

    void policy(byte[] key, byte[] document) throws Exception {
        inputs().processElement2(new StreamRecord<>(Records.record(key, document)));
    }

    /** Expand one event and take what became of it: {@code rows}, {@code rejected} or {@code quarantined}. */
    String fate(Row record) throws Exception {
        int rows = extractOutputValues().size();
        int rejected = size("rejected");
        int quarantined = size("quarantined");
        processElement(new StreamRecord<>(record));
        return extractOutputValues().size() > rows ? "rows" : size("rejected") > rejected ? "rejected"
                : size("quarantined") > quarantined ? "quarantined" : "lost";
    }

    private int size(String name) {
        var rows = getSideOutput(RouteByTopic.tag(name));
        return rows == null ? 0 : rows.size();
    }

    Row last(String name) {
        return getSideOutput(RouteByTopic.tag(name)).stream().reduce((one, other) -> other).orElseThrow().getValue();
    }
}
