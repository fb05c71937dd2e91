-- What succeeded or was cancelled stays for its whole time, on whatever day it was leased; and dropping a day is two calls: most
-- of the day is looked through in the first, which may take long, and others wait for the second only.
-- serves: 5

-- Name the jobs that stay when a day is dropped: those of the day that live or are dead, those of the day that have an outcome of
-- another day, those of other days or with ids of their callers' that have an outcome of the day, and those `besides`. Each is
-- found by an index, so that it takes no longer than moving them.
-- Stable: called in a statement, it sees what the statement sees.
CREATE OR REPLACE FUNCTION quorra.jobs_staying(day date, besides uuid[]) RETURNS uuid[]
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
            UNION
            SELECT job_id
            FROM unnest($1) AS found_before (job_id)
        ) AS named
        WHERE EXISTS (SELECT FROM quorra.jobs WHERE jobs.id = named.job_id)
        $name$,
        'outcomes_' || to_char(day, 'YYYYMMDD'), quorra.first_id_at(opens), quorra.first_id_at(closes),
        quorra.batch_at(opens), quorra.batch_at(closes)
    ) INTO staying USING besides;
    RETURN coalesce(staying, '{}');
END
$$;

-- Take the jobs of a day that are over for good out of the counts, and forget what handlers said in them. Return the others:
-- those that stay as things are, and those that succeeded or were cancelled at `ended_since` or later. In one statement: what
-- changes while it runs is none of its. Null: another server is at the day or has dropped it.
-- First half of dropping a day. Everybody goes on meanwhile: a lock on the day would have them wait with locks on the parents,
-- which dropping needs itself.
CREATE OR REPLACE FUNCTION quorra.forget_ended(day date, ended_since timestamptz) RETURNS uuid[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
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
    outcomes_day text := 'outcomes_' || to_char(day, 'YYYYMMDD');
    spared uuid[];
BEGIN
    IF NOT quorra.may_change_partitions() OR to_regclass('quorra.' || outcomes_day) IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format(
        $forget$
        WITH late AS MATERIALIZED (
            SELECT array_agg(job_id) AS job_ids
            FROM quorra.%1$I
            WHERE status IN ('succeeded', 'cancelled') AND ended_at >= %5$L
        ),
        spared AS MATERIALIZED (
            SELECT job_id
            FROM late
            CROSS JOIN unnest(quorra.jobs_staying(%2$L, late.job_ids)) AS stays (job_id)
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
        SELECT coalesce(array_agg(job_id), '{}')
        FROM spared
        $forget$,
        outcomes_day, day, quorra.first_id_at(day::timestamp AT TIME ZONE 'UTC'),
        quorra.first_id_at((day + 1)::timestamp AT TIME ZONE 'UTC'), ended_since
    ) INTO spared;
    RETURN spared;
END
$$;

-- Drop one day of `jobs` and `outcomes` whole, and return how many of its jobs were kept. `spared` is what `forget_ended` has
-- returned in this transaction: what was not spared is over for good, and taken out of the counts. The spared jobs that still
-- exist, and those that came to life since, move to the default partitions, where each goes when its own time is over.
-- Second half of dropping a day: everybody waits while what stays is named anew and moved.
-- The day is over: whatever comes to life meanwhile ends on another one, and stays by that.
CREATE OR REPLACE FUNCTION quorra.drop_day(day date, spared uuid[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
-- As in `forget_ended`.
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
    staying uuid[];
    kept bigint;
BEGIN
    PERFORM quorra.hold_off_vacuum(outcomes_day, jobs_day, 'outcomes_default', 'jobs_default');
    -- In the order of a settle. Without the other partitions: one of them is always being vacuumed.
    LOCK TABLE ONLY quorra.outcomes, ONLY quorra.jobs IN ACCESS EXCLUSIVE MODE;
    staying := quorra.jobs_staying(day, spared);
    EXECUTE format('ALTER TABLE quorra.outcomes DETACH PARTITION quorra.%I', outcomes_day);
    EXECUTE format('ALTER TABLE quorra.jobs DETACH PARTITION quorra.%I', jobs_day);
    PERFORM quorra.move_staying('outcomes', outcomes_day, 'job_id', staying);
    kept := quorra.move_staying('jobs', jobs_day, 'id', staying);
    EXECUTE format('DROP TABLE quorra.%I, quorra.%I', outcomes_day, jobs_day);
    RETURN kept;
END
$$;

-- What servers of before call. They do not say how long succeeded jobs stay: whatever ended after the day does.
CREATE OR REPLACE FUNCTION quorra.drop_partition(day date, dead_for interval) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    spared uuid[] := quorra.forget_ended(day, (day + 1)::timestamp AT TIME ZONE 'UTC');
BEGIN
    RETURN CASE WHEN spared IS NOT NULL THEN quorra.drop_day(day, spared) END;
END
$$;

DROP FUNCTION IF EXISTS quorra.jobs_staying(date, interval);
DROP FUNCTION IF EXISTS quorra.forget_ended(date);
DROP FUNCTION IF EXISTS quorra.forget_spared(text, uuid[], uuid[]);
