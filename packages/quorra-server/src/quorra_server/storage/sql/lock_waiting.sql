-- Lock the next due jobs of a queue, in the order in which a lease takes them, and pass by those that somebody holds.
-- Used after a bug only, and so without the care for delayed jobs that lease_jobs.sql takes.
-- $1 queue text  $2 limit int  $3 types text[] (null: every type)
SELECT rank, run_at, job_id
FROM quorra.ready
WHERE queue = $1::text
  AND run_at <= statement_timestamp()
  AND ($3::text[] IS NULL OR type = ANY ($3::text[]))
ORDER BY rank, run_at, job_id
LIMIT $2::integer
FOR UPDATE SKIP LOCKED
