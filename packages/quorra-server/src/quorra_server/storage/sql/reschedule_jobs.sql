-- Change when, where and how urgently waiting jobs run; one that is not waiting is missing from the reply.
-- transition: pending, failed -> pending, failed
-- $1 jobs uuid[]  $2 run_at timestamptz  $3 priority int  $4 queue text  $5 max_retries int
-- $6 delay_ms bigint (from now, instead of $2)   (null: as it is)
WITH waiting AS MATERIALIZED (
    SELECT job_id, queue AS old_queue
    FROM quorra.ready
    WHERE job_id = ANY ($1::uuid[]) AND attempts <= coalesce($5::integer, max_retries)
    ORDER BY job_id
    FOR UPDATE
),
moved AS (
    UPDATE quorra.ready
    SET run_at = coalesce($2::timestamptz, statement_timestamp() + $6::bigint * interval '1 millisecond', run_at),
        rank = coalesce(-($3::integer::bigint), rank),
        queue = coalesce($4::text, queue),
        max_retries = coalesce($5::integer, max_retries)
    FROM waiting
    WHERE ready.job_id = waiting.job_id
    RETURNING ready.job_id, ready.queue, waiting.old_queue
),
written AS (
    UPDATE quorra.jobs
    SET run_at = coalesce($2::timestamptz, statement_timestamp() + $6::bigint * interval '1 millisecond', run_at),
        priority = coalesce($3::integer, priority),
        queue = coalesce($4::text, jobs.queue),
        max_retries = coalesce($5::integer, max_retries),
        updated_at = statement_timestamp()
    FROM moved
    WHERE jobs.id = moved.job_id
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT sum(waiting), 0, 0, 0, 0, queue
    FROM (
        SELECT 1 AS waiting, queue FROM moved WHERE queue <> old_queue
        UNION ALL
        SELECT -1, old_queue FROM moved WHERE queue <> old_queue
    ) AS change
    GROUP BY queue
)
SELECT job_id, queue
FROM moved
