-- Record new jobs of one queue and lease them to a worker that waits for it: the commit that makes them durable leases
-- them too. Where other jobs of the queue are due nobody is overtaken: then the new ones are made ready.
-- transition: -> pending, leased
-- $1 ids uuid[]  $2 types text[]  $3 payloads text[]  $4 queue text  $5 priorities int[]  $6 max_retries int[]
-- $7 timeouts_ms bigint[]  $8 tags text[] (joined by U+001F)  $9 backoffs text[] (JSON)
--                                          one per job, in the order in which they are leased
-- An array of $2, $5 and $6 that would hold equal elements may be cut to the first. One of $7 to $9 that would hold
-- only nulls may be null itself.
-- $10 worker text  $11 principal text  $12 lease_ms bigint  $13 secret uuid
WITH RECURSIVE submitted AS MATERIALIZED (
    SELECT
        ordinal,
        id,
        coalesce(type, ($2::text[])[1]) AS type,
        payload,
        coalesce(priority, ($5::integer[])[1]) AS priority,
        coalesce(max_retries, ($6::integer[])[1]) AS max_retries,
        coalesce(timeout_ms, 0) AS timeout_ms,
        tags,
        backoff
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $5::integer[], $6::integer[], $7::bigint[], $8::text[], $9::text[]
    ) WITH ORDINALITY AS job (id, type, payload, priority, max_retries, timeout_ms, tags, backoff, ordinal)
),
-- The first job of each priority: if that is not due, none is, and nothing that is delayed has to be walked past. Of more
-- than a hundred priorities others are taken to be due, which is never wrong.
heads AS (
    (
        SELECT ready.rank, ready.run_at, 1 AS number
        FROM quorra.ready
        WHERE ready.queue = $4::text
        ORDER BY ready.rank, ready.run_at
        LIMIT 1
    )
    UNION ALL
    SELECT further.rank, further.run_at, heads.number + 1
    FROM heads
    CROSS JOIN LATERAL (
        SELECT ready.rank, ready.run_at
        FROM quorra.ready
        WHERE ready.queue = $4::text AND ready.rank > heads.rank
        ORDER BY ready.rank, ready.run_at
        LIMIT 1
    ) AS further
    WHERE heads.number <= 100
),
line AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM heads WHERE run_at <= statement_timestamp() OR number > 100) AS is_there
),
created AS (
    INSERT INTO quorra.jobs (
        id, created_at, run_at, timeout_ms, priority, max_retries, type, queue, payload, unique_key, tags, backoff
    )
    SELECT
        id,
        statement_timestamp(),
        statement_timestamp(),
        timeout_ms,
        priority,
        max_retries,
        type,
        $4::text,
        payload::json,
        NULL,
        string_to_array(tags, E'\x1f'),
        backoff::json
    FROM submitted
),
batch AS (
    INSERT INTO quorra.leases (
        batch, leased_at, expires_at, secret, keyed, timed, queue, worker, principal,
        job_ids, attempts, deliveries, silents, generations, max_retries, starts_ms
    )
    SELECT
        quorra.next_batch(),
        statement_timestamp(),
        statement_timestamp() + $12::bigint * interval '1 millisecond',
        $13::uuid,
        false,
        bool_or(timeout_ms > 0),
        $4::text,
        $10::text,
        $11::text,
        array_agg(id ORDER BY ordinal),
        array_agg(0),
        array_agg(1),
        array_agg(0),
        array_agg(1),
        array_agg(max_retries ORDER BY ordinal),
        array_agg(-1)
    FROM submitted
    CROSS JOIN line
    WHERE NOT line.is_there
    HAVING count(*) > 0
    RETURNING batch
),
readied AS (
    INSERT INTO quorra.ready (
        rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed, timed, queue, type
    )
    SELECT
        -priority::bigint, statement_timestamp(), id, 0, 0, 0, 1, max_retries, false, false, timeout_ms > 0, $4::text, type
    FROM submitted
    CROSS JOIN line
    WHERE line.is_there
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT count(*) FILTER (WHERE line.is_there), count(*) FILTER (WHERE NOT line.is_there), 0, 0, 0, $4::text
    FROM submitted
    CROSS JOIN line
)
SELECT statement_timestamp() AS submitted_at, (SELECT batch FROM batch) AS batch
