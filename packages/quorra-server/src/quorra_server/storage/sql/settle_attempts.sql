-- Record how attempts ended and send each job on: done, dead, or ready again. The primary key of `outcomes` decides
-- who ends a lease; a report that comes second changes nothing and is missing from the reply.
-- FOR KEY SHARE lets heartbeats and other settles of the batch pass, and holds off expiry.
-- A job whose row is gone has no back-off: its lease ends all the same, and nothing is put back.
-- transition: leased, processing -> succeeded, dead, cancelled, failed, pending
-- $1 batches bigint[]  $2 secrets uuid[]  $3 counts int[]   each pair once, and how many of the reports are of it
-- $4 principal text
-- $5 ordinal text (int[])  $6 job text (uuid[])  $7 kind text[] (null: all succeeded)
-- $8 run_ms text (int[]; null: never started)  $9 result text[]  $10 error text[]  $11 error_kind text[]
-- $12 delay_ms bigint[] (null: back-off)  $13 non_retryable bool[]
--                                 one per report, in the order of $1; an array of nulls may be null itself
-- Long arrays travel as the text of an array: the driver would look at each element several times.
WITH held AS MATERIALIZED (
    -- Appending nothing reads a stored array into memory once, so that picking an element costs the same at any length.
    SELECT
        named.first, named.last, lease.batch, lease.leased_at, lease.expires_at, lease.keyed, lease.queue, lease.worker,
        lease.job_ids || '{}' AS job_ids,
        lease.attempts || '{}' AS attempts,
        lease.deliveries || '{}' AS deliveries,
        lease.generations || '{}' AS generations,
        lease.max_retries || '{}' AS max_retries,
        lease.starts_ms || '{}' AS starts_ms
    FROM (
        SELECT batch, secret, (last - count + 1)::integer AS first, last::integer AS last
        FROM (
            SELECT batch, secret, count, sum(count) OVER (ORDER BY place) AS last
            FROM unnest($1::bigint[], $2::uuid[], $3::integer[]) WITH ORDINALITY AS pair (batch, secret, count, place)
        ) AS counted
        ORDER BY batch
    ) AS named
    -- Each looked up by itself: as a join in order of the batch, PostgreSQL would walk over all leases there are.
    CROSS JOIN LATERAL (
        SELECT
            batch, leased_at, expires_at, keyed, queue, worker,
            job_ids, attempts, deliveries, generations, max_retries, starts_ms
        FROM quorra.leases
        WHERE leases.batch = named.batch AND leases.secret = named.secret AND leases.principal = $4::text
        FOR KEY SHARE
    ) AS lease
),
reported AS NOT MATERIALIZED (
    SELECT
        held.batch, report.ordinal, report.job_id,
        coalesce(report.kind::quorra.outcome_kind, 'succeeded') AS kind,
        held.leased_at, held.queue, held.worker,
        statement_timestamp() > held.expires_at AS late,
        CASE
            WHEN held.starts_ms[report.ordinal] >= 0
                THEN held.leased_at + held.starts_ms[report.ordinal] * interval '1 millisecond'
            ELSE greatest(held.leased_at, statement_timestamp() - report.run_ms * interval '1 millisecond')
        END AS started_at,
        -- A release or a snooze gives the attempt back; everything else that ended had started.
        held.attempts[report.ordinal]
            + CASE WHEN report.kind IN ('released', 'snoozed') THEN 0 ELSE 1 END AS attempts,
        held.deliveries[report.ordinal] AS deliveries,
        held.generations[report.ordinal] AS generation,
        held.max_retries[report.ordinal] AS max_retries,
        report.result, report.error, report.error_kind, report.delay_ms, coalesce(report.non_retryable, false) AS non_retryable
    FROM held
    -- The reports of a lease are a slice of all: joined by a number, each of them would have the lease's arrays copied.
    CROSS JOIN LATERAL unnest(
        (SELECT $5::text::integer[])[first:last], (SELECT $6::text::uuid[])[first:last], ($7::text[])[first:last],
        (SELECT $8::text::bigint[])[first:last], ($9::text[])[first:last], ($10::text[])[first:last],
        ($11::text[])[first:last], ($12::bigint[])[first:last], ($13::boolean[])[first:last]
    ) AS report (ordinal, job_id, kind, run_ms, result, error, error_kind, delay_ms, non_retryable)
    WHERE held.job_ids[report.ordinal] = report.job_id
),
ended AS (
    INSERT INTO quorra.outcomes (
        job_id, batch, leased_at, started_at, ended_at, retry_at, ordinal, attempts, deliveries, generation,
        kind, status, late, queue, worker, error, error_kind, reason, result
    )
    SELECT
        job_id, batch, leased_at, started_at, statement_timestamp(), retry_at, ordinal, attempts, deliveries,
        generation, kind, status, late, queue, worker, error, error_kind, reason, result::json
    -- Not a CTE of its own: the random back-off would have it written down first.
    FROM (
        SELECT
            batch, ordinal, job_id, kind, leased_at, queue, worker, late, started_at, attempts, deliveries,
            generation, result, error, error_kind,
            CASE
                WHEN kind = 'succeeded' THEN 'succeeded'::quorra.ended_status
                WHEN kind = 'cancelled' THEN 'cancelled'::quorra.ended_status
                WHEN kind = 'failed' AND (non_retryable OR attempts > max_retries) THEN 'dead'::quorra.ended_status
            END AS status,
            CASE
                WHEN kind = 'failed' AND non_retryable THEN 'non_retryable'
                WHEN kind = 'failed' AND attempts > max_retries THEN 'retries_exhausted'
            END AS reason,
            CASE
                WHEN kind IN ('succeeded', 'cancelled') THEN NULL
                WHEN kind = 'failed' AND (non_retryable OR attempts > max_retries) THEN NULL
                WHEN kind = 'failed' AND delay_ms IS NULL THEN statement_timestamp() + coalesce((
                    SELECT quorra.retry_delay(reported.attempts, coalesce(jobs.backoff, queues.backoff))
                    FROM quorra.jobs
                    LEFT JOIN quorra.queues ON queues.name = jobs.queue
                    WHERE jobs.id = reported.job_id
                ), interval '0')
                ELSE statement_timestamp() + coalesce(delay_ms, 0) * interval '1 millisecond'
            END AS retry_at
        FROM reported
    ) AS judged
    ORDER BY batch, ordinal
    RETURNING job_id, batch, ordinal, kind, status, retry_at, attempts, deliveries, generation, queue
),
again AS (
    INSERT INTO quorra.ready (
        rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed, timed, queue, type
    )
    SELECT
        -jobs.priority::bigint, ended.retry_at, ended.job_id, ended.attempts, ended.deliveries, 0,
        ended.generation, jobs.max_retries, ended.kind = 'failed', jobs.unique_key IS NOT NULL, jobs.timeout_ms > 0,
        jobs.queue, jobs.type
    FROM ended
    JOIN quorra.jobs ON jobs.id = ended.job_id
    WHERE ended.retry_at IS NOT NULL
),
freed AS (
    DELETE FROM quorra.keys
    WHERE scope = 'live' AND job_id = ANY (ARRAY (
        SELECT job_id
        FROM ended
        WHERE status IS NOT NULL AND (SELECT bool_or(keyed) FROM held)
    ))
),
-- Members that ended alike are grouped once, for the counts and for the reply.
alike AS MATERIALIZED (
    SELECT batch, kind, status, retry_at, queue, count(*) AS members, array_agg(ordinal) AS ordinals
    FROM ended
    GROUP BY batch, kind, status, retry_at, queue
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT
        coalesce(sum(members) FILTER (WHERE status IS NULL), 0),
        -sum(members),
        coalesce(sum(members) FILTER (WHERE status = 'succeeded'), 0),
        coalesce(sum(members) FILTER (WHERE status = 'dead'), 0),
        coalesce(sum(members) FILTER (WHERE status = 'cancelled'), 0),
        queue
    FROM alike
    GROUP BY queue
)
SELECT batch, kind::text AS kind, status::text AS status, retry_at, queue, ordinals
FROM alike
