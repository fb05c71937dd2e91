-- Name waiting jobs, newest id first.
-- $1 after_job uuid (null: from the start)  $2 limit int
-- $3 queue text  $4 type text  $5 tag text  $6 created_from timestamptz  $7 created_before timestamptz
-- $8 payload text (JSON that the payload contains)   (null: any)
-- $9 backing_off bool: the ones whose last run failed and whose time has not come, or all others
SELECT ready.job_id, 0::bigint AS batch, 0 AS ordinal
FROM quorra.ready
JOIN quorra.jobs ON jobs.id = ready.job_id
WHERE ($1::uuid IS NULL OR ready.job_id < $1::uuid)
  AND (ready.failed AND ready.run_at > statement_timestamp()) = $9::boolean
  AND ($3::text IS NULL OR jobs.queue = $3::text)
  AND ($4::text IS NULL OR jobs.type = $4::text)
  AND ($5::text IS NULL OR $5::text = ANY (jobs.tags))
  AND ($6::timestamptz IS NULL OR jobs.created_at >= $6::timestamptz)
  AND ($7::timestamptz IS NULL OR jobs.created_at < $7::timestamptz)
  AND ($8::text IS NULL OR quorra.payload_contains(jobs.payload, $8::jsonb))
ORDER BY ready.job_id DESC
LIMIT $2::integer
