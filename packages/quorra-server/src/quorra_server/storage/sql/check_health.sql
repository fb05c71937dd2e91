-- Say whether the database takes writes, and which schema it has.
SELECT pg_is_in_recovery() AS is_standby, (SELECT max(number) FROM quorra.migrations) AS version
