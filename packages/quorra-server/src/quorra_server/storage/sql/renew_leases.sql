-- Extend live lease batches; a batch that is overdue or gone is missing from the reply. Never shortens a lease.
-- $1 batches bigint[]  $2 secrets uuid[]  $3 principal text  $4 lease_ms bigint
UPDATE quorra.leases
SET expires_at = greatest(expires_at, statement_timestamp() + $4::bigint * interval '1 millisecond')
FROM unnest($1::bigint[], $2::uuid[]) AS named (batch, secret)
WHERE leases.batch = named.batch
  AND leases.secret = named.secret
  AND leases.principal = $3::text
  AND leases.expires_at > statement_timestamp()
RETURNING leases.batch
