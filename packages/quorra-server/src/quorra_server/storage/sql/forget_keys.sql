-- Forget idempotency keys that are older than their time, oldest first.
-- $1 age interval  $2 limit int
WITH old AS MATERIALIZED (
    SELECT ctid AS place
    FROM quorra.keys
    WHERE scope <> 'live' AND created_at < statement_timestamp() - $1::interval
    ORDER BY created_at
    LIMIT $2::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM quorra.keys
USING old
WHERE keys.ctid = old.place
RETURNING keys.job_id
