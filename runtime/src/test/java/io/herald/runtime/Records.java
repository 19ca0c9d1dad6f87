package io.herald.runtime;

import java.util.HashMap;
import java.util.Map;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.types.Row;

/** Records in and rows out, as the tests write and read them. */
final class Records {
    private static final ObjectMapper JSON = new ObjectMapper();

    private Records() {}

    /** A record as RecordReader reads it, from x.events/3/41 at 1700. */
    static Row record(byte[] key, byte[] value) {
        return record(key, value, 3, 1700L, false);
    }

    /** The same from a partition and an instant of choice; {@code exempt} from its source's rate. */
    static Row record(byte[] key, byte[] value, int partition, long timestamp, boolean exempt) {
        return Row.of("x.events", partition, 41L, timestamp, key, value, exempt);
    }

    static JsonNode json(byte[] bytes) throws Exception {
        return JSON.readTree(bytes);
    }

    static JsonNode json(String text) throws Exception {
        return JSON.readTree(text);
    }

    /** JSON with single quotes for double ones. */
    static byte[] quoted(String text) {
        return Utf8.bytes(text.replace('\'', '"'));
    }

    static byte[] value(Row row) {
        return row.getFieldAs(OutputRow.VALUE);
    }

    static Map<String, String> headers(Row row) {
        byte[][] headers = row.getFieldAs(OutputRow.HEADERS);
        Map<String, String> found = new HashMap<>();
        for (int i = 0; i < headers.length; i += 2) {
            found.put(Utf8.textOrNull(headers[i]), Utf8.textOrNull(headers[i + 1]));
        }
        return found;
    }
}
