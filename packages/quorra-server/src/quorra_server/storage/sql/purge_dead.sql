-- Remove dead jobs for good, with their history.
-- transition: dead ->
-- $1 jobs uuid[]
WITH taken AS MATERIALIZED (
    SELECT job_id, batch, queue
    FROM quorra.outcomes
    WHERE job_id = ANY ($1::uuid[]) AND status = 'dead' AND replayed_at IS NULL
    ORDER BY job_id
    FOR UPDATE
),
freed AS (
    DELETE FROM quorra.keys WHERE job_id = ANY (ARRAY (SELECT job_id FROM taken))
),
forgotten AS (
    DELETE FROM quorra.outcomes WHERE job_id = ANY (ARRAY (SELECT job_id FROM taken))
),
unnoted AS (
    DELETE FROM quorra.notes WHERE job_id = ANY (ARRAY (SELECT job_id FROM taken))
),
unlogged AS (
    DELETE FROM quorra.log_lines WHERE job_id = ANY (ARRAY (SELECT job_id FROM taken))
),
removed AS (
    DELETE FROM quorra.jobs WHERE id = ANY (ARRAY (SELECT job_id FROM taken))
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT 0, 0, 0, -count(*), 0, queue
    FROM taken
    GROUP BY queue
)
SELECT job_id
FROM taken
