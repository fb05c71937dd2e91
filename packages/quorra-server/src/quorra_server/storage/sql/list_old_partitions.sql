-- Name the days whose partitions are past their time, oldest first; none while another server changes partitions.
-- $1 age interval
SELECT to_date(right(relation.relname, 8), 'YYYYMMDD') AS day
FROM pg_catalog.pg_inherits
JOIN pg_catalog.pg_class AS relation ON relation.oid = pg_inherits.inhrelid
WHERE (SELECT quorra.may_change_partitions())
  AND pg_inherits.inhparent = 'quorra.outcomes'::regclass
  AND relation.relname ~ '^outcomes_\d{8}$'
  AND to_date(right(relation.relname, 8), 'YYYYMMDD')
      < ((statement_timestamp() - $1::interval) AT TIME ZONE 'UTC')::date
ORDER BY day
