-- Extend live lease batches; a batch that is overdue or gone is missing from the reply. Never shortens a lease.
-- Locks in order of the batch, as everybody does who locks several, so that nothing deadlocks.
-- $1 batches bigint[]  $2 secrets uuid[]  $3 principal text  $4 lease_ms bigint
WITH held AS MATERIALIZED (
    SELECT leases.batch
    FROM unnest($1::bigint[], $2::uuid[]) AS named (batch, secret)
    JOIN quorra.leases ON leases.batch = named.batch
    WHERE leases.secret = named.secret
      AND leases.principal = $3::text
      AND leases.expires_at > statement_timestamp()
    ORDER BY leases.batch
    FOR NO KEY UPDATE OF leases
)
UPDATE quorra.leases
SET expires_at = greatest(expires_at, statement_timestamp() + $4::bigint * interval '1 millisecond')
FROM held
WHERE leases.batch = held.batch
RETURNING leases.batch
