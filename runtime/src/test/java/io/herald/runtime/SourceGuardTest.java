package io.herald.runtime;

import static io.herald.runtime.Records.quoted;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class SourceGuardTest {
    private static final long NOW = 1_000_000_000;

    private static byte[] set(int version, String sources) {
        return quoted("{'v': 1, 'version': " + version + ", 'categories': {'orders': {}, 'news': {}}, 'sources': {"
                + sources + "}}");
    }

    private static SourceGuard guard(String sources) {
        return new SourceGuard(set(1, sources), 1);
    }

    private static String pause(String scope, String name) {
        return "{'kind': 'pause', 'scope': '" + scope + "', 'name': '" + name + "'}";
    }

    private static String judge(SourceGuard guard, String source, String category, String campaign) {
        SourceGuard.Verdict verdict = guard.judge(source, category, campaign, false, 0, NOW, NOW);
        return verdict == null ? "passes" : (verdict.held() ? "held " : "rejected ") + verdict.why().reason;
    }

    @Test
    void whatNoRuleSpeaksOfPasses() {
        SourceGuard guard = guard("'shop': {'categories': ['orders'], 'rate': 1}");
        for (int i = 0; i < 100; i++) {
            assertEquals("passes", judge(guard, "bank", "news", null));
            assertEquals("passes", judge(guard, null, null, null));
        }
    }

    @Test
    void pausesHoldTheirOwnAndAreLifted() {
        SourceGuard guard = guard("");
        for (String scope : List.of("source", "category", "campaign")) {
            String name = "pause/" + scope + "/x/y";
            assertTrue(guard.take(name, quoted(pause(scope, "x/y"))));
            List<String> fates = new ArrayList<>();
            for (int place = 0; place < 3; place++) {
                fates.add(judge(guard, place == 0 ? "x/y" : "o", place == 1 ? "x/y" : "o", place == 2 ? "x/y" : "o"));
            }
            List<String> expected = new ArrayList<>(List.of("passes", "passes", "passes"));
            expected.set(List.of("source", "category", "campaign").indexOf(scope), "held paused");
            assertEquals(expected, fates);
            guard.remove(name);
            assertEquals("passes", judge(guard, "x/y", "x/y", "x/y"));
        }
    }

    @Test
    void pauseComesBeforeTheCategoryAndThatBeforeTheRate() {
        SourceGuard guard = guard("'shop': {'categories': ['orders'], 'rate': 0.001, 'burst': 1}");
        assertEquals("passes", judge(guard, "shop", "orders", null));
        assertEquals("rejected category_not_allowed", judge(guard, "shop", "news", null));
        assertEquals("held source_quarantined", judge(guard, "shop", "orders", null));
        guard.take("pause/source/shop", quoted(pause("source", "shop")));
        assertEquals("held paused", judge(guard, "shop", "news", null));
        assertEquals("held paused", judge(guard, "shop", "orders", null));
    }

    @Test
    void starIsForSourcesWithoutRulesOfTheirOwnEachByItself() {
        SourceGuard guard = guard("'*': {'categories': ['orders'], 'rate': 0.1, 'burst': 10}, 'shop': {}");
        assertEquals("rejected category_not_allowed", judge(guard, "bank", "news", null));
        assertEquals("passes", judge(guard, "shop", "news", null));
        for (String source : List.of("bank", "chat")) {
            assertEquals("passes", judge(guard, source, "orders", null));
            assertEquals("held source_quarantined", judge(guard, source, "orders", null));
        }
    }

    @Test
    void exemptEventsTakeNoTokenAndAreStillPausedAndRefused() {
        SourceGuard guard = guard("'shop': {'categories': ['orders'], 'rate': 0.1, 'burst': 10}");
        for (int i = 0; i < 50; i++) {
            assertNull(guard.judge("shop", "orders", null, true, 0, NOW, NOW));
        }
        assertEquals("passes", judge(guard, "shop", "orders", null));
        assertEquals("category_not_allowed", guard.judge("shop", "news", null, true, 0, NOW, NOW).why().reason);
        guard.take("pause/category/orders", quoted(pause("category", "orders")));
        assertTrue(guard.judge("shop", "orders", null, true, 0, NOW, NOW).held());
    }

    @Test
    void heldEventsOfOtherRulesTakeNoToken() {
        SourceGuard guard = guard("'shop': {'categories': ['orders'], 'rate': 0.1, 'burst': 10}");
        guard.take("pause/campaign/spring", quoted(pause("campaign", "spring")));
        for (int i = 0; i < 50; i++) {
            judge(guard, "shop", "orders", "spring");
            judge(guard, "shop", "news", null);
        }
        assertEquals("passes", judge(guard, "shop", "orders", null));
    }

    /** Against a log of what passed: never more than the bucket allows in any span, never less than the rate. */
    @Test
    void rateAndBurstAreKeptOverAnySpan() {
        Random random = new Random(7);
        for (int round = 0; round < 30; round++) {
            double rate = 1 + random.nextInt(50);
            double burst = 1 + random.nextInt(10);
            int subtasks = 1 + random.nextInt(3);
            SourceGuard guard = new SourceGuard(
                    set(1, "'shop': {'rate': " + rate + ", 'burst': " + burst + "}"), subtasks);
            List<Long> passed = new ArrayList<>();
            long at = NOW;
            int offered = 0;
            for (int i = 0; i < 2000; i++) {
                at += random.nextInt((int) (1000 / rate) + 1);
                offered++;
                if (guard.judge("shop", "orders", null, false, 0, at, at) == null) {
                    passed.add(at);
                }
            }
            double share = rate / subtasks;
            double depth = Math.max(1, share * burst);
            for (int from = 0; from < passed.size(); from += 7) {
                for (int to = from; to < passed.size(); to += 3) {
                    double allowed = depth + share * (passed.get(to) - passed.get(from)) / 1000 + 1e-6;
                    assertTrue(to - from + 1 <= allowed, "rate " + rate + ", burst " + burst + ": " + (to - from + 1));
                }
            }
            double due = Math.min(offered, share * (at - NOW) / 1000);
            assertTrue(passed.size() >= Math.floor(due - 1), passed.size() + " of " + offered + ", due " + due);
        }
    }

    /** Partitions read one after the other, as in a backlog: the same as if they had been read as they came. */
    @Test
    void backlogIsJudgedAsItCame() {
        SourceGuard guard = new SourceGuard(set(1, "'shop': {'rate': 8, 'burst': 5}"), 1);
        long later = NOW + 3_600_000;
        for (int partition = 0; partition < 4; partition++) {
            for (int i = 0; i < 600; i++) {     // half the rate: an event a second and partition is 4 a second
                assertNull(guard.judge("shop", "orders", null, false, partition, NOW + i * 1000L, later),
                        partition + "/" + i);
            }
        }
    }

    @Test
    void timestampsFromTheFutureOrThePastStopNobodyForLong() {
        SourceGuard guard = new SourceGuard(set(1, "'shop': {'rate': 1, 'burst': 1}"), 1);
        guard.judge("shop", "orders", null, false, 0, NOW + 86_400_000, NOW);
        guard.judge("shop", "orders", null, false, 0, NOW - 86_400_000, NOW);
        assertNull(guard.judge("shop", "orders", null, false, 0, NOW + 1000, NOW + 1000));
    }

    @Test
    void numberOfBucketsIsBounded() {
        SourceGuard guard = guard("'*': {'rate': 0.001, 'burst': 1}");
        for (int i = 0; i <= SourceGuard.MOST_BUCKETS; i++) {
            assertEquals("passes", judge(guard, "source-" + i, "orders", null));
        }
        assertEquals("held source_quarantined", judge(guard, "source-" + SourceGuard.MOST_BUCKETS, "orders", null));
        assertEquals("passes", judge(guard, "source-0", "orders", null));
    }

    @Test
    void higherVersionRulesAndTheRemovedSetGivesWayToThePackagedOne() {
        SourceGuard guard = guard("'shop': {'categories': ['orders']}");
        assertTrue(guard.take("policies", set(3, "'shop': {'categories': ['news']}")));
        assertEquals("passes", judge(guard, "shop", "news", null));
        assertFalse(guard.take("policies", set(2, "'shop': {}")));
        assertFalse(guard.take("policies", set(3, "'shop': {}")));
        assertTrue(guard.take("policies", set(3, "'shop': {'categories': ['news']}")));
        assertEquals("rejected category_not_allowed", judge(guard, "shop", "orders", null));
        guard.remove("policies");
        assertEquals("rejected category_not_allowed", judge(guard, "shop", "news", null));
        assertEquals("passes", judge(guard, "shop", "orders", null));
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "", "x", "[]", "null", "{}", "{'version': 9}", "{'version': 9, 'categories': {}}",
        "{'version': '9', 'categories': {'c': {}}}", "{'version': 0, 'categories': {'c': {}}}",
        "{'v': 2, 'version': 9, 'categories': {'c': {}}}",
        "{'version': 9, 'categories': {'c': {}}} x",
        "{'version': 9, 'categories': {'c': {}}, 'sources': []}",
        "{'version': 9, 'categories': {'c': {}}, 'sources': {'': {}}}",
        "{'version': 9, 'categories': {'c': {}}, 'sources': {'s': 1}}",
        "{'version': 9, 'categories': {'c': {}}, 'sources': {'s': {'rat': 1}}}",
        "{'version': 9, 'categories': {'c': {}}, 'sources': {'s': {'rate': 0}}}",
        "{'version': 9, 'categories': {'c': {}}, 'sources': {'s': {'rate': '5'}}}",
        "{'version': 9, 'categories': {'c': {}}, 'sources': {'s': {'rate': 5, 'burst': 0.5}}}",
        "{'version': 9, 'categories': {'c': {}}, 'sources': {'s': {'categories': []}}}",
        "{'version': 9, 'categories': {'c': {}}, 'sources': {'s': {'categories': ['d']}}}",
        "{'version': 9, 'categories': {'c': {}}, 'sources': {'s': {'categories': 'c'}}}"})
    void setThatCannotBeReadChangesNothing(String document) {
        SourceGuard guard = guard("'shop': {'categories': ['orders']}");
        assertFalse(guard.take("policies", quoted(document)));
        assertEquals("rejected category_not_allowed", judge(guard, "shop", "news", null));
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "x", "{}", "{'kind': 'pause', 'scope': 'source'}", "{'kind': 'pause', 'scope': 'user', 'name': 'shop'}",
        "{'kind': 'resume', 'scope': 'source', 'name': 'shop'}", "{'kind': 'pause', 'scope': 'source', 'name': 'chat'}",
        "{'kind': 'pause', 'scope': 'category', 'name': 'shop'}",
        "{'kind': 'pause', 'scope': 'source', 'name': 'shop', 'until': 5}"})
    void pauseThatIsNoneChangesNothing(String document) {
        SourceGuard guard = guard("");
        assertFalse(guard.take("pause/source/shop", quoted(document)));
        assertFalse(guard.take("budget/shop/sms", quoted(document)));
        assertEquals("passes", judge(guard, "shop", "shop", "shop"));
    }

    @Test
    void packagedSetMustBeOne() {
        assertThrows(IllegalArgumentException.class, () -> new SourceGuard(quoted("{}"), 1));
    }
}
