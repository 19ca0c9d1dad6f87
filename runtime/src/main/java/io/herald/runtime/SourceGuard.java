package io.herald.runtime;

import java.io.IOException;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.DeserializationFeature;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectReader;

/**
 * Which events are held whole, or refused, before they are expanded: rules in, a verdict out. Pauses come first, then what a
 * source may use, then its rate; a source that has no rules of its own has those of {@code *}, if there are such.
 *
 * <p>Of the policy documents only what concerns this is read. One that cannot be read changes nothing: Python, which decides,
 * reports it. A set counts only above the version in force, as it does there.
 *
 * <p><b>Rate.</b> A token bucket a source, {@code rate} tokens a second, {@code rate × burst} at most. Each of the operator's
 * subtasks has an even share of both, so the rate is exact only where a source's events are spread over the partitions: one
 * that writes to a single partition has the share of one subtask. Each lane has buckets of its own: a flood in one never
 * takes the other's. Time is that of the records and not the clock, so that a backlog, read at once, is judged as it came;
 * it passes for each partition by itself, since partitions are read at different speeds. After a restore buckets are full.
 */
final class SourceGuard {
    static final String PAUSED = "paused";
    static final String OVER_RATE = "source_quarantined";
    static final String NOT_ALLOWED = "category_not_allowed";

    static final String POLICY_SET = "policies";
    static final String ANY_SOURCE = "*";
    /** Past this many sources the one heard of the longest ago starts anew with a full bucket. */
    static final int MOST_BUCKETS = 10_000;

    private static final String PAUSE = "pause/";
    private static final Set<String> SCOPES = Set.of("source", "category", "campaign");
    private static final ObjectReader JSON = new ObjectMapper()
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).reader();

    /** Why an event does not pass: held in the quarantine, or rejected. */
    record Verdict(boolean held, Refused why) {}

    /** {@code categories} null: all of them; {@code rate} 0: any. */
    private record Rule(Set<String> categories, double rate, double burst) {}

    private record PolicySet(long version, Map<String, Rule> sources) {}

    private static final class Bucket {
        private double tokens;
        private final Map<Integer, Long> clocks = new HashMap<>(4);

        private Bucket(double tokens) {
            this.tokens = tokens;
        }

        private boolean take(double rate, double depth, int partition, long at) {
            Long before = clocks.get(partition);
            if (before == null || at > before) {
                clocks.put(partition, at);
            }
            if (before != null && at > before) {
                tokens += (at - before) * rate / 1000 / clocks.size();
            }
            tokens = Math.min(tokens, depth);
            if (tokens < 1) {
                return false;
            }
            tokens--;
            return true;
        }
    }

    private final PolicySet packaged;
    private final int subtasks;
    private final Set<String> paused = new HashSet<>();
    private final Map<String, Bucket> buckets = new LinkedHashMap<>(16, 0.75f, true) {
        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Bucket> eldest) {
            return size() > MOST_BUCKETS;
        }
    };
    private PolicySet rules;

    /**
     * @param packaged the set that travels with the job
     * @param subtasks of how many this is one
     */
    SourceGuard(byte[] packaged, int subtasks) {
        try {
            this.packaged = policySet(document(packaged));
        } catch (IOException | Unusable error) {
            throw new IllegalArgumentException("the packaged policies: " + error.getMessage(), error);
        }
        this.subtasks = subtasks;
        this.rules = this.packaged;
    }

    /** Put a document into force; false where it is of no concern here, cannot be used or is not newer. */
    boolean take(String name, byte[] bytes) {
        try {
            if (name.equals(POLICY_SET)) {
                PolicySet set = policySet(document(bytes));
                if (set.version < rules.version || set.version == rules.version && !set.equals(rules)) {
                    return false;
                }
                rules = set;
                return true;
            }
            if (name.startsWith(PAUSE)) {
                checkPause(name, document(bytes));
                paused.add(name);
                return true;
            }
            return false;
        } catch (IOException | Unusable error) {
            return false;
        }
    }

    /** A document is gone: a pause is lifted; without a set the packaged one is in force again. */
    void remove(String name) {
        if (name.equals(POLICY_SET)) {
            rules = packaged;
        } else {
            paused.remove(name);
        }
    }

    /**
     * Judge an event; null where it passes.
     *
     * @param source the event's, and its category and campaign: null where it has none that could be one
     * @param exempt whether the rate was judged elsewhere: at the gateway, or by whoever released the event
     * @param partition and timestamp of the record, in ms; one ahead of {@code now} counts as now
     */
    Verdict judge(String source, String category, String campaign, boolean exempt, int partition, long timestamp, long now) {
        if (!paused.isEmpty()) {
            String scope = isPaused("source", source) ? "source" : isPaused("category", category) ? "category"
                    : isPaused("campaign", campaign) ? "campaign" : null;
            if (scope != null) {
                return new Verdict(true, new Refused(PAUSED, scope.equals("source") ? "$.source" : "$.data." + scope,
                        "the " + scope + " is paused"));
            }
        }
        Rule rule = source == null ? null : rules.sources.getOrDefault(source, rules.sources.get(ANY_SOURCE));
        if (rule == null) {
            return null;
        }
        if (rule.categories != null && category != null && !rule.categories.contains(category)) {
            return new Verdict(false, new Refused(NOT_ALLOWED, "$.data.category", "the source may not use this category"));
        }
        if (exempt || rule.rate == 0) {
            return null;
        }
        double rate = rule.rate / subtasks;
        double depth = Math.max(1, rate * rule.burst);
        Bucket bucket = buckets.computeIfAbsent(source, name -> new Bucket(depth));
        if (bucket.take(rate, depth, partition, Math.min(timestamp, now))) {
            return null;
        }
        return new Verdict(true, new Refused(OVER_RATE, "$.source",
                "the source is over its rate of " + rule.rate + " events a second"));
    }

    private boolean isPaused(String scope, String name) {
        return name != null && paused.contains(PAUSE + scope + "/" + name);
    }

    private static JsonNode document(byte[] bytes) throws IOException, Unusable {
        if (Utf8.invalidByte(bytes) >= 0) {
            throw new Unusable("not UTF-8");
        }
        JsonNode document = JSON.readTree(bytes);
        if (document == null || !document.isObject()) {
            throw new Unusable("not an object");
        }
        return document;
    }

    private static void checkPause(String name, JsonNode pause) throws Unusable {
        onlyKeys(pause, Set.of("kind", "scope", "name"));
        String scope = pause.path("scope").asText();
        if (!pause.path("kind").asText().equals("pause") || !SCOPES.contains(scope)
                || !name.equals(PAUSE + scope + "/" + pause.path("name").asText())) {
            throw new Unusable("no pause of what its key names");
        }
    }

    /** What messages/policy.py says of {@code version} and {@code sources}, and the names of the categories. */
    private static PolicySet policySet(JsonNode set) throws Unusable {
        require(set.path("v").asInt(1) == 1, "v");
        JsonNode version = set.path("version");
        require(version.isIntegralNumber() && version.canConvertToLong() && version.asLong() >= 1, "version");
        Set<String> known = new HashSet<>();
        set.path("categories").fieldNames().forEachRemaining(known::add);
        require(!known.isEmpty(), "categories");
        JsonNode sources = set.path("sources");
        require(sources.isObject() || sources.isMissingNode(), "sources");
        Map<String, Rule> rules = new HashMap<>();
        for (Iterator<Map.Entry<String, JsonNode>> each = sources.fields(); each.hasNext();) {
            Map.Entry<String, JsonNode> source = each.next();
            require(UserKey.problemOfId(source.getKey()) == null, "sources");
            rules.put(source.getKey(), rule(source.getValue(), known));
        }
        return new PolicySet(version.asLong(), rules);
    }

    private static Rule rule(JsonNode source, Set<String> known) throws Unusable {
        require(source.isObject(), "sources");
        onlyKeys(source, Set.of("categories", "rate", "burst"));
        Set<String> categories = null;
        JsonNode names = source.path("categories");
        if (!names.isMissingNode() && !names.isNull()) {
            require(names.isArray() && !names.isEmpty(), "categories");
            categories = new HashSet<>();
            for (JsonNode name : names) {
                require(name.isTextual() && known.contains(name.textValue()), "categories");
                categories.add(name.textValue());
            }
        }
        JsonNode rate = source.path("rate");
        boolean any = rate.isMissingNode() || rate.isNull();
        require(any || rate.isNumber() && rate.asDouble() > 0 && rate.asDouble() <= 10_000_000, "rate");
        JsonNode burst = source.path("burst");
        require(burst.isMissingNode() || burst.isNumber() && burst.asDouble() >= 1 && burst.asDouble() <= 3_600, "burst");
        return new Rule(categories, any ? 0 : rate.asDouble(), burst.isMissingNode() ? 10 : burst.asDouble());
    }

    private static void onlyKeys(JsonNode object, Set<String> keys) throws Unusable {
        for (Iterator<String> each = object.fieldNames(); each.hasNext();) {
            require(keys.contains(each.next()), "an unknown key");
        }
    }

    private static void require(boolean fine, String place) throws Unusable {
        if (!fine) {
            throw new Unusable(place);
        }
    }

    private static final class Unusable extends Exception {
        private Unusable(String message) {
            super(message, null, false, false);
        }
    }
}
