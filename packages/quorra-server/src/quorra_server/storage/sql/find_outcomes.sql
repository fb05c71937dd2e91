-- Say how leases ended; one that is live, or that never was, is missing from the reply.
-- $1 jobs uuid[]  $2 batches bigint[]
SELECT outcomes.batch, outcomes.ordinal, outcomes.kind::text AS kind, outcomes.reason
FROM unnest($1::uuid[], $2::bigint[]) AS lease (job_id, batch)
JOIN quorra.outcomes ON outcomes.job_id = lease.job_id AND outcomes.batch = lease.batch
