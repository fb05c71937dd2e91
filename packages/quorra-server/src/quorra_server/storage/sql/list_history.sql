-- Read the history of a job: each lease and how it ended, oldest first.
-- $1 job uuid
SELECT
    kind::text AS kind, attempts AS attempt, deliveries AS delivery, generation, worker, leased_at, started_at, ended_at,
    error, error_kind, reason, late
FROM quorra.outcomes
WHERE job_id = $1::uuid
ORDER BY generation, deliveries, batch
