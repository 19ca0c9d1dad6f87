package io.herald.runtime;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.List;
import java.util.stream.Stream;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.util.OneInputStreamOperatorTestHarness;
import org.apache.flink.streaming.util.ProcessFunctionTestHarnesses;
import org.apache.flink.types.Row;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

class KeyedChangeTest {
    private static final byte[] VALUE = {1, 2, 3};

    private static OneInputStreamOperatorTestHarness<Row, Tuple3<String, Integer, byte[]>> process(
            int kind, byte[] key, byte[] value) throws Exception {
        var harness = ProcessFunctionTestHarnesses.forProcessFunction(new KeyedChange(kind, "change"));
        harness.processElement(new StreamRecord<>(Records.record(key, value)));
        return harness;
    }

    @Test
    void keyIsTheUsersAndTheValueIsUntouched() throws Exception {
        try (var harness = process(KeyedRow.CHANGE, Utf8.bytes("acme/é/x"), VALUE)) {
            Tuple3<String, Integer, byte[]> row = harness.extractOutputValues().get(0);
            assertEquals("acme/é/x", row.f0);
            assertEquals(KeyedRow.CHANGE, row.f1);
            assertArrayEquals(KeyedRow.entry(KeyedRow.CHANGE, "x.events", 3, 41, 1700, VALUE), row.f2);
        }
    }

    @Test
    void profilesTombstoneIsAnEmptyPayload() throws Exception {
        try (var harness = process(KeyedRow.PROFILE, Utf8.bytes("t/u"), null)) {
            assertEquals(0, KeyedRow.payload(harness.extractOutputValues().get(0).f2).length);
        }
    }

    @Test
    void profileMayBeLargerThanAChange() throws Exception {
        try (var harness = process(KeyedRow.PROFILE, Utf8.bytes("t/u"), new byte[2_000_000])) {
            assertEquals(2_000_000, KeyedRow.payload(harness.extractOutputValues().get(0).f2).length);
        }
    }

    static Stream<Arguments> refused() {
        byte[] good = Utf8.bytes("t/u");
        return Stream.of(
                Arguments.of("no key", null, VALUE, "missing_key"),
                Arguments.of("empty key", new byte[0], VALUE, "invalid_key"),
                Arguments.of("no slash", Utf8.bytes("tu"), VALUE, "invalid_key"),
                Arguments.of("no tenant", Utf8.bytes("/u"), VALUE, "invalid_key"),
                Arguments.of("bad tenant", Utf8.bytes("a b/u"), VALUE, "invalid_key"),
                Arguments.of("no user", Utf8.bytes("t/"), VALUE, "invalid_key"),
                Arguments.of("long user", Utf8.bytes("t/" + "u".repeat(257)), VALUE, "invalid_key"),
                Arguments.of("not UTF-8", new byte[] {'t', '/', (byte) 0xff}, VALUE, "invalid_key"),
                Arguments.of("no value", good, null, "empty_value"),
                Arguments.of("empty value", good, new byte[0], "empty_value"),
                Arguments.of("large value", good, new byte[(1 << 20) + 1], "change_too_large"));
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource
    void refused(String name, byte[] key, byte[] value, String reason) throws Exception {
        try (var harness = process(KeyedRow.CHANGE, key, value)) {
            assertEquals(List.of(), harness.extractOutputValues());
            Row rejected = harness.getSideOutput(RouteByTopic.tag("rejected")).poll().getValue();
            assertEquals("change", Records.headers(rejected).get("stage"));
            assertEquals(reason, Records.headers(rejected).get("reason"));
            assertEquals(key != null, Records.headers(rejected).containsKey("source_key"));
        }
    }
}
