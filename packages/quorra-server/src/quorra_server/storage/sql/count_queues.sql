-- Count jobs by queue and status. Nothing here walks history: ended jobs and the sums of waiting and leased ones come from
-- the counts, backing off from a partial index, started from the few lease batches.
WITH total AS (
    SELECT
        queue, sum(waiting) AS waiting, sum(held) AS held, sum(succeeded) AS succeeded, sum(dead) AS dead,
        sum(cancelled) AS cancelled
    FROM (
        SELECT queue, waiting, held, succeeded, dead, cancelled FROM quorra.queue_counts
        UNION ALL
        SELECT queue, waiting, held, succeeded, dead, cancelled FROM quorra.count_deltas
    ) AS part
    GROUP BY queue
),
backing_off AS (
    SELECT queue, count(*) AS jobs
    FROM quorra.ready
    WHERE failed AND run_at > statement_timestamp()
    GROUP BY queue
),
started AS (
    SELECT leases.queue, count(*) AS jobs
    FROM quorra.leases
    CROSS JOIN LATERAL unnest(leases.job_ids, leases.starts_ms) AS member (job_id, start_ms)
    WHERE member.start_ms >= 0
      AND NOT EXISTS (
          SELECT FROM quorra.outcomes
          WHERE outcomes.job_id = member.job_id AND outcomes.batch = leases.batch
      )
    GROUP BY leases.queue
)
SELECT
    total.queue,
    (total.waiting - coalesce(backing_off.jobs, 0))::bigint AS pending,
    (total.held - coalesce(started.jobs, 0))::bigint AS leased,
    coalesce(started.jobs, 0)::bigint AS processing,
    coalesce(backing_off.jobs, 0)::bigint AS failed,
    total.succeeded::bigint AS succeeded,
    total.dead::bigint AS dead,
    total.cancelled::bigint AS cancelled
FROM total
LEFT JOIN backing_off ON backing_off.queue = total.queue
LEFT JOIN started ON started.queue = total.queue
ORDER BY total.queue
