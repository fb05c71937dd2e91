-- Read the last log lines of a job's runs, newest first.
-- $1 job uuid  $2 limit int
SELECT batch, position, logged_at, level, message
FROM quorra.log_lines
WHERE job_id = $1::uuid
ORDER BY batch DESC, position DESC
LIMIT $2::integer
