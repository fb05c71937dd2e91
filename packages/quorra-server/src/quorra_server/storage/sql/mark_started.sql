-- Mark members of lease batches as started; the first mark stays.
-- transition: leased -> processing
-- A mark later than an integer can count, 24 days after the lease, is put there.
-- $1 batches bigint[]  $2 secrets uuid[]  $3 principal text   one per batch, each batch once
-- $4 batch bigint[]  $5 ordinal int[]  $6 ago_ms bigint[]    one per start
WITH held AS MATERIALIZED (
    SELECT lease.batch, lease.leased_at, lease.starts_ms
    FROM (SELECT batch, secret FROM unnest($1::bigint[], $2::uuid[]) AS pair (batch, secret) ORDER BY batch) AS named
    -- Each looked up by itself: as a join in order of the batch, PostgreSQL would walk over all leases there are.
    CROSS JOIN LATERAL (
        SELECT batch, leased_at, starts_ms
        FROM quorra.leases
        WHERE leases.batch = named.batch AND leases.secret = named.secret AND leases.principal = $3::text
        FOR NO KEY UPDATE
    ) AS lease
),
-- Old and new marks side by side, grouped: joining two arrays would compare each member with each mark.
mark AS (
    SELECT held.batch, member.ordinal, member.start_ms
    FROM held
    CROSS JOIN LATERAL unnest(held.starts_ms) WITH ORDINALITY AS member (start_ms, ordinal)
    UNION ALL
    SELECT
        held.batch, started.ordinal,
        least(
            2147483647,
            greatest(0, (extract(epoch FROM statement_timestamp() - held.leased_at) * 1000)::bigint - started.ago_ms)
        )::integer
    FROM unnest($4::bigint[], $5::integer[], $6::bigint[]) AS started (batch, ordinal, ago_ms)
    JOIN held ON held.batch = started.batch
    WHERE started.ordinal BETWEEN 1 AND cardinality(held.starts_ms)
),
first_mark AS (
    SELECT batch, ordinal, coalesce(min(start_ms) FILTER (WHERE start_ms >= 0), -1) AS start_ms
    FROM mark
    GROUP BY batch, ordinal
),
marked AS (
    SELECT batch, array_agg(start_ms ORDER BY ordinal) AS starts_ms
    FROM first_mark
    GROUP BY batch
)
UPDATE quorra.leases
SET starts_ms = marked.starts_ms
FROM marked
WHERE leases.batch = marked.batch
RETURNING leases.batch
