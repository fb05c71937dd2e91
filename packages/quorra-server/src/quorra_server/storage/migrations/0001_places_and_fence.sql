-- A job is in exactly one place (ready, a lease, or ended), and an outcome row is the fence.

CREATE TYPE quorra.outcome_kind AS ENUM ('succeeded', 'failed', 'expired', 'released', 'snoozed', 'cancelled');
CREATE TYPE quorra.ended_status AS ENUM ('succeeded', 'dead', 'cancelled');

-- What was submitted. Never written again on the hot path; operators may move or reprioritise a waiting job.
CREATE TABLE quorra.jobs (
    id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz,
    run_at timestamptz NOT NULL,
    timeout_ms bigint NOT NULL CHECK (timeout_ms >= 0),
    priority integer NOT NULL,
    max_retries integer NOT NULL CHECK (max_retries >= 0),
    type text NOT NULL CHECK (length(type) BETWEEN 1 AND 255),
    queue text NOT NULL CHECK (length(queue) BETWEEN 1 AND 255),
    payload json NOT NULL,
    unique_key text,
    tags text[],
    backoff json,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE TABLE quorra.jobs_default PARTITION OF quorra.jobs DEFAULT;

-- One narrow row for each waiting job. `rank` is the negated priority, so that the order of the index ascends
-- in all columns.
CREATE TABLE quorra.ready (
    rank bigint NOT NULL,
    run_at timestamptz NOT NULL,
    job_id uuid NOT NULL,
    attempts integer NOT NULL CHECK (attempts >= 0),
    deliveries integer NOT NULL CHECK (deliveries >= 0),
    silent integer NOT NULL CHECK (silent BETWEEN 0 AND deliveries),
    generation integer NOT NULL CHECK (generation >= 1),
    max_retries integer NOT NULL CHECK (max_retries >= 0),
    failed boolean NOT NULL,
    keyed boolean NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    PRIMARY KEY (job_id),
    CHECK (attempts <= max_retries)
) WITH (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX ready_order ON quorra.ready (queue, rank, run_at, job_id);
-- Backing off is what changes with time alone, so it is counted from here, never from a delta.
CREATE INDEX ready_failed ON quorra.ready (queue, run_at) WHERE failed;

-- One row for each lease batch; the arrays are its members, in order.
CREATE TABLE quorra.leases (
    batch bigint NOT NULL,
    leased_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    secret uuid NOT NULL,
    keyed boolean NOT NULL,
    queue text NOT NULL,
    worker text NOT NULL,
    principal text NOT NULL,
    job_ids uuid[] NOT NULL CHECK (cardinality(job_ids) > 0),
    attempts integer[] NOT NULL CHECK (cardinality(attempts) = cardinality(job_ids)),
    deliveries integer[] NOT NULL CHECK (cardinality(deliveries) = cardinality(job_ids)),
    silents integer[] NOT NULL CHECK (cardinality(silents) = cardinality(job_ids)),
    generations integer[] NOT NULL CHECK (cardinality(generations) = cardinality(job_ids)),
    max_retries integer[] NOT NULL CHECK (cardinality(max_retries) = cardinality(job_ids)),
    -- Milliseconds from `leased_at` to the start of the run; -1 while it has not started. No nulls: with them an element
    -- could only be found by walking the array.
    starts_ms integer[] NOT NULL CHECK (cardinality(starts_ms) = cardinality(job_ids)),
    PRIMARY KEY (batch),
    CHECK (expires_at > leased_at)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_cost_delay = 0
);

-- Identifiers do not compress: trying costs time on each lease.
ALTER TABLE quorra.leases
    ALTER COLUMN job_ids SET STORAGE EXTERNAL,
    ALTER COLUMN attempts SET STORAGE EXTERNAL,
    ALTER COLUMN deliveries SET STORAGE EXTERNAL,
    ALTER COLUMN silents SET STORAGE EXTERNAL,
    ALTER COLUMN generations SET STORAGE EXTERNAL,
    ALTER COLUMN max_retries SET STORAGE EXTERNAL,
    ALTER COLUMN starts_ms SET STORAGE EXTERNAL;

-- One row for each lease that ended, and for each waiting job that was cancelled. The primary key is the fence:
-- whoever ends a lease inserts this row, and the first to commit wins.
CREATE TABLE quorra.outcomes (
    job_id uuid NOT NULL,
    batch bigint NOT NULL,
    leased_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz NOT NULL,
    retry_at timestamptz,
    replayed_at timestamptz,
    ordinal integer NOT NULL,
    attempts integer NOT NULL CHECK (attempts >= 0),
    deliveries integer NOT NULL CHECK (deliveries >= 0),
    generation integer NOT NULL CHECK (generation >= 1),
    kind quorra.outcome_kind NOT NULL,
    status quorra.ended_status,
    late boolean NOT NULL,
    queue text NOT NULL,
    worker text NOT NULL,
    error text,
    error_kind text,
    reason text,
    result json,
    PRIMARY KEY (job_id, batch),
    CHECK ((status IS NULL) = (retry_at IS NOT NULL)),
    CHECK (replayed_at IS NULL OR status = 'dead'),
    CHECK (kind <> 'succeeded' OR status = 'succeeded'),
    CHECK (kind <> 'cancelled' OR status = 'cancelled'),
    CHECK (kind NOT IN ('released', 'snoozed') OR status IS NULL)
) PARTITION BY RANGE (batch);

CREATE TABLE quorra.outcomes_default PARTITION OF quorra.outcomes DEFAULT;
CREATE INDEX outcomes_ended ON quorra.outcomes (status, batch, ordinal) WHERE status IS NOT NULL;

-- Keys that make submissions unique or repeatable. Scope `live` holds unique keys and is freed by the terminal
-- outcome; scope `request:<principal>` holds idempotency keys for a day.
CREATE TABLE quorra.keys (
    scope text NOT NULL,
    key text NOT NULL,
    job_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX keys_job ON quorra.keys (job_id);

-- Counts are sums of appended deltas; a loop folds them into the summary. Reads add both.
CREATE TABLE quorra.count_deltas (
    waiting bigint NOT NULL,
    held bigint NOT NULL,
    succeeded bigint NOT NULL,
    dead bigint NOT NULL,
    cancelled bigint NOT NULL,
    queue text NOT NULL
) WITH (autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE quorra.queue_counts (
    queue text PRIMARY KEY,
    waiting bigint NOT NULL,
    held bigint NOT NULL,
    succeeded bigint NOT NULL,
    dead bigint NOT NULL,
    cancelled bigint NOT NULL
) WITH (fillfactor = 50);

-- Settings of a queue; a queue without a row has the defaults.
CREATE TABLE quorra.queues (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 255),
    backoff json,
    updated_at timestamptz NOT NULL
);

CREATE TABLE quorra.workers (
    worker text NOT NULL,
    boot_id text NOT NULL,
    node text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    sdk text NOT NULL,
    slots integer NOT NULL,
    running integer NOT NULL,
    queues text[] NOT NULL,
    types text[] NOT NULL,
    labels json NOT NULL,
    started_at timestamptz NOT NULL,
    last_beat_at timestamptz NOT NULL,
    PRIMARY KEY (worker, boot_id)
) WITH (fillfactor = 50);

-- What a handler said while it ran. The checkpoint is kept over retries.
CREATE TABLE quorra.notes (
    job_id uuid PRIMARY KEY,
    checkpoint json,
    progress_done bigint,
    progress_total bigint,
    progress_note text,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE quorra.log_lines (
    job_id uuid NOT NULL,
    batch bigint NOT NULL,
    position integer NOT NULL,
    logged_at timestamptz NOT NULL,
    level text NOT NULL,
    message text NOT NULL,
    PRIMARY KEY (job_id, batch, position)
);

-- Batch numbers start with the time, so that outcomes can be partitioned and dropped by it:
-- 43 bits of milliseconds since the epoch, then 20 bits of a cycling sequence.
CREATE SEQUENCE quorra.batch_numbers AS bigint MINVALUE 0 MAXVALUE 1048575 START 0 CYCLE;

CREATE FUNCTION quorra.batch_at(moment timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (floor(extract(epoch FROM moment) * 1000)::bigint << 20);

CREATE FUNCTION quorra.next_batch() RETURNS bigint
LANGUAGE sql VOLATILE
RETURN quorra.batch_at(clock_timestamp()) + nextval('quorra.batch_numbers');

-- The first UUIDv7 of a moment: where its partition begins.
CREATE FUNCTION quorra.first_id_at(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;

-- How long a job waits after its n-th started run; the twin of domain/retry.py. Total for every n: the exponent is
-- capped before the power. A policy's fields may be missing; jitter only shortens.
CREATE FUNCTION quorra.retry_delay(attempts integer, policy json) RETURNS interval
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN make_interval(secs =>
    least(
        coalesce((policy ->> 'base_seconds')::double precision, 2)
        * CASE coalesce(policy ->> 'kind', 'exponential')
              WHEN 'fixed' THEN 1
              WHEN 'linear' THEN attempts
              ELSE power(2::double precision, least(attempts, 12) - 1)
          END,
        coalesce((policy ->> 'max_seconds')::double precision, 3600)
    )
    * (1 - coalesce((policy ->> 'jitter')::double precision, 0) * random())
);

-- Make the daily partitions of `jobs` and `outcomes` that are missing, from `first` on. Attaching locks the parent only
-- against other schema changes; the default partition is locked while it is checked for rows of that day.
CREATE FUNCTION quorra.make_partitions(first date, days integer) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog
AS $$
DECLARE
    day date;
    suffix text;
    opens timestamptz;
    closes timestamptz;
    made integer := 0;
BEGIN
    FOR day IN SELECT first + offset_days FROM generate_series(0, days - 1) AS offset_days LOOP
        suffix := to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('quorra.outcomes_' || suffix) IS NOT NULL;
        opens := day::timestamp AT TIME ZONE 'UTC';
        closes := (day + 1)::timestamp AT TIME ZONE 'UTC';
        EXECUTE format('CREATE TABLE quorra.%I (LIKE quorra.jobs INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', 'jobs_' || suffix);
        EXECUTE format(
            'ALTER TABLE quorra.jobs ATTACH PARTITION quorra.%I FOR VALUES FROM (%L) TO (%L)',
            'jobs_' || suffix, quorra.first_id_at(opens), quorra.first_id_at(closes)
        );
        EXECUTE format('CREATE TABLE quorra.%I (LIKE quorra.outcomes INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', 'outcomes_' || suffix);
        EXECUTE format(
            'ALTER TABLE quorra.outcomes ATTACH PARTITION quorra.%I FOR VALUES FROM (%L) TO (%L)',
            'outcomes_' || suffix, quorra.batch_at(opens), quorra.batch_at(closes)
        );
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

-- The state of jobs, derived from where they are; every read of a status goes through here. A job that is neither ready
-- nor ended is looked for among the leases, which are few.
CREATE FUNCTION quorra.job_states(wanted uuid[]) RETURNS TABLE (
    job_id uuid,
    status text,
    attempts integer,
    deliveries integer,
    generation integer,
    run_at timestamptz,
    leased_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    lease_expires_at timestamptz,
    leased_by text,
    last_error text,
    dead_because text,
    result json,
    changed_at timestamptz
)
LANGUAGE sql STABLE
AS $$
WITH last_outcome AS MATERIALIZED (
    SELECT DISTINCT ON (outcomes.job_id)
        outcomes.job_id, outcomes.status, outcomes.attempts, outcomes.deliveries, outcomes.generation,
        outcomes.leased_at, outcomes.started_at, outcomes.ended_at, outcomes.reason, outcomes.result, outcomes.replayed_at
    FROM quorra.outcomes
    WHERE outcomes.job_id = ANY (wanted)
    ORDER BY outcomes.job_id, outcomes.generation DESC, (outcomes.status IS NOT NULL) DESC, outcomes.batch DESC
),
last_failure AS MATERIALIZED (
    SELECT DISTINCT ON (outcomes.job_id) outcomes.job_id, outcomes.error
    FROM quorra.outcomes
    WHERE outcomes.job_id = ANY (wanted) AND outcomes.error IS NOT NULL
    ORDER BY outcomes.job_id, outcomes.batch DESC
),
sought AS MATERIALIZED (
    SELECT array_agg(job.id) AS ids
    FROM unnest(wanted) AS job (id)
    WHERE NOT EXISTS (SELECT FROM quorra.ready WHERE ready.job_id = job.id)
      AND NOT EXISTS (
          SELECT FROM last_outcome
          WHERE last_outcome.job_id = job.id AND last_outcome.status IS NOT NULL AND last_outcome.replayed_at IS NULL
      )
),
held AS MATERIALIZED (
    SELECT
        member.job_id, member.attempts, member.deliveries, member.generation, member.start_ms,
        leases.leased_at, leases.expires_at, leases.worker
    FROM sought
    JOIN quorra.leases ON leases.job_ids && sought.ids
    CROSS JOIN LATERAL unnest(
        leases.job_ids, leases.attempts, leases.deliveries, leases.generations, leases.starts_ms
    ) AS member (job_id, attempts, deliveries, generation, start_ms)
    WHERE member.job_id = ANY (sought.ids)
      AND NOT EXISTS (
          SELECT FROM quorra.outcomes
          WHERE outcomes.job_id = member.job_id AND outcomes.batch = leases.batch
      )
)
SELECT
    jobs.id,
    CASE
        WHEN ready.job_id IS NOT NULL AND ready.failed AND ready.run_at > statement_timestamp() THEN 'failed'
        WHEN ready.job_id IS NOT NULL THEN 'pending'
        WHEN held.job_id IS NOT NULL AND held.start_ms >= 0 THEN 'processing'
        WHEN held.job_id IS NOT NULL THEN 'leased'
        ELSE last_outcome.status::text
    END,
    coalesce(
        ready.attempts,
        held.attempts + CASE WHEN held.start_ms >= 0 THEN 1 ELSE 0 END,
        last_outcome.attempts
    ),
    coalesce(ready.deliveries, held.deliveries, last_outcome.deliveries),
    coalesce(ready.generation, held.generation, last_outcome.generation),
    coalesce(ready.run_at, jobs.run_at),
    coalesce(held.leased_at, last_outcome.leased_at),
    CASE
        WHEN held.job_id IS NULL THEN last_outcome.started_at
        WHEN held.start_ms >= 0 THEN held.leased_at + held.start_ms * interval '1 millisecond'
    END,
    CASE WHEN ready.job_id IS NULL AND held.job_id IS NULL THEN last_outcome.ended_at END,
    held.expires_at,
    held.worker,
    last_failure.error,
    CASE WHEN ready.job_id IS NULL AND held.job_id IS NULL AND last_outcome.status = 'dead' THEN last_outcome.reason END,
    CASE WHEN ready.job_id IS NULL AND held.job_id IS NULL THEN last_outcome.result END,
    greatest(jobs.created_at, jobs.updated_at, held.leased_at, last_outcome.ended_at, last_outcome.replayed_at)
FROM unnest(wanted) AS job (id)
JOIN quorra.jobs ON jobs.id = job.id
LEFT JOIN quorra.ready ON ready.job_id = job.id
LEFT JOIN held ON held.job_id = job.id
LEFT JOIN last_outcome ON last_outcome.job_id = job.id
LEFT JOIN last_failure ON last_failure.job_id = job.id
$$;

-- Say whether a payload contains a document. Payloads are kept as text, and a few legal JSON texts cannot be compared
-- (numbers past every limit): those contain nothing.
CREATE FUNCTION quorra.payload_contains(payload json, wanted jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog
AS $$
BEGIN
    RETURN payload::jsonb @> wanted;
EXCEPTION WHEN data_exception THEN
    RETURN false;
END
$$;
