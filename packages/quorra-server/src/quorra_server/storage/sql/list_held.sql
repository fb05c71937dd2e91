-- Name leased jobs, newest id first.
-- $1 after_job uuid (null: from the start)  $2 limit int
-- $3 queue text  $4 type text  $5 tag text  $6 created_from timestamptz  $7 created_before timestamptz
-- $8 payload text (JSON that the payload contains)   (null: any)
-- $9 started bool: the ones whose start was reported, or all others
SELECT member.job_id, leases.batch, member.ordinal::integer AS ordinal
FROM quorra.leases
CROSS JOIN LATERAL unnest(leases.job_ids, leases.starts_ms) WITH ORDINALITY AS member (job_id, start_ms, ordinal)
JOIN quorra.jobs ON jobs.id = member.job_id
WHERE ($1::uuid IS NULL OR member.job_id < $1::uuid)
  AND (member.start_ms >= 0) = $9::boolean
  AND NOT EXISTS (
      SELECT FROM quorra.outcomes
      WHERE outcomes.job_id = member.job_id AND outcomes.batch = leases.batch
  )
  AND ($3::text IS NULL OR jobs.queue = $3::text)
  AND ($4::text IS NULL OR jobs.type = $4::text)
  AND ($5::text IS NULL OR $5::text = ANY (jobs.tags))
  AND ($6::timestamptz IS NULL OR jobs.created_at >= $6::timestamptz)
  AND ($7::timestamptz IS NULL OR jobs.created_at < $7::timestamptz)
  AND ($8::text IS NULL OR quorra.payload_contains(jobs.payload, $8::jsonb))
ORDER BY member.job_id DESC
LIMIT $2::integer
