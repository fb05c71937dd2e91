-- Keep a session of the dashboard alive.
-- $1 digest bytea
UPDATE quorra.sessions
SET used_at = statement_timestamp()
WHERE digest = $1::bytea
