-- Read the last leases of a job that ended, before one of them, and how: oldest first. A batch has a job once.
-- $1 job uuid  $2 before_batch bigint  $3 limit int  $4 errors_only bool
SELECT
    kind::text AS kind, attempts AS attempt, deliveries AS delivery, generation, worker, leased_at, started_at, ended_at,
    error, error_kind, reason, late, batch
FROM (
    SELECT
        kind, attempts, deliveries, generation, worker, leased_at, started_at, ended_at, error, error_kind, reason, late,
        batch
    FROM quorra.outcomes
    WHERE job_id = $1::uuid
      AND batch < $2::bigint
      AND (NOT $4::boolean OR error IS NOT NULL)
    ORDER BY batch DESC
    LIMIT $3::integer
) AS last
ORDER BY generation, deliveries, batch
