-- Find what is missing of what was acknowledged: jobs, and outcomes, whose two arrays go together.
-- $1 jobs uuid[]  $2 ended uuid[] (the jobs of the outcomes)  $3 batches bigint[]
SELECT 'job' AS kind, sought.id AS job_id
FROM unnest($1::uuid[]) AS sought (id)
WHERE NOT EXISTS (SELECT FROM quorra.jobs WHERE jobs.id = sought.id)
UNION ALL
SELECT 'outcome', sought.job_id
FROM unnest($2::uuid[], $3::bigint[]) AS sought (job_id, batch)
WHERE NOT EXISTS (
    SELECT FROM quorra.outcomes
    WHERE outcomes.job_id = sought.job_id AND outcomes.batch = sought.batch
)
