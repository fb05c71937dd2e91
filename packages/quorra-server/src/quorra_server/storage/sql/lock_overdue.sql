-- Lock lease batches whose time is over, and pass by those that somebody is settling.
-- First half of an expiry; expire_leases.sql follows in the same transaction.
-- $1 limit int  $2 batches bigint[] (null: look at all of them)  $3 besides bigint[]
SELECT batch
FROM quorra.leases
WHERE expires_at <= statement_timestamp()
  AND ($2::bigint[] IS NULL OR batch = ANY ($2::bigint[]))
  AND batch <> ALL ($3::bigint[])
ORDER BY batch
LIMIT $1::integer
FOR UPDATE SKIP LOCKED
