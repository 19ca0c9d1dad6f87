# One image for Flink's JobManager and TaskManagers and for Herald's own processes: Flink 2.2.1 on Java 17, with the
# Python 3.11 that the TaskManagers embed.

FROM flink:2.2.1-java17 AS flink

FROM maven:3.9-eclipse-temurin-17 AS java
WORKDIR /build
COPY cli/stack/pom.xml cli/stack/pom.xml
COPY runtime runtime
RUN mvn -q -B -f cli/stack/pom.xml package && mvn -q -B -f runtime/pom.xml package -DskipTests

FROM python:3.11-bookworm AS python
RUN python -m venv /opt/herald/venv
COPY requirements.lock .
RUN /opt/herald/venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 9999 --create-home herald \
    && install -d -o herald /var/lib/herald /var/lib/herald/checkpoints /var/lib/herald/savepoints \
           /var/lib/herald/emulator-fcm

COPY --from=flink /opt/flink /opt/flink
# The Python operators' jar and the metrics reporter belong on the class path, beside the connector and the runtime.
RUN cp /opt/flink/opt/flink-python-*.jar /opt/flink/plugins/metrics-prometheus/*.jar /opt/flink/lib/ \
    && install -d -o herald /opt/flink/log
COPY --from=java /build/var/lib/flink/ /opt/flink/lib/
COPY --from=java /build/runtime/target/herald-runtime.jar /opt/flink/lib/

COPY --from=python /opt/herald/venv /opt/herald/venv
WORKDIR /opt/herald
COPY cli cli
COPY connectors connectors
COPY emulators emulators
COPY flink-conf flink-conf
COPY jobs jobs
COPY messages messages
COPY policy policy
COPY udfs udfs
COPY pyproject.toml setup.py README.md LICENSE ./
RUN venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation --editable .

# The environment's bin first: a TaskManager finds the interpreter that it embeds by PATH.
ENV PATH=/opt/herald/venv/bin:/opt/flink/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FLINK_HOME=/opt/flink \
    FLINK_CONF_DIR=/opt/herald/flink-conf \
    FLINK_LOG_DIR=/opt/flink/log \
    HERALD_CONFIG=/opt/herald/flink-conf/herald.compose.yaml
USER herald
