-- Lock lease batches whose time is over, and pass by those that somebody is settling.
-- First half of an expiry; expire_leases.sql follows in the same transaction.
-- $1 limit int
SELECT batch
FROM quorra.leases
WHERE expires_at <= statement_timestamp()
ORDER BY batch
LIMIT $1::integer
FOR UPDATE SKIP LOCKED
