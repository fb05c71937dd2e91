-- Put the jobs of overdue lease batches back; each gets one `expired` outcome. A run that had started is a failed run
-- and backs off; one that had not is ready at once and is charged a silent delivery only.
-- Second half of an expiry: lock_overdue.sql has locked the batches in this transaction, and this statement's newer
-- snapshot sees every outcome that was committed before the lock was granted.
-- A job whose row is gone has no back-off: its lease ends all the same, and nothing is put back.
-- transition: leased, processing -> pending, failed, dead
-- $1 batches bigint[]
WITH closed AS (
    DELETE FROM quorra.leases
    WHERE batch = ANY ($1::bigint[])
    RETURNING
        batch, leased_at, secret, queue, worker, job_ids, attempts, deliveries, silents, generations, max_retries,
        starts_ms
),
overdue AS MATERIALIZED (
    SELECT
        closed.batch, member.ordinal::integer AS ordinal, member.job_id, closed.leased_at, closed.queue, closed.worker,
        CASE
            WHEN member.start_ms >= 0 THEN closed.leased_at + member.start_ms * interval '1 millisecond'
        END AS started_at,
        member.attempts + CASE WHEN member.start_ms < 0 THEN 0 ELSE 1 END AS attempts,
        member.deliveries,
        CASE WHEN member.start_ms < 0 THEN member.silent + 1 ELSE 0 END AS silent,
        member.generation, member.max_retries
    FROM closed
    CROSS JOIN LATERAL unnest(
        closed.job_ids, closed.attempts, closed.deliveries, closed.silents,
        closed.generations, closed.max_retries, closed.starts_ms
    ) WITH ORDINALITY AS member (
        job_id, attempts, deliveries, silent, generation, max_retries, start_ms, ordinal
    )
    WHERE NOT EXISTS (
        SELECT FROM quorra.outcomes
        WHERE outcomes.job_id = member.job_id AND outcomes.batch = closed.batch
    )
),
judged AS MATERIALIZED (
    SELECT
        batch, ordinal, job_id, leased_at, queue, worker, started_at, attempts, deliveries, silent, generation,
        CASE
            WHEN attempts > max_retries THEN 'retries_exhausted'
            WHEN silent >= max_retries + 10 THEN 'delivered_too_often'
        END AS reason,
        CASE
            WHEN attempts > max_retries OR silent >= max_retries + 10 THEN NULL
            WHEN started_at IS NULL THEN statement_timestamp()
            ELSE statement_timestamp() + coalesce((
                SELECT quorra.retry_delay(overdue.attempts, coalesce(jobs.backoff, queues.backoff))
                FROM quorra.jobs
                LEFT JOIN quorra.queues ON queues.name = jobs.queue
                WHERE jobs.id = overdue.job_id
            ), interval '0')
        END AS retry_at
    FROM overdue
),
ended AS (
    INSERT INTO quorra.outcomes (
        job_id, batch, leased_at, started_at, ended_at, retry_at, ordinal, attempts, deliveries, generation,
        kind, status, late, queue, worker, error, error_kind, reason
    )
    SELECT
        job_id, batch, leased_at, started_at, statement_timestamp(), retry_at, ordinal, attempts, deliveries,
        generation, 'expired', CASE WHEN reason IS NOT NULL THEN 'dead'::quorra.ended_status END, false, queue, worker,
        CASE WHEN started_at IS NOT NULL OR reason IS NOT NULL THEN 'lease expired' END,
        CASE WHEN started_at IS NOT NULL OR reason IS NOT NULL THEN 'LeaseExpired' END,
        reason
    FROM judged
    ON CONFLICT DO NOTHING
    RETURNING job_id, batch, ordinal, started_at, status, retry_at, attempts, deliveries, generation, queue
),
again AS (
    INSERT INTO quorra.ready (
        rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed, timed, queue, type
    )
    SELECT
        -jobs.priority::bigint,
        -- An unstarted job keeps its place in the line.
        CASE WHEN ended.started_at IS NULL THEN least(jobs.run_at, ended.retry_at) ELSE ended.retry_at END,
        ended.job_id, ended.attempts, ended.deliveries, judged.silent, ended.generation, jobs.max_retries,
        ended.started_at IS NOT NULL, jobs.unique_key IS NOT NULL, jobs.timeout_ms > 0, jobs.queue, jobs.type
    FROM ended
    JOIN judged ON judged.job_id = ended.job_id AND judged.batch = ended.batch
    JOIN quorra.jobs ON jobs.id = ended.job_id
    WHERE ended.retry_at IS NOT NULL
),
freed AS (
    DELETE FROM quorra.keys
    WHERE scope = 'live' AND job_id = ANY (ARRAY (
        SELECT job_id FROM ended WHERE status IS NOT NULL
    ))
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT count(*) FILTER (WHERE status IS NULL), -count(*), 0, count(*) FILTER (WHERE status = 'dead'), 0, queue
    FROM ended
    GROUP BY queue
)
SELECT
    ended.batch, ended.ordinal, ended.job_id, closed.secret, ended.queue, ended.started_at IS NOT NULL AS started,
    ended.status::text AS status, ended.retry_at
FROM ended
JOIN closed ON closed.batch = ended.batch
