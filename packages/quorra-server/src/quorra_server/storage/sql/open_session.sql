-- Remember a session of the dashboard, and forget those that nobody has used lately.
-- $1 digest bytea  $2 idle_ms bigint
WITH forgotten AS (
    DELETE FROM quorra.sessions
    WHERE used_at <= statement_timestamp() - $2::bigint * interval '1 millisecond'
)
INSERT INTO quorra.sessions (digest, used_at)
VALUES ($1::bytea, statement_timestamp())
