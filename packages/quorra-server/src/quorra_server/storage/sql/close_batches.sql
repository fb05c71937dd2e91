-- Remove lease batches all of whose members have an outcome. Skips a batch that somebody is settling: a settle never
-- upgrades its lock, so two of them cannot deadlock; the next round closes it.
-- $1 batches bigint[] (null: look at all of them)
WITH settled AS MATERIALIZED (
    SELECT batch
    FROM quorra.leases
    WHERE ($1::bigint[] IS NULL OR batch = ANY ($1::bigint[]))
      AND CASE
          -- The last member is the last to end, as a rule: one look at it spares a look at each in most batches that live on.
          WHEN NOT EXISTS (
              SELECT
              FROM quorra.outcomes
              WHERE outcomes.job_id = leases.job_ids[cardinality(leases.job_ids)] AND outcomes.batch = leases.batch
          ) THEN false
          -- Where every job's life ended, counting one stretch of the index of ended jobs says so; only a batch with members
          -- that run again has each member looked up.
          ELSE
              cardinality(job_ids) = (
                  SELECT count(*)
                  FROM quorra.outcomes
                  WHERE outcomes.status IN ('succeeded', 'dead', 'cancelled') AND outcomes.batch = leases.batch
              )
              OR NOT EXISTS (
                  SELECT
                  FROM unnest(leases.job_ids) AS member (job_id)
                  LEFT JOIN quorra.outcomes ON outcomes.job_id = member.job_id AND outcomes.batch = leases.batch
                  WHERE outcomes.job_id IS NULL
              )
      END
    FOR UPDATE SKIP LOCKED
)
DELETE FROM quorra.leases
USING settled
WHERE leases.batch = settled.batch
RETURNING leases.batch
