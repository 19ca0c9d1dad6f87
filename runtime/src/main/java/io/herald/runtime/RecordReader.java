package io.herald.runtime;

import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.flink.types.Row;
import org.apache.flink.util.Collector;

/**
 * A Kafka record with its origin: Row(topic, partition, offset, timestamp in ms, key, value). Nothing is parsed, the topic
 * keeps its prefix, key and value may be null.
 */
public class RecordReader implements KafkaRecordDeserializationSchema<Row> {
    public static final int TOPIC = 0;
    public static final int PARTITION = 1;
    public static final int OFFSET = 2;
    public static final int TIMESTAMP = 3;
    public static final int KEY = 4;
    public static final int VALUE = 5;

    public static final TypeInformation<Row> TYPE = Types.ROW(
            Types.STRING, Types.INT, Types.LONG, Types.LONG,
            Types.PRIMITIVE_ARRAY(Types.BYTE), Types.PRIMITIVE_ARRAY(Types.BYTE));

    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Row> out) {
        out.collect(Row.of(
                record.topic(), record.partition(), record.offset(), record.timestamp(), record.key(), record.value()));
    }

    @Override
    public TypeInformation<Row> getProducedType() {
        return TYPE;
    }
}
