-- Views over the tables of tables.sql, for questions that come up again.

-- What was decided, and why, by the minute of the decision. `child` and the later rungs of ladders are in it.
CREATE VIEW decisions_by_reason AS
SELECT
  FLOOR(decided_time TO MINUTE) AS decided_minute,
  lane,
  category,
  outcome,
  reason,
  COUNT(*) AS decisions
FROM decisions
GROUP BY FLOOR(decided_time TO MINUTE), lane, category, outcome, reason;

-- Who is held back most: how often a channel of a category was over the user's throttle.
CREATE VIEW top_throttled_users AS
SELECT tenant, `user`, category, channel, COUNT(*) AS times, MAX(decided_time) AS latest
FROM decisions CROSS JOIN UNNEST(channels) AS judged (channel, verdict)
WHERE verdict = 'throttled'
GROUP BY tenant, `user`, category, channel
ORDER BY times DESC, tenant, `user`, category, channel
LIMIT 20;

-- How long an urgent notification took from its arrival on the topic to its first decision, in milliseconds.
CREATE VIEW urgent_latency AS
SELECT
  FLOOR(arrived_time TO MINUTE) AS arrived_minute,
  COUNT(*) AS notifications,
  PERCENTILE(decided_at - arrived_at, 0.5) AS p50_ms,
  PERCENTILE(decided_at - arrived_at, 0.99) AS p99_ms,
  MAX(decided_at - arrived_at) AS max_ms
FROM decisions
WHERE lane = 'urgent' AND COALESCE(step, 0) = 0 AND child IS NOT TRUE
GROUP BY FLOOR(arrived_time TO MINUTE);

-- Counted against decided, by the minute of arrival: `difference` is 0 unless something is on its way, or lost. What was
-- held whole is in `held`; when it is released it arrives anew. `herald conservation` knows more: what is overdue, what
-- was doubled, and which held events were released.
CREATE VIEW conservation AS
SELECT
  arrived_minute,
  SUM(counted) AS counted,
  SUM(held) AS held,
  SUM(CASE WHEN outcome = 'sent' THEN 1 ELSE 0 END) AS sent,
  SUM(CASE WHEN outcome = 'suppressed' THEN 1 ELSE 0 END) AS suppressed,
  SUM(CASE WHEN outcome = 'rejected' THEN 1 ELSE 0 END) AS rejected,
  SUM(CASE WHEN outcome NOT IN ('sent', 'suppressed', 'rejected') THEN 1 ELSE 0 END) AS pending,
  SUM(counted) - COUNT(outcome) AS difference
FROM (
  SELECT
    FLOOR(arrived_time TO MINUTE) AS arrived_minute,
    CASE WHEN quarantined THEN 0 ELSE recipients END AS counted,
    CASE WHEN quarantined THEN recipients ELSE 0 END AS held,
    CAST(NULL AS STRING) AS outcome
  FROM counts
  UNION ALL
  -- A notification is what its latest record says.
  SELECT FLOOR(arrived_time TO MINUTE), CAST(0 AS BIGINT), CAST(0 AS BIGINT), outcome
  FROM (
    SELECT
      arrived_time,
      outcome,
      ROW_NUMBER() OVER (PARTITION BY origin, tenant, `user` ORDER BY COALESCE(step, 0) DESC) AS newest
    FROM decisions
    WHERE child IS NOT TRUE
  )
  WHERE newest = 1
)
GROUP BY arrived_minute;
