-- Of some jobs, name those whose life is over.
-- $1 jobs uuid[]
SELECT state.job_id
FROM quorra.job_states($1::uuid[]) AS state
WHERE state.status IN ('succeeded', 'dead', 'cancelled')
