-- Record new jobs and make them ready, in one statement for any number of them. Their ids are this server's, and new: an
-- insert that need not look for a conflict first costs a third less (12 instead of 17 us a job).
-- transition: -> pending
-- $1 ids uuid[]  $2 types text[]  $3 payloads text[]  $4 queues text[]  $5 priorities int[]  $6 max_retries int[]
-- $7 run_ats timestamptz[] (null: now + delay)  $8 delays_ms bigint[]  $9 timeouts_ms bigint[]
-- $10 unique_keys text[]  $11 tags text[] (joined by U+001F)  $12 backoffs text[] (JSON)
-- An array of $2 and $4 to $6 that would hold equal elements may be cut to the first. One of $7 to $12 that would hold
-- only nulls may be null itself.
WITH submitted AS (
    SELECT
        id,
        coalesce(type, ($2::text[])[1]) AS type,
        payload,
        coalesce(queue, ($4::text[])[1]) AS queue,
        coalesce(priority, ($5::integer[])[1]) AS priority,
        coalesce(max_retries, ($6::integer[])[1]) AS max_retries,
        coalesce(run_at, statement_timestamp() + coalesce(delay_ms, 0) * interval '1 millisecond') AS run_at,
        coalesce(timeout_ms, 0) AS timeout_ms,
        unique_key,
        tags,
        backoff
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::integer[],
        $7::timestamptz[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::text[]
    ) AS job (
        id, type, payload, queue, priority, max_retries,
        run_at, delay_ms, timeout_ms, unique_key, tags, backoff
    )
),
created AS (
    INSERT INTO quorra.jobs (
        id, created_at, run_at, timeout_ms, priority, max_retries, type, queue, payload, unique_key, tags, backoff
    )
    SELECT
        id,
        statement_timestamp(),
        run_at,
        timeout_ms,
        priority,
        max_retries,
        type,
        queue,
        payload::json,
        unique_key,
        string_to_array(tags, E'\x1f'),
        backoff::json
    FROM submitted
    RETURNING id, run_at, timeout_ms, priority, max_retries, type, queue, unique_key
),
readied AS (
    INSERT INTO quorra.ready (
        rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed, timed, queue, type
    )
    SELECT
        -priority::bigint, run_at, id, 0, 0, 0, 1, max_retries, false, unique_key IS NOT NULL, timeout_ms > 0, queue, type
    FROM created
),
counted AS (
    INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
    SELECT count(*), 0, 0, 0, 0, queue
    FROM created
    GROUP BY queue
)
SELECT statement_timestamp() AS submitted_at
