-- Remove log lines of jobs of a day that succeeded or were cancelled long enough ago, a page of lines at a time, and say where
-- the page ends; no row: there are no more lines of the day. Those of other jobs are passed by.
-- Such a job never comes to life again, so that its lines may go before the day is dropped, in which they would all go at once.
-- $1 day date  $2 succeeded_for interval  $3 limit int
-- $4 after_job uuid  $5 after_batch bigint  $6 after_position int   (null: from the start)
WITH page AS MATERIALIZED (
    SELECT log_lines.job_id, log_lines.batch, log_lines.position
    FROM quorra.log_lines
    WHERE (log_lines.job_id, log_lines.batch, log_lines.position) > (
              coalesce($4::uuid, quorra.first_id_at($1::date::timestamp AT TIME ZONE 'UTC')),
              coalesce($5::bigint, -1),
              coalesce($6::integer, -1)
          )
      AND log_lines.job_id < quorra.first_id_at(($1::date + 1)::timestamp AT TIME ZONE 'UTC')
    ORDER BY log_lines.job_id, log_lines.batch, log_lines.position
    LIMIT $3::integer
),
removed AS (
    DELETE FROM quorra.log_lines
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
    WHERE log_lines.job_id = page.job_id AND log_lines.batch = page.batch AND log_lines.position = page.position
)
SELECT job_id, batch, position
FROM page
ORDER BY job_id DESC, batch DESC, position DESC
LIMIT 1
