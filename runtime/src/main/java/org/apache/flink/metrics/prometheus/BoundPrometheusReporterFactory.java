package org.apache.flink.metrics.prometheus;

import io.prometheus.client.exporter.HTTPServer;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.util.Properties;
import org.apache.flink.metrics.MetricConfig;
import org.apache.flink.metrics.reporter.MetricReporter;
import org.apache.flink.metrics.reporter.MetricReporterFactory;

/**
 * Flink's Prometheus reporter on one address: {@code host} (default 127.0.0.1) and {@code port} (default 9249). Flink's
 * own factory knows no address and listens on all of them. In Flink's package, because the registry that the reporter
 * fills is visible there alone.
 */
public final class BoundPrometheusReporterFactory implements MetricReporterFactory {
    @Override
    public MetricReporter createMetricReporter(Properties properties) {
        MetricConfig config = (MetricConfig) properties;
        return new Reporter(
                new InetSocketAddress(config.getString("host", "127.0.0.1"), config.getInteger("port", 9249)));
    }

    private static final class Reporter extends AbstractPrometheusReporter {
        private final HTTPServer server;

        Reporter(InetSocketAddress address) {
            try {
                server = new HTTPServer(address, registry, true);
            } catch (IOException e) {
                throw new UncheckedIOException("metrics cannot be served on " + address, e);
            }
        }

        @Override
        public void close() {
            server.stop();
            super.close();
        }
    }
}
