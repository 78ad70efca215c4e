-- Joins candidates of requests with their clicks by Flink SQL, and writes the log that `corank follow log` reads.
--
--   bin/sql-client.sh -f join_flink.sql      with flink-sql-connector-kafka in lib/
--
-- The topics are those of join_quix.py. The log has a message a candidate: `corank follow log` waits for all candidates of
-- a request, since a period closes when all partitions have passed its end. A candidate is written when its click comes,
-- or when the watermark says that none can come any more.

SET 'execution.checkpointing.interval' = '10 s';
SET 'table.exec.source.idle-timeout' = '30 s';

CREATE TABLE requests (
  request_id STRING,
  user_id BIGINT,
  `time` BIGINT,
  candidates ARRAY<ROW<item_id BIGINT, `level` STRING>>,
  asked AS TO_TIMESTAMP_LTZ(`time`, 3),
  WATERMARK FOR asked AS asked - INTERVAL '10' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = 'requests', 'properties.bootstrap.servers' = 'localhost:9092',
  'properties.group.id' = 'join', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
);

CREATE TABLE clicks (
  request_id STRING,
  item_id BIGINT,
  `time` BIGINT,
  clicked AS TO_TIMESTAMP_LTZ(`time`, 3),
  WATERMARK FOR clicked AS clicked - INTERVAL '10' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = 'clicks', 'properties.bootstrap.servers' = 'localhost:9092',
  'properties.group.id' = 'join', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
);

CREATE TABLE log (
  request_id STRING,
  user_id BIGINT,
  `time` BIGINT,
  item_id BIGINT,
  `level` STRING,
  is_click INT
) WITH (
  'connector' = 'kafka', 'topic' = 'log', 'properties.bootstrap.servers' = 'localhost:9092', 'format' = 'json',
  'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'join'
);

-- a second click on the same candidate makes no second row
CREATE TEMPORARY VIEW first_clicks AS
SELECT request_id, item_id, clicked FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY request_id, item_id ORDER BY clicked) AS n FROM clicks
) WHERE n = 1;

INSERT INTO log
SELECT r.request_id, r.user_id, r.`time`, r.item_id, r.`level`, CASE WHEN c.item_id IS NULL THEN 0 ELSE 1 END
FROM (
  SELECT request_id, user_id, `time`, asked, item_id, `level`
  FROM requests CROSS JOIN UNNEST(candidates) AS candidate (item_id, `level`)
) AS r
LEFT JOIN first_clicks AS c
ON r.request_id = c.request_id AND r.item_id = c.item_id
AND c.clicked BETWEEN r.asked AND r.asked + INTERVAL '5' MINUTE;
