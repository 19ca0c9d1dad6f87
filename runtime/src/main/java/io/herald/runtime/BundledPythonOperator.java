package io.herald.runtime;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Comparator;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.state.BroadcastState;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.api.java.typeutils.ResultTypeQueryable;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.Histogram;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.runtime.metrics.DescriptiveStatisticsHistogram;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.operators.BoundedMultiInput;
import org.apache.flink.streaming.api.operators.InternalTimer;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.Triggerable;
import org.apache.flink.streaming.api.operators.TwoInputStreamOperator;
import org.apache.flink.streaming.api.operators.python.embedded.AbstractEmbeddedPythonFunctionOperator;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.types.Row;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A keyed operator that enters Python once a bundle instead of once a record: the records of a bundle and the states of
 * their keys go in as one byte[]; new states, timers, outputs and counts come back as one. docs/runtime.md has the format.
 * Built on PyFlink's embedded operator, which prepares the interpreter, the shipped files and the virtual environment.
 *
 * <p>Input 1, keyed: KeyedRow. Input 2, broadcast: policies as RecordReader reads them. Output: OutputRow.
 *
 * <p>Timers are event-time timers driven by the processing clock, at most {@link #TIMERS_A_TICK} at a time: processing-time
 * timers that are due together would all fire in one loop that nothing can interrupt.
 */
public class BundledPythonOperator extends AbstractEmbeddedPythonFunctionOperator<Row>
        implements TwoInputStreamOperator<Tuple3<String, Integer, byte[]>, Row, Row>,
                Triggerable<String, VoidNamespace>, BoundedMultiInput, ResultTypeQueryable<Row> {
    static final int TIMERS_A_TICK = 256;
    static final long TICK_MILLIS = 20;
    static final long TICK_MILLIS_BEHIND = 5;
    private static final int BUNDLE_BYTES = 4 * 1024 * 1024;
    private static final int HISTOGRAM_WINDOW = 512;
    private static final byte[] NOTHING = new byte[0];
    private static final TypeInformation<byte[]> BYTES = PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;
    private static final Logger LOG = LoggerFactory.getLogger(BundledPythonOperator.class);

    private final String module;
    private final byte[] setup;
    private final int maxItems;
    private final long maxMillis;

    private transient ValueState<byte[]> profile;
    private transient ValueState<byte[]> activity;
    private transient MapState<String, byte[]> pending;
    private transient BroadcastState<String, byte[]> policies;
    private transient InternalTimerService<VoidNamespace> timers;
    private transient int firedThisTick;
    private transient long timersDueAt;
    private transient boolean closed;

    private transient Bundle bundle;
    private transient long bundleNumber;
    private transient long bundleStart;
    private transient boolean flushScheduled;
    private transient long[] arrivals;
    private transient int[] kinds;

    private transient Map<String, Counter> counters;
    private transient volatile long policyVersion;
    private transient Histogram bundleSize;
    private transient Histogram pythonMicros;
    private transient Histogram urgentMillis;
    private transient Histogram backgroundMillis;

    /**
     * @param config the job's Python settings ({@code python.executable} and its kin)
     * @param module the Python module whose class Handler decides
     * @param setup given to its {@code configure}
     * @param maxItems a bundle's items at most
     * @param maxMillis a bundle's age at most
     */
    public BundledPythonOperator(Configuration config, String module, byte[] setup, int maxItems, long maxMillis) {
        super(config);
        this.module = module;
        this.setup = setup;
        this.maxItems = maxItems;
        this.maxMillis = maxMillis;
    }

    @Override
    public void open() throws Exception {
        super.open();
        profile = getKeyedStateStore().getState(new ValueStateDescriptor<>("profile", BYTES));
        activity = getKeyedStateStore().getState(new ValueStateDescriptor<>("activity", BYTES));
        pending = getKeyedStateStore().getMapState(new MapStateDescriptor<>("pending", Types.STRING, BYTES));
        policies = getOperatorStateBackend().getBroadcastState(new MapStateDescriptor<>("policies", Types.STRING, BYTES));
        timers = getInternalTimerService("due", VoidNamespaceSerializer.INSTANCE, this);
        openMetrics();

        if (interpreter.invokeMethod("handler", "configure", setup, subtask()) instanceof String names) {
            names.lines().forEach(name -> count(name, 0));      // what alerts watch is there before it first happens
        }
        // The set, whose name has no slash, before what lies over it.
        Map<String, byte[]> restored = new TreeMap<>(
                Comparator.comparing((String name) -> name.contains("/")).thenComparing(Comparator.naturalOrder()));
        for (Map.Entry<String, byte[]> policy : policies.entries()) {
            restored.put(policy.getKey(), policy.getValue());
        }
        restored.forEach((name, document) -> {
            if (!load(name, document)) {
                LOG.warn("The stored policy {} is not used: {}", name, policyError());
            }
        });
        notePolicyVersion();
        startBundle();
        scheduleTick(TICK_MILLIS);
    }

    @Override
    public void openPythonInterpreter() {
        interpreter.exec("from " + module + " import Handler\nhandler = Handler()");
    }

    private void openMetrics() {
        MetricGroup metrics = getMetricGroup();
        counters = new HashMap<>();
        bundleSize = metrics.histogram("bundle_items", new DescriptiveStatisticsHistogram(HISTOGRAM_WINDOW));
        pythonMicros = metrics.histogram("bundle_python_micros", new DescriptiveStatisticsHistogram(HISTOGRAM_WINDOW));
        urgentMillis = metrics.addGroup("lane", "urgent")
                .histogram("decision_latency_ms", new DescriptiveStatisticsHistogram(HISTOGRAM_WINDOW));
        backgroundMillis = metrics.addGroup("lane", "background")
                .histogram("decision_latency_ms", new DescriptiveStatisticsHistogram(HISTOGRAM_WINDOW));
        metrics.gauge("policy_version", () -> policyVersion);
        metrics.gauge("timers_behind_ms", () -> timersDueAt == 0 ? 0 : Math.max(0, now() - timersDueAt));
    }

    @Override
    public void processElement1(StreamRecord<Tuple3<String, Integer, byte[]>> record) throws Exception {
        Tuple3<String, Integer, byte[]> row = record.getValue();
        add(row.f0, row.f1, row.f2);
    }

    /** A policy applies to what comes after it: the open bundle is decided first. */
    @Override
    public void processElement2(StreamRecord<Row> record) throws Exception {
        flush();
        Row row = record.getValue();
        byte[] key = row.getFieldAs(RecordReader.KEY);
        byte[] document = row.getFieldAs(RecordReader.VALUE);
        String name = key == null ? null : Utf8.textOrNull(key);
        if (name == null) {
            rejectPolicy(row, "the record's key is the policy's name, in UTF-8");
        } else if (document == null) {
            interpreter.invokeMethod("handler", "policy_removed", name);
            policies.remove(name);
            notePolicyVersion();
        } else if (load(name, document)) {
            policies.put(name, document);       // only what loads is stored: a restart would read it again
            notePolicyVersion();
        } else {
            rejectPolicy(row, policyError());
        }
    }

    private boolean load(String name, byte[] document) {
        return Boolean.TRUE.equals(interpreter.invokeMethod("handler", "policy", name, document));
    }

    /** For the gauge, which is read by another thread: that may not enter Python. */
    private void notePolicyVersion() {
        policyVersion = interpreter.invokeMethod("handler", "policy_version") instanceof Number version
                ? version.longValue() : 0;
    }

    private String policyError() {
        return String.valueOf(interpreter.invokeMethod("handler", "policy_error"));
    }

    /** Every subtask refuses it alike; one says so. */
    private void rejectPolicy(Row record, String detail) {
        if (subtask() == 0) {
            count("rejected;stage=policy;reason=invalid_policy", 1);
            emit(OutputRow.rejected("policy", new Refused("invalid_policy", "$", detail), record));
        }
    }

    @Override
    public void onEventTime(InternalTimer<String, VoidNamespace> timer) throws Exception {
        firedThisTick++;
        timersDueAt = timer.getTimestamp();
        add(timer.getKey(), KeyedRow.TIMER, KeyedRow.entry(KeyedRow.TIMER, "", 0, timer.getTimestamp(), 0, NOTHING));
    }

    @Override
    public void onProcessingTime(InternalTimer<String, VoidNamespace> timer) {}

    private void scheduleTick(long millis) {
        getProcessingTimeService().registerTimer(now() + millis, this::tick);
    }

    private void tick(long scheduled) throws Exception {
        if (closed) {
            return;
        }
        firedThisTick = 0;
        boolean done = getTimeServiceManager().orElseThrow()
                .tryAdvanceWatermark(new Watermark(now()), () -> firedThisTick >= TIMERS_A_TICK);
        if (done) {
            timersDueAt = 0;
        }
        scheduleTick(done ? TICK_MILLIS : TICK_MILLIS_BEHIND);
    }

    /** Event time is the operator's own clock here; watermarks of the inputs, the final one included, do not move it. */
    @Override
    public void processWatermark(Watermark watermark) {}

    @Override
    public void setCurrentKey(Object key) {
        getKeyedStateBackend().setCurrentKey(key);
    }

    /** Take an item of the current key into the bundle. */
    private void add(String key, int kind, byte[] entry) throws Exception {
        Bundle.Slot slot = bundle.slot(key);
        if (slot == null) {
            slot = bundle.newSlot(key);
            slot.profile = profile.value();
            slot.activity = activity.value();
        }
        if (slot.pending == null && (kind == KeyedRow.TIMER || hasPending(slot.activity))) {
            slot.pending = new HashMap<>();
            for (Map.Entry<String, byte[]> item : pending.entries()) {
                slot.pending.put(item.getKey(), item.getValue());
            }
        }
        arrivals[bundle.size()] = KeyedRow.timestamp(entry);
        kinds[bundle.size()] = kind;
        bundle.add(slot, entry);
        if (kind == KeyedRow.URGENT || bundle.size() >= maxItems || bundle.bytes() >= BUNDLE_BYTES) {
            flush();
        } else if (bundle.size() == 1) {
            bundleStart = now();
            if (!flushScheduled) {
                scheduleFlush(maxMillis);
            }
        }
    }

    /** The first byte of an activity says whether its key has pending work; most keys have none, and need no third read. */
    private static boolean hasPending(byte[] activity) {
        return activity != null && activity.length > 0 && activity[0] != 0;
    }

    private void startBundle() {
        bundle = new Bundle();
        bundleNumber++;
        arrivals = new long[maxItems];
        kinds = new int[maxItems];
    }

    /** One clock timer at a time: where it finds a younger bundle than it was set for, it is set once more. */
    private void scheduleFlush(long millis) {
        flushScheduled = true;
        long scheduledFor = bundleNumber;
        getProcessingTimeService().registerTimer(now() + millis, time -> {
            flushScheduled = false;
            if (closed || bundle.size() == 0) {
                return;
            }
            if (bundleNumber == scheduledFor) {
                flush();
            } else {
                scheduleFlush(Math.max(0, Math.min(maxMillis, bundleStart + maxMillis - now())));   // clocks get set
            }
        });
    }

    private void flush() throws Exception {
        if (bundle.size() == 0) {
            return;
        }
        Bundle decided = bundle;
        long[] arrivals = this.arrivals;
        int[] kinds = this.kinds;
        startBundle();
        long start = System.nanoTime();
        byte[] answer = (byte[]) interpreter.invokeMethod("handler", "decide", now(), decided.toByteArray());
        pythonMicros.update((System.nanoTime() - start) / 1000);
        bundleSize.update(decided.size());
        apply(decided, ByteBuffer.wrap(answer));
        long now = now();
        for (int i = 0; i < decided.size(); i++) {
            if (kinds[i] == KeyedRow.URGENT) {
                urgentMillis.update(now - arrivals[i]);
            } else if (kinds[i] == KeyedRow.BACKGROUND) {
                backgroundMillis.update(now - arrivals[i]);
            }
        }
    }

    private void apply(Bundle decided, ByteBuffer in) throws Exception {
        for (int left = in.getInt(); left > 0; left--) {
            setCurrentKey(decided.slot(in.getInt()).key);
            writeState(profile, in);
            writeState(activity, in);
            writePending(in);
            moveTimer(in.getLong(), in.getLong());
        }
        for (int left = in.getInt(); left > 0; left--) {
            emit(Row.of(text(in), chunk(in), chunk(in), headers(in)));
        }
        for (int left = in.getInt(); left > 0; left--) {
            count(text(in), in.getInt());
        }
        if (in.hasRemaining()) {
            throw new IllegalStateException(module + ".Handler.decide: " + in.remaining() + " bytes after its answer's end");
        }
    }

    private void moveTimer(long before, long due) {
        if (before == due) {
            return;
        }
        if (before > 0) {
            timers.deleteEventTimeTimer(VoidNamespace.INSTANCE, before);
        }
        if (due > 0) {
            timers.registerEventTimeTimer(VoidNamespace.INSTANCE, due);
        }
    }

    private void count(String name, int times) {
        counters.computeIfAbsent(name, this::counter).inc(times);
    }

    /** {@code metric;label=value;…} */
    private Counter counter(String name) {
        String[] parts = name.split(";");
        MetricGroup group = getMetricGroup();
        for (int i = 1; i < parts.length; i++) {
            String[] label = parts[i].split("=", 2);
            group = group.addGroup(label[0], label[1]);
        }
        return group.counter(parts[0]);
    }

    /** A byte: 0 keep, 1 clear, 2 update with the chunk that follows. */
    private static void writeState(ValueState<byte[]> state, ByteBuffer in) throws Exception {
        byte op = in.get();
        switch (op) {
            case 0 -> { }
            case 1 -> state.clear();
            case 2 -> state.update(chunk(in));
            default -> throw new IllegalStateException("a state operation is 0, 1 or 2, not " + op);
        }
    }

    private void writePending(ByteBuffer in) throws Exception {
        for (int left = in.getInt(); left > 0; left--) {
            String id = text(in);
            byte[] item = chunk(in);
            if (item == null) {
                pending.remove(id);
            } else {
                pending.put(id, item);
            }
        }
    }

    private static byte[][] headers(ByteBuffer in) {
        int count = in.getInt();
        if (count == 0) {
            return null;
        }
        byte[][] headers = new byte[2 * count][];
        for (int i = 0; i < headers.length; i++) {
            headers[i] = chunk(in);
        }
        return headers;
    }

    /** A length, then the bytes; -1 is null. */
    private static byte[] chunk(ByteBuffer in) {
        int length = in.getInt();
        if (length < 0) {
            return null;
        }
        byte[] bytes = new byte[length];
        in.get(bytes);
        return bytes;
    }

    private static String text(ByteBuffer in) {
        return new String(chunk(in), StandardCharsets.UTF_8);
    }

    private void emit(Row row) {
        output.collect(new StreamRecord<>(row));
    }

    private long now() {
        return getProcessingTimeService().getCurrentProcessingTime();
    }

    private int subtask() {
        return getRuntimeContext().getTaskInfo().getIndexOfThisSubtask();
    }

    @Override
    public void prepareSnapshotPreBarrier(long checkpointId) throws Exception {
        flush();
        super.prepareSnapshotPreBarrier(checkpointId);
    }

    @Override
    public void endInput(int input) throws Exception {
        flush();
    }

    @Override
    public void finish() throws Exception {
        flush();
        super.finish();
    }

    @Override
    public void close() throws Exception {
        closed = true;
        super.close();
    }

    /** The base class's own bundles are not used. */
    @Override
    protected void invokeFinishBundle() {}

    @Override
    public TypeInformation<Row> getProducedType() {
        return OutputRow.TYPE;
    }
}
