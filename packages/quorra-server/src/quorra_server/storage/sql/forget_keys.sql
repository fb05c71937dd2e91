-- Forget idempotency keys that are older than their time.
-- $1 age interval  $2 limit int
DELETE FROM quorra.keys
WHERE (scope, key) IN (
    SELECT scope, key FROM quorra.keys
    WHERE scope <> 'live' AND created_at < statement_timestamp() - $1::interval
    LIMIT $2::integer
)
RETURNING job_id
