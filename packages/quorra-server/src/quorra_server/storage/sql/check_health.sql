-- Say whether the database takes writes, which schema it has, and the oldest one whose servers work on it. A schema from
-- before that was written down has no such column, and serves its own servers only.
SELECT
    pg_is_in_recovery() AS is_standby,
    (SELECT max(number) FROM quorra.migrations) AS version,
    (SELECT max(coalesce((to_jsonb(step) ->> 'serves')::integer, step.number)) FROM quorra.migrations AS step) AS serves
