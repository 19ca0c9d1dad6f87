package io.herald.runtime;

import static io.herald.runtime.Records.json;
import static io.herald.runtime.Records.quoted;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import java.io.ByteArrayOutputStream;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.runtime.operators.testutils.MockEnvironment;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ArrayNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ObjectNode;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.types.Row;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

class ExpandRecipientsTest {
    private static final String REST = "'specversion': '1.0', 'id': 'e1'";

    private static final String GOOD = "{'data': {'recipients': {'users': ['a']}}}";

    /** What one event became. */
    private record Expanded(List<Tuple3<String, Integer, byte[]>> rows, List<Row> counts, List<Row> rejected) {
        List<String> keys() {
            return rows.stream().map(row -> row.f0).toList();
        }

        byte[] payload() {
            return KeyedRow.payload(rows.get(0).f2);
        }

        JsonNode count() throws Exception {
            assertEquals(1, counts.size());
            return json(Records.value(counts.get(0)));
        }
    }

    private static Expanded expand(byte[] value) throws Exception {
        return expand(Records.record(Utf8.bytes("k"), value));
    }

    private static Expanded expand(Row record) throws Exception {
        try (Expand harness = Expand.opened(KeyedRow.URGENT)) {
            harness.processElement(new StreamRecord<>(record));
            assertEquals(List.of(), side(harness, "quarantined"));
            return new Expanded(harness.extractOutputValues(),
                    side(harness, "counts"), side(harness, "rejected"));
        }
    }

    private static List<Row> side(Expand harness, String name) {
        var rows = harness.getSideOutput(RouteByTopic.tag(name));
        return rows == null ? List.of() : rows.stream().map(StreamRecord::getValue).toList();
    }

    private static byte[] event(String recipients) {
        return quoted("{" + REST + ", 'data': {'category': 'c', 'recipients': " + recipients + "}}");
    }

    private static byte[] tenant(String tenant) {
        return quoted("{'tenant': " + tenant + ", 'data': {'recipients': {'users': ['a']}}}");
    }

    @Test
    void oneUserGetsTheEventAsItCame() throws Exception {
        byte[] value = event("{ 'users' : [ 'u1' ], 'exclude': [] , 'topics': [ ] }");
        Expanded expanded = expand(value);
        assertEquals(List.of("default/u1"), expanded.keys());
        assertEquals(KeyedRow.URGENT, expanded.rows().get(0).f1);
        assertArrayEquals(KeyedRow.entry(KeyedRow.URGENT, "x.events", 3, 41, 1700, value), expanded.rows().get(0).f2);
        assertEquals(List.of(), expanded.rejected());
        assertEquals(json("{\"v\":1,\"origin\":\"x.events/3/41\",\"recipients\":1,\"arrived_at\":1700}"), expanded.count());
        Row count = expanded.counts().get(0);
        assertEquals("counts", count.getField(OutputRow.TOPIC));
        assertNull(count.getField(OutputRow.KEY));
        assertNull(count.getField(OutputRow.HEADERS));
    }

    @Test
    void tenantStandsBeforeTheUserWhereverItIs() throws Exception {
        String data = "'data': {'recipients': {'users': ['a/b']}}";
        assertEquals(List.of("T-1_x.y/a/b"), expand(quoted("{'tenant': 'T-1_x.y', " + data + "}")).keys());
        assertEquals(List.of("T-1_x.y/a/b"), expand(quoted("{" + data + ", 'tenant': 'T-1_x.y'}")).keys());
    }

    @Test
    void repeatedOnesComeOnceInOrderAndExcludedOnesNot() throws Exception {
        Expanded expanded = expand(event("{'exclude': ['x', 'y'], 'users': ['c', 'x', 'a', 'c', 'b', 'a']}"));
        assertEquals(List.of("default/c", "default/a", "default/b"), expanded.keys());
        assertEquals(3, expanded.count().get("recipients").asInt());
        assertEquals(Utf8.textOrNull(event("{'exclude': [], 'users': []}")), Utf8.textOrNull(expanded.payload()));
    }

    @Test
    void theRestOfTheEventIsLeftToPython() throws Exception {
        byte[] value = quoted("{'data': {'recipients': {'users': ['u'], 'groups': 5}, 'campaign': 7}, 'id': null}");
        Expanded expanded = expand(value);
        assertArrayEquals(value, expanded.payload());
        assertNull(expanded.count().get("campaign"));
    }

    @Test
    void campaignIsCounted() throws Exception {
        String rest = ", 'recipients': {'users': ['u']}}}";
        JsonNode count = expand(quoted("{'data': {'campaign': 'say \\\"hé\\\"\\u0001'" + rest)).count();
        assertEquals("say \"hé\"\u0001", count.get("campaign").asText());
        assertNull(expand(quoted("{'data': {'campaign': '\\ud800'" + rest)).count().get("campaign"));
        assertNull(expand(quoted("{'data': {'campaign': ''" + rest)).count().get("campaign"));
    }

    @Test
    void idsAreTextOfUpTo256Characters() throws Exception {
        String longest = "😀".repeat(256);
        assertEquals(List.of("default/" + longest), expand(event("{'users': ['" + longest + "']}")).keys());
        assertEquals(List.of("default/é\"\n😀"), expand(event("{'users': ['\\u00e9\\\"\\n\\ud83d\\ude00']}")).keys());
    }

    @Test
    void tenThousandRecipients() throws Exception {
        String users = IntStream.range(0, 10_000).mapToObj(i -> "'user-" + i + "'").collect(Collectors.joining(","));
        Expanded expanded = expand(event("{'users': [" + users + "]}"));
        assertEquals(10_000, new HashSet<>(expanded.keys()).size());
        assertEquals("default/user-9999", expanded.keys().get(9_999));
        assertTrue(expanded.payload().length < 200);
        assertEquals(10_000, expanded.count().get("recipients").asInt());
    }

    @Test
    void megabyteForOneUserPassesAndForManyNot() throws Exception {
        String head = "{'x': '";
        String tail = "', 'data': {'recipients': {'users': [%s]}}}";
        String one = String.format(tail, "'u'");
        byte[] value = quoted(head + "x".repeat(EventHead.LARGEST_EVENT - head.length() - one.length()) + one);
        assertEquals(EventHead.LARGEST_EVENT, value.length);
        assertArrayEquals(value, expand(value).payload());

        int recipients = 32;
        int each = EventHead.LARGEST_EXPANSION / recipients;
        String users = IntStream.range(0, recipients).mapToObj(i -> "'" + i + "'").collect(Collectors.joining(","));
        int filling = each - (head + String.format(tail, "")).length();
        assertEquals(recipients, expand(quoted(head + "x".repeat(filling) + String.format(tail, users))).rows().size());
        Expanded expanded = expand(quoted(head + "x".repeat(filling + 1) + String.format(tail, users)));
        assertEquals(List.of(), expanded.rows());
        assertEquals("event_too_large", Records.headers(expanded.rejected().get(0)).get("reason"));
    }

    @Test
    void whatIsTooLargeToBeWrittenAgainIsKeptInPart() throws Exception {
        byte[] value = quoted(" ".repeat(3_000_000) + "{}");
        Row rejected = expand(value).rejected().get(0);
        assertEquals("event_too_large", Records.headers(rejected).get("reason"));
        assertEquals(1024 * 1024, Records.value(rejected).length);
        assertTrue(Records.headers(rejected).get("detail").endsWith("the first 1048576 of 3000002 bytes are kept"));
    }

    static Stream<Arguments> refused() {
        String longId = "x".repeat(257);
        String recipients = "$.data.recipients";
        String users = recipients + ".users";
        String topics = recipients + ".topics";
        String unsupported = "recipients_topics_unsupported";
        String invalid = "invalid_recipients";
        return Stream.of(
                arguments("nothing", null, "empty_value", "$"),
                arguments("no bytes", new byte[0], "empty_value", "$"),
                arguments("text", quoted("hello"), "malformed_json", "$"),
                arguments("half", quoted("{'data': {'recipients': {'users': ['a'"), "malformed_json", users + "[0]"),
                arguments("comment", quoted("{/* x */ 'data': {'recipients': {'users': ['a']}}}"), "malformed_json", "$"),
                arguments("single quotes", Utf8.bytes("{'data': 1}"), "malformed_json", "$"),
                arguments("trailing comma", event("{'users': ['a',]}"), "malformed_json", users + "[1]"),
                arguments("NaN", event("{'users': ['a'], 'x': NaN}"), "malformed_json", recipients + ".x"),
                arguments("control character", event("{'users': ['a\u0001']}"), "malformed_json", users + "[0]"),
                arguments("bad escape", quoted("{'x': '\\q'}"), "malformed_json", "$.x"),
                arguments("trailing text", quoted(GOOD + " x"), "trailing_data", "$"),
                arguments("second document", quoted(GOOD + " {}"), "trailing_data", "$"),
                arguments("trailing brace", quoted(GOOD + "}"), "trailing_data", "$"),
                arguments("trailing zero", quoted(GOOD + "\0"), "trailing_data", "$"),
                arguments("byte order mark", quoted("\ufeff" + GOOD), "malformed_json", "$"),
                arguments("UTF-16", GOOD.replace('\'', '"').getBytes(StandardCharsets.UTF_16LE), "malformed_json", "$"),
                arguments("UTF-32", GOOD.replace('\'', '"').getBytes(Charset.forName("UTF-32BE")), "malformed_json", "$"),
                arguments("Latin-1", "{\"x\": \"é\"}".getBytes(StandardCharsets.ISO_8859_1), "invalid_utf8", "$"),
                arguments("array", quoted("[" + GOOD + "]"), "not_an_object", "$"),
                arguments("number", quoted("17"), "not_an_object", "$"),
                arguments("null", quoted("null"), "not_an_object", "$"),
                arguments("users twice", event("{'users': ['a'], 'users': ['b']}"), "duplicate_field", users),
                arguments("twice by escape", event("{'users': ['a'], 'us\\u0065rs': ['b']}"), "duplicate_field", users),
                arguments("twice elsewhere", quoted("{'data': {'params': [0, {'x': 1, 'x': 2}]}}"),
                        "duplicate_field", "$.data.params[1].x"),
                arguments("too deep", quoted("{'x': " + "[".repeat(200) + "]".repeat(200) + "}"), "limit_exceeded", null),
                arguments("far too deep", quoted("{'x': " + "{'y': ".repeat(100_000)), "limit_exceeded", null),
                arguments("long number", quoted("{'x': " + "1".repeat(2000) + "}"), "limit_exceeded", null),
                arguments("no data", quoted("{" + REST + "}"), "no_recipients", recipients),
                arguments("data a list", quoted("{'data': []}"), invalid, "$.data"),
                arguments("no recipients", quoted("{'data': {}}"), "no_recipients", recipients),
                arguments("recipients a list", event("['a']"), invalid, recipients),
                arguments("recipients null", event("null"), invalid, recipients),
                arguments("no users", event("{}"), "no_recipients", recipients),
                arguments("users empty", event("{'users': []}"), "no_recipients", recipients),
                arguments("users text", event("{'users': 'a'}"), invalid, users),
                arguments("users null", event("{'users': null}"), invalid, users),
                arguments("users an object", event("{'users': {'a': ['b']}}"), invalid, users),
                arguments("number as id", event("{'users': ['a', 5]}"), invalid, users + "[1]"),
                arguments("null as id", event("{'users': [null]}"), invalid, users + "[0]"),
                arguments("boolean as id", event("{'users': [true]}"), invalid, users + "[0]"),
                arguments("list as id", event("{'users': ['a', 'b', 'c', ['d']]}"), invalid, users + "[3]"),
                arguments("object as id", event("{'users': [{'x': 1}]}"), invalid, users + "[0]"),
                arguments("empty id", event("{'users': ['a', '']}"), invalid, users + "[1]"),
                arguments("long id", event("{'users': ['" + longId + "']}"), invalid, users + "[0]"),
                arguments("high surrogate", event("{'users': ['\\ud800']}"), invalid, users + "[0]"),
                arguments("low surrogate", event("{'users': ['a\\udc00b']}"), invalid, users + "[0]"),
                arguments("surrogates turned", event("{'users': ['\\udc00\\ud800']}"), invalid, users + "[0]"),
                arguments("bad exclude", event("{'users': ['a'], 'exclude': [1]}"), invalid, recipients + ".exclude[0]"),
                arguments("exclude text", event("{'users': ['a'], 'exclude': 'a'}"), invalid, recipients + ".exclude"),
                arguments("all excluded", event("{'users': ['a', 'b'], 'exclude': ['b','a']}"), "no_recipients", recipients),
                arguments("one excluded", event("{'users': ['a'], 'exclude': ['a']}"), "no_recipients", recipients),
                arguments("topics", event("{'users': ['a'], 'topics': [['x'], 'y']}"), unsupported, topics),
                arguments("only topics", event("{'topics': ['x']}"), unsupported, topics),
                arguments("topics text", event("{'users': ['a'], 'topics': 'x'}"), invalid, topics),
                arguments("tenant with a slash", tenant("'a/b'"), "invalid_tenant", "$.tenant"),
                arguments("tenant empty", tenant("''"), "invalid_tenant", "$.tenant"),
                arguments("tenant with a line end", tenant("'a\\n'"), "invalid_tenant", "$.tenant"),
                arguments("tenant too long", tenant("'" + "t".repeat(65) + "'"), "invalid_tenant", "$.tenant"),
                arguments("tenant a number", tenant("5"), "invalid_tenant", "$.tenant"),
                arguments("tenant null", tenant("null"), "invalid_tenant", "$.tenant"),
                arguments("two wrong", event("{'users': [1], 'exclude': 2}"), invalid, users + "[0]"),
                arguments("wrong and no JSON", event("{'users': [1], 'x': no}"), "malformed_json", recipients + ".x"));
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource
    void refused(String name, byte[] value, String reason, String path) throws Exception {
        Expanded expanded = expand(value);
        assertEquals(List.of(), expanded.rows());
        assertEquals(json("{\"v\":1,\"origin\":\"x.events/3/41\",\"recipients\":0,\"unreadable\":true,\"arrived_at\":1700}"),
                expanded.count());
        assertEquals(1, expanded.rejected().size());
        Row rejected = expanded.rejected().get(0);
        assertEquals("rejected", rejected.getField(OutputRow.TOPIC));
        assertNull(rejected.getField(OutputRow.KEY));
        assertArrayEquals(value == null ? new byte[0] : value, Records.value(rejected));
        Map<String, String> headers = Records.headers(rejected);
        assertEquals(reason, headers.get("reason"), headers.toString());
        if (path != null) {
            assertEquals(path, headers.get("path"), headers.toString());
        }
        assertNotEquals("", headers.get("detail"));
        assertTrue(headers.get("path").length() <= 513 && headers.get("detail").length() <= 513);
        headers.keySet().removeAll(Set.of("reason", "path", "detail"));
        assertEquals(Map.of("stage", "read", "source_topic", "x.events", "source_partition", "3", "source_offset", "41",
                "source_key", "k"), headers);
    }

    @ParameterizedTest
    @MethodSource
    void notUtf8(byte[] inside) throws Exception {
        ByteArrayOutputStream value = new ByteArrayOutputStream();
        value.writeBytes(quoted("{'data': {'recipients': {'users': ['"));
        int at = value.size();
        value.writeBytes(inside);
        value.writeBytes(quoted("']}}}"));
        Map<String, String> headers = Records.headers(expand(value.toByteArray()).rejected().get(0));
        assertEquals("invalid_utf8", headers.get("reason"));
        assertEquals("not UTF-8 at byte " + at, headers.get("detail"));
    }

    static Stream<byte[]> notUtf8() {
        return Stream.of(
                new byte[] {(byte) 0xff},
                new byte[] {(byte) 0x80},                                               // continuation alone
                new byte[] {(byte) 0xc3},                                               // cut short
                new byte[] {(byte) 0xc0, (byte) 0xaf},                                  // overlong
                new byte[] {(byte) 0xe0, (byte) 0x80, (byte) 0xaf},                     // overlong
                new byte[] {(byte) 0xed, (byte) 0xa0, (byte) 0x80},                     // surrogate
                new byte[] {(byte) 0xf4, (byte) 0x90, (byte) 0x80, (byte) 0x80},        // past U+10FFFF
                new byte[] {(byte) 0xf0, (byte) 0x9f, (byte) 0x98});                    // cut short
    }

    @Test
    void everyByteIsChecked() {
        for (int length = 1; length < 40; length++) {
            for (int at = 0; at < length; at++) {
                byte[] bytes = Utf8.bytes("x".repeat(length));
                bytes[at] = (byte) 0x80;
                assertEquals(at, Utf8.invalidByte(bytes));
                assertEquals(-1, Utf8.invalidByte(Utf8.bytes("x".repeat(at) + "é" + "x".repeat(length - at))));
            }
        }
    }

    @Test
    void refusalsAreCountedByReason() throws Exception {
        Metrics metrics = new Metrics();
        MockEnvironment environment = MockEnvironment.builder().setMetricGroup(metrics.task()).build();
        try (Expand harness = new Expand(KeyedRow.URGENT, Expand.UNGUARDED, environment)) {
            harness.open();
            for (byte[] value : List.of(quoted("x"), quoted("[]"), quoted("y"), quoted(GOOD))) {
                harness.processElement(new StreamRecord<>(Records.record(null, value)));
            }
            assertEquals(2, metrics.count("stage.read.reason.malformed_json.rejected"));
            assertEquals(1, metrics.count("stage.read.reason.not_an_object.rejected"));
        }
    }

    @Test
    void sourceKeyIsTextOfABoundedLength() throws Exception {
        byte[] key = "é".repeat(600).getBytes(StandardCharsets.ISO_8859_1);
        Row rejected = expand(Records.record(key, quoted("x"))).rejected().get(0);
        assertEquals("\ufffd".repeat(512) + "…", Records.headers(rejected).get("source_key"));
    }

    @Test
    void recordWithoutAKeyHasNoSourceKey() throws Exception {
        Row rejected = expand(Records.record(null, quoted("x"))).rejected().get(0);
        assertTrue(!Records.headers(rejected).containsKey("source_key"));
    }

    @Test
    void fieldNamesWithoutEndAreNoTrouble() throws Exception {
        try (Expand harness = Expand.opened(KeyedRow.BACKGROUND)) {
            for (int event = 0; event < 20; event++) {
                int salt = event;
                String names = IntStream.range(0, 5000).mapToObj(i -> "'" + salt + "n" + i + "': 0")
                        .collect(Collectors.joining(","));
                harness.processElement(new StreamRecord<>(Records.record(null,
                        quoted("{'data': {'params': {" + names + "}, 'recipients': {'users': ['u']}}}"))));
            }
            assertEquals(20, harness.extractOutputValues().size());
        }
    }

    /** Whatever the document looks like, cutting changes the two arrays' contents and nothing else. */
    @Test
    void cuttingLeavesTheRestAlone() throws Exception {
        for (int seed = 0; seed < 3000; seed++) {
            Documents documents = new Documents(new Random(seed));
            String text = documents.event();
            JsonNode event = json(text);
            ObjectNode recipients = (ObjectNode) event.at("/data/recipients");
            List<String> users = texts(recipients.get("users"));
            List<String> exclude = texts(recipients.get("exclude"));
            List<String> expected = users.stream().distinct().filter(user -> !exclude.contains(user)).toList();
            EventHead head;
            try {
                head = EventHead.read(Utf8.bytes(text));
            } catch (Refused refused) {
                assertEquals("no_recipients", refused.reason, text);
                assertEquals(List.of(), expected, text);
                continue;
            }
            assertEquals(expected, List.copyOf(head.recipients()), text);
            assertEquals(event.path("tenant").asText("default"), head.tenant());
            String payload = Utf8.textOrNull(head.payload());
            if (users.size() == 1 && exclude.isEmpty()) {
                assertEquals(text, payload);
                continue;
            }
            recipients.putArray("users");
            if (recipients.has("exclude")) {
                recipients.putArray("exclude");
            }
            assertEquals(event, json(payload), text);
            for (String inside : documents.contents) {
                text = text.replace("[" + inside + "]", "[]");
            }
            assertEquals(text, payload);
        }
    }

    private static List<String> texts(JsonNode array) {
        List<String> texts = new ArrayList<>();
        if (array instanceof ArrayNode) {
            array.forEach(item -> texts.add(item.textValue()));
        }
        return texts;
    }

    /** Random events: white space, escapes, nesting, and fields called users and exclude where they mean nothing. */
    private static final class Documents {
        private static final String[] NAMES = {"users", "exclude", "recipients", "data", "x", "é", "\\u0075sers", "a\\\"b"};
        private static final String[] TEXTS =
                {"u", "v", "]", "[", "\\\"users\\\": [", "é", "😀", "\\ud83d\\ude00", "\\\\", "a\\nb"};
        private final Random random;
        final List<String> contents = new ArrayList<>();

        Documents(Random random) {
            this.random = random;
        }

        String event() {
            List<String> fields = new ArrayList<>();
            fields.add(field("data", object(data())));
            if (random.nextBoolean()) {
                fields.add(field("tenant", "\"acme\""));
            }
            decoys(fields, List.of("users", "exclude", "recipients", "x", "é"));
            return space() + object(fields) + space();
        }

        private List<String> data() {
            List<String> fields = new ArrayList<>();
            List<String> recipients = new ArrayList<>();
            recipients.add(field(random.nextBoolean() ? "users" : "us\\u0065rs", ids(1 + random.nextInt(4))));
            if (random.nextBoolean()) {
                recipients.add(field("exclude", ids(random.nextInt(3))));
            }
            decoys(recipients, List.of("recipients", "data", "x"));
            fields.add(field("recipients", object(recipients)));
            decoys(fields, List.of("users", "exclude", "data", "a\\\"b"));
            return fields;
        }

        /** Marked by a digit in every id, so that the contents of no decoy look alike. */
        private String ids(int count) {
            StringBuilder inside = new StringBuilder(space());
            for (int i = 0; i < count; i++) {
                inside.append(i == 0 ? "" : space() + ",").append(space())
                        .append('"').append(random.nextInt(3)).append(TEXTS[random.nextInt(TEXTS.length)]).append('"')
                        .append(space());
            }
            contents.add(inside.toString());
            return "[" + inside + "]";
        }

        private void decoys(List<String> fields, List<String> names) {
            for (String name : names) {
                if (random.nextInt(3) == 0) {
                    fields.add(random.nextInt(fields.size() + 1), field(name, value(3)));
                }
            }
        }

        private String value(int depth) {
            switch (random.nextInt(depth == 0 ? 4 : 6)) {
                case 0:
                    return String.valueOf(random.nextInt(100) - 50);
                case 1:
                    return random.nextBoolean() ? "null" : "true";
                case 2:
                    return "-1.5e3";
                case 3:
                    return '"' + TEXTS[random.nextInt(TEXTS.length)] + '"';
                case 4:
                    return IntStream.range(0, random.nextInt(4)).mapToObj(i -> space() + value(depth - 1) + space())
                            .collect(Collectors.joining(",", "[", "]"));
                default:
                    int first = random.nextInt(NAMES.length);
                    return object(IntStream.range(0, random.nextInt(3))
                            .mapToObj(i -> field(NAMES[(first + 2 * i + 1) % 6], value(depth - 1))).toList());
            }
        }

        private String field(String name, String value) {
            return space() + '"' + name + '"' + space() + ':' + space() + value + space();
        }

        private static String object(List<String> fields) {
            return "{" + String.join(",", fields) + "}";
        }

        private String space() {
            return switch (random.nextInt(6)) {
                case 0 -> " ";
                case 1 -> "\n\t";
                case 2 -> "\r\n  ";
                default -> "";
            };
        }
    }
}
