-- List workers that were heard of lately.
-- $1 silent_for_at_most interval
SELECT
    worker, boot_id, node, host, pid, sdk, slots, running, queues, types, labels::text AS labels, started_at, last_beat_at
FROM quorra.workers
WHERE last_beat_at > statement_timestamp() - $1::interval
ORDER BY worker, boot_id
