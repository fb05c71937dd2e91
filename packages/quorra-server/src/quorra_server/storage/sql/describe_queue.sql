-- The figures of one queue beyond its counts: how long its oldest due job has waited, and when the next one is due.
-- $1 queue text
SELECT
    (
        SELECT extract(epoch FROM statement_timestamp() - min(head.run_at))::double precision
        FROM (
            SELECT run_at FROM quorra.ready
            WHERE queue = $1::text AND run_at <= statement_timestamp()
            ORDER BY rank, run_at
            LIMIT 1
        ) AS head
    ) AS oldest_waiting_seconds,
    (SELECT backoff::text FROM quorra.queues WHERE name = $1::text) AS backoff
