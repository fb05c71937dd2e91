-- Quorra from plain SQL: `quorra.enqueue`, `quorra.complete` and `quorra.fail` take part in the caller's transaction.
-- They run with the rights of their owner, so that their callers need none on the tables. `search_path` is pinned, and
-- no plan rests on a table being small, as in the server's own sessions.

CREATE TYPE quorra.enqueued AS (id uuid, existing boolean, status text, run_at timestamptz);

-- Raise one of the errors that callers can tell apart: QR001 lease_lost, QR002 invalid_request, QR003 key_reused,
-- QR004 payload_too_large. The field is the error's column name.
CREATE OR REPLACE FUNCTION quorra.refuse(code text, field text, message text, detail text DEFAULT '') RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = refuse.code,
        COLUMN = refuse.field,
        MESSAGE = refuse.message,
        DETAIL = refuse.detail,
        HINT = CASE refuse.code
            WHEN 'QR001' THEN 'Roll back, and drop what the run did: another run of the job will do it.'
            ELSE 'Nothing was changed; correct the field and repeat the transaction.'
        END;
END
$$;

-- The twin of domain/ids.py: a UUID of version 7. The 12 bits behind the milliseconds are the part of the millisecond,
-- so that ids of one session keep their order.
CREATE OR REPLACE FUNCTION quorra.new_job_id() RETURNS uuid
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (
        lpad(to_hex(moment.us / 1000), 12, '0') || '7' || lpad(to_hex(moment.us % 1000 * 4096 / 1000), 3, '0')
        || substr(replace(gen_random_uuid()::text, '-', ''), 17)
    )::uuid
    FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS moment
$$;

-- Say whether a text has printable characters only: none of Unicode's controls, formats, surrogates, private ones, and
-- no separator but the space.
CREATE OR REPLACE FUNCTION quorra.is_printable(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN value !~ (
    '[\u0001-\u001f\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f'
    || '\u2028-\u202f\u205f-\u2064\u2066-\u206f\u3000\ud800-\uf8ff\ufeff\ufff9-\ufffb\U000110bd\U000110cd'
    || '\U00013430-\U00013438\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f'
    || '\U000f0000-\U0010fffd]'
);

CREATE OR REPLACE FUNCTION quorra.check_text(field text, value text, characters_max integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF length(value) NOT BETWEEN 1 AND characters_max THEN
        PERFORM quorra.refuse(
            'QR002', field, format('%s has %s characters; give 1 to %s.', field, length(value), characters_max)
        );
    ELSIF NOT quorra.is_printable(value) THEN
        PERFORM quorra.refuse(
            'QR002', field, format('%s has control or unprintable characters; use printable ones.', field)
        );
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION quorra.check_range(field text, value double precision, low double precision, high double precision)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value NOT BETWEEN low AND high THEN
        PERFORM quorra.refuse('QR002', field, format('%s is %s; use %s to %s.', field, value, low, high));
    END IF;
END
$$;

-- The twin of domain/json_text.py: refuse a text that is not JSON, or that some reader could not use.
CREATE OR REPLACE FUNCTION quorra.check_json(field text, value text, bytes_max integer, object_only boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind text;
    plain text;
    depth integer := 0;
BEGIN
    IF octet_length(value) > bytes_max THEN
        PERFORM quorra.refuse(
            'QR004', field, format('%s has %s bytes; at most %s are taken.', field, octet_length(value), bytes_max)
        );
    END IF;
    BEGIN
        kind := json_typeof(value::json);
    EXCEPTION
        WHEN data_exception THEN
            PERFORM quorra.refuse('QR002', field, format('%s is not valid JSON: %s.', field, SQLERRM));
        WHEN statement_too_complex THEN
            PERFORM quorra.refuse('QR002', field, format('%s is nested deeper than 64 levels; flatten it.', field));
    END;
    IF object_only AND kind <> 'object' THEN
        PERFORM quorra.refuse(
            'QR002', field, format('%s needs to be a JSON object, such as {"to": "a@b.c"}; it is %s.', field, kind)
        );
    END IF;
    IF strpos(value, '\u') > 0 THEN
        plain := replace(value, '\\', ' ');
        IF strpos(plain, '\u0000') > 0 THEN
            PERFORM quorra.refuse(
                'QR002', field,
                format('%s is not usable: it has a NUL character (\u0000), which cannot be stored; remove it.', field)
            );
        END IF;
        plain := regexp_replace(plain, '\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}', ' ', 'g');
        IF plain ~ '\\u[dD][89a-fA-F]' THEN
            PERFORM quorra.refuse(
                'QR002', field,
                format('%s is not usable: it has half of a surrogate pair, which is no character; send both halves.', field)
            );
        END IF;
    END IF;
    -- Only a text with more than 64 opening brackets can be too deep. Then each round takes away the innermost pairs.
    IF length(value) - length(translate(value, '[{', '')) > 64 THEN
        plain := regexp_replace(value, '"(?:[^"\\]|\\.)*"', '', 'g');
        plain := translate(regexp_replace(plain, '[^][{}]+', '', 'g'), '[]{}', '()()');
        WHILE plain <> '' LOOP
            depth := depth + 1;
            IF depth > 64 THEN
                PERFORM quorra.refuse('QR002', field, format('%s is nested deeper than 64 levels; flatten it.', field));
            END IF;
            plain := replace(plain, '()', '');
        END LOOP;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION quorra.check_tags(tags text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    position integer := 0;
    tag text;
BEGIN
    IF cardinality(tags) > 32 THEN
        PERFORM quorra.refuse(
            'QR002', 'tags', format('There are %s tags; at most 32 are taken.', cardinality(tags))
        );
    END IF;
    FOREACH tag IN ARRAY coalesce(tags, '{}') LOOP
        IF tag IS NULL THEN
            PERFORM quorra.refuse('QR002', 'tags', format('tags[%s] is null; give 1 to 64 characters.', position));
        END IF;
        PERFORM quorra.check_text(format('tags[%s]', position), tag, 64);
        position := position + 1;
    END LOOP;
END
$$;

-- The twin of the back-off rules in domain/validation.py.
CREATE OR REPLACE FUNCTION quorra.check_backoff(backoff json) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text;
    value json;
BEGIN
    IF json_typeof(backoff) <> 'object' THEN
        PERFORM quorra.refuse('QR002', 'backoff', 'backoff needs to be an object, such as {"kind": "linear"}.');
    END IF;
    FOR name, value IN SELECT entry.key, entry.value FROM json_each(backoff) AS entry LOOP
        IF name = 'kind' THEN
            IF (value #>> '{}') IS NULL OR (value #>> '{}') NOT IN ('exponential', 'linear', 'fixed') THEN
                PERFORM quorra.refuse(
                    'QR002', 'backoff.kind', format('backoff.kind is %s; use one of exponential, linear, fixed.', value)
                );
            END IF;
        ELSIF name NOT IN ('base_seconds', 'max_seconds', 'jitter') THEN
            PERFORM quorra.refuse(
                'QR002', 'backoff.' || name, format('backoff.%s is not known; use kind, base_seconds, max_seconds, jitter.', name)
            );
        ELSIF json_typeof(value) <> 'number' THEN
            PERFORM quorra.refuse(
                'QR002', 'backoff.' || name, format('backoff.%s is %s; use a number.', name, value)
            );
        ELSIF name = 'jitter' THEN
            PERFORM quorra.check_range('backoff.jitter', (value #>> '{}')::double precision, 0, 1);
        ELSE
            PERFORM quorra.check_range('backoff.' || name, (value #>> '{}')::double precision, 0.001, 2592000);
        END IF;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION quorra.check_run_at(run_at timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF run_at NOT BETWEEN '2000-01-01Z'::timestamptz AND '9000-12-31Z'::timestamptz THEN
        PERFORM quorra.refuse('QR002', 'run_at', format('run_at is %s; use the years 2000 to 9000.', run_at));
    ELSIF run_at > clock_timestamp() + interval '3651 days' THEN
        PERFORM quorra.refuse('QR002', 'run_at', 'run_at is more than 10 years ahead; choose an earlier time.');
    END IF;
END
$$;

-- Answer a submission with the job that exists already.
CREATE OR REPLACE FUNCTION quorra.existing_job(wanted uuid, type text, queue text, payload text, is_same boolean)
RETURNS quorra.enqueued
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
BEGIN
    SELECT jobs.type, jobs.queue, jobs.payload::text AS payload, state.status, state.run_at
    INTO found
    FROM quorra.job_states(ARRAY[wanted]) AS state
    JOIN quorra.jobs ON jobs.id = state.job_id;
    IF found.status IS NULL THEN
        RAISE EXCEPTION 'job % was removed this moment; repeat the transaction', wanted
            USING ERRCODE = 'serialization_failure';
    END IF;
    IF is_same AND (found.type, found.queue, found.payload)
        IS DISTINCT FROM (existing_job.type, existing_job.queue, existing_job.payload) THEN
        PERFORM quorra.refuse(
            'QR003', 'id',
            format('The id belongs to job %s, which has another type, queue or payload. Use a new id for new work.', wanted)
        );
    END IF;
    RETURN (wanted, true, found.status, found.run_at)::quorra.enqueued;
END
$$;

-- Claim a unique key for a job, and return the job that holds it now. Waits for a claim that is not committed yet. A
-- holder may end, and free its key, between the claim that it won and the look at who won: the claim is repeated.
CREATE OR REPLACE FUNCTION quorra.claim_key(unique_key text, claimant uuid) RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    holder uuid;
BEGIN
    FOR round IN 1..3 LOOP
        INSERT INTO quorra.keys (scope, key, job_id, created_at)
        VALUES ('live', unique_key, claimant, statement_timestamp())
        ON CONFLICT DO NOTHING;
        SELECT keys.job_id INTO holder FROM quorra.keys WHERE keys.scope = 'live' AND keys.key = unique_key;
        IF holder IS NOT NULL THEN
            RETURN holder;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'unique_key % changes hands too quickly; repeat the transaction', unique_key
        USING ERRCODE = 'serialization_failure';
END
$$;

-- Submit a job within the caller's transaction: it exists if and when that commits, and servers find it by their next
-- poll. Null means the default. An id or unique key that is taken answers with the existing job, and says so.
-- transition: -> pending
CREATE OR REPLACE FUNCTION quorra.enqueue(
    type text,
    payload text,
    queue text DEFAULT 'default',
    priority bigint DEFAULT 0,
    delay_seconds double precision DEFAULT NULL,
    run_at timestamptz DEFAULT NULL,
    max_retries bigint DEFAULT 3,
    unique_key text DEFAULT NULL,
    id uuid DEFAULT NULL,
    tags text[] DEFAULT NULL,
    backoff json DEFAULT NULL,
    timeout_seconds double precision DEFAULT NULL
) RETURNS quorra.enqueued
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    new_id uuid := coalesce(enqueue.id, quorra.new_job_id());
    in_queue text := coalesce(enqueue.queue, 'default');
    holder uuid;
    due_at timestamptz;
BEGIN
    IF coalesce(enqueue.type, '') = '' THEN
        PERFORM quorra.refuse('QR002', 'type', 'type is missing; give 1 to 255 characters.');
    END IF;
    PERFORM quorra.check_text('type', enqueue.type, 255);
    PERFORM quorra.check_text('queue', in_queue, 255);
    IF enqueue.payload IS NULL THEN
        PERFORM quorra.refuse('QR002', 'payload', 'payload is missing; give a JSON object, {} if there is nothing to say.');
    END IF;
    PERFORM quorra.check_json('payload', enqueue.payload, 1048576, true);
    PERFORM quorra.check_range('priority', enqueue.priority, -2147483648, 2147483647);
    PERFORM quorra.check_range('max_retries', enqueue.max_retries, 0, 1000);
    PERFORM quorra.check_range('delay_seconds', enqueue.delay_seconds, 0, 315360000);
    PERFORM quorra.check_range('timeout_seconds', enqueue.timeout_seconds, 0, 604800);
    IF enqueue.run_at IS NOT NULL THEN
        IF enqueue.delay_seconds IS NOT NULL THEN
            PERFORM quorra.refuse('QR002', 'run_at', 'run_at and delay_seconds exclude each other; give one of them.');
        END IF;
        PERFORM quorra.check_run_at(enqueue.run_at);
    END IF;
    IF enqueue.unique_key IS NOT NULL THEN
        PERFORM quorra.check_text('unique_key', enqueue.unique_key, 255);
    END IF;
    IF enqueue.tags IS NOT NULL THEN
        PERFORM quorra.check_tags(enqueue.tags);
    END IF;
    IF enqueue.backoff IS NOT NULL THEN
        PERFORM quorra.check_backoff(enqueue.backoff);
    END IF;

    IF enqueue.id IS NOT NULL AND EXISTS (SELECT FROM quorra.jobs WHERE jobs.id = enqueue.id) THEN
        RETURN quorra.existing_job(new_id, enqueue.type, in_queue, enqueue.payload, true);
    END IF;
    IF enqueue.unique_key IS NOT NULL THEN
        holder := quorra.claim_key(enqueue.unique_key, new_id);
        IF holder <> new_id THEN
            RETURN quorra.existing_job(holder, enqueue.type, in_queue, enqueue.payload, false);
        END IF;
    END IF;

    WITH created AS (
        INSERT INTO quorra.jobs (
            id, created_at, run_at, timeout_ms, priority, max_retries, type, queue, payload, unique_key, tags, backoff
        )
        VALUES (
            new_id,
            statement_timestamp(),
            coalesce(
                enqueue.run_at, statement_timestamp() + coalesce(enqueue.delay_seconds, 0) * interval '1 second'
            ),
            coalesce(round(enqueue.timeout_seconds * 1000)::bigint, 0),
            coalesce(enqueue.priority, 0)::integer,
            coalesce(enqueue.max_retries, 3)::integer,
            enqueue.type,
            in_queue,
            enqueue.payload::json,
            enqueue.unique_key,
            nullif(enqueue.tags, '{}'),
            enqueue.backoff
        )
        ON CONFLICT DO NOTHING
        RETURNING id, run_at, priority, max_retries, type, queue, unique_key
    ),
    readied AS (
        INSERT INTO quorra.ready (
            rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed, queue, type
        )
        SELECT
            -priority::bigint, run_at, id, 0, 0, 0, 1, max_retries, false, unique_key IS NOT NULL, queue, type
        FROM created
    ),
    counted AS (
        INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
        SELECT 1, 0, 0, 0, 0, queue
        FROM created
    )
    SELECT created.run_at INTO due_at FROM created;
    IF due_at IS NULL THEN
        -- Somebody submitted the same id this moment: the key claimed above is not needed.
        DELETE FROM quorra.keys WHERE keys.scope = 'live' AND keys.key = enqueue.unique_key AND keys.job_id = new_id;
        RETURN quorra.existing_job(new_id, enqueue.type, in_queue, enqueue.payload, true);
    END IF;
    RETURN (new_id, false, 'pending', due_at)::quorra.enqueued;
END
$$;

-- The same for a payload that is json, jsonb, or a row, which becomes an object.
CREATE OR REPLACE FUNCTION quorra.enqueue(
    type text,
    payload anyelement,
    queue text DEFAULT 'default',
    priority bigint DEFAULT 0,
    delay_seconds double precision DEFAULT NULL,
    run_at timestamptz DEFAULT NULL,
    max_retries bigint DEFAULT 3,
    unique_key text DEFAULT NULL,
    id uuid DEFAULT NULL,
    tags text[] DEFAULT NULL,
    backoff json DEFAULT NULL,
    timeout_seconds double precision DEFAULT NULL
) RETURNS quorra.enqueued
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT quorra.enqueue(
        type, to_json(payload)::text, queue, priority, delay_seconds, run_at, max_retries, unique_key, id, tags, backoff,
        timeout_seconds
    )
$$;

-- End one lease, as settle_attempts.sql does, and return the job's status. `FOR KEY SHARE` lets heartbeats and settles
-- pass, and expiry passes by, for as long as the caller's transaction is open.
CREATE OR REPLACE FUNCTION quorra.settle_lease(
    job_id uuid,
    lease_id text,
    kind quorra.outcome_kind,
    result text,
    error text,
    error_kind text,
    delay_ms bigint,
    non_retryable boolean
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    parts text[] := regexp_match(
        settle_lease.lease_id, '^([0-9a-fA-F]{1,8})\.([0-9a-fA-F]{32})\.([0-9a-fA-F]{1,16})\.([0-9a-fA-F]{32})$'
    );
    place bigint;
    batch_number bigint;
    batch_secret uuid;
    status text;
    stands text;
BEGIN
    IF parts IS NULL THEN
        PERFORM quorra.refuse(
            'QR002', 'lease_id', 'lease_id is not a lease id of this queue; give the one that came with the job.'
        );
    END IF;
    IF parts[2]::uuid IS DISTINCT FROM settle_lease.job_id THEN
        PERFORM quorra.refuse(
            'QR002', 'job_id', 'job_id and lease_id belong to different jobs; give both as they came.'
        );
    END IF;
    place := ('x' || lpad(parts[1], 16, '0'))::bit(64)::bigint;
    batch_number := ('x' || lpad(parts[3], 16, '0'))::bit(64)::bigint;
    batch_secret := parts[4]::uuid;

    WITH held AS MATERIALIZED (
        SELECT
            leases.batch, leases.leased_at, leases.expires_at, leases.keyed, leases.queue, leases.worker,
            leases.attempts[place] AS attempts,
            leases.deliveries[place] AS deliveries,
            leases.generations[place] AS generation,
            leases.max_retries[place] AS max_retries,
            leases.starts_ms[place] AS start_ms
        FROM quorra.leases
        WHERE leases.batch = batch_number AND leases.secret = batch_secret
          AND leases.job_ids[place] = settle_lease.job_id
        FOR KEY SHARE OF leases
    ),
    judged AS MATERIALIZED (
        SELECT
            held.batch, held.leased_at, held.keyed, held.queue, held.worker, held.deliveries, held.generation,
            held.attempts + 1 AS attempts,
            statement_timestamp() > held.expires_at AS late,
            held.leased_at + greatest(held.start_ms, 0) * interval '1 millisecond' AS started_at,
            CASE
                WHEN settle_lease.kind = 'succeeded' THEN 'succeeded'
                WHEN settle_lease.non_retryable OR held.attempts + 1 > held.max_retries THEN 'dead'
            END::quorra.ended_status AS status,
            CASE
                WHEN settle_lease.kind = 'succeeded' THEN NULL
                WHEN settle_lease.non_retryable THEN 'non_retryable'
                WHEN held.attempts + 1 > held.max_retries THEN 'retries_exhausted'
            END AS reason,
            CASE
                WHEN settle_lease.kind = 'succeeded' THEN NULL
                WHEN settle_lease.non_retryable OR held.attempts + 1 > held.max_retries THEN NULL
                WHEN settle_lease.delay_ms IS NULL THEN statement_timestamp() + (
                    SELECT quorra.retry_delay(held.attempts + 1, coalesce(jobs.backoff, queues.backoff))
                    FROM quorra.jobs
                    LEFT JOIN quorra.queues ON queues.name = jobs.queue
                    WHERE jobs.id = settle_lease.job_id
                )
                ELSE statement_timestamp() + settle_lease.delay_ms * interval '1 millisecond'
            END AS retry_at
        FROM held
    ),
    ended AS (
        INSERT INTO quorra.outcomes (
            job_id, batch, leased_at, started_at, ended_at, retry_at, ordinal, attempts, deliveries, generation,
            kind, status, late, queue, worker, error, error_kind, reason, result
        )
        SELECT
            settle_lease.job_id, judged.batch, judged.leased_at, judged.started_at, statement_timestamp(),
            judged.retry_at, place::integer, judged.attempts, judged.deliveries, judged.generation, settle_lease.kind,
            judged.status, judged.late, judged.queue, judged.worker, settle_lease.error, settle_lease.error_kind,
            judged.reason, settle_lease.result::json
        FROM judged
        ON CONFLICT DO NOTHING
        RETURNING job_id, status, retry_at, attempts, deliveries, generation, queue
    ),
    again AS (
        INSERT INTO quorra.ready (
            rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed, queue, type
        )
        SELECT
            -jobs.priority::bigint, ended.retry_at, ended.job_id, ended.attempts, ended.deliveries, 0,
            ended.generation, jobs.max_retries, true, jobs.unique_key IS NOT NULL, jobs.queue, jobs.type
        FROM ended
        JOIN quorra.jobs ON jobs.id = ended.job_id
        WHERE ended.retry_at IS NOT NULL
    ),
    freed AS (
        DELETE FROM quorra.keys
        WHERE scope = 'live' AND job_id = ANY (ARRAY (
            SELECT ended.job_id FROM ended CROSS JOIN held WHERE held.keyed AND ended.status IS NOT NULL
        ))
    ),
    counted AS (
        INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
        SELECT
            CASE WHEN status IS NULL THEN 1 ELSE 0 END,
            -1,
            CASE WHEN status = 'succeeded' THEN 1 ELSE 0 END,
            CASE WHEN status = 'dead' THEN 1 ELSE 0 END,
            0,
            queue
        FROM ended
    )
    SELECT coalesce(ended.status::text, CASE WHEN ended.retry_at > statement_timestamp() THEN 'failed' ELSE 'pending' END)
    INTO status
    FROM ended;

    IF status IS NULL THEN
        SELECT outcomes.kind::text INTO stands
        FROM quorra.outcomes
        WHERE outcomes.job_id = settle_lease.job_id AND outcomes.batch = batch_number;
        PERFORM quorra.refuse(
            'QR001', 'lease_id',
            format('The lease of job %s is over; nothing was changed.', settle_lease.job_id),
            coalesce('It ended as ' || stands || '.', 'It ran out, or never was.')
        );
    END IF;
    RETURN status;
END
$$;

-- Record, within the caller's transaction, that a leased job succeeded; raises QR001 if the lease is over, which rolls
-- the caller's work back. The authority is the lease id, which cannot be guessed. `result` is JSON text.
-- transition: leased, processing -> succeeded
CREATE OR REPLACE FUNCTION quorra.complete(job_id uuid, lease_id text, result text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF complete.result IS NOT NULL THEN
        PERFORM quorra.check_json('result', complete.result, 262144, false);
    END IF;
    RETURN quorra.settle_lease(
        complete.job_id, complete.lease_id, 'succeeded', complete.result, NULL, NULL, NULL, false
    );
END
$$;

-- The same for a result that is json, jsonb, a row, a number or an array.
CREATE OR REPLACE FUNCTION quorra.complete(job_id uuid, lease_id text, result anyelement) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT quorra.complete(job_id, lease_id, to_json(result)::text)
$$;

-- Record, within the caller's transaction, that a run failed; the job backs off, or is dead if no run is left. Raises
-- QR001 if the lease is over.
-- transition: leased, processing -> failed, pending, dead
CREATE OR REPLACE FUNCTION quorra.fail(
    job_id uuid,
    lease_id text,
    error text,
    error_kind text DEFAULT NULL,
    retry_after_seconds double precision DEFAULT NULL,
    non_retryable boolean DEFAULT false
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM quorra.check_range('retry_after_seconds', fail.retry_after_seconds, 0, 315360000);
    RETURN quorra.settle_lease(
        fail.job_id, fail.lease_id, 'failed', NULL,
        left(coalesce(nullif(fail.error, ''), 'failed without a message'), 16384), left(fail.error_kind, 255),
        round(fail.retry_after_seconds * 1000)::bigint, coalesce(fail.non_retryable, false)
    );
END
$$;

-- The runtime role makes and drops partitions without a right to any other change of the schema.
ALTER FUNCTION quorra.make_partitions(date, integer) SECURITY DEFINER;
ALTER FUNCTION quorra.drop_partition(date, interval) SECURITY DEFINER;
