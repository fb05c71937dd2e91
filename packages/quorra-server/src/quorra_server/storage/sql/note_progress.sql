-- Keep what handlers said while they ran: progress, and checkpoints that the next attempt receives. Only the holder of a
-- lease that has not ended may say anything; the rest is passed by.
-- $1 principal text
-- $2 batches bigint[]  $3 secrets uuid[]  $4 ordinals int[]  $5 jobs uuid[]   one per note, each job once
-- $6 checkpoints text[] (JSON)  $7 done bigint[]  $8 total bigint[]  $9 notes text[]   (null: as it was)
WITH said AS MATERIALIZED (
    SELECT note.job_id, note.checkpoint, note.done, note.total, note.text
    FROM unnest(
        $2::bigint[], $3::uuid[], $4::integer[], $5::uuid[], $6::text[], $7::bigint[], $8::bigint[], $9::text[]
    ) AS note (batch, secret, ordinal, job_id, checkpoint, done, total, text)
    JOIN quorra.leases ON leases.batch = note.batch
    WHERE leases.secret = note.secret
      AND leases.principal = $1::text
      AND leases.job_ids[note.ordinal] = note.job_id
      AND NOT EXISTS (
          SELECT FROM quorra.outcomes
          WHERE outcomes.job_id = note.job_id AND outcomes.batch = note.batch
      )
    FOR KEY SHARE OF leases
)
INSERT INTO quorra.notes AS kept (job_id, checkpoint, progress_done, progress_total, progress_note, updated_at)
SELECT job_id, checkpoint::json, done, total, text, statement_timestamp()
FROM said
ORDER BY job_id
ON CONFLICT (job_id) DO UPDATE
SET checkpoint = coalesce(excluded.checkpoint, kept.checkpoint),
    progress_done = coalesce(excluded.progress_done, kept.progress_done),
    progress_total = coalesce(excluded.progress_total, kept.progress_total),
    progress_note = coalesce(excluded.progress_note, kept.progress_note),
    updated_at = excluded.updated_at
