-- Changes the throttle of the category `chat` in the running job: herald sql --file flink-conf/sql/throttle.sql
--
-- An override is a document of its own: its name is `category/` and the category's, `patch` a JSON merge patch (RFC 7396)
-- on the category in the set. A later one of the same name replaces it. One that does not fit is refused by the job, and
-- recorded on `rejected`; nothing else changes.

INSERT INTO policies VALUES (
  'category/chat',
  JSON_OBJECT(
    'kind' VALUE 'category',
    'name' VALUE 'chat',
    'patch' VALUE JSON_OBJECT('throttle' VALUE JSON_OBJECT('limit' VALUE 5, 'period' VALUE '1m'))
  )
);

-- To lift it, the set alone holding again (or: herald policy override remove category/chat):
--
-- INSERT INTO policies VALUES ('category/chat', CAST(NULL AS STRING));
