-- Give dead jobs a new life under the same id; of two replays one wins. A job whose unique key is taken by another live
-- job stays dead. Jobs that were not replayed are missing from the reply.
-- transition: dead -> pending
-- $1 jobs uuid[]
WITH dead AS MATERIALIZED (
    SELECT outcomes.job_id, outcomes.batch, outcomes.deliveries, outcomes.generation, outcomes.queue,
           jobs.unique_key, jobs.timeout_ms, jobs.priority, jobs.max_retries, jobs.type, jobs.queue AS job_queue
    FROM quorra.outcomes
    JOIN quorra.jobs ON jobs.id = outcomes.job_id
    WHERE outcomes.job_id = ANY ($1::uuid[]) AND outcomes.status = 'dead' AND outcomes.replayed_at IS NULL
    ORDER BY outcomes.job_id
    FOR UPDATE OF outcomes
),
claimed AS (
    INSERT INTO quorra.keys (scope, key, job_id, created_at)
    SELECT 'live', unique_key, job_id, statement_timestamp()
    FROM dead
    WHERE unique_key IS NOT NULL
    ORDER BY unique_key
    ON CONFLICT DO NOTHING
    RETURNING job_id
),
marked AS (
    UPDATE quorra.outcomes
    SET replayed_at = statement_timestamp()
    FROM dead
    WHERE outcomes.job_id = dead.job_id
      AND outcomes.batch = dead.batch
      AND outcomes.replayed_at IS NULL
      AND (dead.unique_key IS NULL OR dead.job_id IN (SELECT job_id FROM claimed))
    RETURNING
        dead.job_id, dead.deliveries, dead.generation, dead.queue, dead.job_queue, dead.unique_key,
        dead.timeout_ms, dead.priority, dead.max_retries, dead.type
),
again AS (
    INSERT INTO quorra.ready (
        rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed, timed, queue, type
    )
    SELECT
        -priority::bigint, statement_timestamp(), job_id, 0, deliveries, 0, generation + 1, max_retries,
        false, unique_key IS NOT NULL, timeout_ms > 0, job_queue, type
    FROM marked
    RETURNING job_id, queue
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT sum(waiting), 0, 0, -sum(dead), 0, queue
    FROM (
        SELECT count(*) AS waiting, 0 AS dead, job_queue AS queue FROM marked GROUP BY job_queue
        UNION ALL
        SELECT 0, count(*), queue FROM marked GROUP BY queue
    ) AS moved
    GROUP BY queue
)
SELECT job_id, queue
FROM again
