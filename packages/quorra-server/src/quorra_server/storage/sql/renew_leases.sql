-- Extend live lease batches; a batch that is overdue or gone is missing from the reply. Never shortens a lease.
-- Locks in order of the batch, as everybody does who locks several, so that nothing deadlocks.
-- $1 batches bigint[]  $2 secrets uuid[]  $3 principal text  $4 lease_ms bigint
WITH held AS MATERIALIZED (
    SELECT lease.batch
    FROM (SELECT batch, secret FROM unnest($1::bigint[], $2::uuid[]) AS pair (batch, secret) ORDER BY batch) AS named
    -- Each looked up by itself: as a join in order of the batch, PostgreSQL would walk over all leases there are.
    CROSS JOIN LATERAL (
        SELECT batch
        FROM quorra.leases
        WHERE leases.batch = named.batch
          AND leases.secret = named.secret
          AND leases.principal = $3::text
          AND leases.expires_at > statement_timestamp()
        FOR NO KEY UPDATE
    ) AS lease
)
UPDATE quorra.leases
SET expires_at = greatest(expires_at, statement_timestamp() + $4::bigint * interval '1 millisecond')
FROM held
WHERE leases.batch = held.batch
RETURNING leases.batch
