-- Pauses the category `promotions`: herald sql --file flink-conf/sql/pause.sql
--
-- Its events are held in the quarantine, and adapters hold what is queued, until the pause is lifted. `scope` is `source`,
-- `category` or `campaign`; the name of the record is `pause/`, the scope, `/`, and what is paused.

INSERT INTO policies VALUES (
  'pause/category/promotions',
  JSON_OBJECT('kind' VALUE 'pause', 'scope' VALUE 'category', 'name' VALUE 'promotions')
);

-- To lift it:
--
-- INSERT INTO policies VALUES ('pause/category/promotions', CAST(NULL AS STRING));
--
-- What was held stays in the quarantine until an operator releases it: herald quarantine list.
