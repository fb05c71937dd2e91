-- The settings of one queue.
-- $1 queue text
SELECT (SELECT backoff::text FROM quorra.queues WHERE name = $1::text) AS backoff
