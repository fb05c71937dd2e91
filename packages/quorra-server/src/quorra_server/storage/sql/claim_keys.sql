-- Claim keys for new jobs; a key that is taken is missing from the reply. Waits for a claim that is not committed yet.
-- $1 scopes text[]  $2 keys text[]  $3 jobs uuid[]   in order of (scope, key)
INSERT INTO quorra.keys (scope, key, job_id, created_at)
SELECT scope, key, job_id, statement_timestamp()
FROM unnest($1::text[], $2::text[], $3::uuid[]) AS claim (scope, key, job_id)
ORDER BY scope, key
ON CONFLICT DO NOTHING
RETURNING scope, key
