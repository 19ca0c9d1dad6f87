package io.herald.runtime;

import java.nio.charset.StandardCharsets;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.flink.types.Row;

/**
 * Writes an output row to the topic it names, behind the deployment's prefix; a null value is a tombstone. The partition is
 * left to Kafka's own partitioner: murmur2 of the key, as every other producer of Herald chooses it.
 */
public class RecordWriter implements KafkaRecordSerializationSchema<Row> {
    private final String prefix;

    public RecordWriter(String prefix) {
        this.prefix = prefix;
    }

    @Override
    public ProducerRecord<byte[], byte[]> serialize(Row row, KafkaSinkContext context, Long timestamp) {
        String topic = prefix + row.getField(OutputRow.TOPIC);
        ProducerRecord<byte[], byte[]> record =
                new ProducerRecord<>(topic, row.getFieldAs(OutputRow.KEY), row.getFieldAs(OutputRow.VALUE));
        byte[][] headers = row.getFieldAs(OutputRow.HEADERS);
        for (int i = 0; headers != null && i < headers.length; i += 2) {
            record.headers().add(new RecordHeader(new String(headers[i], StandardCharsets.UTF_8), headers[i + 1]));
        }
        return record;
    }
}
