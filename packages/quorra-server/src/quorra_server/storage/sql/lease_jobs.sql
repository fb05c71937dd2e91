-- Take the next due jobs of a queue and lease them as one batch, highest priority first, then oldest.
-- Nothing waits for a row that another lease holds: it is passed by.
-- transition: pending, failed -> leased, processing
-- $1 queue text  $2 limit int  $3 types text[] (null: every type)  $4 worker text  $5 principal text
-- $6 lease_ms bigint  $7 secret uuid  $8 delivery_is_start bool
-- where to begin, the cursor of a dispatcher: $9 rank bigint  $10 run_at timestamptz  $11 job_id uuid
-- Where each of the next hundred priorities begins. Within one, the due jobs come before those that are not due yet: over
-- all priorities a lease would have to walk past everything that is delayed. It does so only behind the hundredth.
WITH RECURSIVE heads AS (
    SELECT $9::bigint AS rank, $10::timestamptz AS run_at, $11::uuid AS job_id, 0 AS number
    UNION ALL
    SELECT further.rank, further.run_at, further.job_id, heads.number + 1
    FROM heads
    CROSS JOIN LATERAL (
        SELECT ready.rank, ready.run_at, ready.job_id
        FROM quorra.ready
        WHERE ready.queue = $1::text AND ready.rank > heads.rank
        ORDER BY ready.rank, ready.run_at, ready.job_id
        LIMIT 1
    ) AS further
    WHERE heads.number < 100
),
picked AS MATERIALIZED (
    SELECT due.place
    FROM heads
    CROSS JOIN LATERAL (
        SELECT ready.ctid AS place
        FROM quorra.ready
        WHERE ready.queue = $1::text
          AND ready.rank = heads.rank
          AND (ready.run_at, ready.job_id) >= (heads.run_at, heads.job_id)
          AND ready.run_at <= statement_timestamp()
          AND ($3::text[] IS NULL OR ready.type = ANY ($3::text[]))
        ORDER BY ready.run_at, ready.job_id
        LIMIT $2::integer
        FOR UPDATE SKIP LOCKED
    ) AS due
    UNION ALL
    SELECT behind.place
    FROM (
        SELECT ready.ctid AS place
        FROM quorra.ready
        WHERE ready.queue = $1::text
          AND ready.rank > (SELECT heads.rank FROM heads WHERE heads.number = 100)
          AND ready.run_at <= statement_timestamp()
          AND ($3::text[] IS NULL OR ready.type = ANY ($3::text[]))
        ORDER BY ready.rank, ready.run_at, ready.job_id
        LIMIT $2::integer
        FOR UPDATE SKIP LOCKED
    ) AS behind
    LIMIT $2::integer
),
taken AS MATERIALIZED (
    DELETE FROM quorra.ready
    -- All places in one scan: a scan for each would ask for the length of the table each time.
    WHERE ready.ctid = ANY (ARRAY(SELECT picked.place FROM picked))
    RETURNING
        ready.rank, ready.run_at, ready.job_id, ready.attempts, ready.deliveries, ready.silent,
        ready.generation, ready.max_retries, ready.keyed, ready.timed
),
-- The members in one row of arrays, as the lease keeps them. A place in these arrays is the ordinal of a member.
members AS MATERIALIZED (
    SELECT
        count(*) AS count,
        bool_or(keyed) AS keyed,
        bool_or(timed) AS timed,
        array_agg(job_id) AS job_ids,
        -- date_part counts in floating point, which is exact to the microsecond for 200 years; extract counts in numeric,
        -- at ten times the cost.
        array_agg((date_part('epoch', run_at) * 1000000)::bigint) AS run_ats_us,
        array_agg(attempts) AS attempts,
        array_agg(deliveries + 1) AS deliveries,
        array_agg(silent) AS silents,
        array_agg(generation) AS generations,
        array_agg(max_retries) AS max_retries,
        array_agg(CASE WHEN $8::boolean THEN 0 ELSE -1 END) AS starts_ms
    FROM (
        SELECT run_at, job_id, attempts, deliveries, silent, generation, max_retries, keyed, timed
        FROM taken
        ORDER BY rank, run_at, job_id
    ) AS in_order
    HAVING count(*) > 0
),
batch AS (
    INSERT INTO quorra.leases (
        batch, leased_at, expires_at, secret, keyed, timed, queue, worker, principal,
        job_ids, attempts, deliveries, silents, generations, max_retries, starts_ms
    )
    SELECT
        quorra.next_batch(),
        statement_timestamp(),
        statement_timestamp() + $6::bigint * interval '1 millisecond',
        $7::uuid,
        keyed,
        timed,
        $1::text,
        $4::text,
        $5::text,
        job_ids, attempts, deliveries, silents, generations, max_retries, starts_ms
    FROM members
    RETURNING batch, (date_part('epoch', leased_at) * 1000000)::bigint AS leased_at_us
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT -count, count, 0, 0, 0, $1::text
    FROM members
)
-- A row for each job, in any order, and one for the batch and its members: to bring them together here would cost a
-- quarter of the lease. The first and the last id keep the other partitions out.
SELECT
    job.id::text AS id,
    job.payload::text AS payload,
    (date_part('epoch', job.created_at) * 1000000)::bigint AS created_at_us,
    job.type,
    job.priority,
    job.timeout_ms,
    NULL::bigint AS batch,
    NULL::bigint AS leased_at_us,
    NULL::text[] AS member_ids,
    NULL::bigint[] AS run_ats_us,
    NULL::integer[] AS attempts,
    NULL::integer[] AS deliveries,
    NULL::integer[] AS generations,
    NULL::integer[] AS max_retries
FROM quorra.jobs AS job
WHERE job.id = ANY ((SELECT members.job_ids FROM members)::uuid[])
  AND job.id >= (SELECT taken.job_id FROM taken ORDER BY taken.job_id LIMIT 1)
  AND job.id <= (SELECT taken.job_id FROM taken ORDER BY taken.job_id DESC LIMIT 1)
UNION ALL
SELECT
    NULL, NULL, NULL, NULL, NULL, NULL,
    batch.batch,
    batch.leased_at_us,
    members.job_ids::text[],
    members.run_ats_us,
    members.attempts,
    members.deliveries,
    members.generations,
    members.max_retries
FROM batch
CROSS JOIN members
