-- Append log lines of runs; a line that was kept before is left alone, so repeating is harmless. Only the holder of a lease
-- that has not ended may append; the rest is passed by.
-- $1 principal text
-- $2 batches bigint[]  $3 secrets uuid[]  $4 ordinals int[]  $5 jobs uuid[]  $6 positions int[]  $7 ago_ms bigint[]
-- $8 levels text[]  $9 messages text[]   one per line
WITH said AS MATERIALIZED (
    SELECT line.job_id, line.batch, line.position, line.ago_ms, line.level, line.message
    FROM unnest(
        $2::bigint[], $3::uuid[], $4::integer[], $5::uuid[], $6::integer[], $7::bigint[], $8::text[], $9::text[]
    ) AS line (batch, secret, ordinal, job_id, position, ago_ms, level, message)
    JOIN quorra.leases ON leases.batch = line.batch
    WHERE leases.secret = line.secret
      AND leases.principal = $1::text
      AND leases.job_ids[line.ordinal] = line.job_id
      AND NOT EXISTS (
          SELECT FROM quorra.outcomes
          WHERE outcomes.job_id = line.job_id AND outcomes.batch = line.batch
      )
    FOR KEY SHARE OF leases
)
INSERT INTO quorra.log_lines (job_id, batch, position, logged_at, level, message)
SELECT job_id, batch, position, statement_timestamp() - ago_ms * interval '1 millisecond', level, message
FROM said
ON CONFLICT DO NOTHING
