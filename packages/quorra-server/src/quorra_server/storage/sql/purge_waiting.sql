-- Remove the waiting jobs of a queue, with their history. What ended in a lease batch that is still open stays as a
-- tombstone without a word of the handler's: it is what tells the batch, its expiry and a repeated report that this member
-- is over.
-- transition: pending, failed ->
-- $1 queue text  $2 limit int
WITH taken AS (
    DELETE FROM quorra.ready
    WHERE job_id IN (
        SELECT job_id FROM quorra.ready
        WHERE queue = $1::text
        LIMIT $2::integer
        FOR UPDATE SKIP LOCKED
    )
    RETURNING job_id
),
freed AS (
    DELETE FROM quorra.keys WHERE job_id IN (SELECT job_id FROM taken)
),
buried AS (
    UPDATE quorra.outcomes
    SET error = NULL, error_kind = NULL, result = NULL
    WHERE job_id IN (SELECT job_id FROM taken)
      AND EXISTS (SELECT FROM quorra.leases WHERE leases.batch = outcomes.batch)
),
forgotten AS (
    DELETE FROM quorra.outcomes
    WHERE job_id IN (SELECT job_id FROM taken)
      AND NOT EXISTS (SELECT FROM quorra.leases WHERE leases.batch = outcomes.batch)
),
unnoted AS (
    DELETE FROM quorra.notes WHERE job_id IN (SELECT job_id FROM taken)
),
unlogged AS (
    DELETE FROM quorra.log_lines WHERE job_id IN (SELECT job_id FROM taken)
),
removed AS (
    DELETE FROM quorra.jobs WHERE id IN (SELECT job_id FROM taken)
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT -count(*), 0, 0, 0, 0, $1::text
    FROM taken
    HAVING count(*) > 0
)
SELECT job_id
FROM taken
