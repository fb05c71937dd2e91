-- Remove what handlers noted in jobs of a day that succeeded or were cancelled long enough ago, a page of notes at a time, and
-- say where the page ends; no row: there are no more notes of the day. See prune_log_lines.sql.
-- $1 day date  $2 succeeded_for interval  $3 limit int  $4 after_job uuid (null: from the start)
WITH page AS MATERIALIZED (
    SELECT notes.job_id
    FROM quorra.notes
    WHERE notes.job_id > coalesce($4::uuid, quorra.first_id_at($1::date::timestamp AT TIME ZONE 'UTC'))
      AND notes.job_id < quorra.first_id_at(($1::date + 1)::timestamp AT TIME ZONE 'UTC')
    ORDER BY notes.job_id
    LIMIT $3::integer
),
removed AS (
    DELETE FROM quorra.notes
    USING page
    -- Each looked up by itself: as a semi-join, PostgreSQL would gather all that ended on the day for every page.
    CROSS JOIN LATERAL (
        SELECT
        FROM quorra.outcomes
        WHERE outcomes.job_id = page.job_id
          AND outcomes.batch >= quorra.batch_at($1::date::timestamp AT TIME ZONE 'UTC')
          AND outcomes.batch < quorra.batch_at(($1::date + 1)::timestamp AT TIME ZONE 'UTC')
          AND outcomes.status IN ('succeeded', 'cancelled')
          AND outcomes.ended_at < statement_timestamp() - $2::interval
        LIMIT 1
    ) AS ended
    WHERE notes.job_id = page.job_id
)
SELECT job_id
FROM page
ORDER BY job_id DESC
LIMIT 1
