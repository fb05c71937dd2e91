-- Name the lease batches that hold jobs with a timeout of their own, whether a run of theirs is past it or not.
-- $1 besides bigint[]
SELECT batch
FROM quorra.leases
WHERE timed AND batch <> ALL ($1::bigint[])
ORDER BY batch
