-- Of some queues, name those that have a job that is due.
-- $1 queues text[]
SELECT queue.name
FROM unnest($1::text[]) AS queue (name)
CROSS JOIN LATERAL (
    SELECT
    FROM quorra.ready
    WHERE ready.queue = queue.name AND ready.run_at <= statement_timestamp()
    LIMIT 1
) AS due
