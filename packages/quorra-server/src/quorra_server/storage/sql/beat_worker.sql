-- Note a worker's heartbeat.
-- $1 worker text  $2 boot_id text  $3 running int
UPDATE quorra.workers
SET last_beat_at = statement_timestamp(), running = $3::integer
WHERE worker = $1::text AND boot_id = $2::text
