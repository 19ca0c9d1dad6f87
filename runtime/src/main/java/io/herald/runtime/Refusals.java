package io.herald.runtime;

import java.util.HashMap;
import java.util.Map;
import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.types.Row;
import org.apache.flink.util.OutputTag;

/** What a function sets aside, for the side outputs {@code rejected} and {@code quarantined}; counted by its reason. */
final class Refusals {
    static final OutputTag<Row> REJECTED = OutputRow.tag("rejected");
    static final OutputTag<Row> QUARANTINED = OutputRow.tag("quarantined");

    private final String stage;
    private final MetricGroup metrics;
    private final Map<String, Counter> counters = new HashMap<>();

    /** @param stage the header of what is set aside */
    Refusals(String stage, MetricGroup metrics) {
        this.stage = stage;
        this.metrics = metrics;
    }

    Row rejected(Refused refused, Row record) {
        counter("rejected", refused.reason).inc();
        return OutputRow.rejected(stage, refused, record);
    }

    Row quarantined(Refused refused, Row record) {
        counter("quarantined", refused.reason).inc();
        return OutputRow.quarantined(stage, refused, record);
    }

    /** The counter of a topic and a reason; asked for, it is there at 0. */
    Counter counter(String topic, String reason) {
        return counters.computeIfAbsent(topic + " " + reason,
                name -> metrics.addGroup("stage", stage).addGroup("reason", reason).counter(topic));
    }
}
