package io.herald.runtime;

import java.util.HashMap;
import java.util.Map;
import org.apache.flink.api.common.JobID;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MetricOptions;
import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.Metric;
import org.apache.flink.runtime.clusterframework.types.ResourceID;
import org.apache.flink.runtime.executiongraph.ExecutionAttemptID;
import org.apache.flink.runtime.metrics.groups.TaskManagerMetricGroup;
import org.apache.flink.runtime.metrics.groups.TaskMetricGroup;
import org.apache.flink.runtime.metrics.scope.ScopeFormats;
import org.apache.flink.runtime.metrics.util.TestingMetricRegistry;

/** The metrics of the operators of one task, by name, the labels before it. */
final class Metrics {
    private final Map<String, Metric> byName = new HashMap<>();
    private final TaskMetricGroup task;

    Metrics() {
        Configuration names = new Configuration().set(MetricOptions.SCOPE_NAMING_OPERATOR, "operator");
        var registry = TestingMetricRegistry.builder()
                .setRegisterConsumer((metric, name, group) -> byName.put(group.getMetricIdentifier(name), metric))
                .setScopeFormats(ScopeFormats.fromConfig(names))
                .build();
        task = TaskManagerMetricGroup.createTaskManagerMetricGroup(registry, "localhost", ResourceID.generate())
                .addJob(new JobID(), "job")
                .addTask(ExecutionAttemptID.randomId(), "task");
    }

    TaskMetricGroup task() {
        return task;
    }

    <M extends Metric> M get(Class<M> kind, String name) {
        return kind.cast(byName.get("operator." + name));
    }

    long count(String name) {
        return get(Counter.class, name).getCount();
    }
}
