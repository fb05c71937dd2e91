-- Append log lines of runs; a line that was kept before is left alone, so repeating is harmless.
-- $1 jobs uuid[]  $2 batches bigint[]  $3 positions int[]  $4 ago_ms bigint[]  $5 levels text[]  $6 messages text[]
INSERT INTO quorra.log_lines (job_id, batch, position, logged_at, level, message)
SELECT job_id, batch, position, statement_timestamp() - ago_ms * interval '1 millisecond', level, message
FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::bigint[], $5::text[], $6::text[])
    AS line (job_id, batch, position, ago_ms, level, message)
ON CONFLICT DO NOTHING
