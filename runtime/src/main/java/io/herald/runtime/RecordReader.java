package io.herald.runtime;

import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.header.Headers;
import org.apache.flink.types.Row;
import org.apache.flink.util.Collector;

/**
 * A Kafka record with its origin: Row(topic, partition, offset, timestamp in ms, key, value, exempt). Nothing is parsed, the
 * topic keeps its prefix, key and value may be null. {@code exempt}: it has one of the headers of messages/quarantine.py
 * that say that its source's rate was judged elsewhere.
 */
public class RecordReader implements KafkaRecordDeserializationSchema<Row> {
    public static final int TOPIC = 0;
    public static final int PARTITION = 1;
    public static final int OFFSET = 2;
    public static final int TIMESTAMP = 3;
    public static final int KEY = 4;
    public static final int VALUE = 5;
    public static final int EXEMPT = 6;

    public static final TypeInformation<Row> TYPE = Types.ROW(
            Types.STRING, Types.INT, Types.LONG, Types.LONG,
            Types.PRIMITIVE_ARRAY(Types.BYTE), Types.PRIMITIVE_ARRAY(Types.BYTE), Types.BOOLEAN);

    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Row> out) {
        Headers headers = record.headers();
        boolean exempt = headers.lastHeader("released") != null || headers.lastHeader("admitted") != null;
        out.collect(Row.of(record.topic(), record.partition(), record.offset(), record.timestamp(), record.key(),
                record.value(), exempt));
    }

    @Override
    public TypeInformation<Row> getProducedType() {
        return TYPE;
    }
}
