-- Forget workers: one that said goodbye, or all that have been silent for long.
-- $1 worker text  $2 boot_id text  (null: any)  $3 silent_for interval
DELETE FROM quorra.workers
WHERE ($1::text IS NULL OR (worker = $1::text AND boot_id = $2::text))
  AND last_beat_at <= statement_timestamp() - $3::interval
