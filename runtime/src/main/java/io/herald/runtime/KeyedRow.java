package io.herald.runtime;

import java.nio.ByteBuffer;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.api.java.typeutils.ResultTypeQueryable;
import org.apache.flink.types.Row;

/**
 * What travels over the keyed edge: (user key, kind, entry). The entry is one msgpack array, [kind, topic, partition,
 * offset, timestamp, payload], written once where the record is read and only copied from there to Python.
 */
public final class KeyedRow {
    public static final int TIMER = -1;
    public static final int BACKGROUND = 0;
    public static final int URGENT = 1;
    public static final int CHANGE = 2;
    public static final int PROFILE = 3;

    public static final TypeInformation<Tuple3<String, Integer, byte[]>> TYPE =
            Types.TUPLE(Types.STRING, Types.INT, Types.PRIMITIVE_ARRAY(Types.BYTE));

    /** Bytes of an entry beside topic and payload: five of the array, four integers, three headers of five. */
    private static final int FRAME = 5 + 5 + 5 + 5 + 9 + 9 + 5;
    private static final int TOPIC_LENGTH = 5 + 5 + 1;
    /** Where the timestamp's digits are, the topic's length not counted. */
    private static final int TIMESTAMP = 5 + 5 + 5 + 5 + 9 + 1;

    private KeyedRow() {}

    static byte[] entry(int kind, String topic, int partition, long offset, long timestamp, byte[] payload) {
        return new Msgpack(FRAME + topic.length() + payload.length)
                .array(6).integer(kind).text(topic).integer(partition).integer(offset).integer(timestamp).binary(payload)
                .toByteArray();
    }

    static byte[] entry(int kind, Row record, byte[] payload) {
        return entry(kind, record.getFieldAs(RecordReader.TOPIC), record.getFieldAs(RecordReader.PARTITION),
                record.getFieldAs(RecordReader.OFFSET), record.getFieldAs(RecordReader.TIMESTAMP), payload);
    }

    /** The Kafka timestamp inside an entry. */
    static long timestamp(byte[] entry) {
        ByteBuffer in = ByteBuffer.wrap(entry);
        return in.getLong(TIMESTAMP + in.getInt(TOPIC_LENGTH));
    }

    /** The payload inside an entry. */
    static byte[] payload(byte[] entry) {
        ByteBuffer in = ByteBuffer.wrap(entry);
        byte[] payload = new byte[entry.length - FRAME - in.getInt(TOPIC_LENGTH)];
        in.get(entry.length - payload.length, payload);
        return payload;
    }

    /** The user key, for keyBy. */
    public static class ByKey implements KeySelector<Tuple3<String, Integer, byte[]>, String>, ResultTypeQueryable<String> {
        @Override
        public String getKey(Tuple3<String, Integer, byte[]> row) {
            return row.f0;
        }

        @Override
        public TypeInformation<String> getProducedType() {
            return Types.STRING;
        }
    }
}
