-- Partitions are made and dropped whatever lies in the default ones, one server at a time, and without keeping others
-- waiting: whoever does not get a lock that others wait behind at once gives up, and the next round tries again. Old keys are
-- found by their age.
-- serves: 5

-- Nobody settles while it is made: where there are many keys, it was made before (docs/operations.md, Upgrades).
CREATE INDEX IF NOT EXISTS keys_requested ON quorra.keys (created_at) WHERE scope <> 'live';

-- The columns of a table, to move whole rows of it by name.
CREATE OR REPLACE FUNCTION quorra.columns_of(relation regclass) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(format('%I', attname), ', ' ORDER BY attnum)
    FROM pg_attribute
    WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
$$;

-- Say whether this transaction is the one that makes or drops partitions now.
CREATE OR REPLACE FUNCTION quorra.may_change_partitions() RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    -- Any constant, but the one of migrations.
    SELECT pg_try_advisory_xact_lock(7310862515)
$$;

-- Keep vacuum away from tables, and end an autovacuum of one: PostgreSQL does that for whoever has waited for
-- `deadlock_timeout` (1 s). Statements go on meanwhile; behind a lock that they wait for too, they would stand still so long.
CREATE OR REPLACE FUNCTION quorra.hold_off_vacuum(VARIADIC tables text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
BEGIN
    EXECUTE format(
        'LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE',
        (SELECT string_agg(format('quorra.%I', name), ', ') FROM unnest(tables) AS name)
    );
END
$$;

-- Make one partition. Rows of its range that lie in the default partition move into it: it could not be attached else.
CREATE OR REPLACE FUNCTION quorra.make_partition(parent text, suffix text, key text, low text, high text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    partition text := parent || '_' || suffix;
    columns text := quorra.columns_of(format('quorra.%I', parent)::regclass);
BEGIN
    EXECUTE format('CREATE TABLE quorra.%I (LIKE quorra.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition, parent);
    EXECUTE format(
        $move$
        WITH moved AS (
            DELETE FROM quorra.%I
            WHERE %I >= %L AND %I < %L
            RETURNING %s
        )
        INSERT INTO quorra.%I (%s)
        SELECT %s
        FROM moved
        $move$,
        parent || '_default', key, low, key, high, columns, partition, columns, columns
    );
    EXECUTE format(
        'ALTER TABLE quorra.%I ATTACH PARTITION quorra.%I FOR VALUES FROM (%L) TO (%L)', parent, partition, low, high
    );
END
$$;

-- Make the daily partitions of `jobs` and `outcomes` that are missing, from `first` on; return how many days were made.
-- Attaching locks the parent only against other schema changes; the default partitions are locked while rows of that day
-- are looked for. A day that already has many rows in them stays there, where retention goes by rows.
CREATE OR REPLACE FUNCTION quorra.make_partitions(first date, days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
-- Servers plan for tables that grow; here each plan is made for the tables as they are.
SET enable_seqscan = on
AS $$
DECLARE
    -- Nobody submits or reads while they move: about a tenth of a second.
    moved_max CONSTANT integer := 10000;
    day date;
    suffix text;
    ids uuid[];
    batches bigint[];
    made integer := 0;
BEGIN
    IF NOT quorra.may_change_partitions() THEN
        RETURN 0;
    END IF;
    FOR day IN SELECT first + offset_days FROM generate_series(0, days - 1) AS offset_days LOOP
        suffix := to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('quorra.outcomes_' || suffix) IS NOT NULL;
        SELECT array_agg(quorra.first_id_at(edge) ORDER BY edge), array_agg(quorra.batch_at(edge) ORDER BY edge)
        INTO ids, batches
        FROM unnest(ARRAY[day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC']) AS edge;
        CONTINUE WHEN moved_max < greatest(
            (
                SELECT count(*)
                FROM (SELECT FROM quorra.jobs_default WHERE id >= ids[1] AND id < ids[2] LIMIT moved_max + 1) AS misplaced
            ),
            (
                SELECT count(*)
                FROM (
                    SELECT FROM quorra.outcomes_default
                    WHERE batch >= batches[1] AND batch < batches[2]
                    LIMIT moved_max + 1
                ) AS misplaced
            )
        );
        PERFORM quorra.hold_off_vacuum('outcomes_default', 'jobs_default');
        -- In the order of a settle; what a transaction inserted meanwhile is seen once the locks are granted.
        LOCK TABLE quorra.outcomes_default, quorra.jobs_default IN ACCESS EXCLUSIVE MODE;
        PERFORM quorra.make_partition('outcomes', suffix, 'batch', batches[1]::text, batches[2]::text);
        PERFORM quorra.make_partition('jobs', suffix, 'id', ids[1]::text, ids[2]::text);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

-- Name the jobs that stay when a day is dropped: those of the day that live, are dead for less than `dead_for` (null: however
-- long) or ended on another day, and those of other days or with ids of their callers' that have an outcome of the day. Each is
-- found by an index, so that it takes no longer than moving them.
-- Stable: called in a statement, it sees what the statement sees.
CREATE OR REPLACE FUNCTION quorra.jobs_staying(day date, dead_for interval) RETURNS uuid[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    opens timestamptz := day::timestamp AT TIME ZONE 'UTC';
    closes timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
    staying uuid[];
BEGIN
    EXECUTE format(
        $name$
        SELECT array_agg(job_id)
        FROM (
            SELECT job_id
            FROM quorra.ready
            WHERE job_id >= %2$L AND job_id < %3$L
            UNION
            SELECT member.job_id
            FROM quorra.leases
            CROSS JOIN unnest(leases.job_ids) AS member (job_id)
            WHERE member.job_id >= %2$L AND member.job_id < %3$L
            UNION
            SELECT job_id
            FROM quorra.%1$I
            WHERE status = 'dead' AND replayed_at IS NULL
              AND ended_at >= coalesce(statement_timestamp() - %6$L::interval, '-infinity')
            UNION
            SELECT job_id
            FROM quorra.outcomes
            WHERE job_id >= %2$L AND job_id < %3$L AND (batch < %4$L OR batch >= %5$L)
            UNION
            SELECT job_id
            FROM quorra.%1$I
            WHERE job_id < %2$L
            UNION
            SELECT job_id
            FROM quorra.%1$I
            WHERE job_id >= %3$L
        ) AS named
        WHERE EXISTS (SELECT FROM quorra.jobs WHERE jobs.id = named.job_id)
        $name$,
        'outcomes_' || to_char(day, 'YYYYMMDD'), quorra.first_id_at(opens), quorra.first_id_at(closes),
        quorra.batch_at(opens), quorra.batch_at(closes), dead_for
    ) INTO staying;
    RETURN coalesce(staying, '{}');
END
$$;

-- Take the jobs of a day that are over for good out of the counts, and forget what handlers said in them. Return the others:
-- those that stay as things are, and dead ones, which can be replayed until the day is locked. In one statement: what changes
-- while it runs is none of its.
CREATE OR REPLACE FUNCTION quorra.forget_ended(day date) RETURNS uuid[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    spared uuid[];
BEGIN
    EXECUTE format(
        $forget$
        WITH spared AS MATERIALIZED (
            SELECT job_id
            FROM unnest(quorra.jobs_staying(%2$L, NULL)) AS stays (job_id)
        ),
        counted AS (
            INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
            SELECT
                0, 0,
                -count(*) FILTER (WHERE status = 'succeeded'),
                -count(*) FILTER (WHERE status = 'dead'),
                -count(*) FILTER (WHERE status = 'cancelled'),
                queue
            FROM quorra.%1$I AS ended
            WHERE status IS NOT NULL AND replayed_at IS NULL
              AND NOT EXISTS (SELECT FROM spared WHERE spared.job_id = ended.job_id)
            GROUP BY queue
        ),
        unnoted AS (
            DELETE FROM quorra.notes
            WHERE job_id >= %3$L AND job_id < %4$L
              AND NOT EXISTS (SELECT FROM spared WHERE spared.job_id = notes.job_id)
        ),
        unlogged AS (
            DELETE FROM quorra.log_lines
            WHERE job_id >= %3$L AND job_id < %4$L
              AND NOT EXISTS (SELECT FROM spared WHERE spared.job_id = log_lines.job_id)
        )
        SELECT array_agg(job_id)
        FROM spared
        $forget$,
        'outcomes_' || to_char(day, 'YYYYMMDD'), day,
        quorra.first_id_at(day::timestamp AT TIME ZONE 'UTC'), quorra.first_id_at((day + 1)::timestamp AT TIME ZONE 'UTC')
    ) INTO spared;
    RETURN spared;
END
$$;

-- Do the same for those that were spared and do not stay: they are dead for long enough, or have ended since.
CREATE OR REPLACE FUNCTION quorra.forget_spared(outcomes_day text, spared uuid[], staying uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    going uuid[] := ARRAY(SELECT unnest(spared) EXCEPT SELECT unnest(staying));
BEGIN
    EXECUTE format(
        $count$
        INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
        SELECT
            0, 0,
            -count(*) FILTER (WHERE status = 'succeeded'),
            -count(*) FILTER (WHERE status = 'dead'),
            -count(*) FILTER (WHERE status = 'cancelled'),
            queue
        FROM quorra.%I
        WHERE status IS NOT NULL AND replayed_at IS NULL AND job_id = ANY ($1)
        GROUP BY queue
        $count$,
        outcomes_day
    ) USING going;
    DELETE FROM quorra.notes WHERE job_id = ANY (going);
    DELETE FROM quorra.log_lines WHERE job_id = ANY (going);
END
$$;

-- Move rows of jobs that stay from a partition that was detached to the default one; return how many they were.
CREATE OR REPLACE FUNCTION quorra.move_staying(parent text, detached text, key text, staying uuid[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    columns text := quorra.columns_of(format('quorra.%I', parent)::regclass);
    moved bigint;
BEGIN
    EXECUTE format(
        $move$
        INSERT INTO quorra.%I (%s)
        SELECT %s
        FROM unnest($1) AS stays (stays_id)
        JOIN quorra.%I ON %I = stays_id
        $move$,
        parent, columns, columns, detached, key
    ) USING staying;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;

-- Drop one day of `jobs` and `outcomes` whole, and return how many of its jobs were kept; null if another server is at it
-- or has done it. What must stay is moved to the default partitions. Most of the day is looked through first, while everybody
-- goes on: a lock on it would have them wait with locks on the parents, which dropping needs itself. Everybody waits only
-- while what stays is named anew and moved.
-- The day is over: whatever comes to life meanwhile ends on another one, and stays by that.
CREATE OR REPLACE FUNCTION quorra.drop_partition(day date, dead_for interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
-- Servers plan for tables that grow; here each plan is made for the tables as they are.
SET enable_seqscan = on
SET enable_bitmapscan = on
SET enable_sort = on
SET enable_hashjoin = on
SET enable_mergejoin = on
SET enable_material = on
AS $$
DECLARE
    jobs_day text := 'jobs_' || to_char(day, 'YYYYMMDD');
    outcomes_day text := 'outcomes_' || to_char(day, 'YYYYMMDD');
    spared uuid[];
    staying uuid[];
    kept bigint;
BEGIN
    IF NOT quorra.may_change_partitions() OR to_regclass('quorra.' || outcomes_day) IS NULL THEN
        RETURN NULL;
    END IF;
    spared := quorra.forget_ended(day);
    PERFORM quorra.hold_off_vacuum(outcomes_day, jobs_day, 'outcomes_default', 'jobs_default');
    -- In the order of a settle. Without the other partitions: one of them is always being vacuumed.
    LOCK TABLE ONLY quorra.outcomes, ONLY quorra.jobs IN ACCESS EXCLUSIVE MODE;
    staying := quorra.jobs_staying(day, dead_for);
    PERFORM quorra.forget_spared(outcomes_day, spared, staying);
    EXECUTE format('ALTER TABLE quorra.outcomes DETACH PARTITION quorra.%I', outcomes_day);
    EXECUTE format('ALTER TABLE quorra.jobs DETACH PARTITION quorra.%I', jobs_day);
    PERFORM quorra.move_staying('outcomes', outcomes_day, 'job_id', staying);
    kept := quorra.move_staying('jobs', jobs_day, 'id', staying);
    EXECUTE format('DROP TABLE quorra.%I, quorra.%I', outcomes_day, jobs_day);
    RETURN kept;
END
$$;
