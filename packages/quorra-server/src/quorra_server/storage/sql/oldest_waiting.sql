-- Say for how many seconds the job at the head of the line has been due, over some queues.
-- $1 queues text[]
SELECT max(extract(epoch FROM statement_timestamp() - head.run_at))::double precision AS seconds
FROM unnest($1::text[]) AS queue (name)
CROSS JOIN LATERAL (
    SELECT ready.run_at
    FROM quorra.ready
    WHERE ready.queue = queue.name AND ready.run_at <= statement_timestamp()
    ORDER BY ready.rank, ready.run_at
    LIMIT 1
) AS head
