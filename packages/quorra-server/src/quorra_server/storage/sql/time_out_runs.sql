-- End runs that are past their own timeout and a grace; each gets one `expired` outcome, backs off or is dead, and the
-- rest of its batch lives on. A worker that lives stops such a run itself and reports it within the grace: this is for one
-- that hangs while its heartbeat goes on.
-- Passes by batches that somebody is settling, so it never waits; a report that was faster meets the primary key.
-- A job whose row is gone has no back-off: its lease ends all the same, and nothing is put back.
-- transition: processing -> failed, dead
-- $1 grace_ms bigint  $2 limit int  $3 batches bigint[] (null: look at all of them)  $4 besides bigint[]
WITH overdue AS MATERIALIZED (
    SELECT
        leases.batch, member.ordinal::integer AS ordinal, member.job_id,
        leases.leased_at + member.start_ms * interval '1 millisecond' AS started_at,
        member.attempts + 1 AS attempts, member.deliveries, member.generation, member.max_retries, jobs.timeout_ms
    FROM quorra.leases
    CROSS JOIN LATERAL unnest(
        leases.job_ids, leases.attempts, leases.deliveries, leases.generations, leases.max_retries, leases.starts_ms
    ) WITH ORDINALITY AS member (job_id, attempts, deliveries, generation, max_retries, start_ms, ordinal)
    JOIN quorra.jobs ON jobs.id = member.job_id
    WHERE leases.timed
      AND ($3::bigint[] IS NULL OR leases.batch = ANY ($3::bigint[]))
      AND leases.batch <> ALL ($4::bigint[])
      AND member.start_ms >= 0
      -- No timeout is over before the grace is: most runs need no look at their job.
      AND leases.leased_at + (member.start_ms + $1::bigint) * interval '1 millisecond' <= statement_timestamp()
      AND jobs.timeout_ms > 0
      AND leases.leased_at + (member.start_ms + jobs.timeout_ms + coalesce(leases.extra_ms[member.ordinal], 0) + $1::bigint)
          * interval '1 millisecond' <= statement_timestamp()
      AND NOT EXISTS (
          SELECT FROM quorra.outcomes
          WHERE outcomes.job_id = member.job_id AND outcomes.batch = leases.batch
      )
    ORDER BY leases.batch, member.ordinal
    LIMIT $2::integer
),
held AS MATERIALIZED (
    SELECT batch, leased_at, secret, queue, worker
    FROM quorra.leases
    WHERE batch = ANY (ARRAY (SELECT batch FROM overdue))
    ORDER BY batch
    FOR UPDATE SKIP LOCKED
),
judged AS MATERIALIZED (
    SELECT
        overdue.batch, overdue.ordinal, overdue.job_id, held.leased_at, overdue.started_at, overdue.attempts,
        overdue.deliveries, overdue.generation, held.queue, held.worker,
        'timeout after ' || trim_scale(overdue.timeout_ms / 1000.0) || ' s' AS error,
        CASE
            WHEN overdue.attempts <= overdue.max_retries THEN statement_timestamp() + coalesce((
                SELECT quorra.retry_delay(overdue.attempts, coalesce(jobs.backoff, queues.backoff))
                FROM quorra.jobs
                LEFT JOIN quorra.queues ON queues.name = jobs.queue
                WHERE jobs.id = overdue.job_id
            ), interval '0')
        END AS retry_at
    FROM overdue
    JOIN held ON held.batch = overdue.batch
),
ended AS (
    INSERT INTO quorra.outcomes (
        job_id, batch, leased_at, started_at, ended_at, retry_at, ordinal, attempts, deliveries, generation,
        kind, status, late, queue, worker, error, error_kind, reason
    )
    SELECT
        job_id, batch, leased_at, started_at, statement_timestamp(), retry_at, ordinal, attempts, deliveries, generation,
        'expired', CASE WHEN retry_at IS NULL THEN 'dead'::quorra.ended_status END, false, queue, worker,
        error, 'Timeout', CASE WHEN retry_at IS NULL THEN 'retries_exhausted' END
    FROM judged
    ORDER BY batch, ordinal
    ON CONFLICT DO NOTHING
    RETURNING job_id, batch, ordinal, status, retry_at, attempts, deliveries, generation, queue
),
again AS (
    INSERT INTO quorra.ready (
        rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed, timed, queue, type
    )
    SELECT
        -jobs.priority::bigint, ended.retry_at, ended.job_id, ended.attempts, ended.deliveries, 0, ended.generation,
        jobs.max_retries, true, jobs.unique_key IS NOT NULL, true, jobs.queue, jobs.type
    FROM ended
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
SELECT ended.batch, ended.ordinal, ended.job_id, held.secret, ended.queue, ended.status::text AS status, ended.retry_at
FROM ended
JOIN held ON held.batch = ended.batch
