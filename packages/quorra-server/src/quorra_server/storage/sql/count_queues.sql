-- Count jobs by queue and status. Nothing here walks history: ended jobs and the sums of waiting and leased ones come from
-- the counts, backing off from a partial index, started from the few lease batches.
SELECT
    queue,
    sum(waiting - backing_off)::bigint AS pending,
    sum(held - started)::bigint AS leased,
    sum(started)::bigint AS processing,
    sum(backing_off)::bigint AS failed,
    sum(succeeded)::bigint AS succeeded,
    sum(dead)::bigint AS dead,
    sum(cancelled)::bigint AS cancelled
FROM (
    SELECT queue, waiting, held, 0 AS started, 0 AS backing_off, succeeded, dead, cancelled FROM quorra.queue_counts
    UNION ALL
    SELECT queue, waiting, held, 0, 0, succeeded, dead, cancelled FROM quorra.count_deltas
    UNION ALL
    SELECT queue, 0, 0, 0, count(*), 0, 0, 0
    FROM quorra.ready
    WHERE failed AND run_at > statement_timestamp()
    GROUP BY queue
    UNION ALL
    SELECT leases.queue, 0, 0, count(*), 0, 0, 0, 0
    FROM quorra.leases
    CROSS JOIN LATERAL unnest(leases.job_ids, leases.starts_ms) AS member (job_id, start_ms)
    -- In most leases nothing is known to have started: one look at the array, and it is not taken apart.
    WHERE 0 <= ANY (leases.starts_ms)
      AND member.start_ms >= 0
      -- Not NOT EXISTS: that becomes a join, which reads a whole partition for each member if its plan was made while the
      -- partition was empty.
      AND (
          SELECT true
          FROM quorra.outcomes
          WHERE outcomes.job_id = member.job_id AND outcomes.batch = leases.batch
          LIMIT 1
      ) IS NULL
    GROUP BY leases.queue
) AS part
GROUP BY queue
ORDER BY queue
