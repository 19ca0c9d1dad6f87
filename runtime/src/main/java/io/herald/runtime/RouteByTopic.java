package io.herald.runtime;

import java.util.HashMap;
import java.util.Map;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.java.typeutils.ResultTypeQueryable;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.types.Row;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/** Gives each output row to the side output that takes its topic; a row that none takes is an error, never lost. */
public class RouteByTopic extends ProcessFunction<Row, Row> implements ResultTypeQueryable<Row> {
    private final Map<String, OutputTag<Row>> outputs = new HashMap<>();

    /** @param routes {@code topic=output;topic=output}, topics without prefix; several may share an output */
    public RouteByTopic(String routes) {
        for (String route : routes.split(";")) {
            String[] sides = route.split("=");
            if (sides.length != 2 || sides[0].isBlank() || sides[1].isBlank()) {
                throw new IllegalArgumentException("route `" + route + "`: write `topic=output`, joined by `;`");
            }
            if (outputs.put(sides[0].strip(), tag(sides[1].strip())) != null) {
                throw new IllegalArgumentException("topic `" + sides[0] + "` has two routes: remove one");
            }
        }
    }

    /** The side output of the given name, also of the other functions of this package. */
    public static OutputTag<Row> tag(String name) {
        return OutputRow.tag(name);
    }

    @Override
    public void processElement(Row row, Context context, Collector<Row> out) {
        OutputTag<Row> output = outputs.get(row.<String>getFieldAs(OutputRow.TOPIC));
        if (output == null) {
            throw new IllegalStateException("an output row for topic `" + row.getField(OutputRow.TOPIC)
                    + "`, which no sink takes (" + outputs.keySet() + "): add a route and a sink for it to the job");
        }
        context.output(output, row);
    }

    @Override
    public TypeInformation<Row> getProducedType() {
        return OutputRow.TYPE;
    }
}
