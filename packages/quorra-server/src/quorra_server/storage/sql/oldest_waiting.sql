-- Say for how many seconds the oldest due job of some queues has waited, whatever its priority.
-- Goes from one priority of a queue to the next, by one look at the index each, and ends after 10,000 looks.
-- $1 queues text[]
WITH RECURSIVE heads AS (
    SELECT queue.name, head.rank, head.run_at
    FROM unnest($1::text[]) AS queue (name)
    CROSS JOIN LATERAL (
        SELECT ready.rank, ready.run_at
        FROM quorra.ready
        WHERE ready.queue = queue.name
        ORDER BY ready.rank, ready.run_at
        LIMIT 1
    ) AS head
    UNION ALL
    SELECT heads.name, head.rank, head.run_at
    FROM heads
    CROSS JOIN LATERAL (
        SELECT ready.rank, ready.run_at
        FROM quorra.ready
        WHERE ready.queue = heads.name AND ready.rank > heads.rank
        ORDER BY ready.rank, ready.run_at
        LIMIT 1
    ) AS head
)
SELECT
    extract(epoch FROM statement_timestamp() - min(looked_at.run_at) FILTER (
        WHERE looked_at.run_at <= statement_timestamp()
    ))::double precision AS seconds
FROM (SELECT run_at FROM heads LIMIT 10000) AS looked_at
