-- Remove jobs past their time from the default partitions, where jobs with ids of their callers' and kept ones are.
-- A job stays while its last batch is open, however long a neighbour runs: the outcome is what tells that it is over.
-- $1 succeeded_for interval  $2 dead_for interval  $3 limit int
WITH old AS MATERIALIZED (
    SELECT outcomes.job_id, outcomes.batch, outcomes.status, outcomes.queue
    FROM quorra.outcomes
    JOIN quorra.jobs_default AS job ON job.id = outcomes.job_id
    WHERE outcomes.status IS NOT NULL
      AND outcomes.replayed_at IS NULL
      AND outcomes.ended_at < statement_timestamp()
          - CASE WHEN outcomes.status = 'dead' THEN $2::interval ELSE $1::interval END
      AND NOT EXISTS (SELECT FROM quorra.leases WHERE leases.batch = outcomes.batch)
    ORDER BY outcomes.job_id
    LIMIT $3::integer
    FOR UPDATE OF outcomes SKIP LOCKED
),
forgotten AS (
    DELETE FROM quorra.outcomes WHERE job_id = ANY (ARRAY (SELECT job_id FROM old))
),
silenced AS (
    DELETE FROM quorra.notes WHERE job_id = ANY (ARRAY (SELECT job_id FROM old))
),
unlogged AS (
    DELETE FROM quorra.log_lines WHERE job_id = ANY (ARRAY (SELECT job_id FROM old))
),
removed AS (
    DELETE FROM quorra.jobs WHERE id = ANY (ARRAY (SELECT job_id FROM old))
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT
        0, 0,
        -count(*) FILTER (WHERE status = 'succeeded'),
        -count(*) FILTER (WHERE status = 'dead'),
        -count(*) FILTER (WHERE status = 'cancelled'),
        queue
    FROM old
    GROUP BY queue
)
SELECT job_id
FROM old
