-- Note how much longer than its timeout a run may take, in all; never takes time back, so that repeating is harmless.
-- A lease that is over, or of somebody else, and one without a timeout are passed by.
-- $1 batch bigint  $2 secret uuid  $3 principal text  $4 ordinal int  $5 extra_ms bigint
UPDATE quorra.leases
SET extra_ms[$4::integer] = greatest(extra_ms[$4::integer], $5::bigint)
WHERE batch = $1::bigint
  AND secret = $2::uuid
  AND principal = $3::text
  AND timed
  AND $4::integer BETWEEN 1 AND cardinality(job_ids)
RETURNING batch
