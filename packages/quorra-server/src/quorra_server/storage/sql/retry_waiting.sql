-- Let jobs that back off or are delayed run now; one that is not waiting for its time is missing from the reply.
-- transition: pending, failed -> pending
-- $1 jobs uuid[]
WITH hurried AS (
    UPDATE quorra.ready
    SET run_at = statement_timestamp(), failed = false
    WHERE job_id = ANY ($1::uuid[]) AND run_at > statement_timestamp()
    RETURNING job_id, queue
)
SELECT job_id, queue
FROM hurried
