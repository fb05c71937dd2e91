-- End a session of the dashboard.
-- $1 digest bytea
DELETE FROM quorra.sessions
WHERE digest = $1::bytea
