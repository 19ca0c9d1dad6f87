package io.herald.runtime;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.api.java.typeutils.ResultTypeQueryable;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.types.Row;
import org.apache.flink.util.Collector;

/**
 * A record whose Kafka key is the user's becomes a keyed row; its value is Python's to judge. A profile's tombstone becomes
 * an empty payload. Side output {@code rejected}: a record without a usable key, a change without a value or over 1 MiB.
 */
public class KeyedChange extends ProcessFunction<Row, Tuple3<String, Integer, byte[]>>
        implements ResultTypeQueryable<Tuple3<String, Integer, byte[]>> {
    private final int kind;
    private final String stage;
    private transient Refusals refusals;

    /**
     * @param kind KeyedRow.CHANGE or PROFILE
     * @param stage the header of what is rejected: {@code change}
     */
    public KeyedChange(int kind, String stage) {
        this.kind = kind;
        this.stage = stage;
    }

    @Override
    public void open(OpenContext context) {
        refusals = new Refusals(stage, getRuntimeContext().getMetricGroup());
    }

    @Override
    public void processElement(Row record, Context context, Collector<Tuple3<String, Integer, byte[]>> out) {
        try {
            String key = key(record.getFieldAs(RecordReader.KEY));
            out.collect(Tuple3.of(key, kind, KeyedRow.entry(kind, record, payload(record.getFieldAs(RecordReader.VALUE)))));
        } catch (Refused refused) {
            context.output(Refusals.REJECTED, refusals.rejected(refused, record));
        }
    }

    private static String key(byte[] bytes) throws Refused {
        String key = bytes == null ? "" : Utf8.textOrNull(bytes);
        String wrong = key == null ? "not UTF-8" : UserKey.problemOf(key);
        if (wrong != null) {
            throw new Refused(bytes == null ? "missing_key" : "invalid_key", "$", wrong);
        }
        return key;
    }

    private byte[] payload(byte[] value) throws Refused {
        if (kind == KeyedRow.PROFILE) {
            return value == null ? new byte[0] : value;
        }
        if (value == null || value.length == 0) {
            throw new Refused("empty_value", "$", "expected a JSON object, got no bytes");
        }
        if (value.length > EventHead.LARGEST_EVENT) {
            throw new Refused("change_too_large", "$", value.length + " bytes; " + EventHead.LARGEST_EVENT + " at most");
        }
        return value;
    }

    @Override
    public TypeInformation<Tuple3<String, Integer, byte[]>> getProducedType() {
        return KeyedRow.TYPE;
    }
}
