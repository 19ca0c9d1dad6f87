package io.herald.runtime;

import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.api.java.typeutils.ResultTypeQueryable;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.types.Row;
import org.apache.flink.util.Collector;

/**
 * Turns every keyed row into one output row a topic, undecided: with it in decide's place a benchmark measures the JVM's
 * bound.
 */
public class PassThrough extends ProcessFunction<Tuple3<String, Integer, byte[]>, Row> implements ResultTypeQueryable<Row> {
    private final String[] topics;

    /** @param topics the topics that each row goes to, joined by {@code ;} */
    public PassThrough(String topics) {
        this.topics = topics.split(";");
    }

    @Override
    public void processElement(Tuple3<String, Integer, byte[]> row, Context context, Collector<Row> out) {
        for (String topic : topics) {
            out.collect(Row.of(topic, Utf8.bytes(row.f0), KeyedRow.payload(row.f2), null));
        }
    }

    @Override
    public TypeInformation<Row> getProducedType() {
        return OutputRow.TYPE;
    }
}
