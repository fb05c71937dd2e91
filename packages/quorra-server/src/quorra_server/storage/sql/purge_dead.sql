-- Remove dead jobs for good, with their history. What ended in a lease batch that is still open stays as a tombstone
-- without a word of the handler's: it is what tells the batch, its expiry and a repeated report that this member is over.
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
buried AS (
    UPDATE quorra.outcomes
    SET error = NULL, error_kind = NULL, result = NULL,
        replayed_at = CASE WHEN status = 'dead' THEN statement_timestamp() END
    WHERE job_id = ANY (ARRAY (SELECT job_id FROM taken))
      AND EXISTS (SELECT FROM quorra.leases WHERE leases.batch = outcomes.batch)
),
forgotten AS (
    DELETE FROM quorra.outcomes
    WHERE job_id = ANY (ARRAY (SELECT job_id FROM taken))
      AND NOT EXISTS (SELECT FROM quorra.leases WHERE leases.batch = outcomes.batch)
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
