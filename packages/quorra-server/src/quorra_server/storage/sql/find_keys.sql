-- Say which jobs hold keys, and since when.
-- $1 scopes text[]  $2 keys text[]
SELECT keys.scope, keys.key, keys.job_id, keys.created_at
FROM unnest($1::text[], $2::text[]) AS wanted (scope, key)
JOIN quorra.keys ON keys.scope = wanted.scope AND keys.key = wanted.key
