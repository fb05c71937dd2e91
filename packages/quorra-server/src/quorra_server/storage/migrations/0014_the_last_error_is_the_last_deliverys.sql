-- The last error of a job is that of its last delivery. It was that of the highest batch number, which is a time: of two
-- failures between which PostgreSQL's clock was put back, the first one's error stood for ever.
-- serves: 5

-- The state of jobs, derived from where they are; every read of a status goes through here. A job that is neither ready
-- nor ended is looked for among the leases, which are few.
CREATE OR REPLACE FUNCTION quorra.job_states(wanted uuid[]) RETURNS TABLE (
    job_id uuid,
    status text,
    attempts integer,
    deliveries integer,
    generation integer,
    run_at timestamptz,
    leased_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    lease_expires_at timestamptz,
    leased_by text,
    last_error text,
    dead_because text,
    result json,
    changed_at timestamptz
)
LANGUAGE sql STABLE
AS $$
WITH last_outcome AS MATERIALIZED (
    SELECT DISTINCT ON (outcomes.job_id)
        outcomes.job_id, outcomes.status, outcomes.attempts, outcomes.deliveries, outcomes.generation,
        outcomes.leased_at, outcomes.started_at, outcomes.ended_at, outcomes.reason, outcomes.result, outcomes.replayed_at
    FROM quorra.outcomes
    WHERE outcomes.job_id = ANY (wanted)
    ORDER BY
        outcomes.job_id, outcomes.generation DESC, (outcomes.status IS NOT NULL) DESC, outcomes.deliveries DESC, outcomes.batch DESC
),
last_failure AS MATERIALIZED (
    SELECT DISTINCT ON (outcomes.job_id) outcomes.job_id, outcomes.error
    FROM quorra.outcomes
    WHERE outcomes.job_id = ANY (wanted) AND outcomes.error IS NOT NULL
    ORDER BY outcomes.job_id, outcomes.generation DESC, outcomes.deliveries DESC, outcomes.batch DESC
),
sought AS MATERIALIZED (
    SELECT array_agg(job.id) AS ids
    FROM unnest(wanted) AS job (id)
    WHERE NOT EXISTS (SELECT FROM quorra.ready WHERE ready.job_id = job.id)
      AND NOT EXISTS (
          SELECT FROM last_outcome
          WHERE last_outcome.job_id = job.id AND last_outcome.status IS NOT NULL AND last_outcome.replayed_at IS NULL
      )
),
held AS MATERIALIZED (
    SELECT
        member.job_id, member.attempts, member.deliveries, member.generation, member.start_ms,
        leases.leased_at, leases.expires_at, leases.worker
    FROM sought
    JOIN quorra.leases ON leases.job_ids && sought.ids
    CROSS JOIN LATERAL unnest(
        leases.job_ids, leases.attempts, leases.deliveries, leases.generations, leases.starts_ms
    ) AS member (job_id, attempts, deliveries, generation, start_ms)
    WHERE member.job_id = ANY (sought.ids)
      AND NOT EXISTS (
          SELECT FROM quorra.outcomes
          WHERE outcomes.job_id = member.job_id AND outcomes.batch = leases.batch
      )
)
SELECT
    jobs.id,
    CASE
        WHEN ready.job_id IS NOT NULL AND ready.failed AND ready.run_at > statement_timestamp() THEN 'failed'
        WHEN ready.job_id IS NOT NULL THEN 'pending'
        WHEN held.job_id IS NOT NULL AND held.start_ms >= 0 THEN 'processing'
        WHEN held.job_id IS NOT NULL THEN 'leased'
        ELSE last_outcome.status::text
    END,
    coalesce(
        ready.attempts,
        held.attempts + CASE WHEN held.start_ms >= 0 THEN 1 ELSE 0 END,
        last_outcome.attempts
    ),
    coalesce(ready.deliveries, held.deliveries, last_outcome.deliveries),
    coalesce(ready.generation, held.generation, last_outcome.generation),
    coalesce(ready.run_at, jobs.run_at),
    coalesce(held.leased_at, last_outcome.leased_at),
    CASE
        WHEN held.job_id IS NULL THEN last_outcome.started_at
        WHEN held.start_ms >= 0 THEN held.leased_at + held.start_ms * interval '1 millisecond'
    END,
    CASE WHEN ready.job_id IS NULL AND held.job_id IS NULL THEN last_outcome.ended_at END,
    held.expires_at,
    held.worker,
    last_failure.error,
    CASE WHEN ready.job_id IS NULL AND held.job_id IS NULL AND last_outcome.status = 'dead' THEN last_outcome.reason END,
    CASE WHEN ready.job_id IS NULL AND held.job_id IS NULL THEN last_outcome.result END,
    greatest(jobs.created_at, jobs.updated_at, held.leased_at, last_outcome.ended_at, last_outcome.replayed_at)
FROM unnest(wanted) AS job (id)
JOIN quorra.jobs ON jobs.id = job.id
LEFT JOIN quorra.ready ON ready.job_id = job.id
LEFT JOIN held ON held.job_id = job.id
LEFT JOIN last_outcome ON last_outcome.job_id = job.id
LEFT JOIN last_failure ON last_failure.job_id = job.id
$$;
