package io.herald.runtime;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.functions.util.ListCollector;
import org.apache.flink.api.common.serialization.SerializerConfigImpl;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.util.ProcessFunctionTestHarnesses;
import org.apache.flink.types.Row;
import org.apache.flink.util.InstantiationUtil;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/** What carries records from class to class and in and out of Kafka. */
class RowsTest {
    private static final byte[] KEY = {1};
    private static final byte[] VALUE = {2, 3};

    private static <T> T throughTheNetwork(TypeInformation<T> type, T value) throws Exception {
        TypeSerializer<T> serializer = type.createSerializer(new SerializerConfigImpl());
        DataOutputSerializer out = new DataOutputSerializer(64);
        serializer.serialize(value, out);
        return serializer.deserialize(new DataInputDeserializer(out.getCopyOfBuffer()));
    }

    @Test
    void readerKeepsOriginAndNulls() throws Exception {
        RecordReader reader = new RecordReader();
        List<Row> rows = new ArrayList<>();
        var out = new ListCollector<>(rows);
        reader.deserialize(new ConsumerRecord<>("p.events", 4, 99L, KEY, VALUE), out);
        reader.deserialize(new ConsumerRecord<>("p.events", 4, 100L, null, null), out);
        List<Row> expected = List.of(Row.of("p.events", 4, 99L, ConsumerRecord.NO_TIMESTAMP, KEY, VALUE, false),
                Row.of("p.events", 4, 100L, ConsumerRecord.NO_TIMESTAMP, null, null, false));
        for (int i = 0; i < 2; i++) {
            assertEquals(expected.get(i), throughTheNetwork(reader.getProducedType(), rows.get(i)));
        }
    }

    @ParameterizedTest
    @CsvSource({"released,true", "admitted,true", "traceparent,false"})
    void readerSeesWhetherTheRateWasJudgedElsewhere(String header, boolean exempt) throws Exception {
        ConsumerRecord<byte[], byte[]> record = new ConsumerRecord<>("p.events", 4, 99L, KEY, VALUE);
        record.headers().add(header, Utf8.bytes("1"));
        List<Row> rows = new ArrayList<>();
        new RecordReader().deserialize(record, new ListCollector<>(rows));
        assertEquals(exempt, rows.get(0).getField(RecordReader.EXEMPT));
    }

    static List<Row> outputs() {
        return List.of(
                Row.of("t", KEY, VALUE, new byte[][] {{'n'}, {'v'}, {'m'}, {}}),
                Row.of("t", null, null, null),
                Row.of("t", new byte[0], new byte[0], new byte[0][]));
    }

    @ParameterizedTest
    @MethodSource("outputs")
    void outputSurvivesTheNetwork(Row row) throws Exception {
        assertEquals(row, throughTheNetwork(OutputRow.TYPE, row));
    }

    @ParameterizedTest
    @MethodSource("outputs")
    void writerPutsThePrefixAndKeepsNulls(Row row) throws Exception {
        ProducerRecord<byte[], byte[]> record = new RecordWriter("dev.").serialize(row, null, 5L);
        assertEquals("dev.t", record.topic());
        assertArrayEquals(row.<byte[]>getFieldAs(OutputRow.KEY), record.key());
        assertArrayEquals(Records.value(row), record.value());
        assertNull(record.partition());
        List<byte[]> headers = new ArrayList<>();
        record.headers().forEach(header -> {
            headers.add(Utf8.bytes(header.key()));
            headers.add(header.value());
        });
        byte[][] expected = row.getFieldAs(OutputRow.HEADERS);
        assertArrayEquals(expected == null ? new byte[0][] : expected, headers.toArray(byte[][]::new));
    }

    @Test
    void entryTellsItsTimestampAndPayload() throws Exception {
        byte[] entry = KeyedRow.entry(KeyedRow.TIMER, "tøpic", 1 << 30, 1L << 40, 1L << 41, VALUE);
        Tuple3<String, Integer, byte[]> row = throughTheNetwork(KeyedRow.TYPE, Tuple3.of("t/é", KeyedRow.TIMER, entry));
        assertEquals("t/é", new KeyedRow.ByKey().getKey(row));
        assertEquals(1L << 41, KeyedRow.timestamp(row.f2));
        assertArrayEquals(VALUE, KeyedRow.payload(row.f2));
    }

    @Test
    void rowsGoToTheOutputOfTheirTopic() throws Exception {
        try (var harness = ProcessFunctionTestHarnesses.forProcessFunction(new RouteByTopic("a=one;b=one; c = two"))) {
            for (String topic : List.of("a", "b", "c", "b")) {
                harness.processElement(new StreamRecord<>(Row.of(topic, KEY, VALUE, null)));
            }
            assertEquals(List.of(), harness.extractOutputValues());
            assertEquals(List.of("a", "b", "b"), harness.getSideOutput(RouteByTopic.tag("one")).stream()
                    .map(record -> record.getValue().getField(OutputRow.TOPIC)).toList());
            assertEquals(1, harness.getSideOutput(RouteByTopic.tag("two")).size());
        }
    }

    @Test
    void rowThatNoSinkTakesIsAnError() throws Exception {
        try (var harness = ProcessFunctionTestHarnesses.forProcessFunction(new RouteByTopic("a=one"))) {
            var error = assertThrows(IllegalStateException.class,
                    () -> harness.processElement(new StreamRecord<>(Row.of("deliveries.new", KEY, VALUE, null))));
            assertTrue(error.getMessage().contains("`deliveries.new`"), error.getMessage());
            assertTrue(error.getMessage().contains("add a route"), error.getMessage());
        }
    }

    @Test
    void routesAreChecked() {
        for (String routes : List.of("", "a", "a=", "=b", "a=b=c", "a=b;;c=d", "a=b;a=c")) {
            assertThrows(IllegalArgumentException.class, () -> new RouteByTopic(routes), routes);
        }
    }

    @Test
    void passThroughKeepsKeyAndPayload() throws Exception {
        try (var harness = ProcessFunctionTestHarnesses.forProcessFunction(new PassThrough("one;two"))) {
            byte[] entry = KeyedRow.entry(KeyedRow.BACKGROUND, "events", 0, 1, 2, VALUE);
            harness.processElement(new StreamRecord<>(Tuple3.of("t/u", KeyedRow.BACKGROUND, entry)));
            assertEquals(
                    List.of(Row.of("one", Utf8.bytes("t/u"), VALUE, null), Row.of("two", Utf8.bytes("t/u"), VALUE, null)),
                    harness.extractOutputValues());
        }
    }

    static List<Object> classes() {
        return List.of(new RecordReader(), new ExpandRecipients(KeyedRow.URGENT, VALUE), new KeyedChange(KeyedRow.CHANGE, "change"),
                new KeyedRow.ByKey(), new RouteByTopic("a=b"), new RecordWriter(""), new PassThrough("t"),
                new BundledPythonOperator(new Configuration(), "module", new byte[0], 1, 1));
    }

    /** Python takes the first constructor it finds; Flink ships instances. */
    @ParameterizedTest
    @MethodSource("classes")
    void hasOnePublicConstructorAndCanBeShipped(Object instance) throws Exception {
        assertEquals(1, instance.getClass().getConstructors().length);
        assertEquals(instance.getClass(), InstantiationUtil.clone((Serializable) instance).getClass());
    }
}
