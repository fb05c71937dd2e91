-- Make the daily partitions that are missing from today on; none while another server changes partitions.
-- $1 days int
SELECT quorra.make_partitions((statement_timestamp() AT TIME ZONE 'UTC')::date, $1::integer) AS made
