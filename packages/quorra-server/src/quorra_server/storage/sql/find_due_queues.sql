-- Of some queues, name those that have a job that is due. Looks at the first job of each priority: if that is not due,
-- none is. A queue with more than a hundred priorities is named in any case: at worst it is looked at in vain.
-- $1 queues text[]
SELECT queue.name
FROM unnest($1::text[]) AS queue (name)
CROSS JOIN LATERAL (
    WITH RECURSIVE heads AS (
        (
            SELECT ready.rank, ready.run_at, 1 AS number
            FROM quorra.ready
            WHERE ready.queue = queue.name
            ORDER BY ready.rank, ready.run_at
            LIMIT 1
        )
        UNION ALL
        SELECT further.rank, further.run_at, heads.number + 1
        FROM heads
        CROSS JOIN LATERAL (
            SELECT ready.rank, ready.run_at
            FROM quorra.ready
            WHERE ready.queue = queue.name AND ready.rank > heads.rank
            ORDER BY ready.rank, ready.run_at
            LIMIT 1
        ) AS further
        WHERE heads.number <= 100
    )
    SELECT
    FROM heads
    WHERE heads.run_at <= statement_timestamp() OR heads.number > 100
    LIMIT 1
) AS due
