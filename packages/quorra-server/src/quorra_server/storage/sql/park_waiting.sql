-- Put due jobs off that no lease can take, so that they hold up no other; what is not due stays as it is.
-- A job whose back-off is over reads `pending`, and goes on to do so: its last run has nothing to do with this.
-- transition: pending -> pending
-- $1 jobs uuid[]  $2 parked_ms bigint (from now)
UPDATE quorra.ready
SET run_at = statement_timestamp() + $2::bigint * interval '1 millisecond', failed = false
WHERE job_id = ANY ($1::uuid[]) AND run_at <= statement_timestamp()
RETURNING job_id
