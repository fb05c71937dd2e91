-- List what servers found after failovers, the newest first.
-- $1 limit int
SELECT
    failovers.system_identifier, failovers.timeline, failovers.node, failovers.noticed_at,
    failovers.lost_from, failovers.lost_until, failovers.jobs, failovers.outcomes, failovers.job_ids
FROM quorra.failovers
ORDER BY failovers.noticed_at DESC
LIMIT $1::integer
