-- Drop one day of `jobs` and `outcomes` whole. Jobs of that day that still live, or are dead for less than `dead_for`, are
-- moved to the default partitions with all of their outcomes; the lock keeps late inserts out meanwhile.
CREATE FUNCTION quorra.drop_partition(day date, dead_for interval) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog
SET lock_timeout = '2s'
AS $$
DECLARE
    suffix text := to_char(day, 'YYYYMMDD');
    kept bigint;
BEGIN
    EXECUTE format('LOCK TABLE quorra.jobs, quorra.outcomes IN ACCESS EXCLUSIVE MODE');
    EXECUTE format('ALTER TABLE quorra.jobs DETACH PARTITION quorra.%I', 'jobs_' || suffix);
    EXECUTE format('ALTER TABLE quorra.outcomes DETACH PARTITION quorra.%I', 'outcomes_' || suffix);
    EXECUTE format(
        $move$
        INSERT INTO quorra.jobs
        SELECT job.* FROM quorra.%I AS job
        WHERE EXISTS (SELECT FROM quorra.ready WHERE ready.job_id = job.id)
           OR EXISTS (SELECT FROM quorra.leases WHERE leases.job_ids @> ARRAY[job.id])
           OR EXISTS (
               SELECT FROM quorra.%I AS ended
               WHERE ended.job_id = job.id AND ended.status = 'dead' AND ended.replayed_at IS NULL
                 AND ended.ended_at >= statement_timestamp() - %L::interval
           )
           OR EXISTS (SELECT FROM quorra.outcomes AS later WHERE later.job_id = job.id)
        $move$,
        'jobs_' || suffix, 'outcomes_' || suffix, dead_for
    );
    GET DIAGNOSTICS kept = ROW_COUNT;
    EXECUTE format(
        'INSERT INTO quorra.outcomes SELECT ended.* FROM quorra.%I AS ended WHERE EXISTS (SELECT FROM quorra.jobs WHERE jobs.id = ended.job_id)',
        'outcomes_' || suffix
    );
    EXECUTE format(
        $count$
        INSERT INTO quorra.count_deltas (waiting, held, succeeded, dead, cancelled, queue)
        SELECT
            0, 0,
            -count(*) FILTER (WHERE status = 'succeeded'),
            -count(*) FILTER (WHERE status = 'dead'),
            -count(*) FILTER (WHERE status = 'cancelled'),
            queue
        FROM quorra.%I AS ended
        WHERE status IS NOT NULL AND replayed_at IS NULL
          AND NOT EXISTS (SELECT FROM quorra.jobs WHERE jobs.id = ended.job_id)
        GROUP BY queue
        $count$,
        'outcomes_' || suffix
    );
    EXECUTE format('DELETE FROM quorra.notes USING quorra.%I AS job WHERE notes.job_id = job.id AND NOT EXISTS (SELECT FROM quorra.jobs WHERE jobs.id = job.id)', 'jobs_' || suffix);
    EXECUTE format('DELETE FROM quorra.log_lines USING quorra.%I AS job WHERE log_lines.job_id = job.id AND NOT EXISTS (SELECT FROM quorra.jobs WHERE jobs.id = job.id)', 'jobs_' || suffix);
    EXECUTE format('DROP TABLE quorra.%I', 'jobs_' || suffix);
    EXECUTE format('DROP TABLE quorra.%I', 'outcomes_' || suffix);
    RETURN kept;
END
$$;
