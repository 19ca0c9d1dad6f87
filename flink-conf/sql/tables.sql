-- A table over every topic, for Flink SQL. `herald sql` fills in what stands in ${...} and opens Flink's SQL client with
-- these tables and the views of views.sql. Nothing here is on the way of an event.
--
-- Times on the topics are milliseconds since the epoch (decided_at); beside each is a TIMESTAMP_LTZ(3) (decided_time), shown
-- in UTC. A field that a record leaves out, having its default, is NULL. What a transaction wrote that is not committed is
-- not seen. A table ends where its topic ended when the query began; with `herald sql --follow` it goes on.

SET 'table.local-time-zone' = 'UTC';

-- What producers emit, on both lanes. `data.content` and `data.params` are JSON as text: JSON_VALUE takes them apart.
-- What is no JSON is left out here; it is on `rejected`. Times are as the producer wrote them.
CREATE TABLE events (
  event_key STRING,
  id STRING,
  source STRING,
  `type` STRING,
  `time` STRING,
  tenant STRING,
  traceparent STRING,
  data ROW<
    recipients ROW<users ARRAY<STRING>, topics ARRAY<STRING>, exclude ARRAY<STRING>>,
    category STRING,
    priority STRING,
    template STRING,
    params STRING,
    content STRING,
    channels ARRAY<STRING>,
    dedup_key STRING,
    throttle_key STRING,
    collapse_key STRING,
    cancellation_key STRING,
    expires_at STRING,
    ttl BIGINT,
    not_before STRING,
    campaign STRING,
    tags ARRAY<STRING>
  >,
  topic STRING METADATA VIRTUAL,
  `partition` INT METADATA VIRTUAL,
  `offset` BIGINT METADATA VIRTUAL,
  headers MAP<STRING, BYTES> METADATA VIRTUAL,
  arrived_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}events.urgent;${prefix}events.background',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'event_key',
  'value.format' = 'json',
  'value.json.ignore-parse-errors' = 'true',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- Commands on profiles and on what waits, as JSON: JSON_VALUE(command, '$.kind').
CREATE TABLE changes (
  user_key STRING,
  command STRING,
  `partition` INT METADATA VIRTUAL,
  `offset` BIGINT METADATA VIRTUAL,
  written_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}changes',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'user_key',
  'value.format' = 'raw',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- A row for every version of a user's profile that the topic still holds; the highest `version` is the current one.
CREATE TABLE profiles (
  user_key STRING,
  version BIGINT,
  country STRING,
  time_zone STRING,
  locale STRING,
  endpoints ARRAY<ROW<id STRING, provider STRING, address STRING, app STRING, registered_at BIGINT, suppressed STRING>>,
  preferences MAP<STRING, BOOLEAN>,
  quiet_hours ARRAY<ROW<`start` STRING, `end` STRING, days ARRAY<STRING>>>,
  subscriptions MAP<STRING, BOOLEAN>,
  consents MAP<STRING, ROW<`at` BIGINT, `where` STRING, text_version STRING>>,
  written_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}profiles',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'user_key',
  'value.format' = 'json',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- All that was ever put into force, as JSON: the set under the name `policies`, overrides under names of their own.
-- An INSERT changes the running job; a NULL document removes an override. See throttle.sql and pause.sql.
CREATE TABLE policies (
  name STRING,
  document STRING,
  `offset` BIGINT METADATA VIRTUAL,
  written_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}policies',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'name',
  'value.format' = 'raw',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- What adapters are asked to send, of all providers and lanes.
CREATE TABLE deliveries (
  user_key STRING,
  id STRING,
  tenant STRING,
  `user` STRING,
  event_id STRING,
  source STRING,
  category STRING,
  category_class STRING,
  lane STRING,
  channel STRING,
  provider STRING,
  endpoint ROW<id STRING, address STRING, app STRING, registered_at BIGINT>,
  step INT,
  template STRING,
  params STRING,
  content STRING,
  locale STRING,
  collapse_key STRING,
  cancellation_key STRING,
  campaign STRING,
  expires_at BIGINT,
  expires_time AS TO_TIMESTAMP_LTZ(expires_at, 3),
  arrived_at BIGINT,
  arrived_time AS TO_TIMESTAMP_LTZ(arrived_at, 3),
  decided_at BIGINT,
  decided_time AS TO_TIMESTAMP_LTZ(decided_at, 3),
  policy_version BIGINT,
  traceparent STRING,
  topic STRING METADATA VIRTUAL,
  written_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = '${deliveries}',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'user_key',
  'value.format' = 'json',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- What became of a delivery at its provider.
CREATE TABLE outcomes (
  user_key STRING,
  delivery_id STRING,
  tenant STRING,
  `user` STRING,
  event_id STRING,
  source STRING,
  category STRING,
  lane STRING,
  channel STRING,
  provider STRING,
  endpoint_id STRING,
  status STRING,
  `at` BIGINT,
  `time` AS TO_TIMESTAMP_LTZ(`at`, 3),
  attempts INT,
  `repeat` BOOLEAN,
  ambiguous INT,
  status_code INT,
  error STRING,
  provider_message_id STRING,
  arrived_at BIGINT,
  arrived_time AS TO_TIMESTAMP_LTZ(arrived_at, 3),
  campaign STRING,
  traceparent STRING
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}outcomes',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'user_key',
  'value.format' = 'json',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- Every decision, the chain of a notification's by `step`, and what it was judged by.
CREATE TABLE decisions (
  user_key STRING,
  notification_id STRING,
  tenant STRING,
  `user` STRING,
  event_id STRING,
  source STRING,
  category STRING,
  category_class STRING,
  lane STRING,
  outcome STRING,
  reason STRING,
  detail STRING,
  step INT,
  child BOOLEAN,
  part STRING,
  channels MAP<STRING, STRING>,
  scopes MAP<STRING, STRING>,
  retry_at MAP<STRING, BIGINT>,
  `buckets` ARRAY<ROW<`key` STRING, tokens DOUBLE, `limit` BIGINT, `period` BIGINT, burst BIGINT>>,
  caps ARRAY<ROW<name STRING, taken INT, `limit` INT, `window` STRING>>,
  rung INT,
  deliveries ARRAY<STRING>,
  release_at BIGINT,
  release_time AS TO_TIMESTAMP_LTZ(release_at, 3),
  policy_version BIGINT,
  override STRING,
  profile_version BIGINT,
  origin STRING,
  arrived_at BIGINT,
  arrived_time AS TO_TIMESTAMP_LTZ(arrived_at, 3),
  decided_at BIGINT,
  decided_time AS TO_TIMESTAMP_LTZ(decided_at, 3),
  campaign STRING,
  traceparent STRING
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}decisions',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'user_key',
  'value.format' = 'json',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- How many notifications each event became: one side of conservation.
CREATE TABLE counts (
  count_key STRING,
  origin STRING,
  recipients BIGINT,
  unreadable BOOLEAN,
  quarantined BOOLEAN,
  arrived_at BIGINT,
  arrived_time AS TO_TIMESTAMP_LTZ(arrived_at, 3),
  campaign STRING
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}counts',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'count_key',
  'value.format' = 'json',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- What could not be taken: the original bytes as text, and why.
CREATE TABLE rejected (
  rejected_key STRING,
  original STRING,
  headers MAP<STRING, BYTES> METADATA VIRTUAL,
  stage AS CAST(headers['stage'] AS STRING),
  reason AS CAST(headers['reason'] AS STRING),
  path AS CAST(headers['path'] AS STRING),
  detail AS CAST(headers['detail'] AS STRING),
  source_topic AS CAST(headers['source_topic'] AS STRING),
  source_partition AS CAST(headers['source_partition'] AS STRING),
  source_offset AS CAST(headers['source_offset'] AS STRING),
  source_key AS CAST(headers['source_key'] AS STRING),
  `partition` INT METADATA VIRTUAL,
  `offset` BIGINT METADATA VIRTUAL,
  written_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}rejected',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'rejected_key',
  'value.format' = 'raw',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- Events that are held whole: the original, and why.
CREATE TABLE quarantined (
  event_key STRING,
  original STRING,
  headers MAP<STRING, BYTES> METADATA VIRTUAL,
  stage AS CAST(headers['stage'] AS STRING),
  reason AS CAST(headers['reason'] AS STRING),
  path AS CAST(headers['path'] AS STRING),
  detail AS CAST(headers['detail'] AS STRING),
  source_topic AS CAST(headers['source_topic'] AS STRING),
  source_partition AS CAST(headers['source_partition'] AS STRING),
  source_offset AS CAST(headers['source_offset'] AS STRING),
  source_key AS CAST(headers['source_key'] AS STRING),
  `partition` INT METADATA VIRTUAL,
  `offset` BIGINT METADATA VIRTUAL,
  written_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}quarantined',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'event_key',
  'value.format' = 'raw',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- What an operator did with what was held; the place is partition/offset on `quarantined`.
CREATE TABLE quarantine_status (
  place STRING,
  status STRING,
  `at` BIGINT,
  `time` AS TO_TIMESTAMP_LTZ(`at`, 3),
  written_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = '${prefix}quarantine.status',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = '${bounded}',
  'key.format' = 'raw',
  'key.fields' = 'place',
  'value.format' = 'json',
  'value.fields-include' = 'EXCEPT_KEY'
);
