package io.herald.runtime;

import java.io.IOException;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.BroadcastState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.api.java.typeutils.ResultTypeQueryable;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.io.JsonStringEncoder;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.functions.co.BroadcastProcessFunction;
import org.apache.flink.types.Row;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/**
 * One event for many users becomes one keyed row a user, all sharing one entry; before that {@link SourceGuard} may hold it
 * whole. Side outputs: {@code counts}, one record an event, the left side of conservation; {@code rejected}, the bytes of an
 * event that reaches nobody, with the reason; {@code quarantined}, those of one that is held.
 *
 * <p>Input 2, broadcast: policies as RecordReader reads them. Those in use are broadcast state, so that a restored job holds
 * what is paused before it has read anything; a job that has no such state begins with what was known at its submission.
 */
public class ExpandRecipients extends BroadcastProcessFunction<Row, Row, Tuple3<String, Integer, byte[]>>
        implements CheckpointedFunction, ResultTypeQueryable<Tuple3<String, Integer, byte[]>> {
    public static final MapStateDescriptor<String, byte[]> POLICIES = new MapStateDescriptor<>(
            "policies", Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);

    private static final OutputTag<Row> COUNTS = OutputRow.tag("counts");
    private static final ObjectMapper JSON = new ObjectMapper();
    /** Under this name, which no document has: the state was begun. An empty one could as well be that of a job before. */
    private static final String BEGUN = "";

    private final int kind;
    private final byte[] documents;
    private transient BroadcastState<String, byte[]> policies;
    private transient SourceGuard guard;
    private transient Refusals refusals;

    /**
     * @param kind the lane: KeyedRow.URGENT or BACKGROUND
     * @param documents JSON: {@code packaged}, the set that travels with the job, and {@code known}, the documents on the
     *     policies topic at its submission, by name
     */
    public ExpandRecipients(int kind, byte[] documents) {
        this.kind = kind;
        this.documents = documents;
    }

    @Override
    public void initializeState(FunctionInitializationContext context) throws Exception {
        policies = context.getOperatorStateStore().getBroadcastState(POLICIES);
        JsonNode begin = JSON.readTree(documents);
        guard = new SourceGuard(JSON.writeValueAsBytes(begin.path("packaged")),
                getRuntimeContext().getTaskInfo().getNumberOfParallelSubtasks());
        if (!policies.contains(BEGUN)) {
            policies.put(BEGUN, new byte[0]);
            for (Map.Entry<String, byte[]> known : known(begin).entrySet()) {
                take(known.getKey(), known.getValue());
            }
            return;
        }
        for (Map.Entry<String, byte[]> stored : policies.entries()) {
            guard.take(stored.getKey(), stored.getValue());
        }
    }

    private static Map<String, byte[]> known(JsonNode begin) throws IOException {
        Map<String, byte[]> known = new HashMap<>();
        for (Iterator<Map.Entry<String, JsonNode>> each = begin.path("known").fields(); each.hasNext();) {
            Map.Entry<String, JsonNode> document = each.next();
            known.put(document.getKey(), JSON.writeValueAsBytes(document.getValue()));
        }
        return known;
    }

    @Override
    public void snapshotState(FunctionSnapshotContext context) {}

    @Override
    public void open(OpenContext context) {
        refusals = new Refusals("read", getRuntimeContext().getMetricGroup());
        refusals.counter("quarantined", SourceGuard.PAUSED);
        refusals.counter("quarantined", SourceGuard.OVER_RATE);
    }

    @Override
    public void processBroadcastElement(Row record, Context context, Collector<Tuple3<String, Integer, byte[]>> out)
            throws Exception {
        byte[] key = record.getFieldAs(RecordReader.KEY);
        byte[] document = record.getFieldAs(RecordReader.VALUE);
        String name = key == null ? null : Utf8.textOrNull(key);
        if (name == null || name.equals(BEGUN)) {
            return;     // decide reports it
        }
        if (document == null) {
            guard.remove(name);
            policies.remove(name);
        } else {
            take(name, document);
        }
    }

    private void take(String name, byte[] document) throws Exception {
        if (guard.take(name, document)) {
            policies.put(name, document);
        }
    }

    @Override
    public void processElement(Row record, ReadOnlyContext context, Collector<Tuple3<String, Integer, byte[]>> out) {
        EventHead head;
        try {
            head = EventHead.read(record.getFieldAs(RecordReader.VALUE));
        } catch (Refused refused) {
            context.output(Refusals.REJECTED, refusals.rejected(refused, record));
            context.output(COUNTS, count(record, 0, false, null));
            return;
        }
        SourceGuard.Verdict verdict = guard.judge(head.source(), head.category(), head.campaign(),
                record.getFieldAs(RecordReader.EXEMPT), record.getFieldAs(RecordReader.PARTITION),
                record.getFieldAs(RecordReader.TIMESTAMP), System.currentTimeMillis());
        if (verdict == null) {
            byte[] entry = KeyedRow.entry(kind, record, head.payload());
            for (String user : head.recipients()) {
                out.collect(Tuple3.of(head.tenant() + "/" + user, kind, entry));
            }
            context.output(COUNTS, count(record, head.recipients().size(), false, head.campaign()));
        } else if (verdict.held()) {
            context.output(Refusals.QUARANTINED, refusals.quarantined(verdict.why(), record));
            context.output(COUNTS, count(record, head.recipients().size(), true, head.campaign()));
        } else {
            context.output(Refusals.REJECTED, refusals.rejected(verdict.why(), record));
            context.output(COUNTS, count(record, 0, false, null));
        }
    }

    /** A CountRecord of messages/decision.py; 0 recipients: in {@code rejected} as a whole. */
    private static Row count(Row record, int recipients, boolean quarantined, String campaign) {
        StringBuilder json = new StringBuilder(128)
                .append("{\"v\":1,\"origin\":\"").append(record.getField(RecordReader.TOPIC).toString())
                .append('/').append(record.getField(RecordReader.PARTITION))
                .append('/').append(record.getField(RecordReader.OFFSET))
                .append("\",\"recipients\":").append(recipients);
        if (recipients == 0) {
            json.append(",\"unreadable\":true");
        }
        if (quarantined) {
            json.append(",\"quarantined\":true");
        }
        json.append(",\"arrived_at\":").append(record.getField(RecordReader.TIMESTAMP));
        if (campaign != null) {
            json.append(",\"campaign\":\"");
            JsonStringEncoder.getInstance().quoteAsString(campaign, json);
            json.append('"');
        }
        return Row.of("counts", null, Utf8.bytes(json.append('}').toString()), null);
    }

    @Override
    public TypeInformation<Tuple3<String, Integer, byte[]>> getProducedType() {
        return KeyedRow.TYPE;
    }
}
