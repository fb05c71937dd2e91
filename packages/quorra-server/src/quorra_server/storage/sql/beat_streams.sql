-- Note that workers live, as their streams are open.
-- $1 workers text[]  $2 boot_ids text[]   one pair for each
UPDATE quorra.workers
SET last_beat_at = statement_timestamp()
FROM unnest($1::text[], $2::text[]) AS open (worker, boot_id)
WHERE workers.worker = open.worker AND workers.boot_id = open.boot_id
RETURNING workers.worker, workers.boot_id
