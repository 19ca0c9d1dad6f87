package io.herald.runtime;

import static io.herald.runtime.Utf8.bytes;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.types.Row;
import org.apache.flink.util.OutputTag;

/**
 * What leaves the job: Row(topic without prefix, key or null, value or null, headers or null). Headers alternate name and
 * value, both UTF-8.
 */
public final class OutputRow {
    public static final int TOPIC = 0;
    public static final int KEY = 1;
    public static final int VALUE = 2;
    public static final int HEADERS = 3;

    public static final TypeInformation<Row> TYPE = Types.ROW(
            Types.STRING, Types.PRIMITIVE_ARRAY(Types.BYTE), Types.PRIMITIVE_ARRAY(Types.BYTE),
            Types.OBJECT_ARRAY(PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));

    /** The most of a value that a record on {@code rejected} keeps; nothing uncompressed can be larger on its way in. */
    static final int LARGEST_VALUE = 1024 * 1024;
    private static final int LONGEST_TEXT = 512;

    private OutputRow() {}

    /** The side output of the given name. */
    static OutputTag<Row> tag(String name) {
        return new OutputTag<>(name, TYPE);
    }

    /** A record for {@code rejected}: the original value, and why, in the RejectedHeaders of messages/topics.py. */
    static Row rejected(String stage, Refused refused, Row record) {
        return aside("rejected", null, stage, refused, record);
    }

    /** A record for {@code quarantined}: the original key and value, to be released as they came, and why. */
    static Row quarantined(String stage, Refused refused, Row record) {
        return aside("quarantined", record.getFieldAs(RecordReader.KEY), stage, refused, record);
    }

    private static Row aside(String topic, byte[] newKey, String stage, Refused refused, Row record) {
        byte[] value = record.getFieldAs(RecordReader.VALUE);
        byte[] key = record.getFieldAs(RecordReader.KEY);
        String detail = refused.detail;
        if (value == null) {
            value = new byte[0];
        } else if (value.length > LARGEST_VALUE) {
            detail += "; the first " + LARGEST_VALUE + " of " + value.length + " bytes are kept";
            value = Arrays.copyOf(value, LARGEST_VALUE);
        }
        byte[][] headers = {
            bytes("stage"), bytes(stage),
            bytes("reason"), bytes(refused.reason),
            bytes("path"), bytes(shortened(refused.path)),
            bytes("detail"), bytes(shortened(detail)),
            bytes("source_topic"), bytes(record.getFieldAs(RecordReader.TOPIC)),
            bytes("source_partition"), bytes(record.getField(RecordReader.PARTITION).toString()),
            bytes("source_offset"), bytes(record.getField(RecordReader.OFFSET).toString()),
            bytes("source_key"), key == null ? null : bytes(shortened(new String(key, StandardCharsets.UTF_8))),
        };
        return Row.of(topic, newKey, value, key == null ? Arrays.copyOf(headers, headers.length - 2) : headers);
    }

    private static String shortened(String text) {
        return text.length() <= LONGEST_TEXT ? text : text.substring(0, LONGEST_TEXT) + "…";
    }
}
