-- Say of a session of the dashboard whether it is due to be kept alive; without a row it is over.
-- $1 digest bytea  $2 idle_ms bigint  $3 fresh_ms bigint
SELECT used_at <= statement_timestamp() - $3::bigint * interval '1 millisecond' AS is_due
FROM quorra.sessions
WHERE digest = $1::bytea AND used_at > statement_timestamp() - $2::bigint * interval '1 millisecond'
