package io.herald.runtime;

import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.io.JsonStringEncoder;
import org.apache.flink.types.Row;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/**
 * One event for many users becomes one keyed row a user, all sharing one entry. Side outputs: {@code counts}, one record an
 * event, the left side of conservation; {@code rejected}, the bytes of an event that reaches nobody, with the reason.
 */
public class ExpandRecipients extends KeyingFunction {
    private static final OutputTag<Row> COUNTS = OutputRow.tag("counts");

    private final int kind;

    /** @param kind the lane: KeyedRow.URGENT or BACKGROUND */
    public ExpandRecipients(int kind) {
        super("read");
        this.kind = kind;
    }

    @Override
    public void processElement(Row record, Context context, Collector<Tuple3<String, Integer, byte[]>> out) {
        EventHead head;
        try {
            head = EventHead.read(record.getFieldAs(RecordReader.VALUE));
        } catch (Refused refused) {
            reject(refused, record, context);
            context.output(COUNTS, count(record, 0, null));
            return;
        }
        byte[] entry = KeyedRow.entry(kind, record, head.payload());
        for (String user : head.recipients()) {
            out.collect(Tuple3.of(head.tenant() + "/" + user, kind, entry));
        }
        context.output(COUNTS, count(record, head.recipients().size(), head.campaign()));
    }

    /** A CountRecord of messages/decision.py; 0 recipients: unreadable. */
    private static Row count(Row record, int recipients, String campaign) {
        StringBuilder json = new StringBuilder(128)
                .append("{\"v\":1,\"origin\":\"").append(record.getField(RecordReader.TOPIC).toString())
                .append('/').append(record.getField(RecordReader.PARTITION))
                .append('/').append(record.getField(RecordReader.OFFSET))
                .append("\",\"recipients\":").append(recipients);
        if (recipients == 0) {
            json.append(",\"unreadable\":true");
        }
        json.append(",\"arrived_at\":").append(record.getField(RecordReader.TIMESTAMP));
        if (campaign != null) {
            json.append(",\"campaign\":\"");
            JsonStringEncoder.getInstance().quoteAsString(campaign, json);
            json.append('"');
        }
        return Row.of("counts", null, Utf8.bytes(json.append('}').toString()), null);
    }
}
