package io.herald.runtime;

import static io.herald.runtime.Records.json;
import static io.herald.runtime.Records.quoted;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Map;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.runtime.operators.testutils.MockEnvironment;
import org.apache.flink.types.Row;
import org.junit.jupiter.api.Test;

/** What the expand step does with an event that is not to pass, and with the policies that say so. */
class GuardedExpansionTest {
    private static final String PAUSE_NEWS = "{'kind': 'pause', 'scope': 'category', 'name': 'news'}";
    private static final byte[] GUARDED = documents(
            "{'version': 1, 'categories': {'orders': {}, 'news': {}}, 'sources': {'shop': {'categories': ['orders'],"
            + "'rate': 1, 'burst': 2}}}", "{}");

    private static byte[] documents(String packaged, String known) {
        return quoted("{'packaged': " + packaged + ", 'known': " + known + "}");
    }

    private static byte[] event(String source, String category) {
        return quoted("{'data': {'category': '" + category + "', 'campaign': 'spring', 'recipients': {'users': ['a', 'b',"
                + "'a']}}, 'source': '" + source + "'}");
    }

    private static Row record(String source, String category) {
        return Records.record(new byte[] {1, (byte) 0xff}, event(source, category));
    }

    @Test
    void heldEventKeepsItsBytesAndItsKeyAndIsCounted() throws Exception {
        try (Expand expand = Expand.opened(KeyedRow.URGENT)) {
            expand.policy("pause/category/news", PAUSE_NEWS);
            assertEquals("quarantined", expand.fate(record("shop", "news")));
            Row held = expand.last("quarantined");
            assertEquals("quarantined", held.getField(OutputRow.TOPIC));
            assertArrayEquals(new byte[] {1, (byte) 0xff}, held.<byte[]>getFieldAs(OutputRow.KEY));
            assertArrayEquals(event("shop", "news"), Records.value(held));
            assertEquals(Map.of("stage", "read", "reason", "paused", "path", "$.data.category", "detail",
                    "the category is paused", "source_topic", "x.events", "source_partition", "3", "source_offset", "41",
                    "source_key", "\u0001\ufffd"), Records.headers(held));
            assertEquals(json("{\"v\":1,\"origin\":\"x.events/3/41\",\"recipients\":2,\"quarantined\":true,"
                    + "\"arrived_at\":1700,\"campaign\":\"spring\"}"), json(Records.value(expand.last("counts"))));

            expand.policy("pause/category/news", null);
            assertEquals("rows", expand.fate(record("shop", "news")));
        }
    }

    @Test
    void forbiddenCategoryIsOneRejectedRecordAndCountedAsSuch() throws Exception {
        try (Expand expand = Expand.restored(KeyedRow.URGENT, GUARDED, 1, null)) {
            assertEquals("rejected", expand.fate(record("shop", "news")));
            Map<String, String> headers = Records.headers(expand.last("rejected"));
            assertEquals("read category_not_allowed $.data.category",
                    headers.get("stage") + " " + headers.get("reason") + " " + headers.get("path"));
            assertEquals(json("{\"v\":1,\"origin\":\"x.events/3/41\",\"recipients\":0,\"unreadable\":true,"
                    + "\"arrived_at\":1700}"), json(Records.value(expand.last("counts"))));
            assertEquals("rows", expand.fate(record("shop", "orders")));
            assertEquals("rows", expand.fate(record("bank", "news")));
        }
    }

    @Test
    void packagedRateHoldsBeforeAnythingWasReadAndIsSharedByTheSubtasks() throws Exception {
        for (int subtasks = 1; subtasks <= 2; subtasks++) {
            try (Expand expand = Expand.restored(KeyedRow.URGENT, GUARDED, subtasks, null)) {
                for (int i = 0; i < 2 / subtasks; i++) {
                    assertEquals("rows", expand.fate(record("shop", "orders")));
                }
                assertEquals("quarantined", expand.fate(record("shop", "orders")));
                assertEquals("source_quarantined", Records.headers(expand.last("quarantined")).get("reason"));
                assertEquals("rows", expand.fate(Records.record(null, event("shop", "orders"), 3, 1700, true)));
            }
        }
    }

    @Test
    void restoredJobHoldsWhatIsPausedBeforeItHasReadAnything() throws Exception {
        OperatorSubtaskState state;
        try (Expand expand = Expand.restored(KeyedRow.URGENT, GUARDED, 1, null)) {
            expand.policy("pause/category/news", PAUSE_NEWS);
            expand.policy("policies",
                    "{'version': 5, 'categories': {'orders': {}, 'news': {}}, 'sources': {'bank': {'categories': ['news']}}}");
            state = expand.snapshot(1, 1);
        }
        try (Expand expand = Expand.restored(KeyedRow.URGENT, GUARDED, 1, state)) {
            assertEquals("quarantined", expand.fate(record("chat", "news")));
            assertEquals("rejected", expand.fate(record("bank", "orders")));
            assertEquals("rows", expand.fate(record("shop", "orders")));
            expand.policy("policies", null);
            assertEquals("rows", expand.fate(record("bank", "orders")));
        }
        byte[] newer = documents("{'version': 6, 'categories': {'orders': {}}}", "{}");
        try (Expand expand = Expand.restored(KeyedRow.URGENT, newer, 1, state)) {
            assertEquals("rows", expand.fate(record("bank", "orders")));
            assertEquals("quarantined", expand.fate(record("bank", "news")));
        }
    }

    /** A job without such a state begins with what was known when it was submitted; a later restore does not. */
    @Test
    void whatWasKnownAtTheSubmissionHoldsUntilItIsLifted() throws Exception {
        byte[] known = documents("{'version': 1, 'categories': {'news': {}}}",
                "{'pause/category/news': " + PAUSE_NEWS + ", 'policies': {'version': 2, 'categories': {'c': {}},"
                + "'sources': {'bank': {'categories': ['c']}}}}");
        OperatorSubtaskState state;
        try (Expand expand = Expand.restored(KeyedRow.URGENT, known, 1, null)) {
            assertEquals("quarantined", expand.fate(record("shop", "news")));
            assertEquals("rejected", expand.fate(record("bank", "orders")));
            expand.policy("pause/category/news", null);
            expand.policy("policies", null);
            state = expand.snapshot(1, 1);
        }
        try (Expand expand = Expand.restored(KeyedRow.URGENT, known, 1, state)) {
            assertEquals("rows", expand.fate(record("shop", "news")));
            assertEquals("rows", expand.fate(record("bank", "orders")));
        }
    }

    @Test
    void documentsThatCannotBeUsedAreLeftToPython() throws Exception {
        try (Expand expand = Expand.opened(KeyedRow.URGENT)) {
            expand.policy("pause/category/news", PAUSE_NEWS);
            expand.policy((String) null, "{}");
            expand.policy("", "{}");
            expand.policy("", null);
            expand.policy(new byte[] {(byte) 0xff}, quoted("{}"));
            expand.policy("policies", "version: 7");
            expand.policy(Utf8.bytes("policies"), new byte[] {(byte) 0xff});
            expand.policy("pause/category/news", "{'kind': 'pause'}");
            expand.policy("limits", "{}");
            assertEquals("quarantined", expand.fate(record("shop", "news")));
            assertEquals("rows", expand.fate(record("shop", "orders")));
            OperatorSubtaskState state = expand.snapshot(1, 1);
            try (Expand again = Expand.restored(KeyedRow.URGENT, Expand.UNGUARDED, 1, state)) {
                assertEquals("quarantined", again.fate(record("shop", "news")));
            }
        }
    }

    @Test
    void unreadableEventIsRejectedHoweverItsSourceStands() throws Exception {
        try (Expand expand = Expand.opened(KeyedRow.URGENT)) {
            expand.policy("pause/source/shop", "{'kind': 'pause', 'scope': 'source', 'name': 'shop'}");
            assertEquals("rejected", expand.fate(Records.record(null, quoted("{'source': 'shop', 'data': {}}"))));
            assertEquals("rows", expand.fate(
                    Records.record(null, quoted("{'source': 5, 'data': {'recipients': {'users': ['a']}, 'category': {}}}"))));
        }
    }

    @Test
    void heldEventsAreCountedByReasonFromTheStart() throws Exception {
        Metrics metrics = new Metrics();
        MockEnvironment environment = MockEnvironment.builder().setMetricGroup(metrics.task()).build();
        try (Expand expand = new Expand(KeyedRow.URGENT, Expand.UNGUARDED, environment)) {
            expand.open();
            assertEquals(0, metrics.count("stage.read.reason.paused.quarantined"));
            assertEquals(0, metrics.count("stage.read.reason.source_quarantined.quarantined"));
            expand.policy("pause/category/news", PAUSE_NEWS);
            expand.fate(record("shop", "news"));
            assertEquals(1, metrics.count("stage.read.reason.paused.quarantined"));
        }
    }
}
