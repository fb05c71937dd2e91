-- Give dead jobs another payload, for a replay in the same transaction.
-- $1 jobs uuid[]  $2 payload text
UPDATE quorra.jobs
SET payload = $2::text::json, updated_at = statement_timestamp()
WHERE id = ANY ($1::uuid[])
