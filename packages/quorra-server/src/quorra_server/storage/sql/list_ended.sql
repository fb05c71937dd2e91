-- Name ended jobs, last ended first. A replayed job is not dead any more.
-- $1 before_batch bigint (null: from the start)  $2 limit int
-- $3 queue text  $4 type text  $5 tag text  $6 created_from timestamptz  $7 created_before timestamptz
-- $8 payload text (JSON that the payload contains)   (null: any)
-- $9 status text  $10 before_ordinal int
SELECT outcomes.job_id, outcomes.batch, outcomes.ordinal
FROM quorra.outcomes
JOIN quorra.jobs ON jobs.id = outcomes.job_id
WHERE outcomes.status = $9::text::quorra.ended_status
  AND outcomes.replayed_at IS NULL
  AND ($1::bigint IS NULL OR (outcomes.batch, outcomes.ordinal) < ($1::bigint, $10::integer))
  AND ($3::text IS NULL OR jobs.queue = $3::text)
  AND ($4::text IS NULL OR jobs.type = $4::text)
  AND ($5::text IS NULL OR $5::text = ANY (jobs.tags))
  AND ($6::timestamptz IS NULL OR jobs.created_at >= $6::timestamptz)
  AND ($7::timestamptz IS NULL OR jobs.created_at < $7::timestamptz)
  AND ($8::text IS NULL OR quorra.payload_contains(jobs.payload, $8::jsonb))
ORDER BY outcomes.status DESC, outcomes.batch DESC, outcomes.ordinal DESC
LIMIT $2::integer
