-- Remove jobs past their time from the default partitions, where jobs with ids of their callers' and kept ones are.
-- A job stays while its last batch is open, however long a neighbour runs: the outcome is what tells that it is over.
-- $1 succeeded_for interval  $2 dead_for interval  $3 limit int
WITH partitioned AS MATERIALIZED (
    SELECT min(day) AS first, max(day) + 1 AS next
    FROM (
        SELECT to_date(right(relation.relname, 8), 'YYYYMMDD') AS day
        FROM pg_catalog.pg_inherits
        JOIN pg_catalog.pg_class AS relation ON relation.oid = pg_inherits.inhrelid
        WHERE pg_inherits.inhparent = 'quorra.jobs'::regclass AND relation.relname ~ '^jobs_\d{8}$'
    ) AS days
),
-- What ids of jobs in the default partition can be: those before and after the ids of the days. So the outcomes of other
-- jobs, which are most, are not looked at. A day without a partition among others has its turn when it is the first.
elsewhere AS MATERIALIZED (
    SELECT '00000000-0000-0000-0000-000000000000'::uuid AS low, coalesce(
        quorra.first_id_at(first::timestamp AT TIME ZONE 'UTC'), 'ffffffff-ffff-ffff-ffff-ffffffffffff'
    ) AS high
    FROM partitioned
    UNION ALL
    SELECT quorra.first_id_at(next::timestamp AT TIME ZONE 'UTC'), 'ffffffff-ffff-ffff-ffff-ffffffffffff'
    FROM partitioned
),
old AS MATERIALIZED (
    SELECT outcomes.job_id, outcomes.batch, outcomes.status, outcomes.queue
    FROM elsewhere
    JOIN quorra.outcomes ON outcomes.job_id BETWEEN elsewhere.low AND elsewhere.high
    JOIN quorra.jobs_default AS job ON job.id = outcomes.job_id
    WHERE outcomes.status IS NOT NULL
      -- A batch is older than the end of its jobs: later partitions need not be looked at.
      AND outcomes.batch < quorra.batch_at(statement_timestamp() - least($1::interval, $2::interval))
      AND outcomes.replayed_at IS NULL
      AND outcomes.ended_at < statement_timestamp()
          - CASE WHEN outcomes.status = 'dead' THEN $2::interval ELSE $1::interval END
      AND NOT EXISTS (SELECT FROM quorra.leases WHERE leases.batch = outcomes.batch)
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
