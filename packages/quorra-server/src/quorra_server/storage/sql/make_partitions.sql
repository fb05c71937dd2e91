-- Make the daily partitions that are missing from today on.
-- $1 days int
SELECT quorra.make_partitions((statement_timestamp() AT TIME ZONE 'UTC')::date, $1::integer) AS made
