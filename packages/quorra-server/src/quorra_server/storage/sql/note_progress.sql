-- Keep what handlers said while they ran: progress, and checkpoints that the next attempt receives.
-- $1 jobs uuid[]  $2 checkpoints text[] (JSON)  $3 done bigint[]  $4 total bigint[]  $5 notes text[]   (null: as it was)
INSERT INTO quorra.notes AS kept (job_id, checkpoint, progress_done, progress_total, progress_note, updated_at)
SELECT job_id, checkpoint::json, done, total, note, statement_timestamp()
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::text[]) AS said (job_id, checkpoint, done, total, note)
ORDER BY job_id
ON CONFLICT (job_id) DO UPDATE
SET checkpoint = coalesce(excluded.checkpoint, kept.checkpoint),
    progress_done = coalesce(excluded.progress_done, kept.progress_done),
    progress_total = coalesce(excluded.progress_total, kept.progress_total),
    progress_note = coalesce(excluded.progress_note, kept.progress_note),
    updated_at = excluded.updated_at
