-- Fold appended count deltas into the summary; one folder at a time, the others pass by. Returns how many
-- deltas of each queue it folded, and the sums of those that the functions for SQL appended: whoever folds them counts them.
-- $1 limit int
WITH taken AS MATERIALIZED (
    SELECT ctid AS place
    FROM quorra.count_deltas
    LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
),
folded AS (
    DELETE FROM quorra.count_deltas
    USING taken
    WHERE count_deltas.ctid = taken.place
    RETURNING count_deltas.queue, by_sql, waiting, held, succeeded, dead, cancelled
),
summed AS (
    INSERT INTO quorra.queue_counts AS counts (queue, waiting, held, succeeded, dead, cancelled)
    SELECT queue, sum(waiting), sum(held), sum(succeeded), sum(dead), sum(cancelled)
    FROM folded
    GROUP BY queue
    ORDER BY queue
    ON CONFLICT (queue) DO UPDATE
    SET waiting = counts.waiting + excluded.waiting,
        held = counts.held + excluded.held,
        succeeded = counts.succeeded + excluded.succeeded,
        dead = counts.dead + excluded.dead,
        cancelled = counts.cancelled + excluded.cancelled
)
SELECT
    queue,
    count(*) AS deltas,
    coalesce(sum(waiting) FILTER (WHERE by_sql), 0)::bigint AS waiting,
    coalesce(sum(held) FILTER (WHERE by_sql), 0)::bigint AS held,
    coalesce(sum(succeeded) FILTER (WHERE by_sql), 0)::bigint AS succeeded,
    coalesce(sum(dead) FILTER (WHERE by_sql), 0)::bigint AS dead
FROM folded
GROUP BY queue
