-- Keep a session of the dashboard alive, if it is; without a row it is not.
-- $1 digest bytea  $2 idle_ms bigint
UPDATE quorra.sessions
SET used_at = statement_timestamp()
WHERE digest = $1::bytea AND used_at > statement_timestamp() - $2::bigint * interval '1 millisecond'
RETURNING true AS is_open
