-- Note that a worker lives.
-- $1 worker text  $2 boot_id text  $3 node text  $4 host text  $5 pid int  $6 sdk text  $7 slots int  $8 queues text[]
-- $9 types text[]  $10 labels text (JSON)
INSERT INTO quorra.workers (
    worker, boot_id, node, host, pid, sdk, slots, running, queues, types, labels, started_at, last_beat_at
)
VALUES (
    $1::text, $2::text, $3::text, $4::text, $5::integer, $6::text, $7::integer, 0, $8::text[], $9::text[], $10::text::json,
    statement_timestamp(), statement_timestamp()
)
ON CONFLICT (worker, boot_id) DO UPDATE
SET node = excluded.node, slots = excluded.slots, queues = excluded.queues, types = excluded.types,
    last_beat_at = excluded.last_beat_at
