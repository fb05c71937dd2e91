-- Read the log lines of a job's runs, oldest first.
-- $1 job uuid  $2 limit int
SELECT batch, position, logged_at, level, message
FROM quorra.log_lines
WHERE job_id = $1::uuid
ORDER BY batch, position
LIMIT $2::integer
