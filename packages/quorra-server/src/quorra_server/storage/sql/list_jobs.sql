-- Name jobs of every status, newest id first.
-- $1 after_job uuid (null: from the start)  $2 limit int
-- $3 queue text  $4 type text  $5 tag text  $6 created_from timestamptz  $7 created_before timestamptz
-- $8 payload text (JSON that the payload contains)   (null: any)
SELECT jobs.id AS job_id, 0::bigint AS batch, 0 AS ordinal
FROM quorra.jobs
WHERE ($1::uuid IS NULL OR jobs.id < $1::uuid)
  AND ($3::text IS NULL OR jobs.queue = $3::text)
  AND ($4::text IS NULL OR jobs.type = $4::text)
  AND ($5::text IS NULL OR $5::text = ANY (jobs.tags))
  AND ($6::timestamptz IS NULL OR jobs.created_at >= $6::timestamptz)
  AND ($7::timestamptz IS NULL OR jobs.created_at < $7::timestamptz)
  AND ($8::text IS NULL OR quorra.payload_contains(jobs.payload, $8::jsonb))
ORDER BY jobs.id DESC
LIMIT $2::integer
