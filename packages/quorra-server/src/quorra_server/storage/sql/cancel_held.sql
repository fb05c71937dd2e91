-- Cancel jobs that are leased: ends the one lease, the rest of its batch lives on.
-- transition: leased, processing -> cancelled
-- $1 jobs uuid[]  $2 reason text
WITH held AS MATERIALIZED (
    SELECT batch, leased_at, secret, queue, worker, job_ids, attempts, deliveries, generations, starts_ms
    FROM quorra.leases
    WHERE job_ids && $1::uuid[]
    ORDER BY batch
    FOR KEY SHARE
),
ended AS (
    INSERT INTO quorra.outcomes (
        job_id, batch, leased_at, started_at, ended_at, ordinal, attempts, deliveries, generation,
        kind, status, late, queue, worker, reason
    )
    SELECT
        member.job_id, held.batch, held.leased_at,
        CASE WHEN member.start_ms >= 0 THEN held.leased_at + member.start_ms * interval '1 millisecond' END,
        statement_timestamp(), member.ordinal::integer,
        member.attempts + CASE WHEN member.start_ms < 0 THEN 0 ELSE 1 END,
        member.deliveries, member.generation, 'cancelled', 'cancelled', false, held.queue, held.worker, $2::text
    FROM held
    CROSS JOIN LATERAL unnest(
        held.job_ids, held.attempts, held.deliveries, held.generations, held.starts_ms
    ) WITH ORDINALITY AS member (job_id, attempts, deliveries, generation, start_ms, ordinal)
    WHERE member.job_id = ANY ($1::uuid[])
    ORDER BY held.batch, member.ordinal
    ON CONFLICT DO NOTHING
    RETURNING job_id, batch, ordinal, queue
),
freed AS (
    DELETE FROM quorra.keys
    WHERE scope = 'live' AND job_id = ANY (ARRAY (SELECT job_id FROM ended))
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT 0, -count(*), 0, 0, count(*), queue
    FROM ended
    GROUP BY queue
)
SELECT ended.job_id, ended.batch, ended.ordinal, ended.queue, held.secret
FROM ended
JOIN held ON held.batch = ended.batch
