-- Cancel jobs that wait; one that is not waiting is missing from the reply.
-- transition: pending, failed -> cancelled
-- $1 jobs uuid[]  $2 reason text
WITH taken AS (
    DELETE FROM quorra.ready
    WHERE job_id = ANY ($1::uuid[])
    RETURNING job_id, attempts, deliveries, generation, keyed, queue
),
ended AS (
    INSERT INTO quorra.outcomes (
        job_id, batch, ended_at, ordinal, attempts, deliveries, generation, kind, status, late, queue, worker, reason
    )
    SELECT
        job_id, quorra.next_batch(), statement_timestamp(), 1, attempts, deliveries, generation,
        'cancelled', 'cancelled', false, queue, '', $2::text
    FROM taken
    RETURNING job_id, queue
),
freed AS (
    DELETE FROM quorra.keys
    WHERE scope = 'live' AND job_id = ANY (ARRAY (SELECT job_id FROM taken WHERE keyed))
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT -count(*), 0, 0, 0, count(*), queue
    FROM ended
    GROUP BY queue
)
SELECT job_id, queue
FROM ended
