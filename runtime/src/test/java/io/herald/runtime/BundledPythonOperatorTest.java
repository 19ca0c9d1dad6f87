package io.herald.runtime;

import static io.herald.runtime.Records.json;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.flink.metrics.Gauge;
import org.apache.flink.metrics.Histogram;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.types.Row;
import org.junit.jupiter.api.Test;

class BundledPythonOperatorTest {
    private static final long NEVER = 1_000_000;

    @Test
    void fullBundleIsDecidedAtOnceInOrder() throws Exception {
        try (Decide decide = Decide.start(3, NEVER)) {
            decide.background("t/b", "{}");
            decide.background("t/a", "{}");
            assertEquals(List.of(), decide.bundles());
            decide.background("t/b", "{}");
            List<JsonNode> bundles = decide.bundles();
            assertEquals(1, bundles.size());
            assertEquals(json("{\"t/b\": [null, null, null], \"t/a\": [null, null, null]}"), bundles.get(0).get("slots"));
            assertEquals(json("[[\"t/b\", 0, \"events\", 7, 0, 0, \"{}\"], [\"t/a\", 0, \"events\", 7, 1, 10, \"{}\"],"
                    + " [\"t/b\", 0, \"events\", 7, 2, 20, \"{}\"]]"), bundles.get(0).get("items"));
            assertEquals(json("[\"the setup\", 0]"), bundles.get(0).get("configured"));
        }
    }

    @Test
    void urgentItemClosesTheBundle() throws Exception {
        try (Decide decide = Decide.start(100, NEVER)) {
            decide.background("t/a", "{}");
            decide.urgent("t/b", "{}");
            assertEquals(2, decide.bundles().get(0).get("items").size());
        }
    }

    @Test
    void largeItemsCloseTheBundle() throws Exception {
        try (Decide decide = Decide.start(100, NEVER)) {
            String megabyte = "{'x': '" + "x".repeat(1 << 20) + "'}";
            for (int i = 0; i < 4; i++) {
                assertEquals(List.of(), decide.bundles());
                decide.background("t/a", megabyte);
            }
            assertEquals(4, decide.bundles().get(0).get("items").size());
        }
    }

    @Test
    void bundleIsDecidedAtItsAge() throws Exception {
        try (Decide decide = Decide.start(2, 50)) {
            decide.background("t/a", "{}");
            decide.clock(10);
            decide.background("t/a", "{}");                   // full: the timer set for this bundle finds a younger one
            assertEquals(1, decide.bundles().size());
            decide.clock(40);
            decide.background("t/a", "{}");
            decide.clock(89);
            assertEquals(List.of(), decide.bundles());
            decide.clock(90);
            List<JsonNode> bundles = decide.bundles();
            assertEquals(1, bundles.size());
            assertEquals(90, bundles.get(0).get("now").asLong());
        }
    }

    @Test
    void clockThatIsSetBackDelaysNoBundleForLong() throws Exception {
        try (Decide decide = Decide.start(2, 50)) {
            decide.clock(100_000);
            decide.background("t/a", "{}");
            decide.background("t/a", "{}");
            decide.background("t/a", "{}");
            decide.bundles();
            decide.harness.getProcessingTimeService().advance(-90_000);
            decide.background("t/a", "{}");
            assertEquals(1, decide.bundles().size());
        }
    }

    @Test
    void openBundleIsDecidedBeforeABarrierAndAtTheEnd() throws Exception {
        try (Decide decide = Decide.start(100, NEVER)) {
            decide.background("t/a", "{}");
            decide.harness.prepareSnapshotPreBarrier(1);
            assertEquals(1, decide.bundles().size());
            decide.background("t/a", "{}");
            decide.harness.endInput1();
            assertEquals(1, decide.bundles().size());
        }
    }

    @Test
    void statesComeBack() throws Exception {
        OperatorSubtaskState snapshot;
        try (Decide decide = Decide.start(100, NEVER)) {
            decide.urgent("t/a", "{'profile': 'P', 'activity': '\\u0001A', 'pending': {'x': '1', 'y': ''}}");
            decide.urgent("t/b", "{'activity': 'B'}");
            assertEquals(json("[\"P\", \"\\u0001A\", {\"x\": \"1\", \"y\": \"\"}]"), decide.states("t/a"));
            decide.urgent("t/a", "{'profile': null, 'pending': {'x': null, 'z': '3'}}");
            assertEquals(json("[null, \"\\u0001A\", {\"y\": \"\", \"z\": \"3\"}]"), decide.states("t/a"));
            snapshot = decide.snapshot();
        }
        try (Decide decide = Decide.restore(snapshot, 100, NEVER, 1, 0)) {
            assertEquals(json("[null, \"\\u0001A\", {\"y\": \"\", \"z\": \"3\"}]"), decide.states("t/a"));
            assertEquals(json("[null, \"B\", {}]"), decide.states("t/b"));
            decide.urgent("t/a", "{'activity': null, 'pending': {'y': null, 'z': null}}");
            decide.urgent("t/b", "{'activity': null}");
            assertEquals(0, decide.harness.numKeyedStateEntries());
        }
    }

    @Test
    void pendingIsReadOnlyWhereTheFirstByteSaysSo() throws Exception {
        try (Decide decide = Decide.start(100, NEVER)) {
            decide.urgent("t/a", "{'activity': '\\u0000A', 'pending': {'x': '1'}}");
            assertEquals(json("[null, \"\\u0000A\", null]"), decide.states("t/a"));
            decide.urgent("t/a", "{'activity': '\\u0001A'}");
            assertEquals(json("[null, \"\\u0001A\", {\"x\": \"1\"}]"), decide.states("t/a"));
            decide.urgent("t/a", "{'activity': ''}");
            assertEquals(json("[null, \"\", null]"), decide.states("t/a"));
        }
    }

    @Test
    void timerReadsPendingAlsoBesideEarlierItemsOfItsKey() throws Exception {
        try (Decide decide = Decide.start(100, 50)) {
            decide.urgent("t/a", "{'activity': '\\u0000', 'pending': {'x': '1'}, 'timer': [0, 1005]}");
            decide.clock(1000);
            decide.bundles();
            decide.background("t/a", "{}");
            decide.clock(1050);
            JsonNode bundle = decide.bundles().get(0);
            assertEquals(json("[null, \"\\u0000\", {\"x\": \"1\"}]"), bundle.get("slots").get("t/a"));
            assertEquals(json("[\"t/a\", -1, \"\", 0, 1005, 0, \"\"]"), bundle.get("items").get(1));
        }
    }

    @Test
    void timersAreSetMovedAndDeleted() throws Exception {
        try (Decide decide = Decide.start(100, 5)) {
            decide.urgent("t/kept", "{'timer': [0, 1000]}");
            decide.urgent("t/moved", "{'timer': [0, 1000]}");
            decide.urgent("t/moved", "{'timer': [1000, 2000]}");
            decide.urgent("t/moved", "{'timer': [2000, 2000]}");
            decide.urgent("t/deleted", "{'timer': [0, 1000]}");
            decide.urgent("t/deleted", "{'timer': [1000, 0]}");
            assertEquals(2, decide.harness.numEventTimeTimers());
            decide.run(999);
            assertEquals(List.of(), timersIn(decide));
            decide.run(1050);
            assertEquals(List.of("t/kept 1000"), timersIn(decide));
            decide.run(2050);
            assertEquals(List.of("t/moved 2000"), timersIn(decide));
            assertEquals(0, decide.harness.numEventTimeTimers());
        }
    }

    @Test
    void timersAreNeverEarlyForPython() throws Exception {
        try (Decide decide = Decide.start(100, 5)) {
            decide.urgent("t/a", "{'timer': [0, 1007]}");
            decide.rows();
            decide.run(1100);
            List<JsonNode> bundles = decide.bundles();
            assertEquals(1, bundles.size());
            assertTrue(bundles.get(0).get("now").asLong() >= 1007, bundles.toString());
        }
    }

    @Test
    void watermarksOfTheInputsFireNothing() throws Exception {
        try (Decide decide = Decide.start(100, 5)) {
            decide.urgent("t/a", "{'timer': [0, 1000]}");
            decide.rows();
            decide.harness.processBothWatermarks(Watermark.MAX_WATERMARK);
            decide.run(500);
            assertEquals(List.of(), decide.bundles());
            assertEquals(1, decide.harness.numEventTimeTimers());
        }
    }

    @Test
    void timersDueTogetherComeInPortionsAndLetUrgentPass() throws Exception {
        int many = 2 * BundledPythonOperator.TIMERS_A_TICK + 10;
        try (Decide decide = Decide.start(10_000, 1)) {
            for (int i = 0; i < many; i++) {
                decide.background("t/" + i, "{'timer': [0, 1000]}");
            }
            decide.run(999);
            assertEquals(List.of(), timersIn(decide));
            List<Integer> portions = new ArrayList<>();
            for (long now = 1000; now <= 1040; now++) {
                decide.run(now);
                List<String> fired = timersIn(decide);
                if (!fired.isEmpty()) {
                    portions.add(fired.size());
                    assertEquals(portions.size() < 3, behind(decide) > 0);
                    decide.urgent("t/urgent", "{}");
                    assertEquals(1, decide.bundles().get(0).get("items").size(), "urgent passes between portions");
                }
            }
            assertEquals(List.of(BundledPythonOperator.TIMERS_A_TICK, BundledPythonOperator.TIMERS_A_TICK, 10), portions);
            assertEquals(0, decide.harness.numEventTimeTimers());
        }
    }

    @Test
    void timersSurviveARestoreAtAnotherParallelism() throws Exception {
        OperatorSubtaskState snapshot;
        Set<String> expected = new HashSet<>();
        try (Decide decide = Decide.start(64, 5)) {
            for (int i = 0; i < 300; i++) {
                decide.background("t/" + i, "{'activity': '\\u0001" + i + "', 'timer': [0, " + (1000 + i) + "]}");
                expected.add("t/" + i + " " + (1000 + i));
            }
            snapshot = decide.snapshot();
        }
        List<String> fired = new ArrayList<>();
        for (int subtask = 0; subtask < 2; subtask++) {
            try (Decide decide = Decide.restore(snapshot, 64, 5, 2, subtask)) {
                decide.run(1400);
                List<String> here = timersIn(decide);
                assertTrue(here.size() > 50, "one subtask has " + here.size());
                fired.addAll(here);
            }
        }
        assertEquals(300, fired.size());
        assertEquals(expected, new HashSet<>(fired));
    }

    @Test
    void twoSubtasksInOneProcessKeepApart() throws Exception {
        try (Decide one = Decide.restore(null, 100, NEVER, 2, 0); Decide two = Decide.restore(null, 100, NEVER, 2, 1)) {
            one.policy("p", "of one");
            assertEquals(json("{\"p\": \"of one\"}"), one.look(keyOf(0)).get("policies"));
            assertEquals(json("{}"), two.look(keyOf(1)).get("policies"));
            assertEquals(1, two.look(keyOf(1)).get("configured").get(1).asInt());
        }
    }

    @Test
    void policiesAreStoredRefusedRemovedAndRestored() throws Exception {
        OperatorSubtaskState snapshot;
        try (Decide decide = Decide.start(100, NEVER)) {
            decide.background("t/a", "{}");
            decide.policy("one", "first");
            assertEquals(json("{}"), decide.bundles().get(0).get("policies"), "the open bundle is decided first");
            decide.policy("a/two", "other");
            decide.policy("gone", "soon");
            decide.policy("gone", null);
            assertEquals(2L, decide.metrics.get(Gauge.class, "policy_version").getValue());
            decide.policy("one", "bad second");
            Row rejected = decide.rows().get(0);
            assertEquals("rejected", rejected.getField(OutputRow.TOPIC));
            assertNull(rejected.getField(OutputRow.KEY));
            assertArrayEquals(Utf8.bytes("bad second"), Records.value(rejected));
            assertEquals(Map.of("stage", "policy", "reason", "invalid_policy", "path", "$", "detail", "starts with bad",
                    "source_topic", "policies", "source_partition", "0", "source_offset", "5", "source_key", "one"),
                    Records.headers(rejected));
            assertEquals(1, decide.metrics.count("stage.policy.reason.invalid_policy.rejected"));
            assertEquals(json("{\"one\": \"first\", \"a/two\": \"other\"}"), decide.look("t/a").get("policies"));
            snapshot = decide.snapshot();
        }
        try (Decide decide = Decide.restore(snapshot, 100, NEVER, 1, 0)) {
            JsonNode seen = decide.look("t/a");
            assertEquals(json("{\"one\": \"first\", \"a/two\": \"other\"}"), seen.get("policies"));
            assertEquals(json("[[\"policy\", \"one\", \"first\"], [\"policy\", \"a/two\", \"other\"]]"), seen.get("calls"),
                    "the set before what lies over it");
            assertEquals(2L, decide.metrics.get(Gauge.class, "policy_version").getValue());
        }
    }

    @Test
    void policyWithoutANameIsRefusedByOneSubtask() throws Exception {
        try (Decide one = Decide.restore(null, 100, NEVER, 2, 0); Decide two = Decide.restore(null, 100, NEVER, 2, 1)) {
            one.policy(null, "text");
            two.policy(null, "text");
            one.policy("p", "bad");
            two.policy("p", "bad");
            assertEquals(2, one.rows().size());
            assertEquals(List.of(), two.rows());
        }
    }

    @Test
    void rowsMayLackKeyValueAndHeaders() throws Exception {
        try (Decide decide = Decide.start(100, NEVER)) {
            decide.urgent("t/a", "{'rows': [['full', 'k', 'v', [['h1', '1'], ['h2', '']]],"
                    + " ['bare', null, null], ['empty', '', '']]}");
            List<Row> rows = decide.rows();
            Row full = rows.get(0);
            assertEquals("full", full.getField(OutputRow.TOPIC));
            assertArrayEquals(Utf8.bytes("k"), full.<byte[]>getFieldAs(OutputRow.KEY));
            assertArrayEquals(Utf8.bytes("v"), Records.value(full));
            assertEquals(Map.of("h1", "1", "h2", ""), Records.headers(full));
            assertEquals(Row.of("bare", null, null, null), rows.get(1));
            assertEquals(0, rows.get(2).<byte[]>getFieldAs(OutputRow.KEY).length);
            assertEquals(0, Records.value(rows.get(2)).length);
        }
    }

    @Test
    void countersAndHistogramsAreMetrics() throws Exception {
        try (Decide decide = Decide.start(100, NEVER)) {
            assertEquals(0, decide.metrics.count("core_failures"));
            assertEquals(0, decide.metrics.count("bound.buckets.bounds_hit"));
            decide.clock(25);
            decide.background("t/a", "{'counters': {'decisions;outcome=sent;reason=none': 2, 'plain': 1}}");
            decide.urgent("t/a", "{'counters': {'decisions;outcome=sent;reason=none': 3}}");
            assertEquals(5, decide.metrics.count("outcome.sent.reason.none.decisions"));
            assertEquals(1, decide.metrics.count("plain"));
            assertEquals(2, histogram(decide, "bundle_items").getStatistics().getMax());
            assertEquals(1, histogram(decide, "bundle_python_micros").getCount());
            assertEquals(25, histogram(decide, "lane.background.decision_latency_ms").getStatistics().getMax());
            assertEquals(15, histogram(decide, "lane.urgent.decision_latency_ms").getStatistics().getMax());
        }
    }

    @Test
    void exceptionInPythonFailsTheJobAndShowsWhere() throws Exception {
        try (Decide decide = Decide.start(100, NEVER)) {
            Exception error = assertThrows(Exception.class, () -> decide.urgent("t/a", "{'raise': 'boom'}"));
            assertTrue(error.getMessage().contains("ValueError") && error.getMessage().contains("boom"), error.getMessage());
            assertTrue(error.getStackTrace()[0].toString().contains("scripted.py"), error.getStackTrace()[0].toString());
        }
    }

    @Test
    void nothingHappensAfterClose() throws Exception {
        Decide decide = Decide.start(100, 5);
        decide.urgent("t/a", "{'timer': [0, 1000]}");
        decide.background("t/a", "{}");
        decide.rows();
        decide.harness.getOperator().close();
        decide.run(1100);
        assertEquals(List.of(), decide.rows());
        assertEquals(1, decide.harness.numEventTimeTimers());
    }

    private static Histogram histogram(Decide decide, String name) {
        return decide.metrics.get(Histogram.class, name);
    }

    @SuppressWarnings("unchecked")
    private static long behind(Decide decide) {
        return ((Gauge<Long>) decide.metrics.get(Gauge.class, "timers_behind_ms")).getValue();
    }

    /** "key time" of every timer that came since the last look. */
    private static List<String> timersIn(Decide decide) throws Exception {
        List<String> fired = new ArrayList<>();
        for (JsonNode bundle : decide.bundles()) {
            bundle.get("items").forEach(item -> {
                if (item.get(1).asInt() == KeyedRow.TIMER) {
                    fired.add(item.get(0).asText() + " " + item.get(4).asLong());
                }
            });
        }
        return fired;
    }

    /** A key that belongs to a subtask of two. */
    private static String keyOf(int subtask) {
        for (int i = 0; ; i++) {
            if (KeyGroupRangeAssignment.assignKeyToParallelOperator(
                    "t/" + i, Decide.MAX_PARALLELISM, 2) == subtask) {
                return "t/" + i;
            }
        }
    }
}
