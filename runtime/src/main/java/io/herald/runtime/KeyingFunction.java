package io.herald.runtime;

import java.util.HashMap;
import java.util.Map;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.api.java.typeutils.ResultTypeQueryable;
import org.apache.flink.metrics.Counter;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.types.Row;
import org.apache.flink.util.OutputTag;

/** Makes keyed rows of records; what it refuses goes to the side output {@code rejected} and is counted by its reason. */
abstract class KeyingFunction extends ProcessFunction<Row, Tuple3<String, Integer, byte[]>>
        implements ResultTypeQueryable<Tuple3<String, Integer, byte[]>> {
    private static final OutputTag<Row> REJECTED = OutputRow.tag("rejected");

    private final String stage;
    private transient Map<String, Counter> counters;

    KeyingFunction(String stage) {
        this.stage = stage;
    }

    @Override
    public void open(OpenContext context) {
        counters = new HashMap<>();
    }

    void reject(Refused refused, Row record, Context context) {
        counters.computeIfAbsent(refused.reason, this::counter).inc();
        context.output(REJECTED, OutputRow.rejected(stage, refused, record));
    }

    private Counter counter(String reason) {
        return getRuntimeContext().getMetricGroup().addGroup("stage", stage).addGroup("reason", reason).counter("rejected");
    }

    @Override
    public TypeInformation<Tuple3<String, Integer, byte[]>> getProducedType() {
        return KeyedRow.TYPE;
    }
}
